"""Does the export come from the promoted checkpoint, and a resumed run from its own past?

| id | fault | FAIL | WARN |
|---|---|---|---|
| S7 | wrong checkpoint | hash is not the promoted one; adapter of step 0 | other than in memory |
| S8 | resume is no continuation | optimizer state missing; losses part by 1 % | by 0.1 % |
| S9 | context or rope differs | other rope; rows longer than the context | limits differ |
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sft_utils.masks.chat import Oracle
from sft_utils.preflight import artefact
from sft_utils.preflight.record import Detector, Finding, RunRecord

PARTED = (1e-3, 1e-2)
"""Relative difference of a loss that is worth a warning, and one that is no rounding any more."""

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")


def checkpoint(record: RunRecord) -> Iterator[Finding]:
    """S7: an exported adapter is the promoted one.

    `declared["adapter_sha256"]` is the sha256 of the promoted file, or `compare.tensor_hash`.
    """
    folder = artefact.folder_of(record)
    hashes = artefact.adapter_hashes(folder) if folder else frozenset()
    if folder is None or not hashes:
        return
    promoted = record.declared.get("adapter_sha256")
    if promoted in hashes:
        return
    if promoted:
        yield fail(
            id="S7",
            what=f"the exported adapter is {min(hashes)[:12]}, promoted was {str(promoted)[:12]}",
            where="adapter_model.safetensors",
            why="what is served is not what was evaluated",
            fix="copy the promoted checkpoint again",
        )
    elif hasattr(record.model, "peft_config"):
        yield from _against_memory(record, folder)


def _against_memory(record: RunRecord, folder: Path) -> Iterator[Finding]:
    """S7 without a declared hash: saved tensors against the model in memory."""
    saved, live = artefact.adapter_tensors(folder), artefact.adapter_state(record.model)
    shared = {n: t for n, t in saved.items() if n in live and live[n].shape == t.shape}
    ups = [n for n in shared if "lora_B" in n]
    differ = [n for n, t in shared.items() if not _close(t, live[n])]
    if ups and not any(saved[n].any() for n in ups) and any(live[n].any() for n in ups):
        yield fail(
            id="S7",
            what=f"all {len(ups)} exported lora_B are zero, the trained ones are not: this is the "
            "adapter before the first step",
            where="adapter_model.safetensors",
            why="the base model is served",
            fix="save after training, or name the checkpoint to export",
        )
    elif differ:
        yield warn(
            id="S7",
            what=f"{len(differ)} of {len(saved)} exported tensors differ from the model in memory, "
            f"first {differ[0]}",
            where="adapter_model.safetensors",
            why="right if an earlier checkpoint was promoted, else another run is served",
            fix="say which one is promoted: declared={'adapter_sha256': ...}",
        )


def _close(saved: Any, live: Any) -> bool:
    """Equal but for the rounding of a cast."""
    import torch

    return torch.allclose(saved.float(), live.detach().cpu().float(), rtol=1e-2, atol=1e-6)


def merge_source(record: RunRecord) -> Iterator[Finding]:
    """S7: merged weights are made of the promoted adapter, not of an older one.

    The merge says what it was made of in its manifest (`artefact.write_manifest`); the promoted
    adapter is `declared["adapter_sha256"]`, or the folder `declared["adapter_dir"]`.
    """
    folder = artefact.folder_of(record)
    if folder is None or not artefact.stored(folder):
        return
    promoted, source = (record.declared.get(k) for k in ("adapter_sha256", "adapter_dir"))
    wanted = {promoted} if promoted else artefact.adapter_hashes(Path(source)) if source else set()
    made_of = artefact.read(folder, artefact.MANIFEST).get("adapter_sha256")
    if made_of and wanted and made_of not in wanted:
        yield fail(
            id="S7",
            what=f"merged from adapter {made_of[:12]}, promoted was {str(min(wanted))[:12]}",
            where=artefact.MANIFEST,
            why="what is served is not what was evaluated",
            fix="merge the promoted adapter again",
        )
    elif source and not made_of:
        newest = max((p.stat().st_mtime for p in Path(source).glob("adapter_model.*")), default=0)
        merged = [p.stat().st_mtime for p in folder.glob("*.safetensors")]
        if min(merged) < newest:
            yield warn(
                id="S7",
                what="the merged weights are older than the adapter",
                where=folder.name,
                why="they may be the merge of an earlier checkpoint",
                fix="merge again, and write a manifest: artefact.write_manifest(folder, record)",
            )


def resume_files(record: RunRecord) -> Iterator[Finding]:
    """S8: a checkpoint that is to be continued holds the optimizer, not only weights."""
    start = record.declared.get("resume_from")
    start = start or getattr(record.arguments, "resume_from_checkpoint", None)
    if not isinstance(start, str | Path):
        return
    names = {p.name for p in Path(start).iterdir()} if Path(start).is_dir() else set()
    # DeepSpeed, FSDP and model parallelism write their optimizer in parts of their own.
    parts = any(n.startswith(("global_step", "optimizer_", "rank")) for n in names)
    lost = [] if parts or names & {"optimizer.pt", "optimizer.bin"} else ["optimizer.pt"]
    lost += [] if parts or "scheduler.pt" in names else ["scheduler.pt"]
    lost += [] if "trainer_state.json" in names else ["trainer_state.json"]
    if lost:
        yield fail(
            id="S8",
            what=f"{Path(start).name} cannot be continued: {', '.join(lost)} missing",
            where="resume_from_checkpoint",
            why="momentum restarts at zero and the schedule at its warmup: another run",
            fix="save checkpoints with save_only_model=False",
        )
    elif not any(n.startswith("rng_state") for n in names):
        yield warn(
            id="S8",
            what=f"{Path(start).name} holds no random state",
            where="resume_from_checkpoint",
            why="order of the data and dropout differ from the run that was stopped",
            fix="resume from a folder with rng_state*.pth",
        )


def resume_losses(record: RunRecord) -> Iterator[Finding]:
    """S8: losses after a resume are those of the run that was never stopped."""
    straight = record.observed.get("loss_straight") or ()
    resumed = record.observed.get("loss_resumed") or ()
    for step, (a, b) in enumerate(zip(straight, resumed, strict=False)):
        gap = abs(a - b) / max(abs(a), 1e-3)
        if gap <= PARTED[0]:  # false for NaN, which is a fault
            continue
        yield (warn if gap <= PARTED[1] else fail)(
            id="S8",
            what=f"the loss is {a:.4f} without a stop and {b:.4f} resumed",
            where=f"step {step}",
            why="the resumed run is another run: its result says nothing about the planned one",
            fix="restore optimizer, scheduler, random state and the position in the data",
        )
        return


def context(record: RunRecord) -> Iterator[Finding]:
    """S9: the longest trained row fits into what is served (`declared["served_context"]`)."""
    served, longest = record.declared.get("served_context"), _longest(record)
    limit = getattr(record.arguments, "max_length", None)
    if not served or (served >= longest and served >= (limit or 0)):
        return
    fits = served >= longest
    yield (warn if fits else fail)(
        id="S9",
        what=f"the server keeps {served} tokens, "
        + (f"max_length was {limit}" if fits else f"the longest trained row has {longest}"),
        where="declared['served_context']",
        why="longer prompts are cut or refused although the model was trained on such lengths",
        fix=f"serve {max(longest, limit or 0)} tokens",
    )


def positions(record: RunRecord) -> Iterator[Finding]:
    """S9: positions are encoded as in training."""
    trained = _positions(getattr(record.model, "config", None))
    others = {"served model": _positions(getattr(record.served_model, "config", None))}
    folder = artefact.folder_of(record)
    if folder and (folder / "config.json").is_file():
        others["config.json"] = _positions(_config(folder))
    for where, other in others.items():
        for key in trained.keys() & other.keys():
            if trained[key] == other[key]:
                continue
            limit = other[key] if key == "max_position_embeddings" else 0
            enough = isinstance(limit, int) and limit >= _longest(record) > 0
            yield (warn if enough else fail)(
                id="S9",
                what=f"{key} is {other[key]}, in the trained model {trained[key]}",
                where=f"{where}: {key}",
                why="every token seems to stand elsewhere than in training, or long text is cut",
                fix="copy these values from the trained model's config",
            )


def _longest(record: RunRecord) -> int:
    """Tokens of the longest trained row."""
    longest = max((len(o.ids) for o in record.oracles if isinstance(o, Oracle)), default=0)
    return min(longest, getattr(record.arguments, "max_length", None) or longest)


def _config(folder: Path) -> Any:
    """The configuration as transformers reads it; None if it cannot."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _positions(config: Any) -> dict[str, Any]:
    """What decides how far, and how, positions are encoded."""
    if config is None:
        return {}
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rope = getattr(text, "rope_parameters", None)
    found = {
        "sliding_window": getattr(text, "sliding_window", None),
        "rope": dict(rope) if isinstance(rope, dict) else rope,
    }
    limit = getattr(text, "max_position_embeddings", None)
    return {**found, "max_position_embeddings": limit} if limit else found


DETECTORS: tuple[Detector, ...] = (
    resume_files,
    resume_losses,
    context,
    positions,
    merge_source,
    checkpoint,
)
