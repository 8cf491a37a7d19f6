"""Rows that are cut, lost, repeated, joined or begun in the middle."""

from collections.abc import Callable

from sft_utils.masks.masking import IGNORE, Row
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, rows_of, with_rows


def rows_changed(change: Callable[[RunRecord, list[Row]], list[Row]]) -> Callable:
    """A mutator's `apply` over all rows."""
    return lambda record: with_rows(record, change(record, rows_of(record)))


def other_ids(before: RunRecord, after: RunRecord) -> bool:
    """Other tokens are trained."""
    return [r["input_ids"] for r in rows_of(before)] != [r["input_ids"] for r in rows_of(after)]


def part(row: Row, a: int, b: int) -> Row:
    """A slice of a row."""
    return {k: v[a:b] for k, v in row.items()}


def doubled_bos(record: RunRecord, rows: list[Row]) -> list[Row]:
    """A second BOS in front."""
    bos = record.tokenizer.bos_token_id
    return [{"input_ids": [bos, *r["input_ids"]], "labels": [IGNORE, *r["labels"]]} for r in rows]


def stop_id(record: RunRecord, i: int) -> int:
    """The token that ends the last answer of row i."""
    truth = record.oracles[i]
    return truth.ids[truth.turns[-1].stop]


def ended_twice(record: RunRecord, rows: list[Row]) -> list[Row]:
    """The stop token once more at the end, trained."""
    return [
        {"input_ids": [*r["input_ids"], s], "labels": [*r["labels"], s]}
        for r, s in ((r, stop_id(record, i)) for i, r in enumerate(rows))
    ]


def joined(record: RunRecord) -> RunRecord:
    """Packed rows whose restarts are gone: documents see each other."""
    batches = []
    for batch in record.train_batches:
        rows = {k: v for k, v in batch.items() if k != "position_ids"}
        batches.append(rows)
    return record.change(batches=batches)


def masked_ones(record: RunRecord) -> RunRecord:
    """Packed batches with an attention mask of ones."""
    import torch

    return record.change(
        batches=[
            {**b, "attention_mask": torch.ones_like(b["input_ids"])} for b in record.train_batches
        ]
    )


def p(code: str, name: str, apply: Callable, **more: object) -> Mutator:
    """A mutator of this layer."""
    more.setdefault("alive", other_ids)
    return Mutator(id=code, name=name, layer="labels", apply=apply, **more)


MUTATORS = (
    p("P1", "answers-cut", rows_changed(
        lambda record, rows: [part(r, 0, record.oracles[i].turns[-1].end - 1)
                              for i, r in enumerate(rows)])),
    p("P3", "rows-lost", rows_changed(lambda record, rows: rows[:-2])),
    p("P4", "packed-without-loss", rows_changed(
        lambda record, rows: [{**r, "labels": [IGNORE] * len(r["labels"])} for r in rows]),
      applies=lambda s: s.packed, expected=frozenset({"P4", "M2"}),
      alive=lambda before, after: all(
          x == IGNORE for r in rows_of(after) for x in r["labels"])),
    p("P5", "packed-with-attention-mask", masked_ones, applies=lambda s: s.packed,
      alive=lambda before, after: "attention_mask" in after.train_batches[0]),
    p("P5", "packed-without-restarts", joined, applies=lambda s: s.packed,
      alive=lambda before, after: "position_ids" not in after.train_batches[0]),
    p("P6", "fragment-without-prompt", rows_changed(
        lambda record, rows: [part(r, record.oracles[i].turns[0].start, len(r["labels"]))
                              for i, r in enumerate(rows)]),
      applies=lambda s: s.packed, expected=frozenset({"P6", "P8"})),
    p("P7", "first-rows-repeated", rows_changed(lambda record, rows: [*rows, *rows[:2]])),
    p("P8", "beginning-cut", rows_changed(
        lambda record, rows: [part(r, 3, len(r["labels"])) for r in rows]),
      applies=lambda s: not s.packed, expected=frozenset({"P8", "P6"})),
    p("C2", "double-bos", rows_changed(doubled_bos),
      applies=lambda s: "bos" in s.traits),
    p("C4", "ended-twice", rows_changed(ended_twice),
      expected=frozenset({"C4"})),
)  # fmt: skip


