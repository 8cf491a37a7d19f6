"""Personal data in mails: found by form *and* by check digits, so that order numbers survive."""

import re

from sft_utils.data.rows import Row

# icon@2x.png is a file: no top-level domain is called like a picture or a document.
_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
    r"\.(?!(?:png|jpe?g|gif|svg|webp|bmp|tiff?|heic|pdf|docx|xlsx|csv|txt)\b)[a-z]{2,}\b",
    re.IGNORECASE,
)
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{2,4}){3,8}(?: ?[A-Za-z0-9])?\b")
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 "
        "DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 "
        "IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 "
        "MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
        "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
"""Countries of the SWIFT registry and how long their IBANs are."""
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
# Brand prefix and length of card numbers; a random number has them in about one of six cases.
_BRANDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|"
    r"6(?:011|5\d\d|4[4-9]\d)\d{12,15}|(?:50|5[6-9]|6\d)\d{10,17}"
)
# Card numbers as they are printed. Behind one stands its expiry, its security code, or both.
_PRINTED = re.compile(
    r"\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}"
)
_BEHIND_CARD = re.compile(
    r"[ -](?:(?:0[1-9]|1[0-2]) ?[/-]? ?(?:20)?\d\d(?:[ -]\d{3,4})?|\d{3,4})(?![\w-])"
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
# Right before a number these name it; elsewhere they are common words ("in case of questions").
_WHAT_NUMBER = r"[ .-]{0,2}(?:number|num|no|nr|id|code)"
_NAMED = re.compile(
    r"\b(?:(?:article|art(?=\.)|part|item|(?<!in )(?<!any )case|claim|receipt|inv|p\.?o|batch|lot|"
    r"rma|quote|voucher|product|lat|latitude|lon|lng|longitude|(?-i:bill))"
    rf"s?(?:{_WHAT_NUMBER})?|(?:bill|file|delivery|return|job|document|transaction|payment)"
    rf"{_WHAT_NUMBER})[.:]{{0,2}} {{0,2}}\(?$",
    re.IGNORECASE,
)
_DEGREES = r"[+-]?(?:0|[1-9]\d{0,2})\.\d{4,15}"
_COORDINATES = re.compile(rf"(?<![\w.,+-]){_DEGREES}°?(?: ?[,;/] ?| ){_DEGREES}(?!\w|\.\d)")
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
        >>> iban_ok("gb82west12345698765432")
        True
    """
    if not 15 <= len(text) <= 34:
        return False
    turned = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _iban_form(parts: list[str]) -> bool:
    """True if an IBAN of its country has this length, and this many digits.

    One of 97 texts has right check digits by chance: small letters must be grouped by four.
    """
    whole = "".join(parts)
    length = _IBAN_LENGTHS.get(whole[:2].upper())
    fits = len(whole) == length if length else whole.isupper()
    grouped = whole.isupper() or all(len(part) == 4 for part in parts[:-1])
    return fits and grouped and 2 * sum(map(str.isdigit, whole)) >= len(whole)


def _iban_in(text: str) -> str | None:
    """An IBAN; the form may swallow following words, so shorter ends are tried too."""
    for match in _IBAN.finditer(text):
        parts = match[0].split(" ")
        for end in range(len(parts), 0, -1):
            if _iban_form(parts[:end]) and iban_ok("".join(parts[:end])):
                return " ".join(parts[:end])
    return None


def _card_ok(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return _BRANDS.fullmatch(digits) is not None and luhn(digits)


def _card_in(text: str) -> str | None:
    """A card number; the form may swallow an expiry date or a security code behind it."""
    for match in _CARD.finditer(text):
        if _card_ok(match[0]):
            return match[0]
        for mark in re.finditer("[ -]", match[0]):
            number = match[0][: mark.start()]
            behind = _BEHIND_CARD.match(text, match.start() + mark.start())
            if behind and _PRINTED.fullmatch(number) and _card_ok(number):
                return number
    return None


def _phone_in(text: str) -> str | None:
    text = _COORDINATES.sub(" ", text)
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
            if pattern is not _CUED and _NAMED.search(before):
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
