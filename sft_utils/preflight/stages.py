"""The order of the checks, cheap to expensive, and what happens with what they find."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sft_utils.errors import ConfigError, PreflightError
from sft_utils.masks.chat import Message
from sft_utils.masks.rendering import content_text, thought_length
from sft_utils.preflight import batches, dryrun, exported, judged, rawdata, settings, templates
from sft_utils.preflight.collated import batch_rows
from sft_utils.preflight.record import Batch, Detector, Finding, RunRecord

STAGES: dict[str, tuple[Detector, ...]] = {
    "settings": settings.DETECTORS,
    "data": rawdata.DETECTORS,
    "template": templates.DETECTORS,
    "batches": batches.DETECTORS,
    "evaluation": judged.DETECTORS,
    "dryrun": dryrun.DETECTORS,
    "export": exported.DETECTORS,
}
"""Name of a stage -> its detectors. Each reads what the record holds and skips the rest."""

BEFORE = ("settings", "data", "template", "batches", "evaluation")
"""Stages that need no forward pass: seconds for ten thousand rows."""

SAMPLE = 2000
"""Rows looked at unless all are asked for."""

EDGE = 20
"""Characters at the end of a cut row that tell which message it ends in."""


def inspect(record: RunRecord, *, stages: Sequence[str] = BEFORE) -> list[Finding]:
    """Run the detectors of some stages on a record.

    Args:
        record: What is known about the run.
        stages: Names out of STAGES, executed in the order given.
    Returns:
        Findings, equal ids merged with their count; empty if nothing is wrong.
    Raises:
        ConfigError: An unknown stage.
    """
    unknown = [s for s in stages if s not in STAGES]
    if unknown:
        raise ConfigError(f"unknown preflight stage {unknown[0]!r}; known: {', '.join(STAGES)}")
    return merge(f for stage in stages for detector in STAGES[stage] for f in detector(record))


def check(
    trainer: Any,
    conversations: Sequence[Sequence[Message]],
    tokenizer: Any,
    *,
    stages: Sequence[str] = BEFORE,
    limit: int | None = SAMPLE,
    **facts: Any,
) -> list[Finding]:
    """Everything that can be said about a trainer before its first step.

    The trainer's own batches are taken, after its collator. Drawing them costs random numbers; the
    generator is put back, so that the run does not notice that it was checked.

    Args:
        trainer: A transformers Trainer (or subclass) that was built but not run.
        conversations: The raw rows, in any order, as they should be trained.
        tokenizer: The tokenizer (with its template) that will be *served*.
        stages: Add "dryrun" for one forward and backward pass.
        limit: Rows compared; None compares all. A sample is spread over row lengths, and is only
            taken when the trainer's rows stand at the positions of the declared ones.
        facts: Other fields of RunRecord: schema, evaluation, declared, messages ...
    Returns:
        Findings, equal ids merged with their count; empty if nothing is wrong.
    Raises:
        ConfigError: An unknown stage, or a stream of far more rows than are declared.
    """
    import torch

    record = RunRecord(
        tokenizer=tokenizer,
        conversations=conversations,
        model=getattr(trainer, "model", None),
        arguments=getattr(trainer, "args", None),
        trainer=trainer,
    ).change(**facts)
    with torch.random.fork_rng(devices=[]):
        # Raw rows are cheap to read: all of them. What is rendered and compared may be a sample.
        found = inspect(record, stages=[s for s in stages if s == "data"])
        record, chosen = _with_batches(record, trainer, limit)
        more = inspect(record, stages=[s for s in stages if s != "data"])
        return merge([*found, *(_renumbered(f, chosen) for f in more)])


def _with_batches(
    record: RunRecord, trainer: Any, limit: int | None
) -> tuple[RunRecord, list[int]]:
    """The record with the trainer's batches: all, or those of a sample and which rows these are."""
    rows = getattr(trainer, "train_dataset", None)
    collate = getattr(trainer, "data_collator", None)
    n = len(record.conversations)
    aligned = hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and len(rows) == n
    if limit is None or n <= limit or not aligned or collate is None:
        # A loader over no row at all raises; what it says is that every row is gone (P3).
        empty = hasattr(rows, "__len__") and len(rows) == 0
        return record.change(batches=[] if empty else partial(_one_pass, trainer, n)), []
    chosen = stratified([sum(len(str(m.get("content"))) for m in c) for c in record.conversations],
                        limit)  # fmt: skip
    rows, collate = _as_loaded(trainer, rows, collate)
    batch = [collate([rows[i] for i in chosen[k : k + 8]]) for k in range(0, len(chosen), 8)]
    conversations = [record.conversations[i] for i in chosen]
    if not _in_place(record.train_tokenizer or record.tokenizer, batch, conversations):
        return record.change(batches=trainer.get_train_dataloader), []
    loader = trainer.get_train_dataloader()
    known = {"batches_per_epoch": len(loader)} if hasattr(loader, "__len__") else {}
    sampled = record.change(
        batches=batch,
        conversations=conversations,
        observed={**known, **record.observed},
        raw=[record.raw[i] for i in chosen] if len(record.raw) == n else (),
        stored=(),  # the data stage has compared all of them
    )
    return sampled, chosen


