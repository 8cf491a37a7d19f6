"""Order numbers, sums and dates: random values, each in one of the ways people write it."""

import datetime as dt
from dataclasses import dataclass
from random import Random

from draw import pick

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August")
MONTHS += ("September", "October", "November", "December")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST_DAY = dt.date(2026, 1, 5)
DATES_WITH_YEAR = [
    "{d} {month} {y}",
    "{mon} {d}, {y}",
    "{y}-{mm}-{dd}",
    "{month} {d}, {y}",
    "{dd}.{mm}.{y}",
    "{y}-{mm}-{dd}",
    "{nth} {month} {y}",
    "{d}.{m}.{y}",
]
SLASH_DATES = ["{d}/{mm}/{y}", "{mm}/{d}/{y}"]  # only for days above 12, which are unambiguous
SHORT_DATES = [
    "{d} {month}",
    "{d} {month}",
    "{month} {d}",
    "{month} {nth}",
    "the {nth} of {month}",
    "{d}.{m}.",
    "{nth} {month}",
    "{nth} of {month}",
    "{d} {mon}",
    "{dd}.{mm}.",
    "{mon} {d}",
    "{weekday}, {d} {month}",
]


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
    shape = pick(rng, ORDER_SHAPES)
    if shape.startswith("AAA-"):
        shape = pick(rng, ("ORD-", "INV-", "RE-", "AAA-")) + shape[4:]
    # digits and letters are filled in; the year and the fixed prefixes stay
    year = "2026" if "2026" in shape else "\0"
    filled = [
        str(rng.randrange(1 if n == 0 else 0, 10))
        if c == "#"
        else pick(rng, ID_LETTERS)
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
    cents = pick(rng, (0, 0, 50, 90, 90, 95, 99, 99, 80, 40, 49, rng.randrange(1, 100)))
    form = pick(rng, MONEY_FORMS[currency])
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
    forms = SHORT_DATES
    if past or rng.random() < 0.38:
        forms = DATES_WITH_YEAR + (SLASH_DATES if date.day > 12 else [])
    text = pick(rng, forms).format(
        d=date.day,
        dd=f"{date.day:02}",
        nth=_ordinal(date.day),
        m=date.month,
        mm=f"{date.month:02}",
        mon=MONTHS[date.month - 1][:3],
        month=MONTHS[date.month - 1],
        y=date.year,
        weekday=DAYS[date.weekday()],
    )
    return Day(text=text, iso=date.isoformat())
