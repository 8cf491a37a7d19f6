"""Solvers that share nothing with the generators: they read the question's text and try or count."""

import itertools
import re
from collections.abc import Callable

COUNT: dict[str, Callable[..., int]] = {
    "gain": lambda a, b: len([*range(a), *range(b)]),
    "loss": lambda a, b: len(range(b, a)),
    "groups": lambda a, b: sum(b for _ in range(a)),
    "boxes_plus_loose": lambda a, b, c: sum([b] * a, c),
    "give_then_get": lambda a, b, c: len(range(b, a + c)),
    "join_and_share": lambda a, b, c: _deal(a + b, c),
    "two_purchases": lambda a, b, c: len(range(b + c, a)),
    "change": lambda a, b, c: _pay(c, [b] * a),
    "more_than": lambda a, b: 2 * a + b,
    "fewer_than": lambda a, b: 2 * a - b,
    "two_of_three": lambda a, b, c, d: (a - c) + b,
    "dozens_and_more": lambda a, b: sum([12] * a) + b,
    "weeks_without_rest": lambda a, b: sum([7] * a) - b,
    "times_as_many": lambda a, b: sum([a] * (b - 1)),
    "half_then_more": lambda a, c: _deal(a, 2) + c,
    "two_prices": lambda a, b, c, d: sum([b] * a + [d] * c),
    "bus_stops": lambda a, b, c, d: (a + c) - (b + d),
    "sold_then_packed": lambda a, b, c, d: _deal(sum([b] * a) - c, d),
    "three_days": lambda a, b, c: 2 * a + b + c,
    "orchard": lambda a, b, c, d: sum([d] * (sum([b] * a) - c)),
    "share_the_rest": lambda a, b, c, d: _deal(a - b, c) + d,
    "eggs_to_buy": lambda a, b, c, d: next(n for n in range(999) if n * d + c >= a * b),
    "two_legs": lambda a, b, c, d: sum([a] * b + [c] * d),
    "wages": lambda a, b, c, d: sum([a] * b) + d - c,
    "rope": lambda a, b, c: _pay(100 * a, [c] * b),
    "train_of_hours": lambda a, b, c: sum([60] * a) - c + b,
    "change_of_two": lambda a, b, c, d, e: _pay(e, [b] * a + [d] * c),
    "class_trip": lambda a, b, c, d, e: sum([e] * next(n for n in range(99) if n * d >= sum([b] * a, c))),
    "bakery_day": lambda a, b, c, d, e: _deal(sum([b] * a) - (c + d), e),
    "library": lambda a, b, c, d, e: sum([b] * a + [d] * c) - e,
    "saving_goal": lambda a, b, c, d, e: next(n for n in range(999) if c + sum([a] * b) + n * d >= e),
    "ages": lambda a, b, c: (a + c) + (sum([a] * b) + c),
    "harvest": lambda a, b, c, d, e: _deal(sum([b] * a) + d - c, e),
    "egg_farm": lambda a, b, c, d, e: sum([e] * _deal(sum([a, b] * 7) - c, d)),
    "party": lambda a, b, c, d, e: sum([b] * a + [d] * c) - len([*range(e), *range(e)]),
    "stock": lambda a, b, c, d, e: _deal(sum([b] * a + [e] * d) - c, 2),
    "pages_left": lambda a, b, c, d, e, f: _deal(_pay(e, [a] * b + [c] * d), f),
}  # fmt: skip
"""Structure -> the answer by counting; the numbers come from the question's text."""


def _deal(things: int, people: int) -> int:
    """Deal one by one; everybody must get the same."""
    hands = [0] * people
    for one in range(things):
        hands[one % people] += 1
    assert len(set(hands)) == 1, (things, people)
    return hands[0]


def _pay(money: int, prices: list[int]) -> int:
    for price in prices:
        money -= price
        assert money >= 0
    return money


def values(question: str, texts: tuple[str, ...]) -> dict[str, int]:
    """The numbers of a question, found by the phrasing that it was written with."""
    for text in texts:
        pattern, seen = re.escape(text), set()
        for slot in re.findall(r"\\\{(\w)\\\}", pattern):
            kind = r"\d+" if slot in "abcdef" else r"\w+"
            new = f"(?P={slot})" if slot in seen else f"(?P<{slot}>{kind})"
            pattern = pattern.replace(rf"\{{{slot}\}}", new, 1)
            seen.add(slot)
        if match := re.fullmatch(pattern, question):
            return {k: int(v) for k, v in match.groupdict().items() if k in "abcdef"}
    raise AssertionError(f"no phrasing fits: {question}")


ORDINAL = {"first": 0, "second": 1, "third": 2, "fourth": 3}
N = r"([A-Z][a-z]+)"
FORWARD = r"(?:is taller than|is older than|ran faster than|came before|finished before|stands ahead of|spoke earlier than|sits ahead of|called earlier than)"
BACKWARD = r"(?:is shorter than|is younger than|ran slower than|came after|is behind)"
BEHIND = r"(?:stands right behind|called right after)"