def _one_pass(trainer: Any, n: int) -> Iterable[Batch]:
    """The trainer's batches; a stream that does not end would be drawn for ever."""
    loader = trainer.get_train_dataloader()
    if hasattr(getattr(trainer, "train_dataset", None), "__len__"):
        return loader
    most, drawn, rows = 2 * n + SAMPLE, [], 0
    for batch in loader:
        drawn.append(batch)
        rows += len(batch.get("input_ids", ()))
        if rows > most:
            raise ConfigError(
                f"the training rows are a stream that goes on after {rows} rows, and {n} "
                "conversations are declared: one pass over all rows is compared with them. Build a "
                f"trainer for the check on a part, rows.take({n}), and declare the same part."
            )
    return drawn


def _as_loaded(trainer: Any, rows: Any, collate: Any) -> tuple[Any, Any]:
    """Rows and collator as the trainer's own loader has them: without columns nobody takes."""
    if hasattr(rows, "column_names"):  # a data set: columns go from its rows
        remove = getattr(trainer, "_remove_unused_columns", None)
        return (remove(rows) if remove else rows), collate
    wrap = getattr(trainer, "_get_collator_with_removed_columns", None)
    return rows, (wrap(collate) if wrap else collate)


def _in_place(
    tokenizer: Any, batches: Sequence[Batch], conversations: Sequence[Sequence[Message]]
) -> bool:
    """Whether trained rows say what the conversations of their positions say, or a part of it.

    Equal numbers alone prove nothing: a trainer may hold its rows in another order.
    """
    rows = [ids for batch in batches for ids, _ in batch_rows(batch)]
    if len(rows) != len(conversations):
        return False
    texts = map(_squeezed, tokenizer.batch_decode(rows))
    return all(map(_says, texts, conversations))


def _says(text: str, messages: Sequence[Message]) -> bool:
    """Whether a trained text holds the messages, the one at which it was cut excepted.

    System prompts do not count, since rows share them, nor thoughts, which templates drop.
    """
    for message in messages:
        if message.get("role") == "system":
            continue
        said = content_text(message)
        said = _squeezed(said[thought_length(said) :])
        if said not in text:
            return bool(text) and (text[-EDGE:] in said or text[:EDGE] in said)
    return True


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _renumbered(finding: Finding, chosen: Sequence[int]) -> Finding:
    """A finding about a sampled row, with the number that the row has among all rows."""
    if not chosen or finding.row is None:
        return finding
    row = chosen[finding.row]
    where = re.sub(rf"\brow {finding.row}\b", f"row {row}", finding.where)
    return dataclasses.replace(finding, row=row, where=where)


def stratified(sizes: Sequence[int], limit: int) -> list[int]:
    """`limit` indices, evenly over the sizes: the shortest and the longest are always in.

    Example:
        >>> stratified([5, 1, 9, 3, 7], 3)
        [1, 0, 2]
    """
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    limit, last = min(limit, len(order)), len(order) - 1
    return [order[round(k * last / max(limit - 1, 1))] for k in range(limit)]


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Keep the first finding of each id and severity, and count the others; FAIL comes first."""
    merged: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.severity, finding.id)
        first = merged.get(key)
        merged[key] = (
            dataclasses.replace(first, count=first.count + finding.count) if first else finding
        )
    return sorted(merged.values(), key=lambda f: f.severity != "FAIL")


def gate(
    findings: Sequence[Finding], *, suppress: Mapping[str, str] | None = None, run: Any = None
) -> None:
    """Stop a run that has a FAIL finding.

    Args:
        findings: What `check` or `inspect` returned.
        suppress: Ids that are accepted, with the reason. They are written into the run's manifest.
        run: The `runtime.Run`; required with `suppress`.
    Raises:
        PreflightError: Names the ids and the first finding in full.
        ConfigError: Suppression without a run to write it into, or of an id that was not found.
    """
    suppress = dict(suppress or {})
    found = {f.id for f in findings}
    for code, reason in suppress.items():
        if run is None or not reason.strip():
            raise ConfigError(f"suppressing {code} needs run= and a reason: both go on record")
        if code not in found:
            raise ConfigError(f"{code} is suppressed but was not found; found: {sorted(found)}")
    if suppress:
        run.suppressed.update(suppress)
    fails = [f for f in findings if f.severity == "FAIL" and f.id not in suppress]
    if fails:
        first = fails[0]
        raise PreflightError(
            f"{', '.join(f.id for f in fails)} · {first.what} ({first.where}; {first.count}x). "
            f"Fix: {first.fix}"
        )
    warned = [f.id for f in findings if f.severity == "WARN"]
    print(
        f"preflight: {len(findings)} findings, none fatal"
        + (f"; warnings: {', '.join(warned)}" if warned else "")
        + (f"; suppressed: {', '.join(suppress)}" if suppress else "")
    )
