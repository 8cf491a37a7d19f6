"""Equations of a text: read every "a op b = c", recompute it, and name what cannot be read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

N = r"[$€£]?(?:\d{1,300}(?:,\d{3}){0,99}(?:\.\d{1,300})?|\.\d{1,300})%?"
_S = r"[^\S\n]*"  # a calculation ends with its line: the next may begin with the dash of a list
_UNIT = rf"(?:{_S}[A-Za-z€]+){{0,2}}"
OP = rf"{_S}[-+*/]\s*"
_EQUATION = re.compile(
    rf"(?<![\d.])(?:(?<![\w)%])-)?{N}(?:{_UNIT}{OP}{N}){{1,9}}{_UNIT}\s*=\s*(-?{N})"
)
_TOKEN = re.compile(rf"{N}|[-+*/]")
_ON = re.compile(  # a calculation, a power or a fraction that goes on behind a result
    rf"(?:{_S}[-+*/^]|\s*[/=])\s*[$€£({{]?\.?\d|[²³]|[eE][-+]?\d|[^\S\n]+\d+/\d"
)
_LEFT = re.compile(r"[\d)%](?:(?:[^\S\n]|\*)*[A-Za-z€]+){0,2}[\s*]*$")
_RIGHT = re.compile(r"[\s*]*[-$€£(]*\.?\d")
_SIGN = re.compile(  # of an operation; not the dash of "3-day" or the stroke of "km/h"
    r"[+*^√]|(?<!\S)[-/]|[-/](?![^\W\d_])|\\(?:div|over)\b"
    r"|\s[xX](?=\s?[$€£]?\.?\d)|\b(?:times|plus|minus|divided|multiplied)\b"
)
_ALONE = re.compile(r"(?:√|\\(?:[dt]?frac|sqrt))[^=\n]*\d|[\d)][²³]")
_CUT = re.compile(  # before an equation: what makes it the end of a longer calculation
    r"(?:[^\W\d_]|[²³√^)\]}]|\\sqrt\s?|\d,|[\d²³][^\S\n]+"
    r"|(?:[\w%)\]}!²³]|\d\.)[^\S\n]*[+*/^][\s($€£]*"
    r"|(?:[\d%)\]}!²³]|\b[a-z]|\d[^=\n.:;]*\w)[^\S\n]*-[\s($€£]*"
    r"|\d[^=\n.:;]*\b(?:times|plus|minus|(?:divided|multiplied) by|[xX])[^\S\n]+)$"
)
_WORD_OP = r"(?:times|plus|minus|(?:divided|multiplied)\sby)\b"
_APART = rf"(?:{_S}[+*]|[^\S\n]+[-/](?=\s)|[^\S\n]+{_WORD_OP})\s*"
_TOLD = re.compile(  # a result behind another word or sign than "="; not "1/2 is 6" or "3-5 are"
    rf"(?<![\w.,]){N}{_UNIT}(?:"
    rf"(?:{OP}{N}{_UNIT}){{1,9}}{_S}(?:[≈≃≅≠→⇒<>≤≥]|[-=]>)"
    rf"|(?:{_APART}{N}{_UNIT}){{1,9}}(?:{_S}:|,?[^\S\n]+(?:(?:which|that|it|this)[^\S\n]+)?"
    rf"(?:is|are|was|makes?|gives?|equals?|yields?|leaves?|becomes?|comes\sto|results\sin)\b))"
    rf"{_S}(?:(?:about|only|exactly|just|equal\sto|nearly)[^\S\n]+)?\**-?{N}(?![\d.,]*\d)"
    rf"(?!{_UNIT}{_S}[-+*/]{_S}\d)",
)
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


@dataclass(frozen=True, slots=True)
class Equation:
    """One "a op b = c" of a text."""

    text: str
    operands: tuple[Fraction, ...]
    value: Fraction | None  # what the left side really is; None: division by zero
    stated: Fraction  # what the text says
    start: int  # in the text
    stated_at: tuple[int, int]  # span of the stated result

    @property
    def right(self) -> bool:
        """The stated result is the real one; 5 / 25 may be stated as 20%."""
        if self.value is None:
            return False
        percent = self.text.find("%") == len(self.text) - 1  # at its end and nowhere before
        return self.value == self.stated or (percent and self.value * 100 == self.stated)


def number(text: str) -> Fraction:
    """A plain number as it stands in an equation; percent signs and currencies do not count."""
    return Fraction(text.strip("$€£%").replace(",", ""))


def equations(text: str) -> list[Equation]:
    """Every "a op b = c" of a text, chains and other signs for times and minus included.

    Example:
        >>> [(e.text, e.right) for e in equations("4 × 12 = 48, and 48 + 37 = 75.")]
        [('4 * 12 = 48', True), ('48 + 37 = 75', False)]
    """
    text = _plain(text)
    found, at = [], 0
    while match := _EQUATION.search(text, at):
        left = match.group(0)[: match.start(1) - match.start()].rstrip().removesuffix("=")
        minus = left.startswith("-")
        tokens = _TOKEN.findall(left.removeprefix("-"))
        first, *others = (number(t) for t in tokens[::2])
        value = value_of(tokens, minus=minus, shares=not match.group(1).endswith("%"))
        if value is not None and match.group(1).endswith("%") and _share_of_share(tokens):
            value = 100 * (value_of(tokens, minus=minus) or 0)
        found.append(Equation(
            match.group(0), (-first if minus else first, *others), value,
            number(match.group(1)) if match.group(1)[0] != "-" else -number(match.group(1)[1:]),
            match.start(), match.span(1),
        ))  # fmt: skip
        at = match.start(1)  # "4 * 12 = 48 + 37 = 85" holds two
    return found


def _plain(text: str) -> str:
    """The text with one sign per operation and without bold type; every place stays where it is."""
    text = text.translate(SIGNS).replace("\\times", " *    ").replace("\\cdot", " *   ")
    text = re.sub(r"(?<=[\d%]) x (?=[$€£]?\.?\d)", " * ", text)
    return re.sub(r"(?<=\d)\*\*(?=\d)", "^ ", text).replace("**", "  ")


def _share_of_share(tokens: Sequence[str]) -> bool:
    """Is a percentage multiplied by another, or divided by? Then 50% * 20% is 10%, not 1000%."""
    shares = tokens[0].endswith("%")
    for op, text in zip(tokens[1::2], tokens[2::2], strict=True):
        percent = text.endswith("%")
        if percent and (op == "/" or (op == "*" and shares)):
            return True
        shares = percent or (shares and op in "*/")
    return False


def unread(text: str, found: Sequence[Equation]) -> str:
    """The first calculation that `equations` did not read, empty if there is none.

    Brackets, powers, roots, "= 8 = 9", "= 48 - 3", longer units and "= about 48" are calculations,
    but not of the form that is recomputed: a trace with one is not known to be right. The same
    holds for an equation that is only the end of a longer one, as "4 + 12 = 16" of "√4 + 12 = 16",
    and for a result without "=", as in "4 * 12 is 50", "4 * 12: 50" and "4 * 12 → 50". What is told
    in words alone ("half of 12 is 7") is not found.

    Example:
        >>> [unread(t, equations(t)) for t in ("(5 + 3) * 8 = 90.", "4 * 12 = 48, x = 2.")]
        ['(5 + 3) * 8 = 90.', '']
        >>> unread("√4 + 12 = 16.", equations("√4 + 12 = 16."))
        '√4 + 12 = 16'
    """
    text = _plain(text)
    read = list(found)
    begin = 0  # where the calculation before the next "=" may begin: behind a result or a line
    for sign in re.finditer(r"=|\n", text):
        at = sign.start()
        while read and read[0].stated_at[1] <= at:
            begin = max(begin, read.pop(0).stated_at[0])
        if sign[0] == "\n":
            begin = at + 1
            continue
        inside = bool(read) and read[0].start <= at
        if not inside and (_calculates(text[begin:at]) or (
            _LEFT.search(text[max(0, at - 60) : at]) and _RIGHT.match(text, at + 1)
        )):  # fmt: skip
            return text[max(0, at - 20) : at + 20].strip()
        begin = at + 1
    starts, ends = {e.start for e in found}, {e.stated_at[1] for e in found}
    for e in found:
        before = text[max(0, e.start - 80) : e.start].rpartition("\n")[2]
        cut = _CUT.search(before)
        apart = e.start - 1 in ends and before.endswith(",")  # "4 * 10 = 40,4 * 2 = 8"
        dollars = before[-1:].isalpha() and text[e.start] in "$€£"  # "US$4 * 12"
        if cut and not apart and not dollars:
            return f"{before[-20:]}{e.text}".strip()
        if e.stated_at[0] not in starts and _ON.match(text, e.stated_at[1]):
            return text[e.start : e.stated_at[1] + 10].strip()
    told = next((m for m in _TOLD.finditer(text) if m.start() not in ends), None)
    return told[0] if told else ""


def _calculates(text: str) -> bool:
    """Do a sign and a number follow a number, or is there a root, a fraction or a square?"""
    digits = [i for i, c in enumerate(text) if c.isdecimal()]
    if not digits:
        return False
    return bool(_ALONE.search(text) or _SIGN.search(text, digits[0], digits[-1] + 1))


def value_of(tokens: Sequence[str], *, minus: bool = False, shares: bool = True) -> Fraction | None:
    """Left to right, products before sums.

    Args:
        tokens: Numbers and signs in turn.
        minus: The first number is negative.
        shares: 20% counts as 0.2; not where the result is in percent too.
    """

    def read(text: str) -> Fraction:
        return number(text) / 100 if shares and text.endswith("%") else number(text)

    total, sign, term = Fraction(0), 1, -read(tokens[0]) if minus else read(tokens[0])
    for op, text in zip(tokens[1::2], tokens[2::2], strict=True):
        value = read(text)
        if op == "*":
            term *= value
        elif op == "/":
            if not value:
                return None
            term /= value
        else:
            total, sign, term = total + sign * term, (1 if op == "+" else -1), value
    return total + sign * term
