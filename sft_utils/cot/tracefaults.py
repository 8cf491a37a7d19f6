"""Traces that are wrong on purpose: to test the checker, and to see whether an answer follows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from sft_utils.cot.traces import Step, known_numbers, render
from sft_utils.errors import DataError

FAULTS = {
    "word": ("wrong result", "wrong operand", "dropped step", "swapped answer", "other operation"),
    "code": ("wrong result", "dropped step", "swapped answer", "swapped steps"),
    "logic": ("wrong claim", "swapped answer"),
}
"""Domain -> kinds of faults. A puzzle's trace may lack a line and still be right."""


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A trace that was right up to one number."""

    prefix: str  # up to and including the step with the wrong number
    old: str
    new: str
    followed: str  # the answer of somebody who goes on with the wrong number


def completion(trace: str, answer: str) -> str:
    """A trace and its final answer, as they are trained; without a trace the answer alone.

    Example:
        >>> completion("4 * 12 = 48.", "48")
        '4 * 12 = 48.\\nThe answer is 48.'
    """
    return f"{trace}\nThe answer is {answer}." if trace else f"The answer is {answer}."


def corrupt(
    steps: Sequence[Step],
    rng: Random,
    *,
    answer: str,
    question: str,
    kind: str = "",
    grain: str = "fine",
    domain: str = "word",
    puzzle: dict[str, Any] | None = None,
) -> tuple[str, str]:
    """A completion that is wrong for certain, and the kind of its fault.

    Args:
        steps: Right steps.
        rng: Draws the place and the numbers.
        answer: The right answer.
        question: Its numbers are never used as strange ones.
        kind: One of `FAULTS[domain]`; empty: drawn. One that is impossible here gives way to
            "swapped answer".
        grain: See `traces.render`.
        domain: "word", "code" or "logic".
        puzzle: Of logic.
    Raises:
        DataError: The domain does not have this kind.
    """
    kind = kind or rng.choice(FAULTS[domain])
    if kind not in FAULTS[domain]:
        raise DataError(f"fault {kind!r} is unknown for {domain}; use {', '.join(FAULTS[domain])}")
    changed: list[dict[str, str]] | None = [dict(s) for s in steps]
    said = answer
    if kind == "wrong result" and domain == "word":
        return _wrong_result(steps, rng, answer, grain), kind
    if kind == "wrong operand":
        changed = _wrong_operand(steps, rng, question)
    elif kind == "dropped step" and domain == "word":
        changed = _dropped(steps, rng, question)
    elif kind == "other operation":
        changed = _other_operation(steps)
        said = changed[-1]["result"] if changed else said
    elif domain == "code" and kind != "swapped answer":
        changed = _wrong_state(steps, rng, kind)
    elif kind == "wrong claim":
        changed = _wrong_claim(steps, rng, puzzle or {})
    if kind == "swapped answer" or changed is None:
        changed = [dict(s) for s in steps]
        kind, said = "swapped answer", _other_answer(answer, rng, puzzle)
    return completion(render(changed, grain, domain), said), kind


def _near(value: int, rng: Random) -> int:
    """Another number, as a slip would give it."""
    return rng.choice([v for v in (value + 1, value - 1, value + 10, value - 10) if v >= 0])


def _wrong_result(steps: Sequence[Step], rng: Random, answer: str, grain: str) -> str:
    text = completion(render(steps, grain), answer)
    places = list(re.finditer(r"= (\d+)", text))
    place = rng.choice(places)
    wrong = _near(int(place[1]), rng)
    return f"{text[: place.start(1)]}{wrong}{text[place.end(1) :]}"


def _numbers(steps: Sequence[Step], question: str) -> set[Fraction]:
    return known_numbers(question) | {Fraction(s["result"]) for s in steps}


def _wrong_operand(
    steps: Sequence[Step], rng: Random, question: str
) -> list[dict[str, str]] | None:
    """An operand that stands nowhere, with a right result."""
    taken = _numbers(steps, question)
    at = rng.randrange(len(steps))
    a, op, b = steps[at]["expr"].split()
    for _ in range(50):
        strange = rng.randint(2, 99)
        left, right = (strange, int(b)) if rng.random() < 0.5 else (int(a), strange)
        result = _apply(left, op, right)
        if Fraction(strange) not in taken and result is not None:
            changed = [dict(s) for s in steps]
            changed[at] |= {"expr": f"{left} {op} {right}", "result": str(result)}
            return changed
    return None


def _apply(a: int, op: str, b: int) -> int | None:
    """The result if it is a whole number above zero."""
    if op == "/":
        return a // b if b and not a % b and a >= b else None
    result = {"+": a + b, "-": a - b, "*": a * b}[op]
    return result if result > 0 else None


def _dropped(steps: Sequence[Step], rng: Random, question: str) -> list[dict[str, str]] | None:
    """Without a step whose result is needed and stands nowhere else."""
    given, places = known_numbers(question), []
    for at, step in enumerate(steps):
        others = {Fraction(s["result"]) for s in steps[:at] + steps[at + 1 :]}  # type: ignore[operator]
        if Fraction(step["result"]) not in given | others and len(steps) > 1:
            places.append(at)
    if not places:
        return None
    at = rng.choice(places)
    return [dict(s) for i, s in enumerate(steps) if i != at]


def _other_operation(steps: Sequence[Step]) -> list[dict[str, str]] | None:
    """The last step adds instead of subtracting, and so on; its arithmetic is right."""
    a, op, b = steps[-1]["expr"].split()
    for other in "+-*":
        result = _apply(int(a), other, int(b))
        if other != op and result is not None and str(result) != steps[-1]["result"]:
            last = {**steps[-1], "expr": f"{a} {other} {b}", "result": str(result)}
            return [*(dict(s) for s in steps[:-1]), last]
    return None


def _wrong_state(steps: Sequence[Step], rng: Random, kind: str) -> list[dict[str, str]] | None:
    changed = [dict(s) for s in steps]
    at = rng.randrange(len(steps))
    if kind == "dropped step":
        del changed[at]
        return changed or None
    if kind == "swapped steps":
        others = [i for i, s in enumerate(steps) if s["result"] != steps[at]["result"]]
        if not others:
            return None
        other = rng.choice(others)
        changed[at], changed[other] = changed[other], changed[at]
        return changed
    state = steps[at]["result"]
    if numbers := list(re.finditer(r"\d+", state)):
        place = rng.choice(numbers)
        new = str(_near(int(place[0]), rng))
    else:
        place = rng.choice(list(re.finditer(r"(?<=')[a-z]|[a-z](?=')", state)))
        new = rng.choice([c for c in "abcdefghij" if c != place[0]])
    changed[at]["result"] = f"{state[: place.start()]}{new}{state[place.end() :]}"
    return changed


def _wrong_claim(
    steps: Sequence[Step], rng: Random, puzzle: dict[str, Any]
) -> list[dict[str, str]] | None:
    """A conclusion that says the opposite, or speaks of somebody else."""
    changed = [dict(s) for s in steps]
    at = rng.randrange(len(steps))
    text = steps[at]["result"]
    if ">" in text:
        chain = text.split(" > ")
        i, j = rng.sample(range(len(chain)), 2)
        chain[i], chain[j] = chain[j], chain[i]
        changed[at]["result"] = " > ".join(chain)
    elif "number" in text:
        place = int(text[-1])
        others = [k for k in range(1, len(puzzle["names"]) + 1) if k != place]
        changed[at]["result"] = f"{text[:-1]}{rng.choice(others)}"
    elif puzzle["kind"] == "truth":
        role = "truth-teller" if text.endswith("liar") else "liar"
        changed[at]["result"] = f"{text.rsplit(' ', 1)[0]} {role}"
    else:
        thing = text.rsplit(" ", 1)[1]
        other = rng.choice([t for t in puzzle["things"] if t != thing])
        changed[at]["result"] = text.removesuffix(thing) + other
    return changed


def _other_answer(answer: str, rng: Random, puzzle: dict[str, Any] | None) -> str:
    """Another answer of the same kind."""
    if re.fullmatch(r"\d+", answer):
        return str(_near(int(answer), rng))
    if puzzle and answer in puzzle["names"]:
        return rng.choice([n for n in puzzle["names"] if n != answer])
    if answer in ("liar", "truth-teller"):
        return "liar" if answer == "truth-teller" else "truth-teller"
    if digits := re.search(r"\d+", answer):
        return answer[: digits.start()] + str(_near(int(digits[0]), rng)) + answer[digits.end() :]
    return (
        answer[::-1]
        if answer[::-1] != answer
        else answer + answer[:1]
        if answer.isalpha()
        else "[0]"
    )


def corrupt_number(
    steps: Sequence[Step], rng: Random, *, question: str, grain: str = "fine"
) -> Corrupted | None:
    """Change the result of one step that a later step uses, and work out where that leads.

    A model whose answer depends on its trace ends in `followed` when it goes on from `prefix`.

    Args:
        steps: Right steps of arithmetic.
        rng: Draws the place and the number.
        question: Its numbers are not touched.
        grain: See `traces.render`.
    Returns:
        None if no step can be changed so that all later results stay whole numbers.
    Example:
        >>> two = [{"say": "", "expr": "4 * 12", "result": "48"},
        ...        {"say": "", "expr": "48 + 37", "result": "85"}]
        >>> c = corrupt_number(two, Random(1), question="4 boxes of 12 and 37", grain="coarse")
        >>> c.prefix == f"4 * 12 = {c.new}." and int(c.followed) == int(c.new) + 37
        True
    """
    given = known_numbers(question)
    results = [s["result"] for s in steps]
    places = [i for i, r in enumerate(results[:-1])
              if Fraction(r) not in given and results.count(r) == 1
              and any(r in s["expr"].split() for s in steps[i + 1 :])]  # fmt: skip
    tries = [(i, d) for i in places for d in (-20, -10, -6, -4, -2, -1, 1, 2, 4, 6, 10, 20)]
    rng.shuffle(tries)
    for at, delta in tries:
        old, new = results[at], int(results[at]) + delta
        followed = _follow(steps, at, new)
        if new > 0 and followed is not None and followed != results[-1]:
            body = render(steps[: at + 1], grain)
            prefix = re.sub(rf"{old}\.$", f"{new}.", body)
            return Corrupted(prefix, old, str(new), followed)
    return None


def _follow(steps: Sequence[Step], at: int, new: int) -> str | None:
    """The last result if step `at` had given another number."""
    renamed = {steps[at]["result"]: str(new)}
    last = ""
    for step in steps[at + 1 :]:
        a, op, b = (renamed.get(part, part) for part in step["expr"].split())
        result = _apply(int(a), op, int(b))
        if result is None:
            return None
        last = str(result)
        renamed[step["result"]] = last
    return last
