"""The final answer of a text: find it, or say why there is none; compare it with the gold one."""

import ast
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sft_utils.errors import DataError

KINDS = ("number", "text", "value", "output")
"""What an answer is: a number, a word or name, a Python value, or what a program prints."""


@dataclass(frozen=True, slots=True)
class Found:
    """The final answer of a text."""

    text: str | None  # as written, without the frame; None: there is none
    why: str = ""  # "format" or "no stop" if there is none
    start: int = -1  # where the statement begins; what comes before is the trace

    def __bool__(self) -> bool:
        return self.text is not None


_STATED = re.compile(  # bounded, so that a long text cannot make the search slow
    r"(?:\bthe\s{1,3})?(?:\b(?:final|correct)\s{1,3})?\banswer\*{0,2}\s{0,3}(?:is\b\s{0,3}:?|:|=)"
    r"\s{0,3}(\S.{0,300}?)(?=$|\n|\.\s|\.$)", re.I | re.S,
)  # fmt: skip
_HASHES = re.compile(  # other lines are headings
    r"####[ \t]*(?:(?:the[ \t])?(?:final[ \t])?(?:total|result)\*{0,2}:\*{0,2}[ \t]*)?"
    r"((?=[^\w\n]*\d)[^\n]*)",
    re.I,
)
_HEADING = re.compile(  # what follows is the answer if it is short, otherwise an explanation
    r"^#{1,6}[ \t*]*(?:the[ \t])?(?:final[ \t])?answer[ \t*]*\n\s{0,3}"
    r"((?!```)(?=[^\n]*\d|[\w*'\"-]+\.?$)\S[^\n]{0,39})$",
    re.I | re.M,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\\,|\u00a0|\u202f|\u2009|_|')(?=\d{3}(?!\d))")
_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "½": " 1/2", "¼": " 1/4", "¾": " 3/4"})
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s{0,3}[$€£¥₹₩₽₺₱₦₫₴]?\s{0,3}(?P<sign2>-?)"
    r"(?:(?P<whole>\d+)\s+(?P<mn>\d+)\s*/\s*(?P<md>\d+)"
    r"|(?P<num>\d+(?:\.\d+)?|\.\d+)\s*/\s*(?P<den>\d+(?:\.\d+)?)"
    r"|(?P<plain>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3}(?![\w]))?))"
    r"(?P<scale>\s*(?i:hundred|thousand|million|billion|trillion)\b|k\b)?"
    r"\s*(?P<percent>%|percent\b)?"
)
_SCALES = {"hundred": 100, "thousand": 1000, "k": 1000, "million": 10**6, "billion": 10**9,
           "trillion": 10**12}  # fmt: skip
_NOT_DONE = re.compile(  # a calculation that is left to the reader
    r"\b(?:half|twice|double|triple)\s+(?:of\s+)?(?:the\s+)?[$€£]?\d|\d\s+and\s+an?\s+\w+"
    r"|√|\\sqrt|\d\s{0,3}(?:\\pi\b|π|pi\b|\^|\*\*\d|[²³⁰¹⁴-⁹])"
    r"|\d[%)]?[A-Za-z€]{0,20}(?:\s{1,3}[A-Za-z€]{1,20}){0,2}\s{0,3}(?:[+*·×÷±]|\\(?:times|cdot|div|pm)\b"
    r"|\b(?:x|plus|times|divided\sby|multiplied\sby)\b)\s{0,3}[-$€£(]{0,3}\.?\d"
    r"|\d[xX]\d|\d\s{0,3}-\s{0,3}\d|\d\s{0,3}/\s{0,3}\d{1,300}\s{0,3}/\s{0,3}\d"
    r"|\b[a-z]\s{0,3}\+\s{0,3}\d|\d\s{0,3}\+\s{0,3}[a-z]\b", re.I,
)  # fmt: skip
_MILLIONS = re.compile(r"\d\s{0,3}[KMB]\b(?![&'’-])|\d\s{1,3}k\b")  # or kelvins, metres: not known
_NEGATIVE = re.compile(r"(?<![\w)])-\s?\(\s?([$€£¥₹]?\s?[\d.]{1,300}%?)\s?\)")  # "-(10)"
_NO_NUMBER = re.compile(  # "15-year", "(twelve)", "m2", "m^2"
    r"(?<=\w)-(?=\w)|[(\[][^\d)\]]*[)\]]|(?<![\dA-Za-z.])[A-Za-z]+\d\b|[A-Za-z]+\^\d"
)
_DOUBT = (
    r"not|never|nor|neither|unknown|unclear|uncertain|unsure|wrong|impossible|maybe|perhaps"
    r"|possibly|probably|presumably|might|could|guess"
)
_DOUBTED = re.compile(rf"\b(?:{_DOUBT})\b|n['’]t\b", re.I)
_UNSTATED = re.compile(  # before a number: it is denied, is a bound only, or is a guess
    rf"\b(?:{_DOUBT}|no|almost|nearly|close\s+to|at\s+(?:the\s+)?(?:least|most)"
    r"|over|under|above|below|beyond|up\s+to|exceeds|between|other\s+than|different\s+from"
    r"|(?:more|less|greater|fewer|larger|bigger|smaller|higher|lower)\s+than)\b|n['’]t\b"
    r"|[<>≤≥≠]|\\(?:neq?|[gl]eq?|[gl]t)\b", re.I,
)  # fmt: skip
_OR_MORE = re.compile(r"\bor\s+(?:more|less|fewer|greater|larger|smaller)\b", re.I)
_RIVAL = re.compile(r"\d[^\d=]{0,40}\bor\b", re.I)
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_FRAC_BARE = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")


