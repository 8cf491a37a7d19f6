"""The conversations themselves, before any tokenizer: roles and the order of turns."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import render
from sft_utils.preflight import columns, contamination, rawanswers, rawfiles, rawverify
from sft_utils.preflight.rawtext import control_tokens, mojibake
from sft_utils.preflight.record import Detector, Finding, RunRecord, Severity, spot

ROLES = ("system", "user", "assistant", "tool")
ALIASES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "assistant"),
}
"""Names other formats use. No template change makes them right: masks look for ROLES."""


def roles(record: RunRecord) -> Iterator[Finding]:
    """C18: role names that templates drop or print as text, without an error."""
    survives: dict[str, str] = {}
    for i, row in enumerate(record.conversations):
        names = _roles(row)
        if all(name in ROLES for name in names):
            continue
        worst: Finding | None = None
        for k, name in enumerate(names):
            if name in ROLES:
                continue
            judged = _foreign(record, row, k, names, survives)
            if judged and (worst is None or (judged[0] == "FAIL" and worst.severity == "WARN")):
                worst = Finding(
                    id="C18",
                    severity=judged[0],
                    what=judged[1],
                    where=spot(i, k),
                    fix=f"rename the role: {_meant(name)}",
                    why="templates look for exact names: an unknown role is left out of the "
                    "training text or printed as text, and no mask finds its answers",
                    row=i,
                    turn=k,
                )
        if worst:
            yield worst
    yield from _foreign_raw(record)


def _roles(row: Any) -> list[Any]:
    """The role of every message, None where there is none."""
    if not isinstance(row, Sequence) or isinstance(row, str):
        return []
    return [m.get("role") if isinstance(m, Mapping) else None for m in row]


def _meant(name: Any) -> str:
    flat = str(name).strip().casefold()
    right = flat if flat in ROLES else ALIASES.get(flat)
    if name is None:
        return 'every message needs {"role": ..., "content": ...}'
    return f"{name!r} -> {right!r}" if right else f"use one of {', '.join(ROLES)}"


def _foreign(
    record: RunRecord, row: Any, turn: int, names: Sequence[Any], survives: dict[str, str]
) -> tuple[Severity, str] | None:
    """Severity and description of a role outside ROLES; None if the template knows it."""
    name = names[turn]
    if name is None:
        keys = sorted(map(str, row[turn])) if isinstance(row[turn], Mapping) else []
        return "FAIL", f"the message has no role, its keys are {keys}"
    flat = str(name).strip().casefold()
    if flat in ROLES or flat in ALIASES:
        return "FAIL", f"role {name!r} is not one of {', '.join(ROLES)}"
    template = str(getattr(record.tokenizer, "chat_template", None) or "")
    if f"'{name}'" in template or f'"{name}"' in template:
        return None
    if "user" not in names or "assistant" not in names:
        return "FAIL", f"role {name!r} stands where user or assistant is expected"
    if str(name) not in survives:
        survives[str(name)] = _fate(record.tokenizer, row, turn)
    fate = survives[str(name)]
    if fate:
        return "FAIL", f"role {name!r}: {fate}"
    return "WARN", f"role {name!r} is unknown to the template, which prints it as plain text"


def _fate(tokenizer: Any, row: Any, turn: int) -> str:
    """What the served template does to the content of an unknown role, "" if it survives."""
    mark = "\ue000ROLE\ue001"
    probe = [{**m, "content": mark} if k == turn else dict(m) for k, m in enumerate(row)]
    try:
        text = render(tokenizer, probe)
    except TemplateError as error:
        no_template = not getattr(tokenizer, "chat_template", None)
        return "" if no_template else f"the template refuses it ({str(error)[:80]})"
    except (TypeError, ValueError, AttributeError):
        return ""
    return "" if mark in text else "the template drops its content without an error"


def _foreign_raw(record: RunRecord) -> Iterator[Finding]:
    """ShareGPT lines: TRL renames the keys `from` and `value`, but not human and gpt."""
    clean = bool(record.conversations) and all(
        name in ROLES for row in record.conversations for name in _roles(row)
    )
    if record.conversations and not clean:
        return  # already said about the conversations themselves
    for i, line in enumerate(record.raw):
        turns = line.get("conversations") if isinstance(line, Mapping) else None
        for k, turn in enumerate(turns if isinstance(turns, list | tuple) else ()):
            name = turn.get("from") if isinstance(turn, Mapping) else None
            if name is None or name in ROLES:
                continue
            yield Finding(
                id="C18",
                # Rows converted by hand are right; what the trainer gets is not seen here.
                severity="WARN" if clean else "FAIL",
                what=f"the file is ShareGPT: {{'from': {name!r}, 'value': ...}}",
                where=f"raw row {i}, message {k}",
                fix=f"rename the role: {_meant(name)}, and give the renamed rows to the trainer",
                why="TRL renames the keys, not the role names; templates drop or print them",
                row=i if len(record.raw) == len(record.conversations) else None,
                turn=k,
            )
            break


_LETTERS = {
    **{"system": "S", "developer": "S", "user": "U", "assistant": "A", "tool": "T"},
    **dict.fromkeys(("function", "ipython", "observation"), "T"),
}
_GRAMMAR = re.compile(r"S*(UA(T+A)*)+")


def turn_grammar(record: RunRecord) -> Iterator[Finding]:
    """D7: the order of turns is `system? (user assistant (tool+ assistant)*)+`."""
    for i, row in enumerate(record.conversations):
        names = _roles(row)
        letters = "".join(
            _LETTERS.get(name, "?") if isinstance(name, str) else "?" for name in names
        )
        if _GRAMMAR.fullmatch(letters) or "?" in letters:
            continue
        severity, turn, what = _order(letters, row)
        yield Finding(
            id="D7",
            severity=severity,
            what=what,
            where=spot(i, turn),
            fix="repair the order of the turns or drop the row: system? (user assistant)+",
            why="most templates render any order without an error; the model learns turns that "
            "never occur when it is served",
            row=i,
            turn=turn,
        )


def _order(letters: str, row: Any) -> tuple[Severity, int | None, str]:
    """(severity, turn, description) of the worst break of the grammar."""
    if not letters:
        return "FAIL", None, "the conversation has no message"
    if "A" not in letters:
        return "FAIL", None, "there is no assistant turn: nothing to learn in this row"
    doubt: tuple[Severity, int | None, str] | None = None
    before, last = "", 0
    for k, letter in enumerate(letters):
        pair = before + letter
        if pair == "UU":
            same = row[last].get("content") == row[k].get("content")
            return "FAIL", k, f"two user turns in a row{', the same text twice' if same else ''}"
        if pair == "AA":
            first = row[last]
            if not (first.get("tool_calls") or not str(first.get("content") or "").strip()):
                return "FAIL", k, "two assistant turns in a row: the second answers no question"
            doubt = doubt or (
                "WARN",
                k,
                "an assistant turn follows one without text or with a call",
            )
        elif pair == "A":
            doubt = doubt or ("WARN", k, "the conversation begins with an answer")
        elif letter == "T" and before not in ("A", "T"):
            doubt = doubt or ("WARN", k, "a tool result without a call before it")
        elif letter == "S" and before:
            doubt = doubt or ("WARN", k, "a system turn in the middle of the conversation")
        if letter != "S":
            before, last = letter, k
    if before != "A":
        kind = "a question" if before == "U" else "a tool result"
        return "FAIL", last, f"the conversation ends with {kind} that nobody answers"
    return doubt or ("WARN", None, "the order of turns is unusual")


DETECTORS: tuple[Detector, ...] = (
    roles,
    turn_grammar,
    *rawfiles.DETECTORS,
    columns.unread_system,
    *rawanswers.DETECTORS,
    *rawverify.DETECTORS,
    control_tokens,
    mojibake,
    *contamination.DETECTORS,
)
