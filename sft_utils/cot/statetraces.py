"""Traces of programs and puzzles: states against the real run, deductions against the solver."""

import re
from collections.abc import Sequence

from sft_utils.cot import answercheck, puzzles
from sft_utils.cot.traces import Check, Step

_SENTENCE = re.compile(r"(.+?)(?:\.(?=\s|$)|\n|$)")
_CHANGES = r"\s*(?:\[[^\]\n]{0,80}\]\s*)?(?:[-+*/%|&:<>=!]{0,2}=|→|->|(?:is|becomes|equals)\b)"

_VALUE = r"(?:(?<!\w)-?\d|['\"\[]|\b(?:True|False|None)\b)"


def states(trace: str) -> list[tuple[str, str]]:
    """State lines as (place, state); the place may be empty.

    Example:
        >>> states("i = 1: total = 2. i = 2: total = 6.")
        [('i = 1', 'total = 2'), ('i = 2', 'total = 6')]
        >>> states("out = [1, 2].")
        [('', 'out = [1, 2]')]
    """
    found = []
    for match in _SENTENCE.finditer(trace):
        place, colon, state = match[1].strip().rpartition(": ")
        if re.match(r"[A-Za-z_]\w*\s*=(?!=)", state):
            state = re.sub(r"\s*=\s*", " = ", state.strip(), count=1)
            found.append((place if colon else "", state))
    return found


def check_states(text: str, *, steps: Sequence[Step], answer: str, stopped: bool = True) -> Check:
    """Compare every state of a completion with the states that the program really went through.

    Args:
        text: Trace and final answer.
        steps: The real states (`expr` is the place, `result` the state).
        answer: The real output.
        stopped: The model ended by itself.
    Example:
        >>> real = [{"expr": "i = 1", "result": "x = 2"}, {"expr": "i = 2", "result": "x = 4"}]
        >>> check_states("x = 2. x = 4.\\nThe answer is 4.", steps=real, answer="4").ok
        True
        >>> check_states("x = 2. x = 5.\\nThe answer is 4.", steps=real, answer="4").reason
        'wrong arithmetic'
    """
    said = answercheck.extract(text, stopped=stopped)
    found = states(text[: said.start] if said else text)
    right = bool(said) and answercheck.equal(said.text or "", answer, "output")
    n = len(found)
    if not said or not found:
        return Check(False, said.why or "format", "no answer" if not said else "no state", right, n)
    for (place, state), step in zip(found, steps, strict=False):
        if place and place != step["expr"]:
            return Check(False, "wrong step", f"{place!r} instead of {step['expr']!r}", right, n)
        if state != step["result"]:
            reason = "wrong arithmetic" if _names(state) == _names(step["result"]) else "wrong step"
            return Check(False, reason, f"{state!r} instead of {step['result']!r}", right, n)
    if len(found) != len(steps):
        detail = f"{len(found)} states, the run has {len(steps)}"
        return Check(False, "wrong step", detail, right, n)
    if not right:
        detail = f"{said.text} instead of {answer}"
        return Check(False, "answer does not follow", detail, False, n)
    if other := _unread(text[: said.start], steps):
        return Check(False, "wrong step", f"{other!r} is no state of a known form", right, n)
    return Check(True, "", "", True, n)


def _names(state: str) -> list[str]:
    return re.findall(r"([A-Za-z_]\w*) = ", state)


def _unread(trace: str, steps: Sequence[Step]) -> str:
    """The first sentence that says what a variable is in a form which `states` does not read."""
    names = {name for s in steps for name in _names(f"{s['expr']}, {s['result']}")}
    name = rf"(?<!\w)`?(?:{'|'.join(sorted(names)) or '(?!)'})\b`?"
    about = re.compile(rf"{name}{_CHANGES}|{name}.*{_VALUE}|{_VALUE}.*{name}")
    for match in _SENTENCE.finditer(trace):
        if not states(match[1]) and about.search(match[1]):
            return match[1].strip()
    return ""


def check_claims(text: str, *, puzzle: puzzles.Puzzle, answer: str, stopped: bool = True) -> Check:
    """Ask the solver of every deduction of a completion whether it follows from the facts.

    The deductions together must also leave one world only: an answer that is merely right does not
    follow from them.

    Args:
        text: Trace and final answer.
        puzzle: Names, things and facts; see `puzzles`.
        answer: The gold answer.
        stopped: The model ended by itself.
    Example:
        >>> line = {"kind": "order", "names": ["Ada", "Ben", "Cara"],
        ...         "facts": [["before", "Ada", "Ben"], ["before", "Ben", "Cara"]]}
        >>> check_claims("Ada > Ben > Cara. The answer is Ada.", puzzle=line, answer="Ada").ok
        True
        >>> check_claims("Ben > Ada. The answer is Ben.", puzzle=line, answer="Ada").reason
        'wrong step'
    """
    said = answercheck.extract(text, stopped=stopped)
    made = puzzles.claims(text[: said.start] if said else text, puzzle)
    right = bool(said) and answercheck.equal(said.text or "", answer, "text")
    n = len(made)
    if not said or not made:
        return Check(False, said.why or "format", "no answer" if not said else "no claim", right, n)
    if other := puzzles.unread(text[: said.start], puzzle):
        return Check(False, "wrong step", f"{other!r} is no deduction of a known form", right, n)
    for claim in made:
        if not puzzles.known(claim, puzzle):
            return Check(False, "wrong step", f"{claim.text!r} speaks of something else", right, n)
        if not puzzles.entailed(puzzle, claim):
            return Check(False, "wrong step", f"{claim.text!r} does not follow", right, n)
    plain = [claim.fact for claim in made if not claim.conditions]
    left = len(puzzles.worlds({**puzzle, "facts": plain}))
    if left > 1:
        detail = f"the deductions leave {left} possibilities"
        return Check(False, "answer does not follow", detail, right, n)
    if not right:
        detail = f"{said.text} instead of {answer}"
        return Check(False, "answer does not follow", detail, False, n)
    return Check(True, "", "", True, n)
