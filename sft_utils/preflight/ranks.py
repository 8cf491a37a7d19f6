"""Several processes: is the run as large as it was declared, and does every rank do its own part?

What the ranks did must be gathered by the caller (`RunRecord.observed`): world_size, strategy,
rank_rows, rank_draws, eval_ids. Here it is only compared.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_utils.preflight.record import Detector, Finding, RunRecord
from sft_utils.preflight.stack import value_of

SHARDED = {"fsdp", "fsdp2", "zero2", "zero3"}
"""Strategies that split weights or optimizer state, and fall back to full copies silently."""


def world_size(record: RunRecord) -> int:
    """Processes that really run, 1 if nothing says otherwise."""
    for source in (record.observed, record.arguments, record.declared):
        size = value_of(source, "world_size")
        if isinstance(size, int) and size > 0:
            return size
    return 1


def processes(record: RunRecord) -> Iterator[Finding]:
    """T3: the launcher started another number of processes."""
    want, got = record.declared.get("world_size"), record.observed.get("world_size")
    if isinstance(want, int) and isinstance(got, int) and want != got:
        yield Finding(
            id="T3",
            severity="FAIL",
            what=f"{want} processes were asked for, {got} run",
            where="launcher",
            why="the run takes longer and its batches have another size than planned",
            fix=f"torchrun --nproc_per_node {want} (accelerate launch --cpu needs mpirun and "
            "otherwise starts one process without a word)",
        )


def strategy(record: RunRecord) -> Iterator[Finding]:
    """T4: sharding was asked for, every rank holds everything."""
    names = [record.declared.get("strategy"), record.observed.get("strategy")]
    want, got = (str(n or "").lower().replace("-", "").replace("_", "") for n in names)
    if want in SHARDED and got and got.rstrip("2") != want.rstrip("2") and got != want:
        yield Finding(
            id="T4",
            severity="FAIL",
            what=f"strategy {names[0]!r} was asked for, {names[1]!r} is in force",
            where="launcher, accelerate configuration",
            why="weights, gradients and optimizer state are not sharded: no memory is saved",
            fix="accelerate shards on accelerators only; on CPUs call fully_shard, or DeepSpeed",
        )


def token_mean(record: RunRecord) -> Iterator[Finding]:
    """O2: each rank divides by its own tokens."""
    world = world_size(record)
    if value_of(record.arguments, "average_tokens_across_devices") is False and world > 1:
        yield Finding(
            id="O2",
            severity="FAIL",
            what=f"average_tokens_across_devices=False on {world} processes",
            where="arguments.average_tokens_across_devices",
            why="each rank divides by its own tokens: rows on ranks with few tokens count more",
            fix="average_tokens_across_devices=True (the default)",
        )


def effective_batch(record: RunRecord) -> Iterator[Finding]:
    """X6: rows per update are not what was declared."""
    want = record.declared.get("effective_batch_size")
    rows = value_of(record.arguments, "per_device_train_batch_size")
    steps = value_of(record.arguments, "gradient_accumulation_steps") or 1
    world = world_size(record)
    if not isinstance(want, int) or not isinstance(rows, int) or rows * steps * world == want:
        return
    yield Finding(
        id="X6",
        severity="FAIL",
        what=f"{rows} rows x {steps} accumulation steps x {world} processes = "
        f"{rows * steps * world} rows per update, declared {want}",
        where="arguments.per_device_train_batch_size, gradient_accumulation_steps",
        why="the learning rate and the number of updates were chosen for another batch",
        fix=f"gradient_accumulation_steps={max(round(want / (rows * world)), 1)}",
    )


def same_rows(record: RunRecord) -> Iterator[Finding]:
    """X1: two ranks train the same rows."""
    ranks = [list(rows) for rows in record.observed.get("rank_rows") or ()]
    shared = _shared(ranks)
    if not shared:
        return
    # Samplers repeat a few rows so that the last batch is full on every rank.
    whole = len(shared) >= 0.5 * min(len(set(rows)) for rows in ranks if rows)
    yield Finding(
        id="X1",
        severity="FAIL" if whole else "WARN",
        what=f"{len(shared)} rows were trained by more than one of {len(ranks)} ranks, "
        f"first {shared[0]!r}",
        where="data loader",
        why="the ranks repeat each other's work: N times the cost, and nothing more is learned",
        fix="shard the data set per rank (split_dataset_by_node, or let the Trainer do it)",
        count=len(shared),
    )


def _shared(ranks: Sequence[Sequence[Any]]) -> list[Any]:
    """Rows that occur on two ranks or more."""
    seen = Counter(row for rows in ranks for row in dict.fromkeys(rows))
    return [row for row, n in seen.items() if n > 1]


def same_draws(record: RunRecord) -> Iterator[Finding]:
    """X4: every rank draws the same random numbers."""
    draws = [_plain(d) for d in record.observed.get("rank_draws") or ()]
    if len(draws) < 2 or any(d != draws[0] for d in draws) or not _has_dropout(record.model):
        return
    yield Finding(
        id="X4",
        severity="WARN",
        what=f"all {len(draws)} ranks drew the same random numbers",
        where="seeds",
        why="dropout switches off the same units on all ranks: N ranks are less varied than one "
        "large batch",
        fix="accelerate.utils.set_seed(seed, device_specific=True) after building the model",
    )


def _plain(draw: Any) -> Any:
    """A draw as numbers: tensors and arrays do not compare to one truth value."""
    return draw.tolist() if hasattr(draw, "tolist") else draw


def _has_dropout(model: Any) -> bool:
    """Whether a model drops anything; an unknown one may."""
    if model is None:
        return True
    rates = [getattr(m, "p", 0) for m in model.modules() if "Dropout" in type(m).__name__]
    config = getattr(getattr(model, "config", None), "__dict__", {})
    rates += [v for k, v in config.items() if "drop" in k]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def evaluated_once(record: RunRecord) -> Iterator[Finding]:
    """X2: examples that were evaluated twice or not at all."""
    ids = _flat(record.observed.get("eval_ids") or ())
    want = record.declared.get("eval_n", len(record.eval_conversations) or None)
    twice = [i for i, n in Counter(ids).items() if n > 1]
    unique = len(set(ids))
    if not ids or (not twice and want in (None, unique)):
        return
    parts = [f"{len(twice)} counted twice or more, first {twice[0]!r}"] if twice else []
    if want is not None and unique != want:
        parts.append(f"{unique} different ones instead of {want}")
    yield Finding(
        id="X2",
        severity="FAIL",
        what=f"{len(ids)} examples were evaluated: {'; '.join(parts)}",
        where="evaluation loader",
        why="the last batch was filled up or dropped on some rank: the metric is of another set",
        fix="accelerator.gather_for_metrics, or score by id on one process",
    )


def _flat(ids: Iterable[Any]) -> list[Any]:
    """Ids of all ranks in one list."""
    flat: list[Any] = []
    for part in ids:
        flat += list(part) if isinstance(part, list | tuple) else [part]
    return flat


def saved_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes in a safetensors file, read from its header alone.

    Raises:
        ValueError: The file is no complete safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            raise ValueError(f"{size} bytes, shorter than its own header says")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < 8 + length + end:
        raise ValueError(f"{size} bytes, {8 + length + end} expected: cut off")
    return {name: entry["shape"] for name, entry in header.items()}


def empty_tensors(record: RunRecord) -> Iterator[Finding]:
    """X5: a file with no weights, empty ones, or those of one rank."""
    if record.export is None or not Path(record.export).is_dir():
        return
    folder = Path(record.export)
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found = saved_shapes(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield _empty(f"{path.name} cannot be read: {error}", path.name)
            continue
        hollow = [name for name, shape in found.items() if 0 in shape]
        if not found:
            yield _empty(f"{path.name} holds no tensors ({path.stat().st_size} bytes)", path.name)
        elif hollow:
            what = f"{len(hollow)} of {len(found)} tensors are empty, first {hollow[0]}"
            yield _empty(what, path.name)
        shapes |= found
    yield from _one_rank(folder, shapes)


def _json(path: Path) -> dict[str, Any]:
    """An object from a JSON file, empty if it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _one_rank(folder: Path, shapes: dict[str, list[int]]) -> Iterator[Finding]:
    """Files that are missing, and adapters that are narrower than their rank."""
    for index in folder.glob("*.safetensors.index.json"):
        names = set(_json(index).get("weight_map", {}).values())
        missing = sorted(n for n in names if not (folder / n).exists())
        if missing:
            yield _empty(f"{len(missing)} of {len(names)} weight files are missing", missing[0])
    config = folder / "adapter_config.json"
    if not config.exists():
        return
    if not any(folder.glob("adapter_model.*")):
        yield _empty("an adapter configuration without adapter weights", config.name)
        return
    adapter = _json(config)
    if adapter.get("rank_pattern") or adapter.get("target_parameters"):
        return
    rank = adapter.get("r")
    narrow = [n for n, s in shapes.items() if n.endswith("lora_A.weight") and 0 < s[0] != rank]
    if rank and narrow:
        what = f"{narrow[0]} has {shapes[narrow[0]][0]} rows, the adapter has rank {rank}"
        yield _empty(f"{what}: {len(narrow)} tensors look like one rank's shard", narrow[0])


def _empty(what: str, where: str) -> Finding:
    return Finding(
        id="X5",
        severity="FAIL",
        what=what,
        where=where,
        why="the folder loads, and the base model is served, or part of the adapter",
        fix="gather the weights on all ranks before saving (trainer.save_model does), then reload "
        "the folder and compare logits",
    )


DETECTORS: tuple[Detector, ...] = (
    processes,
    strategy,
    token_mean,
    effective_batch,
    same_rows,
    same_draws,
    evaluated_once,
    empty_tensors,
)
