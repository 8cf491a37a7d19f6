"""The served chat template, probed with the record's own rows and small conversations.

Markers, the end of an answer, the served prompt, the clock and generation markers are judged here.
`survival` asks what of the rows is left after the template, `sides` compares training with serving.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import MAX_GAP, SENTINEL, Message, Oracle, Turn, oracles
from sft_utils.masks.masking import IGNORE
from sft_utils.masks.rendering import content_text, is_conversation, renders, specials, with_content
from sft_utils.preflight import sides, survival
from sft_utils.preflight.record import Detector, Finding, RunRecord
from sft_utils.preflight.sides import prompts, sample

MARKER = re.compile(
    r"<\|[^\s|<>]{1,40}\|?>|<[a-z_]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<(?:start|end)_of_[a-z_]+>"
    r"|\[/?[A-Z_]{3,24}\]|\[gMASK\]|</?s>|<(?:sop|eop|bos|eos)>"
)
"""What control tokens of chat templates look like."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The marker that transformers and TRL look for."""


def probes(record: RunRecord, text: str = SENTINEL) -> list[Message]:
    """Question and answer in the layout of contents (string or parts) that the rows have."""
    like = next((c[0] for c in record.conversations if c and is_conversation(c)), {"content": ""})
    content = like.get("content")
    return [with_content({"role": r, "content": content}, text) for r in ("user", "assistant")]


def no_template(record: RunRecord) -> Iterator[Finding]:
    """C0: there is nothing to check with."""
    problem = ""
    if not getattr(record.tokenizer, "chat_template", None):
        problem = "the tokenizer has no chat template"
    elif not getattr(record.tokenizer, "is_fast", False):
        problem = "a slow tokenizer does not tell which characters a token stands for"
    if problem and record.conversations:
        yield Finding(
            id="C0",
            severity="WARN",
            what=f"rows cannot be checked: {problem}",
            where="tokenizer",
            fix="load the fast tokenizer that will be served, with its chat_template.jinja",
            why="whether the model is trained on what it will see cannot be told",
            count=len(record.conversations),
        )


def foreign_markers(record: RunRecord) -> Iterator[Finding]:
    """C1: markers of the template that this tokenizer cuts into pieces."""
    asked, answer = probes(record)
    chats = [[asked, answer, asked], [asked, answer]]
    written, ended = (_pieces(record, chat) for chat in chats)
    known = set(specials(record.tokenizer).values())

    def whole(marker: str) -> bool:
        ids = record.tokenizer(marker, add_special_tokens=False)["input_ids"]
        return marker in known or len(ids) == 1

    markers = dict.fromkeys(MARKER.findall("\n".join(written) + "\n".join(ended)))
    broken = [m for m in markers if not whole(m)]
    if not broken:
        return
    closing = MARKER.match(ended[2].lstrip()) if len(ended) > 2 else None
    fatal = closing is not None and closing[0] in broken
    if record.tokenizer.bos_token == "<s>" and all(m[0] == "[" for m in broken) and not fatal:
        return  # Llama 2 and the first Mistral models write [INST] as plain text
    shown = closing[0] if closing and fatal else broken[0]
    pieces = record.tokenizer.tokenize(shown)
    what = f"the template writes {shown!r}, which is {len(pieces)} tokens here: {pieces[:8]}"
    yield Finding(
        id="C1",
        severity="FAIL" if fatal else "WARN",
        what=what + (", so no token ends an answer" if fatal else ""),
        where="chat template",
        fix="use the template that belongs to this tokenizer, or add "
        f"{broken[:4]} as special tokens and train their embeddings",
        why="a template of another model family: its markers are plain text here, the model shows "
        "them to the user and never stops",
    )


def unended(record: RunRecord) -> Iterator[Finding]:
    """C5: answers that no stop token closes."""
    if any(f.severity == "FAIL" for f in foreign_markers(record)):
        return  # the cause is said already: the marker that should end the turn is plain text
    found = [
        (row, turn)
        for row, truth, turns in _ends(record)
        for turn, _ in turns
        if turn.stop is None and not _followed_by(record, truth, turn)
    ]
    if found:
        row, turn = found[0]
        yield Finding(
            id="C5",
            severity="FAIL",
            what="the template ends an answer without a stop token",
            where="chat template" if row is None else f"row {row}, message {turn.message}",
            fix="write the stop token behind message['content'] of the assistant: "
            "{{ message['content'] + eos_token }}",
            why="the model never learns to stop: it goes on until max_new_tokens, with turns of "
            "the user that it makes up",
            row=row,
            turn=None if row is None else turn.message,
            count=len({row for row, _ in found}),
        )


