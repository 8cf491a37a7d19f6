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
_ON = re.compile(
    rf"(?:{_S}[-+*/]|\s*[/=])\s*[$€£(]?\.?\d"
)  # a calculation that goes on behind a result
_LEFT = re.compile(r"[\d)%](?:(?:[^\S\n]|\*)*[A-Za-z€]+){0,2}[\s*]*$")
_RIGHT = re.compile(r"[\s*]*[-$€£(]*\.?\d")
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
        percent = self.text.endswith("%") and self.value * 100 == self.stated
        return self.value == self.stated or percent


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
    return re.sub(r"(?<=\d) x (?=\d)", " * ", text.replace("**", "  "))


def unread(text: str, found: Sequence[Equation]) -> str:
    """The first calculation that `equations` did not read, empty if there is none.

    Brackets, powers, "= 8 = 9" and "= 48 - 3" are calculations, but not of the form that is
    recomputed: a trace with one is not known to be right.

    Example:
        >>> [unread(t, equations(t)) for t in ("(5 + 3) * 8 = 90.", "4 * 12 = 48, x = 2.")]
        ['(5 + 3) * 8 = 90.', '']
    """
    text = _plain(text)
    spans = [(e.start, e.stated_at[1]) for e in found]
    starts = {e.start for e in found}
    for sign in re.finditer("=", text):
        at = sign.start()
        if any(a <= at < b for a, b in spans):
            continue
        if _LEFT.search(text[max(0, at - 60) : at]) and _RIGHT.match(text, at + 1):
            return text[max(0, at - 20) : at + 20].strip()
    for e in found:
        if e.stated_at[0] not in starts and _ON.match(text, e.stated_at[1]):
            return text[e.start : e.stated_at[1] + 10].strip()
    return ""


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
