"""Does a reply state a fact, in any of four languages? Not if it denies, guesses or bounds it."""

import re

from sft_utils.task.rules import plain

_NUMBERS = {
    "2": "two zwei deux dos", "3": "three drei trois tres", "4": "four vier quatre cuatro",
    "5": "five fünf cinq cinco", "6": "six sechs seis", "7": "seven sieben sept siete",
    "8": "eight acht huit ocho", "9": "nine neun neuf nueve", "10": "ten zehn dix diez",
    "11": "eleven elf onze once", "12": "twelve zwölf douze doce",
}  # fmt: skip
"""Small numbers as words: a reply may say "four" for 4."""

_WORDS = {word: digits for digits, words in _NUMBERS.items() for word in words.split()}
_AM = r"(?:\s?a\.\s?m\b\.?|am\b|\s?am(?=\s*(?:[.,;:!?)]|$)))"  # German says "um 14:30 am Freitag"
_PM = r"\s?p\.?\s?m\b\.?"

_BREAK = re.compile(r"[.,;:!?()–—]|\b(?:but|and|aber|sondern|und|mais|et|pero|sino|y)\b")
_DENIED = re.compile(
    r"n['’]t\b|\bn['’]|\b(?:not?|cannot|never|neither|nor|unknown|maybe|perhaps|possibly|probably"
    r"|nicht|kein\w*|nie|niemals|weder|unbekannt|vielleicht|wahrscheinlich|ne|pas|jamais|ni|inconnue?"
    r"|peut-être|probablement|nunca|jamás|tampoco|ning[uú]n\w*|desconocid[oa]|quizás?|tal vez"
    r"|probablemente)\b"
)
_BOUND = re.compile(
    r"\b(?:than|at (?:the )?(?:least|most)|over|under|above|below|up to|almost|nearly|als|über"
    r"|mindestens|höchstens|unter|bis zu|fast|au (?:moins|plus)|(?:plus|moins) de|presque|al menos"
    r"|como (?:mucho|mínimo)|(?:más|menos) de|casi) $"
)
_TIME = (  # what makes of a number a time or a date: "4 à 19h30", "4 – 12 May" are no ranges
    r"\s?(?:[:.]\d|h\d|h\b|heures?\b|uhr\b|o'clock|[ap]\.?m\b|(?:jan|feb|mar|apr|may|jun|jul|aug"
    r"|sep|oct|nov|dec))"
)
_NUMBER = rf"(?:\d+|{'|'.join(' '.join(_NUMBERS.values()).split())})"
_OR = r"(?:or|oder|ou|o|u)"
_ONE_OF_TWO_BEFORE = re.compile(rf"\b{_OR} $|\w/$")
_ONE_OF_TWO_AFTER = re.compile(  # "K281, or maybe K282", "K281/K282"; not "K281 or ask at the desk"
    rf",? {_OR} (?:(?:maybe|perhaps|else) )?(?:\S*\d|{_NUMBER}\b)| ?/ ?\S*\d"
    rf"| {_OR} (?:more|mehr|plus|más)\b"
)
_OTHER_NAME = re.compile(
    rf",? {_OR} (?:mrs?\.? |ms\.? )?[^\W\d]+(?=[.,;:!?)]|$)"
)  # "Novak or Nowak."
_TO = "(?:to|bis|à|a|until|till|[-–—])"
_RANGE_BEFORE = re.compile(rf"(?<![\w:.,])({_NUMBER}) {_TO} $|(?<!\w)(\d+)[–—]$")
_RANGE_AFTER = re.compile(rf" {_TO} ({_NUMBER})\b(?!{_TIME})|[–—](\d+)\b(?!{_TIME})")
_BETWEEN = re.compile(r"\b(?:between|zwischen|entre) (?:\S+ (?:uhr |h )?(?:and|und|et|y) )?$")
_CHANGED = re.compile(r"\b(?:chang|mov|rais|reduc|updat|(?:ge)?änder|cambi)\w*\b[^.!?]*$")
_LARGER_BEFORE = re.compile(  # "twenty four", "treinta y cuatro"
    r"\b(?:twenty|(?:thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|vingts?|trente|quarante"
    r"|cinquante|soixante|cents?|mille|veinte|(?:trei|cuare|cincue|sese|sete|oche|nove)nta"
    r"|cien(?:to)?|\w*cientos|mil) (?:(?:and|et|y) )?$"
)
_LARGER_AFTER = re.compile(  # "four hundred", "4 000"
    r" (?:hundred|thousand|dozen|hundert|tausend|cents?|cientos|mil|mille|milli\w*)\b| \d{3}(?!\d)"
)