def unknown_stop(record: RunRecord) -> Iterator[Finding]:
    """C6: the token that ends an answer is none at which serving stops."""
    name = record.tokenizer.convert_ids_to_tokens
    eos, stops = record.tokenizer.eos_token_id, record.stops
    wrong: list[tuple[int | None, int, bool, int]] = []
    ends = set()
    for row, truth, turns in _ends(record):
        for turn, final in turns:
            if turn.stop is None:
                continue
            ends.add(truth.ids[turn.stop])
            if stops and truth.ids[turn.stop] not in stops:
                wrong.append((row, turn.message, final, truth.ids[turn.stop]))
    where = "generation_config.eos_token_id"
    why = "the model learns to write a token that stops nothing: it answers, and then goes on"
    for final, severity in ((True, "FAIL"), (False, "WARN")):
        hits = [hit for hit in wrong if hit[2] == final]
        if hits and (final or not any(hit[2] for hit in wrong)):
            row, message, _, token = hits[0]
            yield Finding(
                id="C6",
                severity=severity,
                what=f"{'answers end' if final else 'earlier answers of a conversation end'} with "
                f"{name(token)!r} ({token}), but serving stops at {name(sorted(stops))}",
                where=where,
                fix=f"add {token} to generation_config.eos_token_id, set "
                f"tokenizer.eos_token = {name(token)!r} and save both with the model"
                if final
                else f"train the last answer of each row only (turns='last'); let serving stop at "
                f"{token} only if it never stands inside an answer",
                why=why,
                row=row,
                turn=None if row is None else message,
                count=len({hit[0] for hit in hits}),
            )
    if ends and not wrong and eos not in ends | stops:
        told = f"; the generation config stops at {name(sorted(stops))}" if stops else ""
        yield Finding(
            id="C6",
            severity="WARN",
            what=f"answers end with {name(sorted(ends))}, but the tokenizer's eos token is "
            f"{record.tokenizer.eos_token!r}{told}",
            where="tokenizer.eos_token",
            fix=f"tokenizer.eos_token = {name(min(ends))!r}, before training and before saving",
            why="servers that read the stop token from the tokenizer never stop, and trainers "
            "copy it into the model",
        )


def unfamiliar_prompt(record: RunRecord) -> Iterator[Finding]:
    """C7: what is served before an answer is not what is trained before it."""
    kwargs = {**record.template_kwargs, "strftime_now": _clock(2026)}
    rows = [(i, m) for i, m in sample(record) if isinstance(record.oracles[i], Oracle)]
    rows = rows or [(None, probes(record, "Yes") * 2)]
    truths = oracles(record.tokenizer, [m for _, m in rows], template_kwargs=kwargs)
    asked = [
        (row, truth, turn, messages)
        for (row, messages), truth in zip(rows, truths, strict=True)
        if isinstance(truth, Oracle)
        for turn in (truth.turns if record.turns == "all" else truth.turns[-1:])
        if turn.message > 0 and messages[turn.message - 1].get("role") != "assistant"
    ][:400]
    served = prompts(record.tokenizer, [m[: t.message] for _, _, t, m in asked], kwargs)
    found: dict[str, list[tuple[Finding, int | None]]] = {"FAIL": [], "WARN": []}
    for (row, truth, turn, messages), prompt in zip(asked, served, strict=True):
        if prompt is None or truth.ids[: len(prompt[1])] == prompt[1]:
            continue
        text, ids = prompt
        # The data's doing, not the template's: the answer begins with space that joins the header.
        own = truth.text.startswith(text) and content_text(messages[turn.message])[:1].isspace()
        severity = "WARN" if own else "FAIL"
        found[severity].append((_unfamiliar(record, truth, turn, ids, row, own), row))
    for findings in found.values():
        if findings:
            first, count = findings[0][0], len({row for _, row in findings})
            yield replace(first, count=count)


def clock(record: RunRecord) -> Iterator[Finding]:
    """C9: the render says which day it is."""
    if not record.tokenizer.chat_template:
        return
    rows = [*(m for _, m in sample(record, 6)), probes(record, "Yes")]
    then, later = (
        renders(record.tokenizer, rows, {**record.template_kwargs, "strftime_now": _clock(year)})
        for year in (2001, 2034)
    )
    for a, b in zip(then, later, strict=True):
        if isinstance(a, str) and isinstance(b, str) and a != b:
            pairs = enumerate(zip(a, b, strict=False))
            k = next((k for k, (x, y) in pairs if x != y), min(len(a), len(b)))
            yield Finding(
                id="C9",
                severity="WARN",
                what=f"the render depends on the clock: {a[max(k - 30, 0) : k + 12]!r} becomes "
                f"{b[max(k - 30, 0) : k + 12]!r}",
                where="chat template (strftime_now)",
                fix="pin the date in training and serving, with the template's variable for it "
                "(date_string=..., current_date=...) or in the template",
                why="the model is tied to the day of its training, and no two renders are alike",
            )
            return