def extract(text: str, *, stopped: bool = True) -> Found:
    r"""Find the final answer: the last "The answer is …", "#### …" or \boxed{…} of a text.

    Args:
        text: A completion.
        stopped: The model ended by itself; otherwise a missing answer is called "no stop".
    Example:
        >>> extract("4 * 12 = 48.\nThe answer is 1,048.").text
        '1,048'
        >>> extract(r"So \boxed{\frac{3}{4}} of it.").text
        '\\frac{3}{4}'
        >>> extract("4 * 12 = 48.").why
        'format'
    """
    found = [(m.start(), m.group(1)) for m in _STATED.finditer(text)]
    found += [(m.start(), m.group(1)) for m in (*_HASHES.finditer(text), *_HEADING.finditer(text))]
    found += [(m.start(), inner) for m in _BOX.finditer(text)
              if (inner := _braced(text, m.end())) is not None]  # fmt: skip
    stated = [(at, clean(inner)) for at, inner in sorted(found)]
    stated = [(at, inner) for at, inner in stated if inner]
    if not stated:
        return Found(None, "format" if stopped else "no stop")
    start, inner = stated[-1]
    if len(stated) > 1 and "\\boxed" in inner:
        start = stated[-2][0]
    return Found(inner, "", start)


def _braced(text: str, at: int) -> str | None:
    depth = 1
    for i in range(at, min(len(text), at + 1_000)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[at:i]
    return None


def clean(text: str) -> str:
    r"""Strip what frames an answer: dollars of LaTeX, stars, quotes, a full stop.

    Example:
        >>> clean(" **$85$**. ")
        '85'
    """
    text = text.strip()
    if box := _BOX.search(text):
        inner = _braced(text, box.end())
        text = text if inner is None else inner
    before = None
    while before != text:
        before = text
        text = text.strip().strip("*`").strip()
        text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text)
        if len(text) > 1 and text[0] == text[-1] == "$":
            text = text[1:-1]
        text = re.sub(r"(?<=[^.])[.!]$|^[.!?]$", "", text)
    return text


def to_number(text: str) -> Fraction | None:
    r"""The number that a short text states, or None: no number, or several that differ.

    Percent signs divide by 100; units, currencies and thousands separators do not count. A number
    that is denied, bounded or guessed by a word or sign before it ("not 5", "at most 5", "> 5",
    "maybe x = 5") or by "or more" is not stated, nor is the second of two ("x = 4 or x = 6"), nor
    what is left to calculate ("half of 10", "12 and a half", "3 + 3", "5²"). Hundred to trillion
    and "k" multiply, "3 M" may be millions or metres and is no number, a dozen is a unit. Still
    lenient: "about 5" is 5, and other words behind the number are not read ("5, I guess").

    Example:
        >>> [str(to_number(t)) for t in ("$1,234.50", "-3 1/2 km", "25 %", "3/4", "about")]
        ['2469/2', '-7/2', '1/4', '3/4', 'None']
        >>> [str(to_number(t)) for t in ("12 apples", "about 12", "not 12", "more than 12")]
        ['12', '12', 'None', 'None']
        >>> [str(to_number(t)) for t in ("3 million", "5k", "half of 10", "2 dozen")]
        ['3000000', '5000', 'None', '2']
        >>> [str(to_number(t)) for t in ("3 + 3", "10-10", "-(10)", "50K")]
        ['None', 'None', '-10', 'None']
    """
    text = _FRAC_BARE.sub(r" \1/\2 ", _FRAC.sub(r" \1/\2 ", _TEXT.sub(r" \1 ", text)))
    text = text.replace("\\%", "%").replace("\\$", "$")
    text = text.replace("\\!", "").replace("{,}", ",").translate(_SIGNS)
    text = _THOUSANDS.sub("", text)
    text = re.sub(r"[!<>]=|\bnot\s*=", "≠", text)
    head, _, text = text.rpartition("=")  # "x = 5"; a bound in the head is of something else
    text = re.sub(r"(?<=\d)[eE]\+(?=\d)", "e", text)
    text = _NEGATIVE.sub(r"-\1", text)
    if _RIVAL.search(head) or _DOUBTED.search(head) or _NOT_DONE.search(text):
        return None
    if _MILLIONS.search(text):
        return None
    text = _NO_NUMBER.sub(" ", text)
    text = re.sub(r"\b(?:minus|negative)\s+(?=[$€£]?[\d.])", "-", text, flags=re.I)
    found = list(_NUMBER.finditer(text))
    if found and (_UNSTATED.search(text[: found[0].start()]) or _OR_MORE.search(text)):
        return None
    values = {_read(m) for m in found}
    return values.pop() if len(values) == 1 else None


