"""Traces of arithmetic: write them in three grains, and judge every step that is read back.

A step is `{"say": "In boxes", "expr": "4 * 12", "result": "48"}`. The coarse grain states it, the
fine grain splits numbers into tens and ones, so that no single line needs a carry of two digits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from sft_utils.cot import answercheck
from sft_utils.cot.equations import OP, SIGNS, Equation, N, equations, number, unread, value_of
from sft_utils.errors import ConfigError

GRAINS = ("coarse", "worded", "fine")
"""Bare equations; with words; with words, and sums and products split into tens and ones."""

REASONS = ("wrong arithmetic", "wrong step", "answer does not follow", "wrong answer", "format",
           "no stop")  # fmt: skip

Step = Mapping[str, str]

_HEAD = re.compile(rf"(?<![\d.])({N})({OP})({N})\s*:\s")
_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "twenty": 20, "dozen": 12, "twice": 2,
    "double": 2, "half": 2, "pair": 2, "third": 3, "quarter": 4, "both": 2, "triple": 3,
}  # fmt: skip
_KNOWLEDGE = (  # a word of the question -> numbers that everybody knows
    (r"hour|minute|second", (60,)), (r"\bdays?\b|hour", (24,)), (r"week|\bdays?\b", (7,)),
    (r"dozen|year|month", (12,)), (r"year", (365, 52)),
    (r"\bcm\b|\bm\b|met(er|re)|percent|%|cent", (100,)),
    (r"\bkm\b|\bkg\b|\bg\b|\bml\b|kilo|litre|liter", (1000,)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """What a trace is worth."""

    ok: bool
    reason: str = ""  # one of REASONS, empty if ok
    detail: str = ""  # the place
    answer_right: bool = False
    steps: int = field(default=0)  # equations, states or claims that were checked


def render(steps: Sequence[Step], grain: str = "fine", domain: str = "word") -> str:
    """The text of some steps.

    Args:
        steps: With `say`, `expr` and `result`.
        grain: One of `GRAINS`.
        domain: "word" has arithmetic; steps of "code" and "logic" are statements: the coarse grain
            writes results only.
    Raises:
        ConfigError: An unknown grain.
    Example:
        >>> render([{"say": "In all", "expr": "48 + 37", "result": "85"}], "coarse")
        '48 + 37 = 85.'
        >>> render([{"say": "In all", "expr": "48 + 37", "result": "85"}], "fine")
        'In all: 48 + 37: 48 + 30 = 78, 78 + 7 = 85.'
        >>> render([{"say": "", "expr": "i = 2", "result": "total = 7"}], "fine", "code")
        'i = 2: total = 7.'
    """
    if grain not in GRAINS:
        raise ConfigError(f"grain is {grain!r}; choose one of {', '.join(GRAINS)}")
    if domain != "word":
        joint = ": " if domain == "code" else ", so "
        return " ".join(
            f"{s['expr']}{joint}{s['result']}." if s["expr"] and grain != "coarse"
            else f"{s['result']}." for s in steps
        )  # fmt: skip
    lines = []
    for step in steps:
        words = f"{step['say']}: " if step.get("say") and grain != "coarse" else ""
        body = f"{step['expr']} = {step['result']}"
        if grain == "fine" and (parts := split(step["expr"])):
            body = f"{step['expr']}: {', '.join(parts)}"
        lines.append(f"{words}{body}.")
    return " ".join(lines)


def _parts(number: int) -> list[int]:
    """Hundreds, tens, ones without zeros.

    Example:
        >>> _parts(307)
        [300, 7]
    """
    text = str(number)
    return [int(d) * 10 ** (len(text) - i - 1) for i, d in enumerate(text) if d != "0"]


def split(expr: str) -> list[str]:
    """Equations that lead to the result digit by digit; empty if one step is enough.

    Example:
        >>> split("4 * 12")
        ['4 * 10 = 40', '4 * 2 = 8', '40 + 8 = 48']
        >>> split("96 / 4")
        ['80 / 4 = 20', '16 / 4 = 4', '20 + 4 = 24']
        >>> split("50 + 37")
        []
    """
    left, op, right = expr.split()
    a, b = int(left), int(right)
    if op in "+-":
        if len(_parts(b)) < 2 or (op == "+" and len(_parts(a)) < 2):
            return []
        lines = []
        for part in _parts(b):
            after = a + part if op == "+" else a - part
            lines.append(f"{a} {op} {part} = {after}")
            a = after
        return lines
    if op == "*":
        whole = a if len(_parts(b)) < 2 else b  # the one that is split
        other, parts = (b if whole is a else a), _parts(whole)
        pieces = [part * other for part in parts]
        lines = [f"{p} * {b} = {p * b}" if whole is a else f"{a} * {p} = {a * p}" for p in parts]
    else:
        parts = _parts(a // b)
        pieces, lines = parts, [f"{p * b} / {b} = {p}" for p in parts]
    if len(parts) < 2:
        return []
    total = pieces[0]
    for piece in pieces[1:]:
        lines.append(f"{total} + {piece} = {total + piece}")
        total += piece
    return lines


def known_numbers(question: str) -> set[Fraction]:
    """Numbers of a question, as digits or words, and what its units bring along."""
    low = question.lower()
    known = {number(n) for n in re.findall(N, question)}
    known |= {Fraction(v) for w, v in _WORDS.items() if re.search(rf"\b{w}\b", low)}
    known |= {Fraction(v) for pattern, more in _KNOWLEDGE if re.search(pattern, low) for v in more}
    return known


def check(text: str, *, question: str, answer: str, stopped: bool = True) -> Check:
    """Judge a completion with arithmetic: recompute every step and follow every number.

    A number must stand in the question, be the result of an earlier step, or be a part (tens, ones)
    of an operand that the line announces ("48 + 37: 48 + 30 = 78, 78 + 7 = 85").

    Args:
        text: Trace and final answer.
        question: The numbers that are given.
        answer: The gold answer.
        stopped: The model ended by itself.
    Example:
        >>> ask = "Ana has 4 boxes of 12 nuts and 37 more. How many nuts?"
        >>> good = "4 * 12 = 48. 48 + 37 = 85. The answer is 85."
        >>> check(good, question=ask, answer="85").ok
        True
        >>> check(good.replace("12", "14"), question=ask, answer="85").reason
        'wrong arithmetic'
        >>> check("48 + 37 = 85. The answer is 85.", question=ask, answer="85").reason
        'wrong step'
    """
    said = answercheck.extract(text, stopped=stopped)
    trace = text[: said.start] if said else text
    found = equations(trace)
    right = bool(said) and answercheck.equal(said.text or "", answer)
    fault = _first_fault(trace, found, known_numbers(question))
    if not said or not found:
        return Check(False, said.why or "format", "no answer" if not said else "no equation",
                     right, len(found))  # fmt: skip
    if fault:
        return Check(False, *fault, right, len(found))
    if other := unread(trace, found):
        return Check(False, "wrong step", f"{other!r} cannot be recomputed", right, len(found))
    last, final = found[-1].stated, answercheck.to_number(said.text or "")
    if final != last and not (final is not None and "%" in said.text and final * 100 == last):
        return Check(False, "answer does not follow", f"{found[-1].text}; said: {said.text}",
                     right, len(found))  # fmt: skip
    if not right:
        return Check(False, "wrong answer", f"{said.text} instead of {answer}", right, len(found))
    return Check(True, "", "", True, len(found))


def _first_fault(
    trace: str, found: Sequence[Equation], known: set[Fraction]
) -> tuple[str, str] | None:
    """The reason and the place of the first wrong line."""
    trace = trace.translate(SIGNS)
    known = set(known)
    heads = [(m.end(), m) for m in _HEAD.finditer(trace)]
    left = list(found)
    while left:
        here = [m for end, m in heads if end <= left[0].start]
        head = here[-1] if here else None
        stop = re.search(r"\.(?=\s|$)|\n|;", trace[head.end():]) if head else None  # fmt: skip
        end = head.end() + (stop.start() if stop else len(trace)) if head else 0
        group = [e for e in left if head and head.end() <= e.start < end]
        if head is None or not group:
            one = left.pop(0)
            if not one.right:
                return "wrong arithmetic", one.text
            for operand in one.operands:
                if operand not in known and abs(operand) not in known:
                    return "wrong step", f"{operand} in {one.text!r} comes from nowhere"
            known.add(one.stated)
            continue
        fault = _group_fault(head, group, known)
        if fault:
            return fault
        known.add(group[-1].stated)
        left = left[len(group) :]
    return None


def _group_fault(
    head: re.Match[str], group: Sequence[Equation], known: set[Fraction]
) -> tuple[str, str] | None:
    """A line that splits: right sums, parts of the announced numbers, the announced result."""
    a, op, b = number(head[1]), head[2].strip(), number(head[3])
    wrong = next((e for e in group if not e.right), None)
    if wrong:
        return "wrong arithmetic", wrong.text
    for operand in (a, b):
        if operand not in known:
            return "wrong step", f"{operand} in {head[0]!r} comes from nowhere"
    allowed = {a, b}
    if op != "/":
        allowed |= {Fraction(p) for n in (a, b) if n.denominator == 1 for p in _parts(int(n))}
    else:  # dividends are pieces of the number that is divided
        pieces = [e.operands[0] for e in group if "/" in e.text]
        if sum(pieces) == a:
            allowed |= set(pieces)
    for one in group:
        strange = [o for o in one.operands if o not in allowed]
        if strange:
            return "wrong step", f"{strange[0]} in {one.text!r} comes from nowhere"
        allowed.add(one.stated)
    if group[-1].stated != value_of([str(head[1]), op, str(head[3])]):
        return "wrong step", f"{head[0].strip()} ends in {group[-1].stated}"
    return None
