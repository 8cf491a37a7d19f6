"""Faults of the loss mask, planted in the labels of healthy rows."""

from collections.abc import Callable

from sft_utils.masks.masking import IGNORE, Row
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, Subject, rows_of, with_rows


def relabelled(change: Callable[[RunRecord, int, Row], list[int]]) -> Callable:
    """A mutator's `apply` that changes the labels of every row."""

    def apply(record: RunRecord) -> RunRecord:
        rows = [
            {**row, "labels": change(record, i, row)} for i, row in enumerate(rows_of(record))
        ]
        return with_rows(record, rows)

    return apply


def differs(before: RunRecord, after: RunRecord) -> bool:
    """Some label changed."""
    return [r["labels"] for r in rows_of(before)] != [r["labels"] for r in rows_of(after)]


def stops_of(record: RunRecord, i: int) -> set[int]:
    """Positions of the stop tokens of row i."""
    return {t.stop for t in record.oracles[i].turns if t.stop is not None}


def without(positions: Callable[[RunRecord, int, Row], set[int]]) -> Callable:
    """Labels without some positions."""
    return relabelled(
        lambda record, i, row: [
            IGNORE if k in positions(record, i, row) else x for k, x in enumerate(row["labels"])
        ]
    )


def late(record: RunRecord, i: int, row: Row) -> list[int]:
    """The mask moved by one token, labels right."""
    keep = [False, *(x != IGNORE for x in row["labels"][:-1])]
    return [t if k else IGNORE for t, k in zip(row["input_ids"], keep, strict=True)]


def early(record: RunRecord, i: int, row: Row) -> list[int]:
    """The mask moved the other way."""
    keep = [*(x != IGNORE for x in row["labels"][1:]), False]
    return [t if k else IGNORE for t, k in zip(row["input_ids"], keep, strict=True)]


def by_id(record: RunRecord, i: int, row: Row) -> list[int]:
    """What a collator does that masks padding by id, with pad == the stop token."""
    stop = next(row["input_ids"][k] for k in stops_of(record, i))
    return [IGNORE if t == stop else t for t in row["input_ids"]]


def spills(record: RunRecord, i: int, row: Row) -> list[int]:
    """The mask of the first answer runs on into the next message."""
    turns = record.oracles[i].turns
    if len(turns) < 2:
        return row["labels"]
    end = turns[1].head if turns[1].head is not None else turns[1].start
    return [
        t if turns[0].start <= k < end else x
        for k, (t, x) in enumerate(zip(row["input_ids"], row["labels"], strict=True))
    ]


def many_turns(subject: Subject) -> bool:
    """Some row has several answers that are trained."""
    record = subject.record
    return record.turns == "all" and any(len(o.turns) > 1 for o in record.oracles)


def on_padding(record: RunRecord) -> RunRecord:
    """Labels are the ids, padding included."""
    batches = []
    for batch in record.train_batches:
        labels = batch["labels"].clone()
        pad = batch["attention_mask"] == 0
        labels[pad] = batch["input_ids"][pad]
        batches.append({**batch, "labels": labels})
    return record.change(batches=batches)


def padding_trained(before: RunRecord, after: RunRecord) -> bool:
    """A label stands where nothing is attended to."""
    return any(
        bool((b["labels"][b["attention_mask"] == 0] != IGNORE).any()) for b in after.train_batches
    )


def evaluated_whole(record: RunRecord) -> RunRecord:
    """Evaluation batches with the loss on everything."""
    return record.change(
        eval_batches=[{**b, "labels": b["input_ids"].clone()} for b in record.held_batches]
    )


def m(code: str, name: str, apply: Callable, **more: object) -> Mutator:
    """A mutator of this layer."""
    more.setdefault("alive", differs)
    return Mutator(id=code, name=name, layer="labels", apply=apply, **more)


MUTATORS = (
    m("M1", "loss-on-everything", relabelled(lambda record, i, row: list(row["input_ids"])),
      expected=frozenset({"M1", "M5"})),
    m("M1", "loss-on-first-prompt", relabelled(
        lambda record, i, row: [*row["input_ids"][: record.oracles[i].turns[0].start],
                                *row["labels"][record.oracles[i].turns[0].start :]])),
    m("M2", "nothing-supervised", relabelled(lambda record, i, row: [IGNORE] * len(row["labels"])),
      expected=frozenset({"M2", "P4"})),
    m("M2", "one-row-unsupervised", relabelled(
        lambda record, i, row: [IGNORE] * len(row["labels"]) if i == 1 else row["labels"])),
    m("M4", "stop-masked-by-pad-id", relabelled(by_id), expected=frozenset({"M4", "M5"})),
    m("M6", "labels-shifted", relabelled(lambda record, i, row: [*row["labels"][1:], IGNORE])),
    m("M6", "mask-late", relabelled(late), expected=frozenset({"M6", "M7"})),
    m("M6", "mask-early", relabelled(early), expected=frozenset({"M6", "M7"})),
    m("M7", "stop-token-masked", without(lambda record, i, row: stops_of(record, i)),
      expected=frozenset({"M7", "M4"})),
    m("M8", "only-last-turn", without(
        lambda record, i, row: {k for t in record.oracles[i].turns[:-1]
                                for k in range(t.start, (t.stop or t.end) + 1)}),
      applies=many_turns),
    m("M3", "hole-in-answer", without(
        lambda record, i, row: set(range(record.oracles[i].turns[-1].start + 2,
                                         record.oracles[i].turns[-1].end - 1)) if i % 2 else set()),
      expected=frozenset({"M3", "M8"})),
    m("M9", "loss-on-padding", on_padding, alive=padding_trained,
      applies=lambda s: not s.packed and any(
          bool((b["attention_mask"] == 0).any()) for b in s.record.train_batches)),
    m("M12", "evaluation-unmasked", evaluated_whole, applies=lambda s: bool(s.record.held_batches),
      alive=lambda before, after: any(
          bool((b["labels"] != a["labels"]).any())
          for b, a in zip(before.held_batches, after.held_batches, strict=True))),
    m("C17", "mask-spills", relabelled(spills), applies=many_turns,
      expected=frozenset({"C17", "M1"})),
)  # fmt: skip