def no_generation_marker(record: RunRecord) -> Iterator[Finding]:
    """C16: loss on answers only was asked for, and the template does not say where they are."""
    asked = record.declared.get("assistant_only_loss") or getattr(
        record.arguments, "assistant_only_loss", False
    )
    template = sides.trained_template(record) or getattr(record.tokenizer, "chat_template", None)
    if not asked or not isinstance(template, str) or GENERATION.search(template):
        return
    if sides.trl_twin(template) or any(map(_trains, record.train_batches)):
        return  # replaced by TRL, or labels come from somewhere else
    yield Finding(
        id="C16",
        severity="FAIL",
        what="assistant_only_loss=True, but the template has no {% generation %} marker",
        where="chat template",
        fix="put {% generation %} before the answer and {% endgeneration %} behind its stop token",
        why="without it the mask of assistant tokens is zero everywhere: nothing is trained",
        count=max(len(record.conversations), 1),
    )


def _pieces(record: RunRecord, chat: Sequence[Message]) -> list[str]:
    """What the template writes around the sentinels of a chat; empty if it refuses the chat."""
    try:
        (text,) = renders(record.tokenizer, [chat], record.template_kwargs)
    except TemplateError:
        return []
    return text.split(SENTINEL) if isinstance(text, str) else []


def _ends(
    record: RunRecord,
) -> Iterator[tuple[int | None, Oracle, list[tuple[Turn, bool]]]]:
    """Rows that end with an answer, with their trained turns and whether they are the last."""
    rows: list[tuple[int | None, Any, Any]] = [
        (i, messages, truth)
        for i, (messages, truth) in enumerate(
            zip(record.conversations, record.oracles, strict=True)
        )
        if isinstance(truth, Oracle)
    ]
    if not rows:
        chat = probes(record, "Yes")
        made = oracles(record.tokenizer, [chat], template_kwargs=record.template_kwargs)
        rows = [(None, chat, truth) for truth in made if isinstance(truth, Oracle)]
    for row, messages, truth in rows:
        last = len(messages) - 1
        turns = [(t, t.message == last) for t in truth.turns]
        yield row, truth, turns if record.turns == "all" else [t for t in turns if t[1]]


def _followed_by(record: RunRecord, truth: Oracle, turn: Turn) -> bool:
    """Whether serving stops at the token behind an answer, though it belongs to the next turn."""
    near = truth.ids[turn.end : turn.end + MAX_GAP]
    return any(i in record.stops for i in near)


def _unfamiliar(
    record: RunRecord, truth: Oracle, turn: Turn, ids: list[int], row: int | None, own: bool
) -> Finding:
    pairs = zip(ids, truth.ids, strict=False)
    k = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(truth.ids)))
    decode = record.tokenizer.decode
    return Finding(
        id="C7",
        severity="WARN" if own else "FAIL",
        what=f"before the answer, serving shows {decode(ids[max(k - 4, 0) : k + 8])!r}, training "
        f"showed {decode(truth.ids[max(k - 4, 0) : k + 8])!r}",
        where="template probe" if row is None else f"row {row}, message {turn.message}",
        fix="strip the answers: white space at their beginning joins the header"
        if own
        else "make add_generation_prompt write exactly what the template writes before an answer",
        why="the model answers in a context that it was never trained in",
        row=row,
        turn=None if row is None else turn.message,
    )


def _trains(batch: Mapping[str, Any]) -> bool:
    """Whether any token of a batch carries loss."""
    labels = batch.get("labels", ())
    rows = labels.tolist() if hasattr(labels, "tolist") else labels
    return any(label != IGNORE for row in rows for label in row)


def _clock(year: int) -> Any:
    """strftime_now of another day; templates see a keyword argument before their own function."""
    return datetime(year, 2, 3, 4, 5, 6).strftime


DETECTORS: tuple[Detector, ...] = (
    no_template,
    foreign_markers,
    clock,
    no_generation_marker,
    survival.schemas,
    unended,
    unknown_stop,
    survival.survival,
    *sides.DETECTORS,
    unfamiliar_prompt,
)
