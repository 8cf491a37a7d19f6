"""Logic puzzles: orders, truth-tellers and liars, who owns what; each with exactly one solution."""

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from reasoning.pools import COLOURS, FOODS, NAMES, PETS
from sft_utils.cot.puzzles import solution, worlds

THEMES = (  # a stands before b; the same said of b and a; the first; the last; place k
    ("{a} is taller than {b}.", "{b} is shorter than {a}.", "the tallest", "the shortest", "{k} tallest"),
    ("{a} is older than {b}.", "{b} is younger than {a}.", "the oldest", "the youngest", "{k} oldest"),
    ("{a} ran faster than {b}.", "{b} ran slower than {a}.", "the fastest", "the slowest", "{k} fastest"),
    ("{a} came before {b}.", "{b} came after {a}.", "the first", "the last", "{k} to come"),
)
ORDINALS = {2: "second", 3: "third"}
PLACES = {1: "first", 2: "second", 3: "third", 4: "fourth"}
HOLDS = (  # has, has not, question, things
    ("{n} has the {t}.", "{n} does not have the {t}.", "Who has the {t}?", PETS),
    ("{n} owns the {t} cup.", "The {t} cup is not {n}'s.", "Whose is the {t} cup?", COLOURS),
    ("{n} ordered the {t}.", "{n} did not order the {t}.", "Who gets the {t}?", FOODS),
)
OPEN = (
    "{names} each have one of these: {things}.",
    "{things}: each of {names} has one of them.",
    "{things}: one each for {names}.",
)
Made = tuple[str, str, dict[str, Any], list[dict[str, str]]]


