"""Random facts of one support mail, each with the way a person writes it.

The word lists are in phrases/words.toml. Everything draws from the `random.Random` that is passed
in, so a seed gives the same facts on every machine.
"""

import datetime as dt
import tomllib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

PHRASES = Path(__file__).resolve().parent / "phrases"
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August")
MONTHS += ("September", "October", "November", "December")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
REAL_NAMES = frozenset(("Lumix", "Sonos", "Vitara", "Miele", "Nova", "Volvo", "Nokia", "Nivea"))
FIRST_DAY = dt.date(2026, 1, 5)


def load_phrases(name: str) -> dict[str, Any]:
    """Read phrases/<name>.toml."""
    return tomllib.loads((PHRASES / f"{name}.toml").read_text(encoding="utf-8"))


def _lists(table: dict[str, Any]) -> dict[str, Any]:
    """Split every comma-separated string of a table."""
    return {
        key: _lists(value) if isinstance(value, dict) else _items(value)
        for key, value in table.items()
    }


def _items(value: str | list[int]) -> list[Any]:
    return value.split(", ") if isinstance(value, str) else value


WORDS = _lists(load_phrases("words"))
PEOPLE = list(WORDS["people"].values())
FAMILIES: dict[str, dict[str, list[Any]]] = WORDS["family"]
MISC: dict[str, list[str]] = WORDS["misc"]
GOODS = [name for name in FAMILIES if name not in ("digital", "contract", "booking")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """A sum as written and as labelled."""

    text: str
    value: int | float  # int when the mail writes no decimals
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A calendar date as written and as labelled."""

    text: str
    iso: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A name as written in the text, and the two formal ways to address its bearer."""

    name: str
    title: str  # "", "Dr ", "Mrs "…: not part of the label


def pick_person(rng: Random) -> Person:
    """Draw a customer: full name mostly; else first name, initials, a middle initial, a title."""
    group = rng.choice(PEOPLE)
    first, last = rng.choice(group["first"]), rng.choice(group["last"])
    if rng.random() < 0.2:  # families move
        last = rng.choice(rng.choice(PEOPLE)["last"])
    kind = rng.random()
    if kind < 0.66:
        return Person(name=f"{first} {last}", title="Dr " if rng.random() < 0.06 else "")
    if kind < 0.80:
        return Person(name=first, title="")
    if kind < 0.90:
        return Person(name=f"{first[0]}. {last}", title="")
    if kind < 0.94:
        return Person(name=f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}", title="")
    if kind < 0.97:
        return Person(name=last, title=rng.choice(("Mr ", "Mrs ", "Ms ", "Dr ", "Prof. ")))
    return Person(name=f"{first} {last}-{rng.choice(group['last'])}", title="")


def pick_product_name(rng: Random, family: str) -> str:
    """Compose a brand-like product name that suits a family of goods or services."""
    lists = WORDS["product"]
    if rng.random() < 0.55:
        stem = rng.choice(lists["stems"])
    else:
        middle = rng.choice(lists["middles"]) if rng.random() < 0.75 else ""
        stem = rng.choice(lists["heads"]) + middle + rng.choice(lists["tails"])
        if len(stem) < 4 or stem in REAL_NAMES:
            stem += rng.choice(("lo", "rin", "va", "mar"))
    word = rng.choice(FAMILIES[family]["words"])
    tier, letters = rng.choice(lists["tiers"]), rng.choice(lists["letters"])
    number = rng.choice(("2", "3", "4", "5", "7", "8", "9", "10", "12", "20", "30", "40", "45"))
    large = rng.choice(("50", "60", "75", "80", "90", "100", "200", "220", "300", "500", "1200"))
    if family in ("digital", "contract", "booking"):
        forms = [
            f"{stem} {tier}",
            f"{stem} {word}",
            f"{stem}{word.lower()}",
            stem,
            f"{stem} {tier}",
        ]
        forms += [f"{word} & {stem}", f"{word} {tier} {letters[0]}", f"{stem} {large}"]
        forms += [f"{stem} {number}", f"{stem}{word} {tier}", f"{stem} {word} {tier}"]
    else:
        forms = [
            f"{stem} {word}",
            f"{stem} {number}",
            f"{stem} {letters}{number}",
            f"{stem} {tier}",
        ]
        forms += [f"{stem} {letters}-{large}", f"{stem}-{number}", f"{stem} {word} {number}"]
        forms += [f"{stem} {large}", f"{stem}{word.lower()} {number}", stem, f"{stem} {number}"]
        forms += [
            f"{stem} {word} {tier}",
            f"{letters}-{stem} {number}",
            f"{stem} {large}{letters[0]}",
        ]
        forms += [f"{stem} {tier} {number}", f"{stem}{word.lower()}"]
    return rng.choice(forms)


ORDER_SHAPES = (
    "AA-#####",
    "#######",
    "AAA-2026-###",
    "A####",
    "##-####-A",
    "AAA-###",
    "######",
    "AA####",
    "AA-2026-####",
    "####-AA",
    "#-#####-A",
    "##-######",
    "AA-##-####",
    "A-#####",
    "####-###",
    "AA######",
    "###-###-##",
    "AAA######",
    "########",
    "##-AA-###",
    "#####-A",
    "2026-##-###",
)
ID_LETTERS = "ABCDEFGHJKLMNPRSTVWXZ"


def pick_order_id(rng: Random) -> str:
    """Draw an order, invoice, contract or booking number in one of 22 shapes."""
    shape = rng.choice(ORDER_SHAPES)
    if shape.startswith("AAA-"):
        shape = rng.choice(("ORD-", "INV-", "RE-", "AAA-")) + shape[4:]
    # digits and letters are filled in; the year and the fixed prefixes stay
    year = "2026" if "2026" in shape else "\0"
    filled = [
        str(rng.randrange(1 if n == 0 else 0, 10))
        if c == "#"
        else rng.choice(ID_LETTERS)
        if c == "A"
        else c
        for n, c in enumerate(shape.replace(year, "\0"))
    ]
    return "".join(filled).replace("\0", year)


CURRENCIES = ("EUR",) * 9 + ("USD",) * 6 + ("GBP",) * 5 + ("CHF",) * 3
MONEY_FORMS = {
    currency: forms.split("|")
    for currency, forms in {
        "EUR": "{p} €|{c} €|{c} €|€{p}|EUR {p}|{c} EUR|{i} euros|€{i}|EUR {i}|{i} €|{i},- €"
        "|{p} euros|{e} EUR|{p} EUR|€ {p}",
        "USD": "${p}|${p}|${i}|{i} dollars|USD {s}|USD {i}|{p} USD|US$ {p}|{p} dollars|${s}",
        "GBP": "£{p}|£{p}|£{i}|{i} quid|{i} pounds|GBP {p}|{p} GBP|£{s}",
        "CHF": "CHF {i}.-|CHF {p}|{p} CHF|{i} francs|CHF {a}|CHF {i}",
    }.items()
}


def pick_money(rng: Random, low: float, high: float, currency: str) -> Money:
    """Draw a sum between two bounds (whole units) and one of its written forms."""
    whole = max(2, round(low * (high / low) ** rng.random()))
    if whole > 200 and rng.random() < 0.6:
        whole = whole // 10 * 10 + 9
    cents = rng.choice((0, 0, 50, 90, 90, 95, 99, 99, 80, 40, 49, rng.randrange(1, 100)))
    form = rng.choice(MONEY_FORMS[currency])
    if whole >= 1000 and rng.random() < 0.5 and currency == "EUR":
        form = "{e} EUR"
    value = whole + cents / 100
    if "{i}" in form:
        value, cents = whole, 0
    plain = f"{value:,.2f}" if rng.random() < 0.5 else f"{value:.2f}"
    dotted = f"{value:,.2f}".translate(str.maketrans(",.", ".,"))
    text = form.format(
        p=plain,
        c=f"{value:.2f}".replace(".", ","),
        i=f"{whole:,}" if whole >= 1000 and currency in ("USD", "GBP") else str(whole),
        s=f"{value:.2f}".rstrip("0").rstrip(".") if cents % 10 == 0 and cents else f"{value:.2f}",
        e=dotted,
        a=f"{value:,.2f}".replace(",", "'"),
    )
    return Money(text=text, value=whole if "{i}" in form else round(value, 2), currency=currency)


def _ordinal(day: int) -> str:
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def pick_day(rng: Random) -> Day:
    """Draw a date of January to September 2026 (sometimes late 2025) and one of its forms."""
    date = FIRST_DAY + dt.timedelta(days=rng.randrange(265))
    past = rng.random() < 0.05
    if past:
        date = date.replace(year=2025, month=10 + date.month % 3, day=min(date.day, 28))
    day, month, year = date.day, MONTHS[date.month - 1], date.year
    with_year = [f"{day} {month} {year}", f"{month[:3]} {day}, {year}", date.isoformat()]
    with_year += [f"{month} {day}, {year}", f"{day:02}.{date.month:02}.{year}", date.isoformat()]
    with_year += [f"{_ordinal(day)} {month} {year}", f"{day}.{date.month}.{year}"]
    if day > 12:
        with_year += [f"{day}/{date.month:02}/{year}", f"{date.month:02}/{day}/{year}"]
    short = [f"{day} {month}", f"{day} {month}", f"{month} {day}", f"{month} {_ordinal(day)}"]
    short += [f"the {_ordinal(day)} of {month}", f"{day}.{date.month}.", f"{_ordinal(day)} {month}"]
    short += [f"{_ordinal(day)} of {month}", f"{day} {month[:3]}", f"{day:02}.{date.month:02}."]
    short += [f"{month[:3]} {day}", f"{DAYS[date.weekday()]}, {day} {month}"]
    forms = with_year if past or rng.random() < 0.38 else short
    return Day(text=rng.choice(forms), iso=date.isoformat())
