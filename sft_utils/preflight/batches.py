"""What the trainer really trains on: its batches, after the collator, beside the oracle.

A trained row is first looked up among the conversations as they are served. If it is there, with
or without the template's text behind its last stop token, its labels are judged (`labels`); if
not, the nearest conversation says what happened to it, the first that fits:

1. a conversation that ends too early: P1; one with more stop tokens behind it: C4
2. several conversations in one row that nothing separates: P5, and P6 if one of them is cut
3. a conversation without its beginning: P8, or P6 if rows are packed
4. two BOS tokens: C2; no special token of the served template: C1
5. equal but for white space: C10; another text before the first answer: C8; otherwise C13

A row whose answers cannot be placed (C0, C11) is known by its tokens; its labels are not judged.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from sft_utils.masks.chat import Oracle
from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.collated import as_lists, batch_rows, is_packed, ragged
from sft_utils.preflight.known import Known
from sft_utils.preflight.labels import Masks
from sft_utils.preflight.record import Batch, Detector, Finding, RunRecord
from sft_utils.preflight.stack import value_of

EXPLAINED = 3
"""Rows that are unknown are compared with all others: a few are explained, the rest counted."""


def _judged(record: RunRecord, batches: Sequence[Batch], known: Known) -> Iterator[Finding]:
    """Labels of all rows that are known, explanations for some that are not, and the count."""
    tokenizer = record.tokenizer
    pads = {p for p in (tokenizer.pad_token_id,) if p is not None}
    masks = Masks(
        tokenizer,
        record.conversations,
        record.oracles,
        turns=record.turns,
        template_kwargs=record.template_kwargs,
        pads=pads,
        before=lambda: _before(record),
    )
    seen: Counter[int] = Counter()
    trained = strange = 0
    last: list[Finding] = []
    joined = False
    for batch in batches:
        packed = is_packed(batch) or bool(value_of(record.arguments, "packing"))
        for ids, labels in batch_rows(batch):
            trained += 1
            row = known.rows.get(tuple(ids))
            row = known.closed(ids) if row is None else row
            if row is not None:
                seen[row] += 1
                if row not in known.unplaced:
                    yield from masks.judge(np.array(ids), np.array(labels), row)
                continue
            strange += 1
            if strange <= EXPLAINED or not last:
                cut = known.joined(ids)
                joined = joined or bool(cut)
                last = [*_joined(cut, len(ids), trained - 1)] or [
                    _explain(record, known, ids, packed, trained - 1)
                ]
            yield from last
    # Rows that hold several conversations cannot be counted against them, nor can the share of one
    # rank, in which some rows are missing and others repeated to fill the last batch.
    shared = (value_of(record.arguments, "world_size") or 1) > 1
    if not joined and not shared:
        dropped = 0
        if value_of(record.arguments, "dataloader_drop_last"):  # less than one batch, on purpose
            dropped = max(sum(1 for _ in batch_rows(batch)) for batch in batches) - 1
        yield from _counted(record, known, seen, trained, strange, dropped)


def _before(record: RunRecord) -> tuple[bool, set[int]] | None:
    """Whether rows were masked before the collator, and which ids carried loss there."""
    rows = getattr(record.trainer, "train_dataset", None)
    try:
        some = [rows[i] for i in range(min(8, len(rows)))]
        pairs = [(t, x) for r in some for t, x in zip(r["input_ids"], r["labels"], strict=True)]
    except (TypeError, KeyError, ValueError, IndexError):
        return None
    return any(x == IGNORE for _, x in pairs), {t for t, x in pairs if x != IGNORE}


def _joined(cut: list[bool], tokens: int, number: int) -> Iterator[Finding]:
    """P5 and P6: a row of several conversations, some of them cut."""
    if not cut:
        return
    finding = partial(Finding, severity="FAIL", where=f"trained row {number}")
    row = f"in a row of {tokens} tokens"
    yield finding(
        id="P5", what=f"{len(cut)} conversations {row}, nothing separates them",
        why="each document attends to the ones before it, which serving never does",
        fix="packing_strategy='bfd', no attention_mask, position_ids that restart",
    )  # fmt: skip
    if any(cut):
        yield finding(
            id="P6", what=f"{sum(cut)} of the {len(cut)} conversations {row} are cut",
            why="answers are trained without the prompt they answer, or without their end",
            fix="packing_strategy='bfd', a larger max_length",
        )  # fmt: skip


def _explain(record: RunRecord, known: Known, ids: list[int], packed: bool, number: int) -> Finding:
    """Why these tokens are no served conversation (decision order: see the module)."""
    tokenizer = record.tokenizer

    def finding(code: str, what: str, why: str, fix: str, row: int | None = None) -> Finding:
        where = f"trained row {number}" + ("" if row is None else f", declared row {row}")
        return Finding(
            id=code, severity="FAIL", what=what, where=where, why=why, fix=fix, row=row
        )  # fmt: skip

    row = known.longer(ids)
    if row is not None:
        whole = len(known.truths[row].ids)
        return finding(
            "P1", f"cut from {whole} to {len(ids)} tokens; the end of the conversation is lost",
            "answers without their end teach to stop anywhere or never",
            "raise max_length or drop the row", row,
        )  # fmt: skip
    row = known.shorter(ids)
    if row is not None:
        more = ids[len(known.truths[row].ids) :]
        stops = {known.truths[row].ids[t.stop] for t in known.truths[row].turns if t.stop}
        if set(more) <= stops | {tokenizer.eos_token_id}:
            return finding(
                "C4", f"{tokenizer.decode(more)!r} follows the token that already ended the answer",
                "the model learns to write the stop token twice",
                "the template ends the turn itself: pass eos_token of the template, or ids", row,
            )  # fmt: skip
    row = known.ending(ids)
    lost = "first"
    if row is None:
        row, lost = known.inside(ids), "first and last"
    if row is not None:
        n = len(known.truths[row].ids) - len(ids)
        code = "P6" if packed else "P8"
        return finding(
            code, f"the {lost} {n} tokens of the conversation are missing",
            "answers are trained without the prompt they answer",
            "truncation_mode='keep_start', packing_strategy='bfd', a larger max_length", row,
        )  # fmt: skip
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        return finding(
            "C2", "the row starts with two BOS tokens", "serving sends one: every position differs",
            "tokenise rendered text with add_special_tokens=False",
        )  # fmt: skip
    return _other_text(record, known, ids, finding)


def _other_text(record: RunRecord, known: Known, ids: list[int], finding: Any) -> Finding:
    """Steps 4 and 5: another text than the served one."""
    tokenizer = record.tokenizer
    row = known.nearest(ids)
    near = known.truths[row]
    trained, special = tokenizer.decode(ids), set(tokenizer.all_special_ids)
    why = "the served model meets another text than it was trained on"
    fix = "train with the template and system prompt that will be served"
    if not special & set(ids) and special & set(near.ids):
        what = f"no special token of the served template occurs; the row begins {trained[:40]!r}"
        return finding("C1", what, why, "train with the chat template that will be served")
    k = next(
        (k for k, (a, b) in enumerate(zip(ids, near.ids, strict=False)) if a != b),
        min(len(ids), len(near.ids)),
    )
    seen = f"trained {tokenizer.decode(ids[k : k + 6])!r}, served "
    seen += repr(tokenizer.decode(near.ids[k : k + 6]))
    same_end = bool(near.turns) and ids[-tail(near) :] == near.ids[-tail(near) :]
    if "".join(trained.split()) == "".join(near.text.split()):
        code, what = "C10", "differs from the served text in white space"
    elif near.turns and k < near.turns[0].start and same_end:
        code, what = "C8", "has another system prompt or context than the served text"
    else:
        code, what = "C13", "was rendered by another template than the served text"
    return finding(code, f"trained text {what} at token {k}: {seen}", why, fix, row)


def tail(truth: Oracle) -> int:
    """Tokens from just before the last answer to the end."""
    return len(truth.ids) - truth.turns[-1].start + 3


def _counted(
    record: RunRecord, known: Known, seen: Counter[int], trained: int, strange: int, dropped: int
) -> Iterator[Finding]:
    """Rows that never arrive, more than are dropped on purpose, and rows that arrive too often."""
    declared = Counter(known.rows[tuple(t.ids)] for t in known.truths.values())
    gone, n = declared - seen, len(record.conversations)
    lost = max(n - trained, gone.total() - strange)
    if lost > dropped:
        yield Finding(
            id="P3",
            severity="FAIL",
            what=f"{lost} of {n} rows never reach a batch",
            where=f"rows {sorted(gone)[:5]}",
            why="the model is trained on less than was declared, and not on a random part of it",
            fix="raise max_length, or drop these rows yourself and say so",
        )
    surplus = seen - declared
    if surplus:
        yield Finding(
            id="P7",
            severity="FAIL",
            what=f"{surplus.total()} rows are trained more often than they were declared",
            where=f"rows {sorted(surplus)[:5]}",
            why="repeated rows are memorised first",
            fix="look for a repeated shard or a packer that copies rows",
        )


def trained_rows(record: RunRecord) -> Iterator[Finding]:
    """The training batches against the declared conversations."""
    known = Known(record) if record.train_batches else None
    if known and known.truths:
        yield from _judged(record, record.train_batches, known)


def evaluated_rows(record: RunRecord) -> Iterator[Finding]:
    """M12: evaluation rows that are masked by another rule than training rows."""
    if not record.held_batches or not record.eval_conversations:
        return
    held = record.change(conversations=record.eval_conversations, trainer=None, batches=None)
    known = Known(held)
    wrong = [f for f in _judged(held, record.held_batches, known) if f.severity == "FAIL"]
    for finding in wrong[:1]:
        yield Finding(
            id="M12",
            severity="FAIL",
            what=f"evaluation rows: {finding.what} ({finding.id}; {len(wrong)} findings)",
            where=finding.where,
            why="the evaluation loss is a mean over other tokens than the training loss",
            fix="build evaluation rows with the function that builds training rows",
            row=finding.row,
        )


def padding(record: RunRecord) -> Iterator[Finding]:
    """M9: loss on padding. P5: a mask that joins packed documents. P4: steps without loss."""
    for number, batch in enumerate(record.train_batches):
        if uneven := ragged(batch):
            yield Finding(
                id="M6", severity="FAIL", where=f"batch {number}",
                what=f"ids and labels do not line up: tokens a row {uneven}",
                why="a label belongs to the token at its place; here it belongs to none",
                fix="let the collator pad or pack all parts of a row in the same way",
            )  # fmt: skip
            continue
        labels = np.array(as_lists(batch["labels"]))
        mask = np.array(as_lists(batch["attention_mask"])) if "attention_mask" in batch else None
        if mask is not None and (labels[mask == 0] != IGNORE).any():
            n = int((labels[mask == 0] != IGNORE).sum())
            yield Finding(
                id="M9", severity="FAIL", where=f"batch {number}",
                what=f"{n} padding positions carry loss",
                why="the model learns to write padding; the loss depends on the batch's width",
                fix="labels of padding are -100: set them by position (attention_mask == 0)",
            )  # fmt: skip
        packed = is_packed(batch)
        if packed and mask is not None and (mask == 1).all():
            yield Finding(
                id="P5", severity="FAIL", where=f"batch {number}",
                what="packed rows come with an attention_mask of ones: documents see each other",
                why="each document attends to the ones before it, which serving never does",
                fix="leave attention_mask out; the restarts of position_ids separate documents",
            )  # fmt: skip
        if packed and not (labels != IGNORE).any():
            yield Finding(
                id="P4", severity="FAIL", where=f"batch {number}",
                what="a packed row has no supervised token: the step has loss 0 and no gradient",
                why="the step costs time and teaches nothing",
                fix="drop rows without answers before packing",
            )  # fmt: skip


def formatting(record: RunRecord) -> Iterator[Finding]:
    """M13: formatting_func is declared, and the trained text is another one."""
    if record.formatting is None or not record.raw or not record.train_batches:
        return
    wanted = {"".join(str(record.formatting(row)).split()) for row in record.raw}
    for batch in record.train_batches[:1]:
        for ids, _ in itertools.islice(batch_rows(batch), 1):
            text = record.tokenizer.decode(ids)
            if "".join(text.split()) not in wanted:
                yield Finding(
                    id="M13", severity="FAIL", where="trained row 0",
                    what=f"formatting_func is ignored: the row reads {text[:60]!r}",
                    why="TRL prefers a messages or prompt column over the function",
                    fix="remove the messages/prompt columns, or formatting_func",
                )  # fmt: skip


DETECTORS: tuple[Detector, ...] = (padding, trained_rows, evaluated_rows, formatting)