def _list(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _step(result: str, *support: str) -> dict[str, str]:
    return {"say": "", "expr": ", ".join(support), "result": result}


def _ask_order(order: list[str], theme: tuple[str, ...], rng: Random, middle: bool) -> tuple[str, str]:
    places = list(range(1, len(order) + 1)) if middle else [1, len(order)]
    place = rng.choice(places)
    if place == 1:
        which = theme[2]
    elif place == len(order):
        which = theme[3]
    else:
        which = f"the {theme[4].format(k=ORDINALS[place])}"
    return f"Who is {which}?", order[place - 1]


def _chain(rng: Random, n: int, turn: int, mixed: bool) -> Made:
    """Neighbours are given in any order."""
    order, theme = rng.sample(NAMES, n), THEMES[turn % len(THEMES)]
    pairs = list(itertools.pairwise(order))
    said = rng.sample(pairs, len(pairs))
    ways = [rng.randint(0, 1) for _ in said] if mixed else [0] * len(said)
    if mixed and len(set(ways)) == 1:
        ways[0] = 1 - ways[0]
    ask, answer = _ask_order(order, theme, rng, middle=True)
    text = " ".join(theme[way].format(a=a, b=b) for way, (a, b) in zip(ways, said, strict=True))
    steps = [_step(" > ".join(order[: i + 1]), f"{order[i - 1]} > {order[i]}") if i > 1
             else _step(" > ".join(order[:2])) for i in range(1, n)]  # fmt: skip
    facts = [["before", a, b] for a, b in said]
    return f"{text} {ask}", answer, {"kind": "order", "names": sorted(order), "facts": facts}, steps


def order3(rng: Random, turn: int) -> Made:
    """Two comparisons, three people."""
    return _chain(rng, 3, turn, mixed=False)


def order4(rng: Random, turn: int) -> Made:
    """Three comparisons, four people."""
    return _chain(rng, 4, turn, mixed=False)


def order_mixed(rng: Random, turn: int) -> Made:
    """Comparisons in both directions."""
    return _chain(rng, 3 + turn % 2, turn, mixed=True)


RACES = (  # all of them, a place, a comparison, the question, not at a place
    ("{all} ran a race.", "{a} finished {k}.", "{a} finished before {b}.", "Who finished {k}?", "{a} did not finish {k}."),
    ("{all} form a queue.", "{a} is {k}.", "{a} stands ahead of {b}.", "Who is {k}?", "{a} is not {k}."),
    ("{all} gave speeches.", "{a} spoke {k}.", "{a} spoke earlier than {b}.", "Who spoke {k}?", "{a} did not speak {k}."),
)


def _places(order: list[str], given: list[str]) -> list[dict[str, str]]:
    """Given places first, then the others, then the whole order."""
    rest = [name for name in order if name not in given]
    steps = [_step(f"{name} is number {order.index(name) + 1}") for name in given]
    pairs = [f"{a} > {b}" for a, b in itertools.pairwise(rest)]
    return [*steps, _step(" > ".join(order), *pairs)]


def order_place(rng: Random, turn: int) -> Made:
    """One place and comparisons among the others."""
    n = 3 + turn % 2
    order, (intro, place, before, ask, _) = rng.sample(NAMES, n), RACES[turn % len(RACES)]
    fixed = rng.randrange(n)
    rest = [name for i, name in enumerate(order) if i != fixed]
    facts: list[list[Any]] = [["place", order[fixed], fixed + 1]]
    texts = [place.format(a=order[fixed], k=PLACES[fixed + 1])]
    for a, b in itertools.pairwise(rest):
        facts.append(["before", a, b])
        texts.append(before.format(a=a, b=b))
    k = rng.choice([i for i in range(n) if i != fixed])
    rng.shuffle(texts)
    question = f"{intro.format(all=_list(sorted(order)))} {' '.join(texts)} {ask.format(k=PLACES[k + 1])}"
    puzzle = {"kind": "order", "names": sorted(order), "facts": facts}
    return question, order[k], puzzle, _places(order, [order[fixed]])


def order_ends(rng: Random, turn: int) -> Made:
    """One end is given, and who is not at the other one."""
    order, (intro, place, _, ask, negative) = rng.sample(NAMES, 3), RACES[turn % len(RACES)]
    one, other = (1, 3) if rng.random() < 0.5 else (3, 1)
    known, middle = order[one - 1], order[1]
    texts = [place.format(a=known, k=PLACES[one]), negative.format(a=middle, k=PLACES[other])]
    rng.shuffle(texts)
    k = rng.choice([2, other])
    question = f"{intro.format(all=_list(sorted(order)))} {' '.join(texts)} {ask.format(k=PLACES[k])}"
    facts = [["place", known, one], ["notplace", middle, other]]
    steps = [_step(f"{known} is number {one}"), _step(f"{middle} is number 2"),
             _step(f"{order[other - 1]} is number {other}")]  # fmt: skip
    return question, order[k - 1], {"kind": "order", "names": sorted(order), "facts": facts}, steps


def order_next(rng: Random, turn: int) -> Made:
    """Direct neighbours; held out."""
    order = rng.sample(NAMES, 4)
    a, b, c, d = order
    facts = [["next", a, b], ["next", c, d], ["before", b, c]]
    texts = (
        (f"{b} stands right behind {a}.", f"{d} stands right behind {c}.", f"{c} is behind {b}."),
        (f"{a} sits directly in front of {b}.", f"{c} sits directly in front of {d}.", f"{b} sits ahead of {c}."),
        (f"{b} called right after {a}.", f"{d} called right after {c}.", f"{b} called earlier than {c}."),
    )[turn % 3]  # fmt: skip
    k = rng.randrange(4)
    question = f"{' '.join(rng.sample(texts, 3))} Who is {PLACES[k + 1]} of the four?"
    steps = [_step(f"{a} > {b}"), _step(f"{c} > {d}"), _step(" > ".join(order), f"{b} > {c}")]
    return question, order[k], {"kind": "order", "names": sorted(order), "facts": facts}, steps


ROLE = {True: "truth-teller", False: "liar"}
SAYS = {
    True: ("{a} says: {b} is a truth-teller.", "{a} says that {b} tells the truth.", "{a}: “{b} never lies.”"),
    False: ("{a} says: {b} is a liar.", "{a} says that {b} lies.", "{a}: “{b} always lies.”"),
}
WORLD = ("Everyone is a truth-teller or a liar.", "Liars always lie, truth-tellers never do.")


def _is(name: str, role: bool) -> str:
    return f"{name} is a {ROLE[role]}"


def truth_chain(rng: Random, turn: int) -> Made:
    """One role is given, each speaks about the next."""
    n = 3 if turn % 2 else 2
    names, roles = rng.sample(NAMES, n), [rng.random() < 0.5 for _ in range(n)]
    facts: list[list[Any]] = [["is", names[0], roles[0]]]
    texts = [f"{_is(names[0], roles[0])}."]
    steps = [_step(_is(names[0], roles[0]))]
    for (a, ra), (b, rb) in itertools.pairwise(zip(names, roles, strict=True)):
        claim = ra == rb  # a liar says the opposite
        facts.append(["says", a, ["is", b, claim]])
        texts.append(SAYS[claim][turn % 3].format(a=a, b=b))
        steps.append(_step(_is(b, rb)))
    question = f"{WORLD[turn % 2]} {' '.join(texts)} Is {names[-1]} a truth-teller or a liar?"
    puzzle = {"kind": "truth", "names": sorted(names), "facts": facts}
    return question, ROLE[roles[-1]], puzzle, steps


PAIRS = (  # what two people can say about each other: text, fact
    ("{a} says: we are both liars.", lambda a, b: ["liars", a, b]),
    ("{a} says: {b} and I are of the same kind.", lambda a, b: ["same", a, b]),
    ("{a} says: {b} and I are of different kinds.", lambda a, b: ["differ", a, b]),
    ("{a} says: {b} is a liar.", lambda a, b: ["is", b, False]),
    ("{a} says: {b} is a truth-teller.", lambda a, b: ["is", b, True]),
)  # fmt: skip


def truth_pair(rng: Random, turn: int) -> Made:
    """Two people, two statements; drawn until the roles are certain."""
    while True:
        a, b = names = rng.sample(NAMES, 2)
        (text1, make1), (text2, make2) = rng.choice(PAIRS[:3]), rng.choice(PAIRS)
        facts = [["says", a, make1(a, b)], ["says", b, make2(b, a)]]
        puzzle = {"kind": "truth", "names": sorted(names), "facts": facts}
        world = solution(puzzle)
        if world:
            break
    asked = names[turn % 2]
    steps = [_step(_is(one, world[one]), f"{one} cannot be a {ROLE[not world[one]]}") if one == a
             else _step(_is(one, world[one])) for one in names]  # fmt: skip
    said = f"{text1.format(a=a, b=b)} {text2.format(a=b, b=a)}"
    return f"{WORLD[turn % 2]} {said} What is {asked}?", ROLE[world[asked]], puzzle, steps


def truth_count(rng: Random, turn: int) -> Made:
    """Exactly one of three tells the truth; held out."""
    while True:
        names = rng.sample(NAMES, 3)
        facts: list[list[Any]] = [["count", 1]]
        texts = []
        for name in names:
            about, claim = rng.choice([n for n in names if n != name]), rng.random() < 0.4
            facts.append(["says", name, ["is", about, claim]])
            texts.append(SAYS[claim][turn % 3].format(a=name, b=about))
        puzzle = {"kind": "truth", "names": sorted(names), "facts": facts}
        world = solution(puzzle)
        if world:
            break
    who = next(name for name in names if world[name])
    others = [name for name in names if name != who]
    steps = [_step(_is(one, False), f"{one} cannot be a truth-teller") for one in others] + [_step(_is(who, True))]
    question = f"One of {_list(names)} is a truth-teller, the other two lie. {' '.join(texts)} Who tells the truth?"
    return question, who, puzzle, steps


def _owns(rng: Random, turn: int, facts: Callable[..., list[list[Any]]], n: int) -> Made:
    has, hasnot, ask, pool = HOLDS[turn % len(HOLDS)]
    while True:
        names, things = rng.sample(NAMES, n), rng.sample(pool, n)
        world = dict(zip(names, things, strict=True))
        puzzle = {"kind": "owns", "names": sorted(names), "things": sorted(things), "facts": facts(rng, world)}
        if solution(puzzle) == world:
            break
    texts = []
    for kind, name, *rest in puzzle["facts"]:
        if kind == "either":
            first, second = (f"{t} cup" if pool is COLOURS else t for t in rest)
            texts.append(f"{name} has the {first} or the {second}.")
        else:
            texts.append((has if kind == "has" else hasnot).format(n=name, t=rest[0]))
    steps = _eliminate(puzzle, world)
    given = {fact[1] for fact in puzzle["facts"] if fact[0] == "has"}
    asked = rng.choice([name for name in names if name not in given])
    cups = [f"{t} cup" for t in things] if pool is COLOURS else things
    start = OPEN[rng.randrange(3)].format(names=_list(sorted(names)), things=_list(sorted(cups)))
    question = f"{start[0].upper()}{start[1:]} {' '.join(texts)} {ask.format(t=world[asked])}"
    return question, asked, puzzle, steps


def _eliminate(puzzle: dict[str, Any], world: dict[str, str]) -> list[dict[str, str]]:
    """Who can have only one thing, given what is settled; the reasons are what they cannot have."""
    settled: dict[str, str] = {}
    steps: list[dict[str, str]] = []
    while len(settled) < len(world):
        options = {}
        for name in world:
            if name not in settled:
                mine = [f for f in puzzle["facts"] if f[1] == name]
                fits = [t for t in puzzle["things"] if t not in settled.values()
                        and worlds({**puzzle, "facts": mine}, [["has", name, t]])]  # fmt: skip
                options[name] = fits
        sure = [name for name, fits in options.items() if len(fits) == 1]
        if sure:
            name = sure[0]
            ruled = [t for t in puzzle["things"] if t != world[name] and t not in settled.values()
                     and ["has", name, world[name]] not in puzzle["facts"]]  # fmt: skip
            steps.append(_step(f"{name} has the {world[name]}", *(f"{name} does not have the {t}" for t in ruled)))
        else:  # a thing that only one can have
            free = [t for t in puzzle["things"] if t not in settled.values()]
            thing = next((t for t in free if sum(t in fits for fits in options.values()) == 1), None)
            name = next(n for n, fits in options.items() if thing in fits) if thing else next(iter(options))
            others = [n for n in options if n != name]
            steps.append(_step(f"{name} has the {world[name]}",
                               *(f"{n} does not have the {world[name]}" for n in others)))  # fmt: skip
        settled[name] = world[name]
    return steps


def own_given(rng: Random, turn: int) -> Made:
    """One owner is given, one exclusion."""
    def facts(rng: Random, world: dict[str, str]) -> list[list[Any]]:
        a, b, c = world
        return [["has", a, world[a]], ["hasnot", b, world[c]]]
    return _owns(rng, turn, facts, 3)  # fmt: skip


def own_elimination(rng: Random, turn: int) -> Made:
    """Exclusions only."""
    def facts(rng: Random, world: dict[str, str]) -> list[list[Any]]:
        a, b, c = world
        out = [["hasnot", a, world[b]], ["hasnot", a, world[c]], ["hasnot", b, world[c]]]
        return rng.sample(out, 3)
    return _owns(rng, turn, facts, 3)  # fmt: skip


def own_either(rng: Random, turn: int) -> Made:
    """One of two things each; held out."""
    def facts(rng: Random, world: dict[str, str]) -> list[list[Any]]:
        a, b, c = world
        two = [world[a], world[b]] if rng.random() < 0.5 else [world[b], world[a]]
        first = [["either", a, *two], ["hasnot", a, world[b]], ["either", b, *sorted([world[b], world[c]])]]
        return [*rng.sample(first, 3), ["hasnot", b, world[c]]]
    return _owns(rng, turn, facts, 3)  # fmt: skip


STRUCTURES: dict[str, tuple[int, bool, Callable[[Random, int], Made]]] = {
    "order3": (1, False, order3), "order4": (2, False, order4), "order_mixed": (2, False, order_mixed),
    "order_place": (2, False, order_place), "order_ends": (1, False, order_ends),
    "order_next": (3, True, order_next),
    "truth_chain": (1, False, truth_chain), "truth_pair": (2, False, truth_pair),
    "truth_count": (3, True, truth_count),
    "own_given": (1, False, own_given), "own_elimination": (2, False, own_elimination),
    "own_either": (3, True, own_either),
}  # fmt: skip


def make(name: str, rng: Random, turn: int) -> dict[str, Any]:
    """One puzzle, proved to have one solution.

    Raises:
        ValueError: The puzzle has several solutions or none, or a step does not follow.
    """
    difficulty, heldout, build = STRUCTURES[name]
    question, answer, puzzle, steps = build(rng, turn)
    if solution(puzzle) is None:
        raise ValueError(f"{name}: not one solution: {question}")
    return {
        "domain": "logic", "structure": name, "difficulty": difficulty, "question": question, "answer": answer,
        "steps": steps, "puzzle": puzzle, "heldout_structure": heldout, "key": [name, question],
    }  # fmt: skip