def recalled(value: str, reply: str) -> bool:
    """Does a reply state a value, as whole words, in whatever case?

    Small numbers may be words, a time may have another separator. What is denied, guessed, one of
    two, the end of a range or only a part of a larger number is not stated; see `stated`.

    Example:
        >>> recalled("4", "It is for four people."), recalled("4", "At 4:30, room 14.")
        (True, False)
        >>> recalled("4", "Not for 4."), recalled("4", "Four hundred."), recalled("4", "Not 3: 4.")
        (False, False, True)
        >>> recalled("14:30", "Vers 14 h 30."), recalled("K48", "The number is K482.")
        (True, False)
        >>> recalled("10:35", "At 10:35am."), recalled("10:35", "At 10:35 pm.")
        (True, False)
        >>> recalled("K48", "K48 or K49."), recalled("4", "For 4 to 6.")
        (False, False)
    """
    text = " ".join(plain(reply).casefold().split())
    pattern = r"\s+".join(re.escape(word) for word in value.casefold().split())
    if clock := re.fullmatch(r"(\d{1,2}):(\d\d)", value):
        hour, minute = clock.groups()
        right, wrong = (_AM, _PM) if int(hour) < 12 else (_PM, _AM)
        tail = "" if int(hour) > 12 else f"(?:{right})?"
        pattern = rf"{hour}\s?(?:[:.]|h|uhr)\s?{minute}{tail}(?!{wrong})"
        if int(hour) > 12:
            pattern += rf"|{int(hour) - 12}[:.]{minute}{_PM}"
    pattern = "|".join([f"(?:{pattern})", *_NUMBERS.get(value, "").split()])
    found = re.finditer(rf"(?<![\w:.,-])(?:{pattern})(?![\w-]|[:.,]\d)", text)
    number = value.isdigit()
    return any(stated(text[: m.start()], m[0], text[m.end() :], number=number) for m in found)


def stated(before: str, value: str, after: str, *, number: bool = False) -> bool:
    """Does a text say a value where it stands, in any of the four languages?

    Not if a word before it in its clause denies it or makes it a guess, or it is one of two; nor,
    for a number, if a bound stands right before it, or it is a part of a larger one or an end of a
    range. Else words behind a value are not read.

    Args:
        before: The text up to the value, case folded, with single blanks.
        value: As it stands there.
        after: The rest.
        number: It counts something.
    Example:
        >>> stated("no problem, it is for ", "4", "."), stated("it isn't for ", "4", ".")
        (True, False)
        >>> stated("für mehr als ", "4", ".", number=True), stated("", "4", " cent", number=True)
        (False, False)
    """
    if _DENIED.search(_BREAK.split(before)[-1]):
        return False
    other = _ONE_OF_TWO_AFTER if re.search(r"\d", value) or number else _OTHER_NAME
    if _ONE_OF_TWO_BEFORE.search(before) or other.match(after) or _BETWEEN.search(before):
        return False
    if not number:
        return True
    grouped = re.fullmatch(r"\d{3}", value) and re.search(r"(?<!\w)\d{1,3} $", before)  # "1 252"
    larger = grouped or _LARGER_BEFORE.search(before) or _LARGER_AFTER.match(after)
    return not (larger or _BOUND.search(before) or _ranged(before, value, after))


def _ranged(before: str, value: str, after: str) -> bool:
    """Is a number one end of a range, as 10 in "10 to 12"? What was "changed from 3 to 4" is 4."""
    here = _worth(value)
    if start := _RANGE_BEFORE.search(before):
        return _worth(start[1] or start[2]) < here and not _CHANGED.search(before)
    end = _RANGE_AFTER.match(after)
    return bool(end) and _worth(end[1] or end[2]) > here


def _worth(text: str) -> int:
    """A number in digits or as a small word."""
    return int(text) if text.isdigit() else int(_WORDS[text])
