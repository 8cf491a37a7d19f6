"""Personal data in mails: found by form *and* by check digits, so that order numbers survive."""

import re

from sft_utils.data import Row

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b", re.IGNORECASE)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b")
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
# Brand prefix and length of card numbers; a random number has them in about one of six cases.
_BRANDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|"
    r"6(?:011|5\d\d|4[4-9]\d)\d{12,15}|(?:50|5[6-9]|6\d)\d{10,17}"
)
_INTERNATIONAL = re.compile(r"(?<![\w+])(?:\+|00)[1-9]\d{0,2}(?:[ ./()-]{0,2}\d){6,12}(?![\w-])")
_NATIONAL = re.compile(
    r"(?<![\w\"-])(?:\(\d{3,5}\) ?|0[1-9]\d{0,3}[ /-])\d{2,4}(?:[ -]?\d{2,4}){1,3}(?![\w-])"
    r"|(?<![\w-])[2-9]\d{2}([-. ])\d{3}\1\d{4}(?![\w-])"
)
_CUED = re.compile(
    r"(?:\b(?:phone|telephone|tel|mobile|cell|whatsapp|landline)\b(?: (?:number|no|nr|is))*"
    r"|\b(?:call|ring|text|reach) (?:me|us)\b(?: (?:on|at|under))?)"
    r"[.:]? {0,2}(?P<number>[+(]?\d[\d ()/-]{5,16}\d)(?![\w-])",
    re.IGNORECASE,
)
_DAY, _HOUR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:[01]\d|2[0-3]) [0-5]\d"
_CALENDAR = re.compile(
    rf"(?:{_DAY}([-/. ]){_DAY}\1(?:19|20)\d\d|(?:19|20)\d\d([-/. ]){_DAY}\2{_DAY})(?: {_HOUR})?"
)
_HOURS = re.compile(rf"{_HOUR} (?:- )?{_HOUR}")
# The last such word before a number says what it is, whatever it looks like.
_CUE = re.compile(
    r"(?P<phone>phone|mobile|whatsapp|landline|\b(?:tel|cell|call|ring|text|reach)\b)|"
    r"\b(?:order|booking|invoice|contract|ticket|customer|tracking|shipment|parcel|serial|"
    r"reference|ref|code|sku|ean|imei|sn|id|card|member|membership|account|meter|policy|model)s?\b|s/n|#",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\n|[.!?] (?=[A-Z])")
_CUE_REACH = 40  # characters: about half a sentence
_DIGITS = re.compile(r"(?:\d[ ()./-]{0,2}){7}")
MIN_PHONE_DIGITS = 7


def luhn(digits: str) -> bool:
    """True if a digit string passes the Luhn check of payment cards (one of ten random ones).

    Example:
        >>> luhn("4242424242424242"), luhn("4242424242424241")
        (True, False)
    """
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_ok(text: str) -> bool:
    """True if a text without spaces passes the IBAN check (ISO 7064 mod 97-10).

    Example:
        >>> iban_ok("GB82WEST12345698765432"), iban_ok("GB83WEST12345698765432")
        (True, False)
    """
    if not 15 <= len(text) <= 34:
        return False
    turned = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _iban_in(text: str) -> str | None:
    """An IBAN; the form may swallow following capital words, so shorter ends are tried too."""
    for match in _IBAN.finditer(text):
        parts = match[0].split(" ")
        for end in range(len(parts), 0, -1):
            if iban_ok("".join(parts[:end])):
                return " ".join(parts[:end])
    return None


def _card_in(text: str) -> str | None:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _BRANDS.fullmatch(digits) and luhn(digits):
            return match[0]
    return None


def _phone_in(text: str) -> str | None:
    for pattern in (_INTERNATIONAL, _CUED, _NATIONAL):
        for match in pattern.finditer(text):
            number = match["number"] if pattern is _CUED else match[0]
            if sum(map(str.isdigit, number)) < MIN_PHONE_DIGITS:
                continue
            if _CALENDAR.fullmatch(number.strip("()")):
                continue
            before = text[max(0, match.start() - _CUE_REACH) : match.start()]
            cues = list(_CUE.finditer(_SENTENCE.split(before)[-1]))
            if not cues and _HOURS.fullmatch(number):
                continue
            if pattern is _CUED or not cues or cues[-1]["phone"]:
                return number
    return None


def mask(found: str) -> str:
    """Evidence that may be shown and stored: the ends of what was found.

    Example:
        >>> mask("4242 4242 4242 4242")
        '42…42'
    """
    return f"{found[:2]}…{found[-2:]}"


def personal_data(row: Row) -> str | None:
    """An e-mail address, IBAN, payment card or phone number; the evidence is masked.

    What it cannot see: names (they are a label of this task), street addresses, birthdays.
    """
    for message in row["messages"]:
        text = message["content"]
        if "@" in text and (match := _EMAIL.search(text)):
            return f"e-mail {mask(match[0])}"
        if found := _iban_in(text):
            return f"IBAN {mask(found)}"
        if _DIGITS.search(text):
            for kind, search in (("card", _card_in), ("phone", _phone_in)):
                if found := search(text):
                    return f"{kind} {mask(found)}"
    return None
