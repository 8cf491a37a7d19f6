"""Structures of word problems: phrasings, ranges of numbers, and the steps that solve them.

`{a}` … are numbers, `{n}` and `{m}` people, `{x}` and `{y}` things. A step is a few words and an
expression over numbers and the results of earlier steps (`r1`, `r2` …).
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from reasoning.pools import GOODS, NAMES, SNACKS, THINGS

POOLS = {"things": THINGS, "goods": GOODS, "snacks": SNACKS}
OPS = {
    "+": lambda p, q: p + q,
    "-": lambda p, q: p - q,
    "*": lambda p, q: p * q,
    "/": lambda p, q: p // q if q and p % q == 0 else -1,  # -1: drawn again
}
TOP = {1: 99, 2: 99, 3: 300, 4: 400, 5: 500}
"""Difficulty -> largest number of a problem, results included."""


@dataclass(frozen=True)
class Structure:
    """One way in which numbers hang together."""

    name: str
    numbers: str  # "a=2-9 b=10-30": name, smallest, largest
    steps: tuple[tuple[str, str], ...]  # (what is computed, expression)
    texts: tuple[str, ...]
    pool: str = "things"
    heldout: bool = False

    @property
    def difficulty(self) -> int:
        """The number of steps."""
        return len(self.steps)


def s(name: str, numbers: str, steps: str, *texts: str, pool: str = "things", heldout: bool = False) -> Structure:
    """A structure from one line of steps: "In boxes: a * b; In all: r1 + c"."""
    pairs = tuple((say.strip(), expr.strip()) for say, expr in (one.split(":") for one in steps.split(";")))
    return Structure(name, numbers, pairs, texts, pool, heldout)


STRUCTURES = (
    # one step
    s("gain", "a=5-60 b=3-38", "Now: a + b",
      "{n} has {a} {x} and gets {b} more. How many {x} does {n} have now?",
      "There are {a} {x} in a basket. {n} adds {b}. How many are in it now?",
      "{n} found {a} {x} on Monday and {b} on Tuesday. How many {x} is that?"),
    s("loss", "a=20-95 b=4-60", "Left: a - b",
      "{n} has {a} {x} and gives {b} to {m}. How many are left?",
      "Of {a} {x}, {b} are broken. How many {x} are whole?",
      "{n} had {a} {x} and lost {b}. How many does {n} still have?"),
    s("groups", "a=2-9 b=2-12", "In all: a * b",
      "{n} fills {a} bags with {b} {x} each. How many {x} are in the bags?",
      "Each of {a} children brings {b} {x}. How many {x} are there?",
      "There are {a} shelves with {b} {x} on each. How many {x} is that in all?"),
    # two steps
    s("boxes_plus_loose", "a=2-8 b=3-12 c=2-30", "In boxes: a * b; In all: r1 + c",
      "{n} has {a} boxes with {b} {x} each and {c} loose {x}. How many {x} are there?",
      "There are {c} {x} on the table and {a} boxes of {b} {x} under it. How many {x} in all?",
      "{n} packs {a} boxes of {b} {x}; {c} {x} do not fit. How many {x} does {n} have?"),
    s("give_then_get", "a=15-80 b=4-40 c=3-40", "After giving: a - b; Now: r1 + c",
      "{n} has {a} {x}, gives {b} to {m} and then finds {c}. How many {x} does {n} have now?",
      "{n} sold {b} of {a} {x} and bought {c} new ones. How many {x} does {n} own now?",
      "A jar holds {a} {x}. {n} takes out {b} and puts in {c}. How many are in the jar?"),
    s("join_and_share", "a=4-50 b=4-45 c=2-9", "Together: a + b; Each: r1 / c",
      "{n} has {a} {x}, {m} has {b}. They share all of them equally among {c} friends. How many does each friend get?",
      "{a} red and {b} blue {x} are put into {c} equal bags. How many {x} are in each bag?",
      "{n} picks {a} {x} and {m} picks {b}. They fill {c} bowls equally. How many {x} are in a bowl?"),
    s("two_purchases", "a=40-99 b=5-40 c=3-40", "After the first: a - b; Left: r1 - c",
      "{n} has {a} euros and buys a bag for {b} euros and a hat for {c} euros. How many euros are left?",
      "From {a} euros {n} pays {b} for shoes and {c} for food. How many euros remain?",
      "{n} saved {a} euros. A ticket costs {b}, a meal {c}. How many euros does {n} keep after both?"),
    s("change", "a=2-8 b=2-9 c=20-99", "Cost: a * b; Change: c - r1",
      "{n} buys {a} {x} at {b} euros each and pays with {c} euros. How much change is due, in euros?",
      "One of the {x} costs {b} euros. {n} takes {a} and gives {c} euros. How many euros come back?",
      "{n} has {c} euros and buys {a} {x} for {b} euros apiece. How many euros are left?", pool="goods"),
    s("more_than", "a=5-40 b=2-18", "{m} has: a + b; Together: a + r1",
      "{n} has {a} {x}. {m} has {b} more than {n}. How many do they have together?",
      "{m} found {b} {x} more than {n}, who found {a}. How many {x} did both find?",
      "{n} drew {a} {x} and {m} drew {b} more than that. How many {x} did they draw in all?"),
    s("fewer_than", "a=12-50 b=2-11", "{m} has: a - b; Together: a + r1",
      "{n} has {a} {x}. {m} has {b} fewer than {n}. How many do they have together?",
      "{m} found {b} {x} less than {n}, who found {a}. How many {x} did both find?",
      "{n} sold {a} {x} and {m} sold {b} fewer. How many {x} did they sell in all?", heldout=True),
    s("two_of_three", "a=5-40 b=5-40 c=3-30 d=4-40", "Red and blue: a + b; Left: r1 - c",
      "{n} has {a} red, {b} blue and {d} green {x}, and gives away {c} of the red and blue ones. How many red and blue {x} are left?",
      "A box holds {a} red, {d} green and {b} blue {x}. {c} of the blue ones are sold. How many red and blue {x} remain?",
      "There are {d} green, {a} red and {b} blue {x}. {n} takes {c} red ones. How many red and blue {x} are still there?"),
    s("dozens_and_more", "a=2-7 b=2-24", "Dozens: a * 12; In all: r1 + b",
      "{n} buys {a} dozen {x} and gets {b} more. How many {x} does {n} have?",
      "A crate holds {a} dozen {x}, a bag holds {b}. How many {x} do both hold?",
      "{n} counts {a} dozen {x} and {b} single ones. How many {x} are there?"),
    s("weeks_without_rest", "a=2-12 b=1-12", "Days: a * 7; Days of work: r1 - b",
      "{n} worked on a boat for {a} weeks but rested on {b} days. On how many days did {n} work?",
      "A shop was open for {a} weeks, except for {b} days. How many days was it open?",
      "For {a} weeks {n} ran every day, apart from {b} days of rain. How many days did {n} run?"),
    s("times_as_many", "a=3-20 b=2-4", "{m} has: a * b; More: r1 - a",
      "{n} has {a} {x}. {m} has {b} times as many. How many more {x} does {m} have than {n}?",
      "{m} owns {b} times as many {x} as {n}, who owns {a}. How many {x} does {m} have more?",
      "{n} caught {a} fish, {m} caught {b} times that number. By how many fish is {m} ahead?", heldout=True),
    s("half_then_more", "a=8-90 c=2-40", "Half: a / 2; Now: r1 + c",
      "{n} gives half of {a} {x} away and then gets {c}. How many {x} does {n} have now?",
      "Half of {a} {x} are sold. Then {c} more arrive. How many {x} are in the shop?",
      "{n} has {a} {x}, loses half of them and finds {c} others. How many {x} are there now?"),
    # three steps
    s("two_prices", "a=2-9 b=2-12 c=2-9 d=2-12", "First: a * b; Second: c * d; In all: r1 + r2",
      "{n} buys {a} {x} at {b} euros and {c} {y} at {d} euros each. How many euros is that in all?",
      "{a} {x} cost {b} euros each, {c} {y} cost {d} euros each. What does {n} pay for all, in euros?",
      "A club orders {a} {x} for {b} euros apiece and {c} {y} for {d} euros apiece. What is the sum in euros?",
      pool="goods"),
    s("bus_stops", "a=15-60 b=3-20 c=3-30 d=2-25", "After stop one: a - b; Then: r1 + c; At the end: r2 - d",
      "A bus has {a} people. {b} get off, {c} get on, then {d} get off. How many are on the bus?",
      "{a} people sit in a train. {b} leave, {c} enter, and later {d} leave. How many people are in it now?",
      "In a hall are {a} guests. {b} go, {c} come, and {d} more go. How many guests stay?"),
    s("sold_then_packed", "a=3-9 b=4-20 c=4-50 d=2-9", "In all: a * b; Left: r1 - c; Packs: r2 / d",
      "{n} bakes {a} trays of {b} {x} and sells {c}. The rest goes into packs of {d}. How many packs are there?",
      "Of {a} trays with {b} {x} each, {c} {x} are eaten. {n} puts the others into bags of {d}. How many bags?",
      "{n} had {a} trays of {b} {x}. {c} were burnt; the others are packed by {d}. How many packs are full?",
      pool="snacks"),
    s("three_days", "a=5-50 b=3-30 c=4-60", "Tuesday: a + b; Both days: a + r1; In all: r2 + c",
      "{n} read {a} pages on Monday, {b} more than that on Tuesday and {c} on Friday. How many pages in all?",
      "On Monday {a} visitors came, on Tuesday {b} more than on Monday, on Sunday {c}. How many visitors came in all?",
      "{n} made {a} {x} on Monday, {b} more than that on Tuesday and {c} on Wednesday. How many {x} is that?"),
    s("orchard", "a=3-9 b=4-12 c=2-20 d=2-4", "Planted: a * b; Alive: r1 - c; Fruit: r2 * d",
      "{n} plants {a} rows of {b} trees. {c} trees die. Each of the others gives {d} boxes of fruit. How many boxes?",
      "A field has {a} rows of {b} bushes; {c} are cut down. Each bush left bears {d} kilos. How many kilos in all?",
      "Of {a} rows with {b} plants, {c} plants dry out. {n} waters the rest with {d} cups each. How many cups?",
      heldout=True),
    s("share_the_rest", "a=30-120 b=5-50 c=2-9 d=2-20", "Rest: a - b; Each: r1 / c; Now: r2 + d",
      "{n} keeps {b} of {a} {x} and shares the rest among {c} friends. {m}, a friend, had {d}. How many has {m} now?",
      "From {a} {x} {n} takes {b} and deals the others to {c} children. One child had {d} before. How many has it now?",
      "{b} of {a} {x} are lost. The rest is split into {c} equal piles, and {d} are added to one pile. How big is it?"),
    s("eggs_to_buy", "a=2-9 b=3-12 c=2-30 d=2-10", "Needed: a * b; To buy: r1 - c; Packs: r2 / d",
      "A cake needs {a} eggs. {n} bakes {b} cakes and has {c} eggs. Eggs come in packs of {d}. How many packs must {n} buy?",
      "{b} guests eat {a} {x} each. {c} {x} are there, the others come in bags of {d}. How many bags are needed?",
      "{n} makes {b} chains of {a} beads and owns {c} beads. A bag has {d}. How many bags does {n} need?",
      heldout=True),
    s("two_legs", "a=10-60 b=2-5 c=4-30 d=2-5", "First leg: a * b; Second leg: c * d; In all: r1 + r2",
      "{n} drives {b} hours at {a} km per hour and {d} hours at {c} km per hour. How many km is that?",
      "A boat goes {a} km an hour for {b} hours, then {c} km an hour for {d} hours. How far does it go, in km?",
      "For {b} hours {n} rides {a} km each hour, for {d} hours only {c} km. How many km does {n} ride?"),
    s("wages", "a=8-30 b=2-9 c=10-80 d=5-60", "Earned: a * b; After paying: r1 - c; Now: r2 + d",
      "{n} works {b} hours for {a} euros an hour, pays {c} euros for a bike and gets {d} as a gift. How many euros has {n}?",
      "{n} earns {a} euros a day for {b} days, spends {c} and finds {d} euros. How many euros does {n} have?",
      "For {b} lessons at {a} euros each {n} is paid. {n} gives {c} euros to {m} and wins {d}. How many euros are there?"),
    s("rope", "a=1-2 b=2-9 c=5-30", "In cm: a * 100; Cut off: b * c; Left: r1 - r2",
      "{n} cuts {b} pieces of {c} cm from a rope of {a} m. How many cm are left?",
      "A ribbon is {a} m long. {n} needs {b} strips of {c} cm. How many cm remain?",
      "From {a} m of wire {n} makes {b} hooks of {c} cm. How long is the rest, in cm?", heldout=True),
    s("train_of_hours", "a=2-4 b=5-50 c=10-90", "Hours: a * 60; First part: r1 + b; Rest: r2 - c",
      "A trip lasts {a} hours and {b} minutes. {n} sleeps {c} minutes of it. How many minutes is {n} awake?",
      "{n} has {a} hours {b} minutes and needs {c} minutes to eat. How many minutes are left?",
      "A game takes {a} hours and {b} minutes with a break of {c} minutes. How many minutes are played?"),
    # four steps
    s("change_of_two", "a=2-8 b=2-9 c=2-8 d=2-9 e=60-200",
      "First: a * b; Second: c * d; Cost: r1 + r2; Change: e - r3",
      "{n} buys {a} {x} at {b} euros and {c} {y} at {d} euros each, and pays with {e} euros. How many euros come back?",
      "{n} has {e} euros. {a} {x} cost {b} euros each and {c} {y} cost {d} each. What is left in euros after buying all?",
      "With {e} euros {n} pays {a} {x} for {b} euros apiece and {c} {y} for {d} apiece. How many euros remain?",
      pool="goods"),
    s("class_trip", "a=2-6 b=12-28 c=2-12 d=20-50 e=30-80",
      "Pupils: a * b; People: r1 + c; Buses: r2 / d; Cost: r3 * e",
      "{a} classes of {b} pupils and {c} teachers take buses of {d} seats. A bus costs {e} euros. What do the full buses cost?",
      "A school sends {a} groups of {b} children with {c} adults. Vans hold {d}, each costs {e} euros. How many euros for all vans?",
      "{c} guides lead {a} tours of {b} people each. Boats take {d} people and cost {e} euros. What do all boats cost in euros?"),
    s("bakery_day", "a=3-9 b=8-30 c=5-60 d=5-60 e=2-9",
      "Baked: a * b; At noon: r1 - c; Evening: r2 - d; Bags: r3 / e",
      "{n} bakes {a} trays of {b} {x}, sells {c} before noon and {d} later. The rest fills bags of {e}. How many bags?",
      "Of {a} boxes with {b} {x} each, {c} go to {m} and {d} to a school. {n} packs the others by {e}. How many packs?",
      "{a} trays hold {b} {x} each. {c} are sold, {d} are eaten, the rest is shared by {e} people. How many does each get?",
      pool="snacks"),
    s("library", "a=3-8 b=10-30 c=2-6 d=10-30 e=10-90",
      "Tall shelves: a * b; Low shelves: c * d; Books: r1 + r2; There: r3 - e",
      "A library has {a} tall shelves with {b} books each and {c} low ones with {d} each. {e} books are lent. How many are there?",
      "{n} owns {a} racks of {b} films and {c} racks of {d} films; {e} films are lent to {m}. How many films are left?",
      "{a} halls have {b} seats each, {c} rooms have {d} seats each. {e} seats are broken. How many can be used?",
      heldout=True),
    s("saving_goal", "a=5-20 b=3-9 c=5-50 d=2-9 e=80-300",
      "Saved: a * b; With the gift: r1 + c; Missing: e - r2; Each week: r3 / d",
      "{n} saves {a} euros a week for {b} weeks and gets {c}. A bike costs {e}. How much must {n} save in each of {d} more weeks?",
      "A tent costs {e} euros. {n} has {c} and put away {a} in each of {b} months. How much a month is needed for {d} months?",
      "{n} wants {e} {x}, has {c} and made {a} on each of {b} days. How many a day are needed in the next {d} days?"),
    s("ages", "a=5-40 b=2-3 c=2-12", "{m} now: a * b; {n} then: a + c; {m} then: r1 + c; Together: r2 + r3",
      "{n} is {a}, {m} is {b} times as old. How old will they be together in {c} years?",
      "{m} is {b} times as old as {n}, who is {a}. In {c} years, what is the sum of their ages?",
      "{n} turned {a}; {m} is {b} times that age. What do their ages add up to {c} years from now?", heldout=True),
    s("harvest", "a=3-9 b=5-20 c=2-30 d=3-20 e=2-9",
      "Picked: a * b; Good: r1 - c; With the rest: r2 + d; Each: r3 / e",
      "{n} picks {a} baskets of {b} {x}. {c} are bad, {m} adds {d}. All good ones go into {e} crates. How many per crate?",
      "{a} bags hold {b} {x} each. {c} are lost, {d} are found, and {e} children share them. How many does each child get?",
      "From {a} packs of {b} {x} {n} takes {c} out, puts {d} in and makes {e} equal heaps. How many {x} are in a heap?"),
    # five steps
    s("egg_farm", "a=5-30 b=5-30 c=2-60 d=4-12 e=2-5",
      "A day: a + b; A week: r1 * 7; Whole: r2 - c; Packs: r3 / d; Money: r4 * e",
      "{n} gets {a} eggs each morning and {b} each evening. In a week {c} break. Packs of {d} sell for {e} euros. How many euros?",
      "Each day a shop makes {a} big and {b} small {x}. After a week {c} are spoilt. Bags of {d} bring {e} euros. How many euros?",
      "A press makes {a} plates by day and {b} by night. In a week {c} crack. Sets of {d} cost {e} euros. What is earned in euros?"),
    s("party", "a=3-9 b=6-12 c=2-8 d=6-12 e=10-40",
      "Juice: a * b; Water: c * d; Bottles: r1 + r2; Drunk: e * 2; Left: r3 - r4",
      "A party has {a} crates of {b} juices and {c} crates of {d} waters. {e} guests drink 2 bottles each. How many are left?",
      "{n} bakes {a} trays of {b} rolls and {c} trays of {d} buns. {e} people eat 2 pieces each. How many pieces remain?",
      "{a} boxes of {b} pens and {c} boxes of {d} pencils arrive. {e} pupils take 2 each. How many are left in all?",
      heldout=True),
    s("stock", "a=3-9 b=8-30 c=10-80 d=2-8 e=5-20",
      "Stock: a * b; After sales: r1 - c; New: d * e; Together: r2 + r3; Half: r4 / 2",
      "A shop has {a} boxes of {b} {x} and sells {c}. Then {d} boxes of {e} come. Half of all go to {m}. How many does {m} get?",
      "{n} owns {a} bags of {b} {x}, loses {c} and buys {d} bags of {e}. {m} gets half of all. How many {x} is that?",
      "Of {a} crates with {b} {x}, {c} {x} are sold. {d} crates with {e} each arrive. How many {x} are half of the stock?"),
    s("pages_left", "a=5-20 b=2-7 c=5-20 d=2-7 e=100-300 f=2-9",
      "First part: a * b; Second part: c * d; Read: r1 + r2; Left: e - r3; Each day: r4 / f",
      "{n} read {a} pages a day for {b} days, then {c} a day for {d} days. The book has {e}. How many a day for {f} more days?",
      "A road of {e} m is built: {a} m a day for {b} days, {c} m a day for {d} days. How many m a day in the last {f} days?",
      "{n} must sew {e} flags: {a} a week for {b} weeks, {c} a week for {d} weeks. How many a week in {f} more weeks?"),
)  # fmt: skip

BY_NAME = {one.name: one for one in STRUCTURES}


def ranges(structure: Structure) -> dict[str, tuple[int, int]]:
    """Name -> smallest and largest value."""
    pairs = (part.split("=") for part in structure.numbers.split())
    return {name: tuple(map(int, span.split("-"))) for name, span in pairs}  # type: ignore[misc]


def solve(structure: Structure, values: dict[str, int]) -> list[tuple[str, str, int]] | None:
    """(words, expression in numbers, result) of every step; None if a result is no whole number >= 1."""
    known, done = dict(values), []
    for number, (say, expr) in enumerate(structure.steps, 1):
        left, op, right = expr.split()
        p, q = (known[one] if one in known else int(one) for one in (left, right))
        result = OPS[op](p, q)
        if result < 1 or result > TOP[structure.difficulty] or (op in "*/" and q == 1 and number > 1):
            return None
        known[f"r{number}"] = result
        done.append((say, f"{p} {op} {q}", result))
    return done


def draw(structure: Structure, rng: Random) -> tuple[dict[str, int], list[tuple[str, str, int]]]:
    """Numbers that give whole results, and the solved steps."""
    spans = ranges(structure)
    while True:
        values = {name: rng.randint(low, high) for name, (low, high) in spans.items()}
        if len(set(values.values())) < min(len(values), 3):
            continue
        done = solve(structure, values)
        if done and (structure.name != "two_of_three" or values["c"] < min(values["a"], values["b"])):
            return values, done


def make(structure: Structure, rng: Random, turn: int) -> dict[str, Any]:
    """One problem; `turn` chooses the phrasing, counted round and round."""
    values, done = draw(structure, rng)
    n, m = rng.sample(NAMES, 2)
    x, y = rng.sample(POOLS[structure.pool], 2)
    words = {"n": n, "m": m, "x": x, "y": y}
    return {
        "domain": "word", "structure": structure.name, "difficulty": structure.difficulty,
        "question": structure.texts[turn % len(structure.texts)].format(**values, **words),
        "answer": str(done[-1][2]),
        "steps": [{"say": say.format(**words), "expr": expr, "result": str(result)} for say, expr, result in done],
        "heldout_structure": structure.heldout, "key": [structure.name, *values.values()],
    }  # fmt: skip
