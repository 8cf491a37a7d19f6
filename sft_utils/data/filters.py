"""Filters that judge one row by itself: a reason to drop it, or None.

Each is a pure function, cheap enough for a million rows, and names its evidence: a filter that
cannot say what it saw cannot be checked. The hard part of each is what it must *not* drop.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from html.entities import html5

from sft_utils.data.rows import Row, mail_of
from sft_utils.errors import DataError

Filter = Callable[[Row], str | None]

LICENCES = frozenset({"CC-BY-4.0", "CC0-1.0", "Apache-2.0", "MIT"})
"""Licences under which a row may be trained on and passed on with attribution."""


def _contents(row: Row) -> list[str]:
    return [message["content"] for message in row["messages"]]


def user_turns(row: Row) -> list[str]:
    """What the user says in a row, turn by turn; a mail is one turn."""
    return [m["content"] for m in row["messages"] if m["role"] == "user"]


def roles(row: Row) -> str | None:
    """Conversations are `system? (user assistant)+`, roles in lower case, content a text.

    TRL trains any other order without a warning, and an unknown role renders as plain text.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return f"no list of messages, the row has {sorted(row)}"
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {index} has no text content"
    names = [str(message.get("role")) for message in messages]
    turns = names[1:] if names[0] == "system" else names
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return f"roles {' '.join(names)}"
    return None


_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_PLACEHOLDERS = frozenset({"n/a", "na", "nan", "none", "null", "undefined", "-", "...", "…", "{}"})


def visible(text: str) -> str:
    """A text without white space and invisible characters around it.

    Example:
        >>> visible(" \\u200b\\n")
        ''
    """
    return text.strip().strip(_INVISIBLE).strip()


def empty(row: Row) -> str | None:
    """A blank mail or answer, or a placeholder for one.

    A blank answer trains "stop at once" (silent in TRL).
    """
    for message in row["messages"]:
        text = visible(message["content"])
        if not text or text.casefold() in _PLACEHOLDERS:
            return f"{message['role']} content is {message['content'][:20]!r}"
    return None


def length_fence(lengths: Sequence[int]) -> int:
    """Longest unsuspicious length: upper quartile plus three interquartile ranges, in logs.

    Lengths are log-normal rather than normal; quartiles do not move when 1 % of the rows are
    absurd, so the fence can be computed from the raw file. Where the quartiles are one length,
    nearly or exactly, the rest may still be longer: twice the upper quartile is always allowed.

    Args:
        lengths: Words per row, blank rows left out.
    Raises:
        DataError: Fewer than four lengths.
    Example:
        >>> length_fence([20, 30, 40, 50, 60, 70, 2000])
        480
    """
    ordered = sorted(length for length in lengths if length > 0)
    if len(ordered) < 4:
        raise DataError(
            f"length_fence: {len(ordered)} lengths, at least 4 are needed to tell what is "
            "over-long. Give more rows, or a bound of your own (--max-words)."
        )
    low, high = (math.log(ordered[int(q * (len(ordered) - 1))]) for q in (0.25, 0.75))
    return round(math.exp(high + max(3 * (high - low), math.log(2))))


def over_long(row: Row, *, max_words: int) -> str | None:
    """More words than a mail of this set can have (or one endless word: 12 characters each)."""
    text = mail_of(row)
    if len(text) <= max_words:  # a word has at least one character
        return None
    words = len(text.split())
    if words > max_words:
        return f"{words} words, the fence is {max_words}"
    if len(text) > 12 * max_words:
        return f"{len(text)} characters in {words} words"
    return None


# A lead byte of UTF-8 read as cp1252 or latin-1, followed by what a trailing byte becomes there.
_TRAILING = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_SUSPICIOUS = re.compile(rf"[\xc2-\xf4][{_TRAILING}]")
_LAST_LATIN = "\u024f"
_NEVER = re.compile(r"[\ufffd\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f]")


def _misread(text: str) -> bool:
    """True if a text is UTF-8 that was read as something else.

    ftfy leaves letters alone that look plausible ("Åžahin"). If every letter beyond ASCII is part
    of a UTF-8 sequence and all of them decode to Latin letters or punctuation, that is no chance.
    """
    try:
        read = text.encode("cp1252").decode("utf-8")
        if all(char <= _LAST_LATIN or "\u2010" <= char <= "™" for char in read):
            return True
    except UnicodeError:
        pass
    from ftfy import fix_encoding

    return fix_encoding(text) != text


def encoding(row: Row) -> str | None:
    """Text that was decoded wrongly: U+FFFD, control characters, half surrogates, mojibake.

    Accents, emoji and curly quotes are right as they are, so characters alone decide nothing:
    ftfy must be able to turn the text back into shorter, valid text. It costs 100 times the
    pattern and runs only where that one matches.
    """
    for text in _contents(row):
        if text.isascii() and text.isprintable():
            continue
        if bad := _NEVER.search(text):
            return f"U+{ord(bad[0]):04X} at character {bad.start()}"
        if (match := _SUSPICIOUS.search(text)) and _misread(text):
            return f"mojibake: {text[max(0, match.start() - 8) : match.end() + 8]!r}"
    return None


_TAGS = (
    "a|abbr|b|blockquote|body|br|button|center|code|div|em|font|footer|form|h[1-6]|head|header|hr|"
    "html|i|iframe|img|input|label|li|link|meta|ol|p|pre|script|section|small|span|strike|strong|"
    "style|sub|sup|svg|table|tbody|td|th|thead|title|tr|u|ul"
)
_ATTRIBUTE = r"""\s+[\w:-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'>]+))"""
_TAG = re.compile(rf"</?(?:{_TAGS})(?:{_ATTRIBUTE})*\s*/?>|<!--|<!doctype\b", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{2,6}|#x[0-9a-f]{2,5}|[a-z]+\d{0,2});", re.IGNORECASE)


def markup(row: Row) -> str | None:
    """HTML tags or entities; `<3`, `a < b`, `<name>` and `AT&T;` are not HTML."""
    for text in _contents(row):
        if "<" in text and (tag := _TAG.search(text)):
            return f"HTML {tag[0][:40]!r}"
        if "&" in text:
            for entity in _ENTITY.findall(text):
                if entity.startswith("&#") or entity[1:] in html5:
                    return f"HTML entity {entity!r}"
    return None


def licence(row: Row, *, allowed: Collection[str] = LICENCES) -> str | None:
    """A licence that is missing, unknown or not on the allow-list."""
    value = row.get("licence")
    if not isinstance(value, str) or not value.strip():
        return f"no licence (source {row.get('source')!r})"
    if value not in allowed:
        return f"licence {value!r} (source {row.get('source')!r})"
    return None
