"""Checks before the first optimizer step: is the trainer about to train on the right tokens?

The trainer's own batches, taken after its collator, are compared with the sentinel oracle
(`chat.oracle`), which knows nothing about the trainer. Ids of findings are those of the failure
catalogue in sft_utils/README.md. FAIL is for facts, WARN for judgement.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sft_utils.chat import Message, Oracle, oracle
from sft_utils.errors import PreflightError, TemplateError
from sft_utils.masking import IGNORE

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or looks wrong."""

    id: str  # of the failure catalogue, "M1"
    severity: Literal["FAIL", "WARN"]
    what: str  # one line
    where: str  # row, turn or setting
    fix: str
    count: int = 1  # rows with the same finding


def check_rows(conversations: Sequence[Sequence[Message]]) -> Iterator[Finding]:
    """Facts about raw conversations that no template or mask can repair."""
    for i, messages in enumerate(conversations):
        where = f"row {i}"
        roles = [m.get("role") for m in messages]
        foreign = [r for r in roles if r not in ROLES]
        if foreign:
            yield Finding(
                id="C18",
                severity="FAIL",
                what=f"role {foreign[0]!r} is not one of {', '.join(ROLES)}",
                where=where,
                fix="rename the roles; templates drop or print unknown ones without an error",
            )
            continue
        if "assistant" not in roles:
            yield Finding(
                id="D7",
                severity="FAIL",
                what="no assistant turn",
                where=where,
                fix="drop the row or repair its roles",
            )
        for k, message in enumerate(messages):
            if message["role"] == "assistant" and not str(message.get("content") or "").strip():
                yield Finding(
                    id="D3",
                    severity="FAIL",
                    what="empty answer: trains the model to stop at once",
                    where=f"{where}, message {k}",
                    fix="drop the row",
                )


def check_model(model: Any, tokenizer: Any, reference: Oracle | None) -> Iterator[Finding]:
    """Is anything trainable, and does the served model stop where the training text stops?"""
    if not any(p.requires_grad for p in model.parameters()):
        yield Finding(
            id="O3",
            severity="FAIL",
            what="no parameter requires a gradient: the run would change nothing",
            where="model",
            fix="attach the adapter after preparing the model; load it with is_trainable=True",
        )
    stops = getattr(model.generation_config, "eos_token_id", None)
    stops = {stops} if isinstance(stops, int) else set(stops or [])
    for turn in reference.turns if reference else ():
        if turn.stop is None:
            yield Finding(
                id="C5",
                severity="FAIL",
                what="the template ends an assistant turn without a stop token",
                where="chat template",
                fix="end the turn with a special token that generation stops at",
            )
        elif reference.ids[turn.stop] not in stops:
            token = tokenizer.convert_ids_to_tokens(reference.ids[turn.stop])
            yield Finding(
                id="C6",
                severity="FAIL",
                what=f"answers end with {token!r}, which is not a stop token of the served model "
                f"({tokenizer.convert_ids_to_tokens(sorted(stops))})",
                where="generation_config.eos_token_id",
                fix=f"set eos to {token!r} in tokenizer, model config and generation config",
            )
        break


