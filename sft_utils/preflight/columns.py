"""Columns of a file that TRL does not read, or takes for something of its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_utils.preflight.record import Finding, RunRecord

MADE = ("labels", "completion_mask", "assistant_masks")
"""Names that SFTTrainer gives to what it makes of the texts (trl 1.14.2, data_collator)."""


def stop(raw: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The column for which the run would stop, or go wrong in a way that hides all else."""
    return _taken(raw) or _half_a_pair(raw) or _unread(raw[0])


def unread_system(record: RunRecord) -> Iterator[Finding]:
    """C15: system prompts in a column of their own, which TRL does not put into the messages."""
    raw = record.raw
    if len(raw) != len(record.conversations):
        return  # which line became which row is not known
    rows = [
        i
        for i, (line, chat) in enumerate(zip(raw, record.conversations, strict=True))
        if isinstance(line, Mapping)
        and isinstance(line.get("system"), str)
        and line["system"].strip()
        and not any(m.get("role") in ("system", "developer") for m in chat)
    ]
    if rows:
        yield Finding(
            id="C15",
            severity="FAIL",
            what=f"the column system ({raw[rows[0]]['system'].strip()[:40]!r}) is in no message: "
            "TRL does not read it",
            where=f"row {rows[0]}",
            why="rules of the system prompt are neither trained nor served",
            fix='write it into the row as its first message: {"role": "system", "content": ...}',
            row=rows[0],
            count=len(rows),
        )


def _taken(raw: Sequence[Mapping[str, Any]]) -> Finding | None:
    """Texts beside a column that has the name of a tensor; rows of tokens may have it."""
    for i, row in enumerate(raw):
        if "input_ids" in row:
            continue
        for name in MADE:
            if name in row:
                return _trl(
                    f"the column {name} has a name that SFTTrainer uses for tokens, and would be "
                    "taken for it",
                    f"rename or drop the column {name}",
                    where=f"row {i}",
                )
    return None


def _half_a_pair(raw: Sequence[Mapping[str, Any]]) -> Finding | None:
    """A prompt beside messages (UltraChat): TRL looks for its completion and stops."""
    row = raw[0]
    if "messages" in row and "prompt" in row and "completion" not in row:
        return _trl(
            "beside messages stands a column prompt without completion: SFTTrainer takes the rows "
            "for pairs and would stop here",
            "drop the column prompt: the messages hold it",
        )
    return None


def _unread(row: Mapping[str, Any]) -> Finding | None:
    """Layouts that TRL does not read; it would stop with the name of a missing column."""
    if any(name in row for name in ("messages", "prompt", "text")):  # a column text is trained
        return None
    if "conversations" in row:
        if all("from" in turn for turn in row["conversations"]):
            return None
        column, fix = "conversations", "rename the column conversations to messages"
    else:
        column, fix = "instruction, output", "write each row as prompt and completion, or messages"
    return _trl(f"TRL reads no columns of this layout ({column}): SFTTrainer would stop here", fix)


def _trl(what: str, fix: str, *, where: str = "columns of the file") -> Finding:
    return Finding(
        id="TRL",
        severity="FAIL",
        what=what,
        where=where,
        why="only the rows themselves were checked, not their tokens",
        fix=fix,
    )
