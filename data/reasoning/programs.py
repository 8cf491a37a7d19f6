"""Small programs whose output is asked; the states and the output come from running them.

A line `#@ i | total` marks a place: it is not shown, and when the program is run the state there is
written down as "i = 2: total = 7".
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Any

ASK = (
    "What does this program print?\n{code}",
    "{code}\nWhat is printed?",
    "Run this in your head and give the output:\n{code}",
)
WORDS = ["banana", "letter", "pepper", "cocoa", "tomato", "kitten", "summer", "noodle", "coffee", "yellow", "radar", "level"]
SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu"]
MARK = re.compile(r"^( *)#@ *([\w ]*)\| *([\w ]+)$", re.M)


@dataclass(frozen=True)
class Program:
    """A program with places for numbers."""

    name: str
    difficulty: int
    code: str
    slots: str  # "a=1-9 l=list4 w=word"
    heldout: bool = False


def p(name: str, difficulty: int, slots: str, code: str, heldout: bool = False) -> Program:
    """A program; its lines are separated by new lines."""
    return Program(name, difficulty, code.strip("\n"), slots, heldout)


PROGRAMS = (
    p("assign", 1, "a=2-20 b=2-20 c=2-4", """
x = {a}
y = x + {b}
#@ | y
x = y * {c}
#@ | x
print(x)"""),
    p("if_else", 1, "a=5-40 b=10-35 c=1-5 d=5-30", """
x = {a}
if x > {b}:
    x = x - {c}
else:
    x = x + {d}
#@ | x
print(x)"""),
    p("sum_range", 1, "a=0-20 n=4-6", """
total = {a}
for i in range(1, {n}):
    total += i
    #@ i | total
print(total)"""),
    p("step_range", 1, "a=1-15 b=2-9 n=3-4", """
x = {a}
for i in range({n}):
    x = x + {b}
    #@ i | x
print(x)"""),
    p("count_letter", 1, "w=word a=0-9", """
n = {a}
for c in "{w}":
    if c == "{w1}":
        n += 1
        #@ | n
print(n)"""),
    p("sum_above", 2, "l=list4 k=5-12", """
total = 0
for v in {l}:
    if v > {k}:
        total += v
        #@ v | total
print(total)"""),
    p("append_shifted", 2, "l=list3 k=2-9", """
out = []
for v in {l}:
    out.append(v + {k})
    #@ v | out
print(out)"""),
    p("keep_even", 2, "l=list4", """
out = []
for v in {l}:
    if v % 2 == 0:
        out.append(v)
        #@ v | out
print(out)"""),
    p("reverse_text", 2, "w=short", """
s = ""
for c in "{w}":
    s = c + s
    #@ c | s
print(s)"""),
    p("double_until", 2, "a=2-9 b=20-70", """
x = {a}
while x < {b}:
    x = x * 2
    #@ | x
print(x)"""),
    p("call_twice", 2, "a=2-3 b=1-9 c=2-8", """
def f(x):
    y = x * {a} + {b}
    #@ x | y
    return y

print(f(f({c})))"""),
    p("largest", 2, "l=list4", """
best = 0
for v in {l}:
    if v > best:
        best = v
        #@ v | best
print(best)"""),
    p("swap_items", 2, "l=list3 k=1-9", """
a = {l}
a[0], a[2] = a[2], a[0]
#@ | a
a[1] = a[1] + {k}
#@ | a
print(a)"""),
    p("growing_pair", 3, "a=1-7 b=2-9 n=3-4", """
a, b = {a}, {b}
for i in range({n}):
    a, b = b, a + b
    #@ i | a b
print(b)"""),
    p("stop_early", 3, "l=list5 k=15-30", """
total = 0
for v in {l}:
    if total > {k}:
        break
    total += v
    #@ v | total
print(total)"""),
    p("count_down", 2, "a=15-50 b=6-12", """
x = {a}
n = 0
while x >= {b}:
    x = x - {b}
    n = n + 1
    #@ n | x
print(n)""", heldout=True),
    p("rotate_text", 2, "w=short n=2-3", """
s = "{w}"
for i in range({n}):
    s = s[1:] + s[0]
    #@ i | s
print(s)""", heldout=True),
    p("nested_loops", 3, "a=1-30 n=3-4 m=2-3", """
x = {a}
for i in range(1, {n}):
    for j in range({m}):
        x += i
    #@ i | x
print(x)""", heldout=True),
    p("two_functions", 3, "a=2-9 b=2-5 c=2-12", """
def f(x):
    return x + {a}

def g(x):
    y = f(x) * {b}
    #@ x | y
    return y

print(g({c}) - f({c}))""", heldout=True),
)  # fmt: skip

BY_NAME = {one.name: one for one in PROGRAMS}


def fill(program: Program, rng: Random) -> tuple[str, list[Any]]:
    """The marked source with drawn values, and the values."""
    values: dict[str, Any] = {}
    for slot in program.slots.split():
        name, what = slot.split("=")
        if what.startswith("list"):
            values[name] = rng.sample(range(1, 21), int(what[4:]))
        elif what == "word":
            values[name] = rng.choice(WORDS)
            values[name + "1"] = rng.choice(sorted({c for c in values[name] if values[name].count(c) > 1}))
        elif what == "short":
            values[name] = "".join(rng.sample(SYLLABLES, 2))
        else:
            low, high = map(int, what.split("-"))
            values[name] = rng.randint(low, high)
    return program.code.format(**values), [program.name, *map(str, values.values())]


def shown(marked: str) -> str:
    """The source as a question shows it."""
    return re.sub(r"^ *#@.*\n", "", marked, flags=re.M)


def watched(marked: str) -> str:
    """The source that writes down its states, each on a line that starts with "@"."""

    def note(match: re.Match[str]) -> str:
        at, values = match[2].split(), match[3].split()
        pair = " ".join(f"{name} = {{{name}!r}}," for name in at).rstrip(",")
        state = ", ".join(f"{name} = {{{name}!r}}" for name in values)
        return f'{match[1]}print(f"@{pair}|{state}")'

    return MARK.sub(note, marked)


def make(program: Program, rng: Random, turn: int) -> dict[str, Any]:
    """One problem without its answer: `finish` adds what the run printed."""
    marked, key = fill(program, rng)
    return {
        "domain": "code", "structure": program.name, "difficulty": program.difficulty,
        "question": ASK[turn % len(ASK)].format(code=shown(marked)), "answer": "",
        "steps": [], "heldout_structure": program.heldout, "key": key, "run": watched(marked),
    }  # fmt: skip


def finish(row: dict[str, Any], stdout: str) -> bool:
    """Fill in answer and steps from the output of a run; False if there is nothing to trace."""
    states, printed = [], []
    for line in stdout.splitlines():
        (states if line.startswith("@") else printed).append(line)
    del row["run"]
    row["answer"] = "\n".join(printed)
    for line in states:
        expr, result = line[1:].split("|", 1)
        row["steps"].append({"say": "", "expr": expr, "result": result})
    return len(printed) == 1 and 1 <= len(states) <= 5
