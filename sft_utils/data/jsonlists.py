"""The objects of a JSON list, also of a broken one: a broken object costs no other."""

import re
from collections.abc import Collection, Generator

from sft_utils.data import rows as data
from sft_utils.data.parsing import REST_UNREAD, Item, Source

SPACE = re.compile(r"[ \t\r\n]*")
KEY = re.compile(r'\{\s*"((?:[^"\\\n]|\\.)*)"\s*:')
# A string ends at the end of its line at the latest: a quote that is missing spoils no other line.
TOKEN = re.compile(r'"(?:[^"\\\r\n]|\\.)*"?|[\[\]{},]')
NO_UTF8 = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that is no UTF-8."""
_TEXT = r'"(?:[^"\\\r\n]|\\.)*"'
# The end of a list and, after members without brackets, another list of objects beside it or
# another document; the name of the first member is group 1.
_LIST_END = re.compile(
    rf'\](?=\s*,\s*"((?:[^"\\\r\n]|\\.)*)"|)'
    rf'(?:\s*,\s*{_TEXT}\s*:\s*(?:{_TEXT}|[^\s"\[\]{{}},]+))*\s*'
    rf"(?:,\s*{_TEXT}\s*:\s*\[\s*\{{|\}}\s*[\[{{])"
)
# A bracket is missing: a member of the object around the list follows, or that object ends.
_NOT_CLOSED = re.compile(rf"{_TEXT}\s*:|\}}\s*(?:\Z|[\[{{])")


def elements(
    source: Source, text: str, start: int, limit: int, *, member: bool = False
) -> Generator[Item, None, int | None]:
    """The objects of a JSON list one by one, so that a broken one costs no other.

    Args:
        source: The file, for its fault.
        text: The whole document; bytes that are no UTF-8 stand in it as lone surrogates.
        start: Index after the opening bracket.
        limit: Longest row, in characters.
        member: The list is a member of an object: other members may follow it.
    Returns:
        The index after the list; None if the text ends before it does.
    """
    at, number, key, warning = SPACE.match(text, start).end(), 0, None, ""
    line, counted, lost = 1, 0, False
    known: set[str] | None = set() if member else None  # keys of the rows
    while not text.startswith("]", at):
        number += 1
        if at == len(text):
            reason = source.fault or "cut list"
            yield Item(number, None, reason, "the file ends before the list is closed")
            return None
        if member and _NOT_CLOSED.match(text, at):
            yield Item(number, None, data.NOT_JSON, f"Expecting ']' at character {at}")
            return text.rindex(",", 0, at) if _before(text, at, " \t\r\n") == "," else at
        value, end, reason, detail = data.decode(text, at)
        after = SPACE.match(text, end).end()
        ended = member and _NOT_CLOSED.match(text, after)
        if not reason and not ended and text[after : after + 1] not in (",", "]", "{", ""):
            reason, detail = "text after the JSON value", f"at character {end}"
        here, unsure = KEY.match(text, at), ""
        if reason:
            end_of_row = None if lost else _own_end(text, at, here[1] if here else key, known)
            if lost := lost or end_of_row is None:
                end_of_row = _next_like(text, at, here[1] if here else key, known)
                unsure = "after a row whose end is not sure"
            after = end_of_row
        elif not isinstance(value, dict):
            reason = f"a JSON {type(value).__name__} where an object is expected"
        elif bad := NO_UTF8.search(text, at, end):
            reason, detail = "invalid UTF-8", f"byte 0x{ord(bad[0]) - 0xDC00:02X}"
        elif end - at > limit:
            reason, detail = "over-long row", f"{end - at} characters, the limit is {limit}"
        last = bool(reason) and after == len(text)
        if reason:
            line, counted = line + text.count("\n", counted, at), at
            place = f"row begins in line {line}"
            place += "; the file ends in this row" * last
            place += "; its end is not sure, nor are later row numbers" * bool(unsure and not last)
            if last and source.fault:
                reason, detail = source.fault, ""
            yield Item(number, None, reason, f"{detail} ({place})".strip())
        else:
            key = here[1] if here else key
            yield Item(number, value, warning)
            if known is not None:
                known |= value.keys()
        if last:
            return None
        warning = unsure
        if not reason and text[after : after + 1] == "{":
            warning = "no comma before the row"
        at = SPACE.match(text, after + 1).end() if text.startswith(",", after) else after
    if not member:
        if rest := text[at + 1 :].strip():
            yield Item(number + 1, None, "text after the list", repr(rest[:40]))
        elif source.fault:
            yield Item(number + 1, None, source.fault, REST_UNREAD)
    return at + 1


def _own_end(text: str, at: int, key: str | None, known: Collection[str] | None) -> int | None:
    """Where a broken element ends by its brackets: at its comma, or where the next row begins.

    A bracket that closes closes all that was opened inside; one that nothing opened is passed over,
    unless another list of rows or another document begins behind it.
    The next row begins where an object with the same first key stands at the begin of a line as
    far in as this one, or inside an object without a name.

    Args:
        known: Keys of the rows so far, if other lists may follow this one.
    Returns:
        The place; None if the text ends before the brackets are closed.
    """
    open_: list[str] = []
    margin = _margin(text, at)
    for token in TOKEN.finditer(text, at):
        mark, place = token[0], token.start()
        if not open_ and mark in (",", "]"):
            return place
        if mark in ("{", "["):
            found = KEY.match(text, place) if mark == "{" and place > at else None
            if found and found[1] == key:
                level = margin is not None and _margin(text, place) == margin
                unnamed = open_[-1:] == ["}"] and _before(text, place, " \t\r\n") == ","
                if level or unnamed:
                    end = _list_end(text, at, place, known)  # a quote too many may hide it
                    return place if end is None else end
            open_.append("}" if mark == "{" else "]")
        elif mark in open_:
            while open_.pop() != mark:
                pass
        elif mark == "]" and _list_end(text, place, place + 1, known):
            return place
    return None


def _list_end(text: str, at: int, end: int, known: Collection[str] | None) -> int | None:
    """The first bracket from `at` to `end` that closes the list, by what follows it.

    Rows of a split must not become rows of the split before it. A key that other rows have
    belongs to the broken row, after a bracket too many.
    """
    while known is not None and (at := text.find("]", at, end)) >= 0:
        if (found := _LIST_END.match(text, at)) and found[1] not in known:
            return at
        at += 1
    return None


def _before(text: str, place: int, skipped: str) -> str:
    """The last character before a place that is none of `skipped`."""
    while place and text[place - 1] in skipped:
        place -= 1
    return text[place - 1 : place]


def _margin(text: str, place: int) -> int | None:
    """How far in an element stands that begins its line (after the list's bracket); else None."""
    start = place
    while start and text[start - 1] in " \t[":
        start -= 1
    begins = text[start - 1 : start] in ("", "\n", "\r")
    return place - start - text.count("[", start, place) if begins else None


def _next_like(text: str, at: int, key: str | None, known: Collection[str] | None) -> int:
    """The next object of the list that follows a comma and begins with the same key; else its end,
    or that of the text."""
    place = next(
        (found.start() for found in KEY.finditer(text, at + 1)
         if found[1] == key and _before(text, found.start(), " \t\r\n") == ","), len(text)
    )  # fmt: skip
    end = _list_end(text, at, place, known)
    return place if end is None else end
