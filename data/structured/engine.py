"""Expand sentence frames into texts whose answer is known.

A frame is a sentence with marks:

    {key}         a fact, drawn and written by the slot function of that name
    {key=value}   states the fact `value` (JSON or a word) by the words around it; writes nothing
    [ ... ]       left out now and then
    <a|b|c>       one of these

A fact is in the answer exactly if the frame used a mark of its name, so an answer never holds what
the text does not say. A key that was not said gets its default, null or nothing, as the schema
demands.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

OPTIONAL = 0.6
MARK = re.compile(r"\{(\w+)(?:=([^}]*))?\}")
Fact = tuple[str, Any]


@dataclass(slots=True)
class Draw:
    """Chance, and which part of each word pool may be used in this split."""

    rng: Random
    split: str
    memo: dict[str, Any] = field(default_factory=dict)  # choices of this text that slots share

    def of(self, pool: Sequence[Any]) -> Any:
        """One entry: the first 70 % of a pool are for training, the last 60 % for tests."""
        n = len(pool)
        if n < 8:
            return self.rng.choice(pool)
        part = pool[(2 * n) // 5 :] if self.split == "test" else pool[: (7 * n) // 10]
        return self.rng.choice(part)

    def some(self, pool: Sequence[Any], low: int, high: int) -> list[Any]:
        """Several different entries."""
        wanted, got = self.rng.randint(low, high), []
        while len(got) < wanted:
            one = self.of(pool)
            if one not in got:
                got.append(one)
        return got


@dataclass(slots=True)
class Topic:
    """What one module of `frames` offers."""

    name: str
    slots: dict[str, Callable[[Draw], Fact]]
    frames: dict[str, list[str]]  # split -> frames
    defaults: dict[str, Any] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)  # sentences beside the point


def listing(words: Sequence[str]) -> str:
    """a, b and c"""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _choose(rng: Random, text: str) -> str:
    """Resolve alternatives and optional parts, innermost first."""
    inner = re.compile(r"<([^<>\[\]]*)>|\[([^<>\[\]]*)\]")
    while found := inner.search(text):
        if found[1] is not None:
            part = rng.choice(found[1].split("|"))
        else:
            part = found[2] if rng.random() < OPTIONAL else ""
        text = text[: found.start()] + part + text[found.end() :]
    return text


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def expand(draw: Draw, topic: Topic, frame: str) -> tuple[list[tuple[str, bool]], dict[str, Any]]:
    """Fill one frame: pieces of text (with "is this a fact?"), and the facts said."""
    pieces: list[tuple[str, bool]] = []
    facts: dict[str, Fact] = {}
    draw.memo.clear()
    text, place = _choose(draw.rng, frame), 0
    for mark in MARK.finditer(text):
        pieces.append((text[place : mark.start()], False))
        key, stated = mark[1], mark[2]
        if stated is not None:
            facts[key] = ("", _value(stated))
        else:
            if key not in facts:
                facts[key] = topic.slots[key](draw)
            pieces.append((facts[key][0], True))
        place = mark.end()
    pieces.append((text[place:], False))
    return pieces, {key: value for key, (_, value) in facts.items()}


def answer_of(schema: dict[str, Any], said: dict[str, Any], defaults: dict[str, Any]) -> Any:
    """The object of the facts said, keys in the order of the schema.

    Raises:
        ValueError: The frame leaves out what the schema demands.
    """
    answer = {}
    for key, rule in schema["properties"].items():
        if key in said:
            answer[key] = said[key]
        elif key in defaults:
            answer[key] = defaults[key]
        elif "null" in rule.get("type", ()) or None in rule.get("enum", ()):
            answer[key] = None
        elif key in schema["required"]:
            raise ValueError(f"{key} is neither said nor has it a default")
    return answer


def tidy(text: str) -> str:
    """One blank between words, none before a comma or full stop."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ([,.;!?])", r"\1", text)
    return re.sub(r" ?\n ?", "\n", text).strip()


def misspell(rng: Random, text: str) -> str:
    """Damage one longer word, in small letters, of a text that holds no facts."""
    words = re.findall(r"\b[a-z]{5,}\b", text)
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(1, len(word) - 2)
    wrong = rng.choice(
        [
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        ]
    )
    return text.replace(word, wrong, 1)