def batch_rows(batch: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a collated batch back into (ids, labels) rows; packed rows are split at restarts."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    masks = batch["attention_mask"].tolist() if "attention_mask" in batch else None
    starts = batch["position_ids"].tolist() if "position_ids" in batch else None
    for i in range(len(ids)):
        if masks is not None:
            keep = [k for k, m in enumerate(masks[i]) if m]
            yield [ids[i][k] for k in keep], [labels[i][k] for k in keep]
        elif starts is not None:
            cuts = [k for k, p in enumerate(starts[i]) if p == 0] + [len(ids[i])]
            for a, b in itertools.pairwise(cuts):
                yield ids[i][a:b], labels[i][a:b]
        else:
            yield ids[i], labels[i]


def compare_row(
    ids: list[int], labels: list[int], truth: Oracle, tokenizer: Any, where: str
) -> Iterator[Finding]:
    """Compare one trained row with what should be trained in it (ids are equal)."""
    want, got = truth.mask, [int(x != IGNORE) for x in labels]
    wrong_value = [k for k, x in enumerate(labels) if x != IGNORE and x != ids[k]]

    def finding(code: str, what: str, fix: str) -> Finding:
        return Finding(id=code, severity="FAIL", what=what, where=where, fix=fix)

    if not any(got):
        yield finding("M2", "no token carries loss", "repair the mask or drop the row")
        return
    if wrong_value:
        yield finding(
            "M6",
            f"labels differ from the token ids at {len(wrong_value)} positions",
            "labels are unshifted copies of input_ids; the model shifts them itself",
        )
        return
    if got == want:
        return
    if got in ([*want[1:], 0], [0, *want[:-1]]):
        yield finding("M6", "the mask is shifted by one token", "do not shift labels yourself")
        return
    stops = {t.stop for t in truth.turns}
    extra = [k for k in range(len(ids)) if got[k] and not want[k]]
    missing = [k for k in range(len(ids)) if want[k] and not got[k]]
    if extra:
        text = tokenizer.decode([ids[k] for k in extra[:12]])
        yield finding(
            "M1",
            f"{len(extra)} tokens outside the answers carry loss, first {text!r}",
            "mask everything but answers and their stop token",
        )
    if missing and set(missing) <= stops:
        yield finding(
            "M7",
            "the stop token carries no loss: the model never learns to stop",
            "include the end-of-turn token in the labels; pad must differ from eos",
        )
    elif missing:
        yield finding(
            "M8",
            f"{len(missing)} answer tokens carry no loss",
            "train every assistant turn, or declare which ones are context",
        )


def explain_unknown(
    ids: list[int], truths: Sequence[Oracle], tokenizer: Any, where: str
) -> Finding:
    """Say why trained ids belong to no served conversation."""

    def finding(code: str, what: str, fix: str) -> Finding:
        return Finding(id=code, severity="FAIL", what=what, where=where, fix=fix)

    bag = set(ids)
    nearest = max(truths, key=lambda t: len(bag & set(t.ids)) / len(bag | set(t.ids)))
    if len(ids) < len(nearest.ids) and nearest.ids[: len(ids)] == ids:
        return finding(
            "P1",
            f"cut from {len(nearest.ids)} to {len(ids)} tokens; the answer's end is lost",
            "raise max_length or drop the row",
        )
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        return finding(
            "C2",
            "the row starts with two BOS tokens",
            "tokenise rendered text with add_special_tokens=False",
        )
    trained, served = tokenizer.decode(ids), nearest.text
    special = set(tokenizer.all_special_ids)
    if not special & bag and special & set(nearest.ids):
        return finding(
            "C1",
            f"no special token of the served template occurs; the row begins {trained[:40]!r}",
            "train with the chat template that will be served",
        )
    k = next(
        (k for k, (a, b) in enumerate(zip(ids, nearest.ids, strict=False)) if a != b),
        min(len(ids), len(nearest.ids)),
    )
    seen = f"trained {tokenizer.decode(ids[k : k + 6])!r}, served "
    seen += repr(tokenizer.decode(nearest.ids[k : k + 6]))
    if "".join(trained.split()) == "".join(served.split()):
        code, what = "C10", "differs from the served text in white space"
    elif nearest.turns and k < nearest.turns[0].start and _same_end(ids, nearest):
        code, what = "C8", "has another system prompt or context than the served text"
    else:
        code, what = "C13", "was rendered by another template than the served text"
    fix = "train with the template and system prompt that will be served"
    return finding(code, f"trained text {what} at token {k}: {seen}", fix)


def _same_end(ids: list[int], truth: Oracle) -> bool:
    """Whether a row ends like a served one, last answer and its header included."""
    tail = len(truth.ids) - truth.turns[-1].start + 3
    return ids[-tail:] == truth.ids[-tail:]


def check_batches(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    batches: Iterable[dict[str, Any]],
) -> Iterator[Finding]:
    """Compare all rows of the trainer's batches with the oracle, and count rows that are gone."""
    truths: dict[tuple[int, ...], tuple[int, Oracle]] = {}
    known: list[Oracle] = []
    for i, messages in enumerate(conversations):
        try:
            truth = oracle(tokenizer, messages)
        except TemplateError as error:
            yield Finding(
                id="C11",
                severity="FAIL",
                what=str(error),
                where=f"row {i}",
                fix="use a template that writes every answer verbatim",
            )
            continue
        truths[tuple(truth.ids)] = (i, truth)
        known.append(truth)
    declared = Counter(tuple(truth.ids) for truth in known)
    seen: Counter[tuple[int, ...]] = Counter()
    trained = 0
    unknown_rows: list[int] = []
    unknown: list[Finding] = []  # the search for the nearest row is slow: explain three, count all
    for batch in batches:
        for ids, labels in batch_rows(batch):
            trained += 1
            key = tuple(ids)
            if key in truths:
                row, truth = truths[key]
                seen[key] += 1
                yield from compare_row(ids, labels, truth, tokenizer, f"row {row}")
            elif known:
                where = f"trained row {trained - 1}"
                unknown_rows.append(trained - 1)
                if len(unknown) < 3:
                    unknown.append(explain_unknown(ids, known, tokenizer, where))
                yield unknown[-1]
    lost = max(len(conversations) - trained, (declared - seen).total() - len(unknown_rows))
    if lost > 0:
        gone = [truths[key][0] for key in declared - seen]
        yield Finding(
            id="P3",
            severity="FAIL",
            what=f"{lost} of {len(conversations)} rows never reach a batch",
            where=f"rows {gone[:5]}",
            fix="raise max_length, or drop these rows yourself and say so",
        )
    surplus = seen - declared
    if surplus:
        yield Finding(
            id="P7",
            severity="FAIL",
            what=f"{surplus.total()} rows are trained more often than they were declared",
            where=f"rows {[truths[key][0] for key in surplus][:5]}",
            fix="look for a repeated shard or a packer that copies rows",
        )


def check(
    trainer: Any, conversations: Sequence[Sequence[Message]], tokenizer: Any
) -> list[Finding]:
    """Everything above for one trainer, before its first step.

    Args:
        trainer: A transformers Trainer (or subclass) that was built but not run.
        conversations: The raw rows, in any order, as they should be trained.
        tokenizer: The tokenizer (with its template) that will be *served*.
    Returns:
        Findings, equal ones merged with their count; empty if nothing is wrong.
    """
    import torch

    findings = list(check_rows(conversations))
    reference = None
    for messages in conversations[:1]:
        try:
            reference = oracle(tokenizer, messages)
        except TemplateError:
            break
    findings += check_model(trainer.model, tokenizer, reference)
    if not any(f.id in ("C18", "D7") for f in findings):
        # Iterating the loader draws random numbers; the run must not notice that it was checked.
        with torch.random.fork_rng(devices=[]):
            findings += check_batches(tokenizer, conversations, trainer.get_train_dataloader())
    return merge(findings)


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Keep the first finding of each id and count the others."""
    merged: dict[str, Finding] = {}
    for finding in findings:
        first = merged.get(finding.id)
        count = first.count + 1 if first else 1
        merged[finding.id] = Finding(**{**asdict(first or finding), "count": count})
    return list(merged.values())


def gate(findings: Sequence[Finding]) -> None:
    """Stop a run that has a FAIL finding.

    Raises:
        PreflightError: Names the ids and the first finding in full.
    """
    fails = [f for f in findings if f.severity == "FAIL"]
    if fails:
        first = fails[0]
        raise PreflightError(
            f"{', '.join(f.id for f in fails)} · {first.what} ({first.where}; {first.count}x). "
            f"Fix: {first.fix}"
        )
    print(f"preflight: {len(findings)} findings, none fatal")
