"""Is what a ticket claims in its mail? Values are compared as a careful reader would."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
]  # fmt: skip
_MONTH = (
    "(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_ORDINAL = r"(?:st|nd|rd|th)?"
_END = r"(?![\w-])"  # the number ends here: 28.08. 17-EG-985 has no year
# Day and month in every order a mail writes them; a year may be missing.
DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<!\d)(?P<year>\d{{4}})-(?P<m>\d{{1,2}})-(?P<d>\d{{1,2}}){_END}",
        r"(?<![\w/.])(?P<year>\d{4})(?P<mark>[/.])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})(?![\w/-]|\.\d)",
        rf"(?<![\d.])(?P<d>\d{{1,2}})\. ?(?P<m>\d{{1,2}})"
        rf"(?:(?:\. ?(?P<year>\d{{4}})|\.(?P<short>\d\d)){_END}|\.?(?!\d))",
        r"(?<![\d/])(?P<d>\d{1,2})/(?P<m>\d{1,2})(?:/(?P<year>\d{4}|\d\d))?(?![\d/])",
        rf"(?<![\d-])(?P<d>\d{{1,2}})-(?P<m>\d{{1,2}})-(?P<year>\d{{4}}){_END}",
        rf"(?<!\d)(?P<d>\d{{1,2}}){_ORDINAL}\.?[ -]?(?:of )?{_MONTH}\b"
        rf"(?:,?[ -]?(?P<year>\d{{4}}){_END})?",
        rf"\b{_MONTH}\b\.?[ -]?(?:the )?(?P<d>\d{{1,2}}){_ORDINAL}(?!\d)"
        rf"(?:,? (?P<year>\d{{4}}){_END})?",
    )
]
# A word next to a day, in case it is a month with a typing error; likewise next to a sum.
_NEAR_MONTH = re.compile(
    rf"(?<!\d)(?P<d>\d{{1,2}}){_ORDINAL} (?:of )?(?P<word>[a-z]{{4,10}})\b"
    rf"|\b(?P<word2>[a-z]{{4,10}}) (?=(?P<d2>\d{{1,2}}){_ORDINAL}(?!\d))",
    re.IGNORECASE,
)
_NEAR_MONEY = re.compile(r"\d ?([a-z]{4,8})\b", re.IGNORECASE)

# What may group thousands: also the no-break, thin and narrow no-break space of typeset sums.
_MARKS = "'’ \u00a0\u2009\u202f"
NUMBER = re.compile(
    rf"(?<![\w.,])(?<![A-Z]-)(?:[A-Z]{{3}}|[€$£]|Fr\.)?(\d[\d.,{_MARKS}]*)", re.IGNORECASE
)
_GROUP = re.compile(rf"(?<=\d)[{_MARKS}](?=\d{{3}}(?!\d))")
_SMALL = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
]  # fmt: skip
_LARGE = (
    "(?:ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty|forty|fifty|"
    "sixty|seventy|eighty|ninety|hundred|thousand|million)"
)
# "five pounds"; not the five of "twenty-five pounds", "two point five pounds" or "five pounds
# fifty", nor the one of "the blue one £20".
_IN_WORDS = re.compile(
    rf"(?<![\w-])(?P<more>(?:{_LARGE}|point)(?:\s+and\b)?[\s‐‑–-]+)?(?P<word>{'|'.join(_SMALL)})\s+"
    r"(?:(?:(?:US\s+|British\s+|Swiss\s+)?(?:euros?|dollars?|bucks?|pounds?|quid|francs?)\b)"
    r"|(?:(?:eur|usd|gbp|chf)\b|[€$£]|fr\.)(?!\s?\d))"
    rf"(?!\s+(?:and\s+)?(?:{_LARGE}\b|\d\d(?!\d)|\w+\s?(?:cents?|pence|penny|p|rappen)\b))",
    re.IGNORECASE,
)

SIGNS = {"EUR": "€", "USD": "$", "GBP": "£", "CHF": "CHF"}
SYMBOLS = {
    "EUR": re.compile(r"€|\beur(?:os?)?\b|\d ?eur", re.IGNORECASE),
    "USD": re.compile(r"\$|\busd|dollars?\b|\bbucks?\b|\d ?usd", re.IGNORECASE),
    "GBP": re.compile(r"£|\bgbp|\bpounds?\b|\bquid\b|\d ?gbp", re.IGNORECASE),
    "CHF": re.compile(r"chf|\bfrancs?\b|\bfr\.", re.IGNORECASE),
}

MONEY_WORDS = {
    "euro": "EUR", "euros": "EUR", "dollar": "USD", "dollars": "USD", "pound": "GBP",
    "pounds": "GBP", "franc": "CHF", "francs": "CHF",
}  # fmt: skip
TYPO = 0.7
"""difflib similarity of a misspelt word: one or two letters of six."""

DEFAULT_YEAR = 2026
"""The guidelines' year for a date written without one."""


def _month(name: str) -> int:
    return next(n for n, month in enumerate(MONTHS, 1) if month.startswith(name.lower()))


def _misspelt_dates(text: str) -> Iterator[str]:
    """Dates whose month has a typing error; looked for only where no other reading fits."""
    for match in _NEAR_MONTH.finditer(text):
        word, day = match["word"] or match["word2"], match["d"] or match["d2"]
        for month in get_close_matches(word.lower(), MONTHS, n=1, cutoff=TYPO):
            yield f"{DEFAULT_YEAR:04d}-{_month(month):02d}-{int(day):02d}"


