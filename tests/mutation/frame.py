"""What a mutation is: one fault planted in a healthy run, with a proof that it is really there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sft_utils.masks import masking
from sft_utils.masks.chat import oracle
from sft_utils.preflight.collated import batch_rows
from sft_utils.preflight.record import RunRecord

Layout = Literal["messages", "prompt_completion", "tokenised"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One healthy configuration: a family of tokenizers, a layout of rows, packed or not."""

    family: str  # "qwen", "gemma (synthetic)"
    real: bool  # a real tokenizer, not a carrier with another family's markers
    layout: Layout
    packed: bool
    record: RunRecord  # healthy: every detector is silent
    traits: frozenset[str] = field(default_factory=frozenset)  # "bos", "system", "tools", "think"


@dataclass(frozen=True, kw_only=True)
class Mutator:
    """One fault. `apply` never changes its argument: it returns another record."""

    id: str  # catalogue id, "M7"
    name: str  # unique slug, "stop-token-masked"
    layer: Literal[
        "data", "template", "tokenizer", "config", "labels", "model", "export", "evaluation", "stack"
    ]
    apply: Callable[[RunRecord], RunRecord]
    alive: Callable[[RunRecord, RunRecord], bool]  # is the fault really there? (before, after)
    expected: frozenset[str] = frozenset()  # ids that count as the right reason; empty: {id}
    severity: Literal["FAIL", "WARN"] = "FAIL"
    applies: Callable[[Subject], bool] = lambda subject: True
    source: Literal["own", "historical"] = "own"  # historical: re-built from a public thread


def rows_of(record: RunRecord) -> list[masking.Row]:
    """The trained rows of a record, cut out of its batches again."""
    return [
        {"input_ids": ids, "labels": labels}
        for batch in record.train_batches
        for ids, labels in batch_rows(batch)
    ]


def with_rows(record: RunRecord, rows: Sequence[masking.Row]) -> RunRecord:
    """The same record with other trained rows, collated (or packed) as before."""
    return record.change(batches=collated(rows, packed=is_packed(record)))


def is_packed(record: RunRecord) -> bool:
    """Whether the batches of a record are packed."""
    return bool(record.train_batches) and "attention_mask" not in record.train_batches[0]


def collated(rows: Sequence[masking.Row], *, packed: bool, size: int = 4) -> list[dict[str, Any]]:
    """Batches of `size` rows."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [masking.pack(part) if packed else masking.collate(part, 0) for part in parts]


def labelled(tokenizer: Any, conversation: Sequence[dict[str, Any]]) -> masking.Row:
    """A correctly labelled row. Not by the oracle where that can be avoided: by prefixes."""
    try:
        return masking.assistant_labels(tokenizer, conversation, max_length=100_000)
    except masking.MaskError:
        truth = oracle(tokenizer, conversation)  # this template is not incremental
        labels = [i if m else masking.IGNORE for i, m in zip(truth.ids, truth.mask, strict=True)]
        return {"input_ids": truth.ids, "labels": labels}


def retrain(record: RunRecord, tokenizer: Any = None, conversations: Any = None) -> RunRecord:
    """Train other rows while the served tokenizer and the declared conversations stay."""
    chats = record.conversations if conversations is None else conversations
    return with_rows(record, [labelled(tokenizer or record.tokenizer, c) for c in chats])
