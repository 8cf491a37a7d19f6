"""The word lists of phrases/words.toml, and the invented people and products made from them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from draw import pick

PHRASES = Path(__file__).resolve().parent / "phrases"
REAL_NAMES = frozenset(("Lumix", "Sonos", "Vitara", "Miele", "Nova", "Volvo", "Nokia", "Nivea"))


def load_phrases(name: str) -> dict[str, Any]:
    """Read phrases/<name>.toml; lists become tuples."""
    return _frozen(tomllib.loads((PHRASES / f"{name}.toml").read_text(encoding="utf-8")))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _lists(table: dict[str, Any]) -> dict[str, Any]:
    """Split every comma-separated string of a table."""
    return {
        key: _lists(value) if isinstance(value, dict) else _items(value)
        for key, value in table.items()
    }


def _items(value: str | tuple[int, ...]) -> Any:
    return value.split(", ") if isinstance(value, str) else value


WORDS = _lists(load_phrases("words"))
PEOPLE = list(WORDS["people"].values())
FAMILIES: dict[str, dict[str, list[Any]]] = WORDS["family"]
MISC: dict[str, list[str]] = WORDS["misc"]
GOODS = [name for name in FAMILIES if name not in ("digital", "contract", "booking")]
SMALL_NUMBERS = ("2", "3", "4", "5", "7", "8", "9", "10", "12", "20", "30", "40", "45")
LARGE_NUMBERS = ("50", "60", "75", "80", "90", "100", "200", "220", "300", "500", "1200")
GOODS_NAMES = [
    "{stem} {word}",
    "{stem} {number}",
    "{stem} {letters}{number}",
    "{stem} {tier}",
    "{stem} {letters}-{large}",
    "{stem}-{number}",
    "{stem} {word} {number}",
    "{stem} {large}",
    "{stem}{low} {number}",
    "{stem}",
    "{stem} {number}",
    "{stem} {word} {tier}",
    "{letters}-{stem} {number}",
    "{stem} {large}{letter}",
    "{stem} {tier} {number}",
    "{stem}{low}",
]
SERVICE_NAMES = [
    "{stem} {tier}",
    "{stem} {word}",
    "{stem}{low}",
    "{stem}",
    "{stem} {tier}",
    "{word} & {stem}",
    "{word} {tier} {letter}",
    "{stem} {large}",
    "{stem} {number}",
    "{stem}{word} {tier}",
    "{stem} {word} {tier}",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A name as written in the text, and the two formal ways to address its bearer."""

    name: str
    title: str  # "", "Dr ", "Mrs "…: not part of the label


def pick_person(rng: Random) -> Person:
    """Draw a customer: full name mostly; else first name, initials, a middle initial, a title."""
    group = pick(rng, PEOPLE)
    first, last = pick(rng, group["first"]), pick(rng, group["last"])
    if rng.random() < 0.2:  # families move
        last = pick(rng, pick(rng, PEOPLE)["last"])
    kind = rng.random()
    if kind < 0.66:
        return Person(name=f"{first} {last}", title="Dr " if rng.random() < 0.06 else "")
    if kind < 0.80:
        return Person(name=first, title="")
    if kind < 0.90:
        return Person(name=f"{first[0]}. {last}", title="")
    if kind < 0.94:
        return Person(name=f"{first} {pick(rng, 'ABCDEFGHJKLMNPRSTW')}. {last}", title="")
    if kind < 0.97:
        return Person(name=last, title=pick(rng, ("Mr ", "Mrs ", "Ms ", "Dr ", "Prof. ")))
    return Person(name=f"{first} {last}-{pick(rng, group['last'])}", title="")


def pick_product_name(rng: Random, family: str) -> str:
    """Compose a brand-like product name that suits a family of goods or services."""
    lists = WORDS["product"]
    if rng.random() < 0.55:
        stem = pick(rng, lists["stems"])
    else:
        middle = pick(rng, lists["middles"]) if rng.random() < 0.75 else ""
        stem = pick(rng, lists["heads"]) + middle + pick(rng, lists["tails"])
        if len(stem) < 4 or stem in REAL_NAMES:
            stem += pick(rng, ("lo", "rin", "va", "mar"))
    word = pick(rng, FAMILIES[family]["words"])
    letters = pick(rng, lists["letters"])
    return pick(rng, GOODS_NAMES if family in GOODS else SERVICE_NAMES).format(
        stem=stem,
        word=word,
        low=word.lower(),
        tier=pick(rng, lists["tiers"]),
        letters=letters,
        letter=letters[0],
        number=pick(rng, SMALL_NUMBERS),
        large=pick(rng, LARGE_NUMBERS),
    )