def order(question: str) -> str:
    """Try every order of the people who are named."""
    facts: list[tuple[str, str, Callable[[int, int], bool]]] = []
    places: list[tuple[str, int, bool]] = []
    for a, b in re.findall(rf"{N} {FORWARD} {N}", question):
        facts.append((a, b, lambda x, y: x < y))
    for a, b in re.findall(rf"{N} {BACKWARD} {N}", question):
        facts.append((a, b, lambda x, y: x > y))
    for a, b in re.findall(rf"{N} {BEHIND} {N}", question):
        facts.append((a, b, lambda x, y: x == y + 1))
    for a, b in re.findall(rf"{N} sits directly in front of {N}", question):
        facts.append((a, b, lambda x, y: x + 1 == y))
    rest, ask = question.rsplit("Who", 1)
    for a, k in re.findall(rf"{N} (?:finished|is|spoke) (first|second|third|fourth)\b", rest):
        places.append((a, ORDINAL[k], True))
    for a, k in re.findall(rf"{N} (?:did not finish|is not|did not speak) (first|second|third|fourth)\b", rest):
        places.append((a, ORDINAL[k], False))
    names = {a for f in facts for a in f[:2]} | {p[0] for p in places}
    if intro := re.match(rf"((?:{N}, )*{N} and {N}) (?:ran a race|form a queue|gave speeches)", question):
        names = set(re.findall(r"[A-Z][a-z]+", intro[1]))
    asked = next((k for word, k in ORDINAL.items() if f" {word}" in ask), None)
    if asked is None:
        asked = -1 if re.search("shortest|youngest|slowest|last", ask) else 0
    fits = {
        world[asked]
        for world in itertools.permutations(names)
        if all(f(world.index(a), world.index(b)) for a, b, f in facts)
        and all((world.index(a) == k) == yes for a, k, yes in places)
    }
    assert len(fits) == 1, (question, fits)
    return fits.pop()


def truth(question: str) -> str:
    """Try every way to be a liar or not."""
    text = re.sub(r"^(Everyone is a truth-teller or a liar|Liars always lie, truth-tellers never do)\. ", "", question)
    said = re.findall(rf"{N}(?: says)?(?: that|:) [“]?([^.”]+)\.", text)
    names = set(re.findall(r"\b([A-Z][a-z]+)\b", text)) - {"One", "Who", "What", "Is"}

    def true(claim: str, speaker: str, world: dict[str, bool]) -> bool:
        if claim == "we are both liars":
            return not any(world.values())
        if match := re.fullmatch(rf"{N} and I are of (the same kind|different kinds)", claim):
            return (world[match[1]] == world[speaker]) == (match[2] == "the same kind")
        match = re.fullmatch(rf"{N} (is a truth-teller|tells the truth|never lies|is a liar|lies|always lies)", claim)
        assert match, claim
        return world[match[1]] == (match[2] in ("is a truth-teller", "tells the truth", "never lies"))

    fits = []
    for roles in itertools.product((True, False), repeat=len(names)):
        world = dict(zip(sorted(names), roles, strict=True))
        given = re.match(rf"{N} is a (liar|truth-teller)\.", text)
        if given and world[given[1]] != (given[2] == "truth-teller"):
            continue
        if text.startswith("One of") and sum(roles) != 1:
            continue
        if all(true(claim, a, world) == world[a] for a, claim in said):
            fits.append(world)
    assert said, question
    if question.endswith("Who tells the truth?"):
        answers = {name for world in fits for name in world if world[name]}
    else:
        asked = re.search(rf"(?:Is|What is) {N}\b[^.]*\?$", question)
        assert asked, question
        answers = {"truth-teller" if world[asked[1]] else "liar" for world in fits}
    assert len(answers) == 1, (question, answers)
    return answers.pop()


def owns(question: str) -> str:
    """Try every way to hand the things out."""
    head, rest = question.split(". ", 1)
    things = re.findall(r"\b(cat|dog|fish|bird|rabbit|hamster|turtle|red|blue|green|yellow|white|black|soup|salad|pizza|rice|pasta|curry)\b", head.lower())
    names = [n for n in re.findall(r"\b[A-Z][a-z]+\b", head) if n.lower() not in things and n not in ("There",)]
    assert len(names) == len(things) == 3, question
    rest = re.sub(r"Who[^.]*$", "", rest)
    has = re.findall(rf"{N} (?:has|owns|ordered) the (\w+)(?: cup)?(?: or the (\w+))?", rest)
    hasnot = re.findall(rf"{N} (?:does not have|did not order) the (\w+)", rest)
    hasnot += [(n, t) for t, n in re.findall(rf"The (\w+) cup is not {N}'s", rest)]
    asked = re.search(r"the (\w+)(?: cup)?\?$", question)
    assert asked
    answers = set()
    for order in itertools.permutations(things):
        world = dict(zip(names, order, strict=True))
        if all(world[n] in (t, u) for n, t, u in has) and all(world[n] != t for n, t in hasnot):
            answers |= {n for n in names if world[n] == asked[1]}
    assert len(answers) == 1, (question, answers)
    return answers.pop()


def logic(structure: str, question: str) -> str:
    """The answer by trying every world of the question's text."""
    return {"order": order, "truth": truth, "own": owns}[re.split(r"[_\d]", structure)[0]](question)