def _dates(text: str) -> Iterator[str]:
    for pattern in DATES:
        for match in pattern.finditer(text):
            parts = match.groupdict()
            year = int(parts["year"] or parts.get("short") or DEFAULT_YEAR)
            day = int(parts["d"])
            year += 2000 if year < 100 else 0
            if parts.get("month"):
                readings = [(_month(parts["month"]), day)]
            elif re.match(r"\d{1,2}[/-]", match[0]):  # 5/4 and 5-4-2026 are read both ways
                readings = [(int(parts["m"]), day), (day, int(parts["m"]))]
            else:
                readings = [(int(parts["m"]), day)]
            for month, day in readings:
                if 1 <= month <= 12 and 1 <= day <= 31:
                    yield f"{year:04d}-{month:02d}-{day:02d}"


def dates_in(text: str) -> set[str]:
    """Every calendar date a text may mean, as YYYY-MM-DD.

    A slash or dash date is read both ways; a label is wrong only if no reading gives it.

    Example:
        >>> sorted(dates_in("ordered 3.4., due on May 5th"))
        ['2026-04-03', '2026-05-05']
    """
    return set(_dates(text))


def numbers_in(text: str) -> set[float]:
    """Every number a text may mean: `1.299,00` is 1299.0, and `1.299` is 1.299 or 1299.0.

    Digits inside a word or an order number are not numbers.

    Example:
        >>> sorted(numbers_in("1.299,00 EUR for order KX-48213, £7.50 of it twice"))
        [7.5, 1299.0]
    """
    found: set[float] = set()
    for match in NUMBER.finditer(text):
        # A space may group thousands (1 299 EUR) or part two numbers (135 494,21 EUR): read both.
        for text_read in {match[1], _GROUP.sub("", match[1])}:
            for token in re.split(r"[^\d.,]+", text_read):
                found |= _readings(token.strip(".,"))
    return found


def _worded(text: str) -> set[float]:
    """Sums of one to twelve in words; looked for only where no digits fit, it takes long."""
    words = (match for match in _IN_WORDS.finditer(text) if not match["more"])
    return {_SMALL.index(match["word"].lower()) + 1.0 for match in words}


def _readings(token: str) -> set[float]:
    """Numbers that one run of digits, dots and commas may mean."""
    if not token:
        return set()
    marks = [char for char in token if char in ".,"]
    if not marks:
        return {float(token)}
    whole = token.replace(".", "").replace(",", "")
    head, tail = re.split(r"[.,](?=\d*$)", token)
    readings = set()
    if len(tail) == 3 or marks.count(marks[-1]) > 1:
        readings.add(float(whole))
    if marks.count(marks[-1]) == 1:
        readings.add(float(f"{head.replace('.', '').replace(',', '')}.{tail}"))
    return readings


def _holds(text: str, value: str) -> bool:
    """True if a text holds a value that is no part of a longer word or number."""
    start = text.find(value)
    while start != -1:
        end = start + len(value)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            return True
        start = text.find(value, start + 1)
    return False


_HYPHENS = re.compile("[\u2010\u2011]")
_DASHES = re.compile("[\u2010-\u2013\u2212]")
_SPACES = re.compile("[\u00a0\u2009\u202f]")


def _typed(text: str) -> str:
    """A text as a keyboard writes it: accents composed, every short dash a hyphen."""
    if text.isascii():
        return text
    return _DASHES.sub("-", unicodedata.normalize("NFC", text))


def _flat(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def _name(value: str, mail: str) -> bool:
    value, mail = _typed(value), _typed(mail)
    return _holds(mail, value) or _holds(_flat(mail), _flat(value))


def _order_id(value: str, mail: str) -> bool:
    value, mail = _typed(value), _typed(mail)
    return _holds(mail, value) or _holds(mail.upper(), value)


def _amount(value: float, mail: str) -> bool:
    return any(abs(value - number) < 0.005 for number in numbers_in(mail)) or value in _worded(mail)


def _currency(value: str, mail: str) -> bool:
    if SIGNS[value] in mail or SYMBOLS[value].search(mail):
        return True
    words = [word.lower() for word in _NEAR_MONEY.findall(mail)]
    close = [get_close_matches(word, MONEY_WORDS, n=1, cutoff=TYPO) for word in words]
    return any(MONEY_WORDS[name] == value for names in close for name in names)


def _date(value: str, mail: str) -> bool:
    if not mail.isascii():  # a dash may part two dates, so only what is a hyphen becomes one
        mail = _SPACES.sub(" ", _HYPHENS.sub("-", mail))
    return value in dates_in(mail) or value in _misspelt_dates(mail)


GROUNDED: dict[str, Callable[[Any, str], bool]] = {
    "product": _name,
    "customer": _name,
    "order_id": _order_id,
    "amount": _amount,
    "currency": _currency,
    "date": _date,
}
"""Fields that must be in the mail, each with the comparison a careful reader would make."""


def ungrounded(ticket: dict[str, Any], mail: str) -> str | None:
    """The first field of a valid ticket that its mail does not hold, or None.

    It cannot see a wrong topic, action or urgency, nor a field left null that the mail holds:
    these need a reader.

    Args:
        ticket: A ticket that satisfies the schema.
        mail: The mail it was made from.
    Returns:
        Text such as "order_id 'KX-48312' is not in the mail".
    Example:
        >>> ungrounded({"product": "Ilmo 3", "amount": 20}, "My Ilmo 2 cost 20 euros")
        "product 'Ilmo 3' is not in the mail"
    """
    for field, holds in GROUNDED.items():
        value = ticket.get(field)
        if value is not None and not holds(value, mail):
            return f"{field} {value!r} is not in the mail"
    return None
