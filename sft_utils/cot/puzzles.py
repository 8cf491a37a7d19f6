"""Logic puzzles: all worlds that fit the facts, and whether a claim holds in every one of them.

A puzzle is `{"kind", "names", "things", "facts"}`, a fact a list such as ["before", "Ana", "Ben"].
Kinds: "order" (a world gives places), "truth" (who tells the truth), "owns" (who has what).
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.errors import DataError

Puzzle = Mapping[str, Any]
Fact = Sequence[Any]
World = dict[str, Any]  # name -> place (from 1), truth, or thing


@dataclass(frozen=True, slots=True)
class Claim:
    """One deduction of a trace: under the conditions, the fact holds."""

    text: str
    fact: tuple[Any, ...]
    conditions: tuple[tuple[Any, ...], ...] = ()
    start: int = 0


def worlds(puzzle: Puzzle, extra: Iterable[Fact] = ()) -> list[World]:
    """Every world that fits the facts, found by trying all.

    Args:
        puzzle: Names, things and facts.
        extra: Further facts, for example the conditions of a claim.
    Raises:
        DataError: An unknown kind of puzzle or fact.
    Example:
        >>> worlds({"kind": "order", "names": ["A", "B"], "facts": [["before", "B", "A"]]})
        [{'B': 1, 'A': 2}]
    """
    facts = [*puzzle["facts"], *extra]
    return [world for world in _all(puzzle) if all(holds(fact, world) for fact in facts)]


def _all(puzzle: Puzzle) -> Iterable[World]:
    names = puzzle["names"]
    if puzzle["kind"] == "order":
        for order in itertools.permutations(names):
            yield {name: place for place, name in enumerate(order, 1)}
    elif puzzle["kind"] == "truth":
        for roles in itertools.product((True, False), repeat=len(names)):
            yield dict(zip(names, roles, strict=True))
    elif puzzle["kind"] == "owns":
        for things in itertools.permutations(puzzle["things"], len(names)):
            yield dict(zip(names, things, strict=True))
    else:
        raise DataError(f"puzzle kind {puzzle['kind']!r} is unknown; use order, truth or owns")


def holds(fact: Fact, world: World) -> bool:
    """Is a fact true in a world?

    Raises:
        DataError: An unknown kind of fact.
    """
    match list(fact):
        case ["before", a, b]:
            return world[a] < world[b]
        case ["next", a, b]:
            return world[a] + 1 == world[b]
        case ["place", a, k] | ["has", a, k] | ["is", a, k]:
            return world[a] == k
        case ["notplace", a, k] | ["hasnot", a, k]:
            return world[a] != k
        case ["either", a, t, u]:
            return world[a] in (t, u)
        case ["same", a, b]:
            return world[a] == world[b]
        case ["differ", a, b]:
            return world[a] != world[b]
        case ["liars", a, b]:
            return not world[a] and not world[b]
        case ["count", k]:
            return sum(world.values()) == k
        case ["says", a, claim]:
            return world[a] == holds(claim, world)
        case ["never"]:
            return False
    raise DataError(f"fact {fact!r} is unknown; see puzzles.holds")


def entailed(puzzle: Puzzle, claim: Claim) -> bool:
    """Does a claim hold in every world that fits the facts (and its conditions)?"""
    return all(holds(claim.fact, world) for world in worlds(puzzle, claim.conditions))


def solution(puzzle: Puzzle) -> World | None:
    """The only world that fits; None if there are several or none."""
    found = worlds(puzzle)
    return found[0] if len(found) == 1 else None


_ROLE = r"(liar|truth-teller)"


def claims(text: str, puzzle: Puzzle) -> list[Claim]:
    """Every deduction that a text states, in order.

    Forms: "Ana > Ben > Cem", "Ana is number 2", "Ana is (not) a liar", "Ana cannot be a liar", "Ana
    has (does not have) the cat", and "If Ana is a liar, Ben is a truth-teller".

    Example:
        >>> pets = {"kind": "owns", "names": ["Ana", "Ben"], "things": ["cat", "dog"], "facts": []}
        >>> [c.fact for c in claims("Ana does not have the cat, so Ben has the cat.", pets)]
        [('hasnot', 'Ana', 'cat'), ('has', 'Ben', 'cat')]
    """
    name = r"\b([A-Z][a-z]+)"
    forms = {
        "order": [rf"{name}(?:\s*>\s*([A-Z][a-z]+))+", rf"{name} is number (\d+)"],
        "truth": [rf"{name} (is not|isn['’]t|is|must be|cannot be|can['’]t be) an? {_ROLE}"],
        "owns": [rf"{name} (has|does not have|doesn['’]t have) the (\w+)"],
    }[puzzle["kind"]]
    found: list[Claim] = []
    for sentence in re.finditer(r"[^.\n;]+", text):
        hits = sorted(
            (m for f in forms for m in re.finditer(f, sentence[0])), key=lambda m: m.start()
        )
        made = [
            Claim(m[0], fact, (), sentence.start() + m.start()) for m in hits for fact in _facts(m)
        ]
        if re.match(r"\s*(?:If|Suppose|Assume)\b", sentence[0]) and len(made) > 1:
            made = [
                Claim(sentence[0].strip(), one.fact, (made[0].fact,), one.start) for one in made[1:]
            ]
        found += made
    return found


_SAYS = re.compile(r"\b(?:not|never|number|must|cannot)\b|n['’]t\b|[<≠]")
_SENTENCE = re.compile(r"[^.!?\n;]+\??")
_CLAUSE = re.compile(r",|\b(?:so|but|and|because|since|while|although)\b")
_PLACES = (
    r"\d+(?:st|nd|rd|th)?|first|second|third|fourth|fifth|last|front|end|middle|\w+est|liars?|lies?"
    r"|lying|truth|truth-teller|honest|true|false|truly|than|wins?|won|loses?|lost|leads?"
)

_GROUPS = r"both|they|everyone|everybody|nobody|no one|neither|all|none"


def unread(text: str, puzzle: Puzzle) -> str:
    """The first sentence about somebody that says something in a form which `claims` does not read.

    It says something if it names two people, or one with a thing, a place or a role; a question
    does not.

    Example:
        >>> line = {"kind": "order", "names": ["Ada", "Ben"], "facts": []}
        >>> unread("Ada > Ben. Ada is not number 1.", line)
        'Ada is not number 1'
        >>> unread("Ben comes before Ada. Ada > Ben.", line)
        'Ben comes before Ada'
    """
    who = "|".join(map(re.escape, puzzle["names"]))
    people = re.compile(rf"\b(?:{who}|{_GROUPS})\b", re.I)
    things = "|".join(map(re.escape, puzzle.get("things") or ()))
    about = re.compile(rf"\b(?:{_PLACES}{f'|(?:{things})s?' if things else ''})\b", re.I)
    for sentence in _SENTENCE.findall(text):
        if sentence.endswith("?"):
            continue
        for part in [sentence, *_CLAUSE.split(sentence)]:
            named = set(people.findall(part))
            says = len(named) > 1 or _SAYS.search(part) or about.search(part)
            if named and says and not claims(part, puzzle):
                return sentence.strip()
    return ""


def _facts(match: re.Match[str]) -> list[tuple[Any, ...]]:
    text = match[0]
    if ">" in text:
        chain = [one.strip() for one in text.split(">")]
        return [("before", a, b) for a, b in itertools.pairwise(chain)]
    if "number" in text:
        return [("place", match[1], int(match[2]))]
    if match.re.pattern.endswith(_ROLE):
        return [("is", match[1], (match[3] == "truth-teller") == (match[2] in ("is", "must be")))]
    return [("has" if match[2] == "has" else "hasnot", match[1], match[3])]


def known(claim: Claim, puzzle: Puzzle) -> bool:
    """Does a claim speak only of names, places and things of the puzzle?"""
    for fact in (claim.fact, *claim.conditions):
        kind, *rest = fact
        if not {r for r in rest if isinstance(r, str)} <= {
            *puzzle["names"],
            *puzzle.get("things", ()),
        }:
            return False
        if kind == "place" and not 1 <= rest[1] <= len(puzzle["names"]):
            return False
    return True
