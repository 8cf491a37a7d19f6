"""What the answers of the rows teach: nothing, refusals, or what the prompt says already."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sft_utils.preflight.rawtext import text_of, turns_of
from sft_utils.preflight.record import Detector, Finding, RunRecord, Severity, spot

INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
MISSING = frozenset(
    {"n/a", "na", "none", "null", "undefined", "-", "--", "...", "…", "tbd", "todo"}
)
"""Placeholders that may also be a label somebody wants: worth a look, no more."""


def trained_answers(record: RunRecord, row: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """(index, message) of the assistant turns of a row that are meant to be trained."""
    if not isinstance(row, list | tuple):
        return []
    found = [
        (k, m) for k, m in enumerate(row) if isinstance(m, Mapping) and m.get("role") == "assistant"
    ]
    return found if record.turns == "all" else found[-1:]


def empty_answers(record: RunRecord) -> Iterator[Finding]:
    """D3: answers without text, or with the trace of a missing value."""
    for i, row in enumerate(record.conversations):
        for k, message in trained_answers(record, row):
            if problem := _emptiness(message, row):
                yield _empty(i, k, *problem)
                break
        else:
            for k, role, text in turns_of(row):
                if role == "user" and not text.strip() and not _holds_more(row[k].get("content")):
                    yield _empty(i, k, "WARN", "the question is empty")
                    break


def _emptiness(message: Mapping[str, Any], row: Any) -> tuple[Severity, str] | None:
    """(severity, description) if an answer says nothing."""
    content = message.get("content")
    text = text_of(message).strip().strip(INVISIBLE).strip()
    missing = isinstance(content, float) and content != content  # a hole in a table
    flat = "nan" if missing else text.casefold()
    if flat and flat != "nan" and flat not in MISSING:
        return None
    if not flat:
        if message.get("tool_calls") or _holds_more(content):
            return None  # a call needs no text, nor does a picture
        thought = any(message.get(n) for n in ("reasoning_content", "reasoning", "thinking"))
        return ("WARN" if thought else "FAIL"), "the answer is empty"
    word = re.compile(rf"(?<!\w){re.escape(flat)}(?!\w)", re.I)
    if any(word.search(asked) for _, role, asked in turns_of(row) if role != "assistant"):
        return None  # "answer N/A if there is none": a label
    # The word alone may be meant ("What is 0/0?"): only the value is a fact.
    return ("FAIL" if missing else "WARN"), f"the answer is {flat!r}, as of a missing value"


def _empty(row: int, turn: int, severity: Severity, what: str) -> Finding:
    return Finding(
        id="D3",
        severity=severity,
        what=what,
        where=spot(row, turn),
        fix="drop the row, or look up the text in its source",
        why="an empty answer trains the stop token alone: the model learns to stop at once; an "
        "empty question teaches it to invent",
        row=row,
        turn=turn,
    )


def _holds_more(content: Any) -> bool:
    """Whether a content without text still holds something: pictures, an object."""
    return bool(content) and not isinstance(content, str | float)


_BOILERPLATE = re.compile(
    r"\bas an? (?:\w+ ){0,2}(?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:['’]m| am) (?:just |only |merely )?an? (?:ai|(?:large )?language model)\b"
    r"|\b(?:i['’]m sorry|i am sorry|sorry|i apologi[sz]e)\b.{0,30}"
    r"\b(?:can(?:no|['’])t|can not|unable to|not able to) "
    r"(?:assist|help|provide|fulfil|comply|answer)"
    r"|^i (?:can(?:no|['’])t|can not) (?:assist|help|fulfil|comply)\b"
    r"|\bknowledge cut-?off\b|\bals ki(?:-| )(?:sprach)?modell\b"
    r"|\bcomo (?:un )?modelo de lenguaje\b|作为一个?(?:ai|人工智能)"
    r"|\ben tant qu(?:e modèle de langage|['’](?:ia|intelligence artificielle))\b"
)
_WORDS = (" ai", "model", "sorry", "apolog", "assist", "help", "fulfil", "comply", "cut", "作为",
          "intelligence", "-ki", " ki", "l’ia", "l'ia")  # fmt: skip
COMMON_WORDS, COMMON_ROWS = 12, 5


def boilerplate(record: RunRecord) -> Iterator[Finding]:
    """D4: refusals another model left behind, and one long answer given to many prompts."""
    seen: Counter[str] = Counter()
    first: dict[str, tuple[int, int]] = {}
    for i, row in enumerate(record.conversations):
        said = False
        for k, message in trained_answers(record, row):
            text = text_of(message)
            if len(text) > 4 * COMMON_WORDS and text[0] not in "{[<":
                seen[text] += 1
                first.setdefault(text, (i, k))
            match = None if said else _phrase(text)
            if match:
                said = True
                yield Finding(
                    id="D4",
                    severity="WARN",
                    what=f"the answer holds the phrase {match!r}",
                    where=spot(i, k),
                    fix="drop these rows, unless refusing is what you want to teach here",
                    why="a few hundred refusals copied from another assistant make a model refuse "
                    "harmless questions",
                    row=i,
                    turn=k,
                )
    for text, count in seen.items():
        if count < max(COMMON_ROWS, len(record.conversations) // 50):
            continue
        if len(text.split()) >= COMMON_WORDS and not _phrase(text):
            i, k = first[text]
            yield Finding(
                id="D4",
                severity="WARN",
                what=f"{count} rows have the same answer: {text[:60]!r}",
                where=spot(i, k),
                fix="keep a few of them, or check how the file was joined",
                why="the model learns to give this answer whatever is asked",
                row=i,
                turn=k,
                count=count,
            )


def _phrase(text: str) -> str:
    """The boilerplate at the beginning of an answer, "" if there is none."""
    head = text[:300].casefold()
    if not any(word in head for word in _WORDS):  # a hundred times faster than the pattern
        return ""
    match = _BOILERPLATE.search(head)
    return match[0] if match else ""


_CUE = re.compile(
    r"\b(?:answer|label|output|solution|category|class|sentiment|result|response|target|gold|truth"
    r"|antwort|lösung|réponse|respuesta|答案)s?(?: is)?\s*(?:[:=]|->|→)\s*[\"'`*(\[]*$",
    re.I,
)
_COPY = re.compile(r"repeat|cop(?:y|ies)|echo|say\b|quote|spell|rewrite|correct|wiederhol", re.I)


def leaked_labels(record: RunRecord) -> Iterator[Finding]:
    """D6: the answer stands in the prompt, after a label or at its end."""
    for i, row in enumerate(record.conversations):
        asked, at_turn = "", 0
        for k, role, text in turns_of(row):
            if role == "user":
                asked, at_turn = text, k
            if role != "assistant" or not asked:
                continue
            answer = text.strip()
            if not answer or answer not in asked:
                continue
            at = asked.rfind(answer)
            head, tail = asked[:at], asked[at + len(answer) :].strip(" \n\t\"'`.*)]")
            words = len(answer.split())
            cue = _CUE.search(head[-60:])
            closes = not tail and words >= 3 and head.rstrip(" ")[-1:] in ("\n", ".", "?", "!", ">")
            if (cue and (not tail or words >= 3)) or (closes and not _COPY.search(head)):
                place = f"after {cue[0].strip()!r}" if cue else "at its end"
                yield Finding(
                    id="D6",
                    severity="WARN",
                    what=f"the prompt holds its own answer {place}: {answer[:40]!r}",
                    where=spot(i, at_turn),
                    fix="remove the answer from the prompt, unless copying is the task",
                    why="the model learns to copy instead of solving; users do not send the answer",
                    row=i,
                    turn=at_turn,
                )
                break


SKEW_ROWS, SKEW_FACTOR, SKEW_MANY, SKEW_SHARE = 20, 8, 0.1, 0.5


def length_skew(record: RunRecord) -> Iterator[Finding]:
    """D8: few rows, many times as long as the others, hold more than half of all answer text."""
    sizes = [
        sum(len(text_of(m)) for _, m in trained_answers(record, row))
        for row in record.conversations
    ]
    if len(sizes) < SKEW_ROWS:
        return
    median = sorted(sizes)[len(sizes) // 2]
    long = [i for i, size in enumerate(sizes) if size > SKEW_FACTOR * max(median, 1)]
    share = sum(sizes[i] for i in long) / max(1, sum(sizes))
    if share > SKEW_SHARE and len(long) <= SKEW_MANY * len(sizes):
        longest = max(long, key=lambda i: sizes[i])
        yield Finding(
            id="D8",
            severity="WARN",
            what=f"{len(long)} of {len(sizes)} rows hold {share:.0%} of all answer text "
            f"(longest {sizes[longest]} characters, median {median})",
            where=spot(longest),
            fix="shorten or drop the longest rows, or weigh rows instead of tokens",
            why="loss is averaged over tokens: a few long rows take most of the gradient",
            row=longest,
        )


def conflicting_answers(record: RunRecord) -> Iterator[Finding]:
    """D11: the same prompt with two answers."""
    known: dict[tuple[Any, ...], tuple[int, str]] = {}
    for i, row in enumerate(record.conversations):
        turns = turns_of(row)
        ends = [n for n, (_, role, _) in enumerate(turns) if role == "assistant"]
        if not ends or not ends[-1]:
            continue
        k, _, answer = turns[ends[-1]]
        prompt = tuple((role, text.strip()) for _, role, text in turns[: ends[-1]])
        if not answer.strip() or not any(text for role, text in prompt if role == "user"):
            continue
        if any(isinstance(m.get("content"), list | tuple) for m in row if isinstance(m, Mapping)):
            continue  # the pictures may differ
        other, before = known.setdefault(prompt, (i, answer))
        if before is not answer and before.split() != answer.split():
            yield Finding(
                id="D11",
                severity="WARN",
                what=f"the same prompt has another answer in row {other}: {before[:40]!r} there, "
                f"{answer[:40]!r} here",
                where=spot(i, k),
                fix="keep the right one; if both are right, nothing is to be done",
                why="two labels for one input cancel each other out; often one of them is wrong",
                row=i,
                turn=k,
            )


DETECTORS: tuple[Detector, ...] = (
    empty_answers,
    length_skew,
    conflicting_answers,
    leaked_labels,
    boilerplate,
)