HELLO = {
    "train": [
        "Hi,", "Hello,", "Hi there,", "Good morning,", "Hello team,", "Hey,", "Dear all,",
        "Hi, quick one:", "Morning!", "Hope you are well.",
    ],
    "test": ["Good afternoon,", "Hey there,", "Hi folks,", "Good evening,", "Just this:"],
}
BYE = {
    "train": [
        "Thanks!", "Thanks a lot.", "Thank you in advance.", "Cheers", "Please confirm.",
        "Let me know.", "Best regards", "Many thanks.", "That is all for now.", "Ta!",
    ],
    "test": ["Much appreciated.", "Kind regards", "Get back to me when you can.", "thx"],
}
ASIDE = {
    "train": [
        "Sorry for the short notice.", "I am writing this on my phone.",
        "The weather is awful here, by the way.", "My last message got lost, so once more.",
        "I was on holiday until yesterday.", "Excuse the typos.",
        "Our phone line is down, so please write.", "I hope this is the right address.",
        "It has been a long week.", "Somebody told me to write to you.",
    ],
    "test": [
        "I had no time to call.", "My keyboard is acting up.", "Hope I am not too late with this.",
        "A colleague gave me this address.", "No coffee yet, so bear with me.",
    ],
}


def voice(draw: Draw, topic: Topic, pieces: list[tuple[str, bool]]) -> str:
    """Put the pieces together in some tone, with errors and things beside the point."""
    rng, part = draw.rng, "test" if draw.split == "test" else "train"
    style = rng.choices(["plain", "chatty", "aside", "small", "typos"], [42, 16, 16, 12, 14])[0]
    if style == "typos":
        longest = max((i for i, (_, fact) in enumerate(pieces) if not fact),
                      key=lambda i: len(pieces[i][0]))  # fmt: skip
        pieces = [(misspell(rng, text) if i == longest else text, fact)
                  for i, (text, fact) in enumerate(pieces)]  # fmt: skip
    if style == "small":
        pieces = [(text if fact else text.lower(), fact) for text, fact in pieces]
    text = tidy("".join(text for text, _ in pieces))
    first_is_fact = next(fact for piece, fact in pieces if piece.strip())
    if style != "small" and not first_is_fact:  # a fact keeps its letters, they are in the answer
        text = text[:1].upper() + text[1:]
    if style == "chatty":
        hello = rng.choice(HELLO[part])
        text = hello + ("\n" if hello[-1] == "," else " ") + text
        if rng.random() < 0.7:
            text = f"{text}{'' if text[-1] in '.!?' else '.'} {rng.choice(BYE[part])}"
    if style == "aside":
        aside = rng.choice(topic.extra * 2 + ASIDE[part] if part == "train" else ASIDE[part])
        end = "" if text[-1] in ".!?" else "."
        text = f"{aside} {text}" if rng.random() < 0.4 else f"{text}{end} {aside}"
    return text


MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]  # fmt: skip
FORMATS = ["iso", "d month", "month d", "d mon", "the dth of month", "dotted", "d month y", "mon d y"]


def _nth(day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def write_date(rng: Random, year: int, month: int, day: int) -> str:
    """One way to write a day; a year other than 2026 is always written."""
    way = rng.choice(FORMATS if year == 2026 else ["iso", "dotted", "d month y", "mon d y"])
    name = MONTHS[month - 1]
    return {
        "iso": f"{year}-{month:02}-{day:02}",
        "d month": f"{day} {name}",
        "month d": f"{name} {_nth(day)}",
        "d mon": f"{day} {name[:3]}",
        "the dth of month": f"the {_nth(day)} of {name}",
        "dotted": f"{day:02}.{month:02}.{year}",
        "d month y": f"{day} {name} {year}",
        "mon d y": f"{name[:3]} {day}, {year}",
    }[way]


def date(draw: Draw, other: int = 2027) -> Fact:
    """A day of 2026, now and then of another year."""
    rng = draw.rng
    year = rng.choices([2026, other], [88, 12])[0]
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    return write_date(rng, year, month, day), f"{year}-{month:02}-{day:02}"


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def number(low: int, high: int, *, words: float = 0.0) -> Callable[[Draw], Fact]:
    """A slot for a whole number; `words` is the share of small ones that are spelled out."""

    def slot(draw: Draw) -> Fact:
        value = draw.rng.randint(low, high)
        spelled = value < len(WORDS) and draw.rng.random() < words
        return WORDS[value] if spelled else str(value), value

    return slot


def pick(pool: Sequence[str]) -> Callable[[Draw], Fact]:
    """A slot for one word of a pool, written as it is."""

    def slot(draw: Draw) -> Fact:
        word = draw.of(pool)
        return word, word

    return slot


def several(pool: Sequence[str], low: int, high: int) -> Callable[[Draw], Fact]:
    """A slot for an array of words."""

    def slot(draw: Draw) -> Fact:
        words = draw.some(pool, low, high)
        return listing(words), words

    return slot
