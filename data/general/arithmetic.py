"""Small sums with four answers each: bare, in words, as short stories, sequences and comparisons."""

import random
from collections.abc import Callable

Problem = tuple[str, int]

NAMES = ["Ada", "Ben", "Carla", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jon", "Lea", "Max"]
THINGS = ["apples", "marbles", "stickers", "books", "coins", "cards", "shells", "pencils", "sweets",
          "stamps", "balloons", "nuts"]  # fmt: skip


def plus(r: random.Random) -> Problem:
    a, b = r.randint(2, 12), r.randint(2, 12)
    return r.choice([f"What is {a} plus {b}?", f"What is {a} + {b}?"]), a + b


def minus(r: random.Random) -> Problem:
    a = r.randint(5, 20)
    b = r.randint(1, a - 1)
    return r.choice([f"What is {a} minus {b}?", f"What is {a} - {b}?"]), a - b


def times(r: random.Random) -> Problem:
    a, b = r.randint(2, 10), r.randint(2, 10)
    return r.choice([f"What is {a} times {b}?", f"What is {a} * {b}?"]), a * b


def divided(r: random.Random) -> Problem:
    a, b = r.randint(2, 10), r.randint(2, 10)
    return f"What is {a * b} divided by {b}?", a


def tens(r: random.Random) -> Problem:
    a, b = r.randint(1, 9) * 10, r.randint(1, 9) * 10
    return f"What is {a} plus {b}?", a + b


def double(r: random.Random) -> Problem:
    a = r.randint(2, 25)
    return r.choice([(f"What is twice {a}?", 2 * a), (f"What is the double of {a}?", 2 * a)])


def half(r: random.Random) -> Problem:
    a = r.randint(2, 24)
    return f"What is half of {2 * a}?", a


def after(r: random.Random) -> Problem:
    a = r.randint(3, 98)
    return r.choice([(f"Which number comes right after {a}?", a + 1),
                     (f"Which number comes right before {a}?", a - 1)])  # fmt: skip


def largest(r: random.Random) -> Problem:
    a = r.sample(range(2, 100), 4)
    word = r.choice(["largest", "smallest"])
    text = ", ".join(map(str, a[:-1])) + f" or {a[-1]}"
    return f"Which number is the {word}: {text}?", max(a) if word == "largest" else min(a)


def sequence(r: random.Random) -> Problem:
    start, step = r.randint(1, 12), r.choice([1, 2, 2, 3, 5, 10])
    return f"Continue: {', '.join(str(start + i * step) for i in range(4))}. What comes next?", start + 4 * step


def story(r: random.Random) -> Problem:
    name, other = r.sample(NAMES, 2)
    thing = r.choice(THINGS)
    a, b = r.randint(4, 15), r.randint(2, 9)
    b = min(b, a - 1)
    return r.choice([
        (f"{name} has {a} {thing} and gets {b} more. How many are there now?", a + b),
        (f"{name} has {a} {thing} and loses {b}. How many are left?", a - b),
        (f"{name} has {a} {thing}. {other} has {b}. How many do they have together?", a + b),
        (f"There are {a} {thing}. {name} takes {b} away. How many remain?", a - b),
    ])  # fmt: skip


def groups(r: random.Random) -> Problem:
    name, thing = r.choice(NAMES), r.choice(THINGS)
    a, b = r.randint(2, 6), r.randint(2, 6)
    return r.choice([
        (f"{name} has {a} bags with {b} {thing} each. How many {thing} is that?", a * b),
        (f"{a * b} {thing} are shared by {a} children. How many does each child get?", b),
    ])  # fmt: skip


KINDS: dict[str, Callable[[random.Random], Problem]] = {
    f.__name__: f
    for f in (plus, minus, times, divided, tens, double, half, after, largest, sequence, story, groups)
}


def distractors(question: str, answer: int, r: random.Random) -> list[int]:
    """Three other numbers near the answer; numbers of the question where the answer is one of them."""
    shown = [int(w) for w in "".join(c if c.isdigit() else " " for c in question).split()]
    if "Which number is the" in question:
        return [n for n in shown if n != answer]
    near = [answer + d for d in (-3, -2, -1, 1, 2, 3)]
    if answer % 10 == 0 and all(n % 10 == 0 for n in shown):
        near = [answer + d for d in (-20, -10, 10, 20, 30)]
    elif answer > 12:
        near += [answer - 10, answer + 10]
    return r.sample([n for n in near if n > 0], 3)


def problems(n: int, seed: int) -> list[tuple[str, str, int, list[int]]]:
    """(kind, question, answer, three wrong numbers), the kinds taking turns, no question twice."""
    draws = {name: random.Random(f"{seed} {name}") for name in KINDS}
    found, seen = [], set()
    while len(found) < n:
        kind = list(KINDS)[len(found) % len(KINDS)]
        text, answer = KINDS[kind](draws[kind])
        if text not in seen:
            seen.add(text)
            found.append((kind, text, answer, distractors(text, answer, draws[kind])))
    return found