def _read(match: re.Match[str]) -> Fraction | None:
    try:
        if match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["mn"]), int(match["md"]))
        elif match["num"]:
            value = Fraction(match["num"]) / Fraction(match["den"])
        else:
            value = Fraction(match["plain"])
    except (ZeroDivisionError, ValueError):  # Python reads at most 4,300 digits
        return None
    if match["scale"]:
        value *= _SCALES[match["scale"].strip().lower()]
    if "-" in (match["sign"], match["sign2"]):
        value = -value
    return value / 100 if match["percent"] else value


def to_value(text: str) -> Any:
    """Printed output as a value: a Python literal, else the text itself.

    Example:
        >>> to_value("[1, 'a']"), to_value("abc")
        ([1, 'a'], 'abc')
    """
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text.strip()


def kind_of(gold: str) -> str:
    """What kind of answer a gold answer is.

    Example:
        >>> kind_of("85"), kind_of("3/4"), kind_of("Ana"), kind_of("[1, 2]")
        ('number', 'number', 'text', 'value')
    """
    if re.fullmatch(r"[-+]?[$€£]?[\d.,/ ]*\d ?%?", gold.strip()) and to_number(gold) is not None:
        return "number"
    return "value" if gold.strip()[:1] in "[({'\"" else "text"


def equal(said: str, gold: str, kind: str = "") -> bool:
    """Do two answers mean the same?

    Numbers are compared exactly as fractions, units and currencies aside, where one is stated (see
    `to_number`); a gold number without "%" also accepts the same figure with it, since a question
    may ask for percent. Names disregard case, articles and quotes; output is compared as a Python
    value, by type as well, inside lists too.

    Args:
        said: What `extract` found.
        gold: The right answer.
        kind: One of `KINDS`; empty: from the gold answer.
    Example:
        >>> equal("85.00 euros", "85"), equal("0.5", "1/2"), equal("[1,2]", "[1, 2]")
        (True, True, True)
        >>> equal("ana.", "Ana", "text"), equal("58", "85")
        (True, False)
        >>> equal("aB", "ab", "output"), equal("'ab'", "ab", "output")
        (False, True)
        >>> equal("not 85", "85"), equal("[1, True]", "[1, 1]")
        (False, False)
    """
    kind = kind or kind_of(gold)
    if kind == "output":
        same = said.strip() == gold.strip()
        return same or _typed(to_value(said)) == _typed(to_value(gold))
    if kind == "number":
        mine, right = to_number(said), to_number(gold)
        if mine is None or right is None:
            return False
        percent = re.search(r"%|percent", said) and not re.search(r"%|percent", gold)
        return mine == right or bool(percent and mine * 100 == right)
    if kind == "value":
        return _typed(to_value(said)) == _typed(to_value(gold))
    return _plain(said) == _plain(gold)


def _typed(value: Any) -> Any:
    """A value with the type of each part, so that 1, 1.0 and True differ at every depth."""
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_typed, value))
    if isinstance(value, set):
        return set, frozenset(map(_typed, value))
    if isinstance(value, dict):
        return dict, frozenset((_typed(k), _typed(v)) for k, v in value.items())
    return type(value), value


def _plain(text: str) -> str:
    text = _TEXT.sub(r"\1", text).strip().strip("'\"").casefold()
    text = re.sub(r"^(?:a|an|the)\s+", "", re.sub(r"\s+", " ", text))
    return text.rstrip(".!?,;: ")


def gsm8k(answer: str) -> tuple[str, str]:
    """The trace and the final answer of a field with "#### N", calculator annotations removed.

    Raises:
        DataError: There is no "####" with a number behind it.
    Example:
        >>> gsm8k("He has 2*3=<<2*3=6>>6 pens." + chr(10) + "#### 6")
        ('He has 2*3=6 pens.', '6')
    """
    trace, mark, last = answer.rpartition("####")
    if not mark or to_number(last) is None:
        seen = answer.strip()[-40:]
        raise DataError(
            f"no final number: a GSM8K answer ends in '#### N', this one in {seen!r}. "
            "Add the line or leave the row out."
        )
    trace = re.sub(r"<<[^<>]*>>", "", trace).strip()
    return trace, _THOUSANDS.sub("", last.strip()).lstrip("$€£")
