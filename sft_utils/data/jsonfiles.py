"""Rows of a JSON file: a list of objects, or an object that holds one; none is lost in silence."""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from sft_utils.artifacts import display_path
from sft_utils.data import rows as data
from sft_utils.data.jsonlists import KEY, NO_UTF8, SPACE, TOKEN, elements
from sft_utils.data.parsing import REST_UNREAD, Item, Source, jsonl, listed
from sft_utils.data.rows import Row
from sft_utils.errors import DataError

_NAME = re.compile(r'"((?:[^"\\\r\n]|\\.)*)"\s*:\s*')
_LINE = re.compile(r"[^\r\n]*")
_LINE_ENDS = re.compile(r"[ \t]*[\r\n]")
_USUAL = ("data", "rows")
"""Keys under which a list holds the rows, whatever else is there."""


def document(source: Source, limit: int, by_line: bool) -> tuple[str, str, Iterator[Item]]:
    """(kind, unit of its numbers, items) of a JSON document.

    Args:
        source: The file.
        limit: Longest row, in characters.
        by_line: If the document is broken, its lines may be rows.
    Raises:
        DataError: It holds no list of rows, or several; or another document follows it.
    """
    name = display_path(source.path)
    text = source.read_all().decode("utf-8", "surrogateescape")
    start = re.search(r"\S", text).start()
    if text[start] == "[":
        return "JSON list", "row", elements(source, text, start + 1, limit)
    value, end, reason, detail = data.decode(text, start)
    whole = not reason
    if whole and text[end:].strip():
        reason, detail = "text after the JSON value", f"at character {end}"
    if text[start] == "{" and (reason or NO_UTF8.search(text)):
        found = _members(source, text, start, limit, by_line and bool(reason))
        after = SPACE.match(text, found.end).end()
        second = found.closed and text[after : after + 1] in ("{", "[")
        in_lines = re.search(r"[\r\n]", text[start : found.end]) is not None
        # A row longer than the head stood in the way of seeing that every line is one.
        by_line = by_line or bool(second and not in_lines and _LINE_ENDS.match(text, found.end))
        holds = _holds_rows(found.value) and (found.laid_out or not by_line)
        # A first row in several lines spoils no rows in lines of their own behind it.
        rows_follow = by_line and (not in_lines or _whole_line(text, after))
        if second and (holds or (whole and not rows_follow)):
            raise DataError(
                f"{name} holds several JSON documents: a second JSON document begins at character "
                f"{after} (line {text.count(chr(10), 0, after) + 1}). Write one object per line "
                "(JSONL), or all rows into one list."
            )
        if holds or not reason:
            return _rows(source, text, found, name)
    elif not reason and isinstance(value, dict):
        return _rows(source, text, _Members(value=value, end=end, closed=True), name)
    if reason and by_line:
        source.reopen()
        return "JSONL", "line", jsonl(source, limit)
    if reason:
        fault = f" ({source.fault})" if source.fault else ""
        raise DataError(f"{name} is no JSON: {reason} {detail}{fault}. Repair it, or write one "
                        "object per line (JSONL).")  # fmt: skip
    raise DataError(f"{name} holds a JSON {type(value).__name__}: a list of objects is needed.")


def _whole_line(text: str, at: int) -> bool:
    """The line from `at` is an object."""
    line = _LINE.match(text, at)[0]
    return not data.decode_line(line.encode("utf-8", "surrogateescape"))[1]


# --- the members of an object --------------------------------------------------------------------


@dataclass(kw_only=True)
class _Members:
    """What stands at the first depth of an object, as far as it can be told."""

    value: Row = field(default_factory=dict)  # key -> value; a broken list as `_outline` has it
    end: int = 0  # after the closing brace, or that of the text
    closed: bool = False
    items: dict[str, list[Item]] = field(default_factory=dict)  # what a broken list holds
    faults: list[tuple[str, str, str]] = field(default_factory=list)  # key, reason, detail
    laid_out: bool = False  # in lines, as no row of a JSONL file is
    twice: str = ""  # a key that comes twice, with a list
    cut: str = ""  # the list in which the text ends


def _members(source: Source, text: str, start: int, limit: int, by_line: bool) -> _Members:
    """The members of an object that is not whole.

    A list counts here and nowhere deeper: rows have lists of their own.

    Args:
        by_line: Lines may be rows: a broken member inside a line may be all of a row, and what is
            behind that line is not looked at.
    """
    found = _Members(laid_out=_LINE_ENDS.match(text, start + 1) is not None)
    at = SPACE.match(text, start + 1).end()
    while at < len(text) and text[at] != "}":
        if name := _NAME.match(text, at):
            key, here = data.decode(text, at)[0] or name[1], name.end()
            member, end, reason, detail = data.decode(text, here)
            if reason:
                found.faults.append((key, reason, f"{detail} (in {key!r})"))
            if text.startswith("[", here):
                found.laid_out = found.laid_out or _LINE_ENDS.match(text, here + 1) is not None
                if reason and by_line and not found.laid_out:
                    break
            if _is_broken_list(text, here, end, key, member):
                items, after = _drained(elements(source, text, here + 1, limit, member=True))
                found.items[key], member = items, _outline(text, here + 1, items)
                found.cut, end = "" if after else key, after or len(text)
            elif reason:
                end = _end_of_member(text, here, by_line and not found.laid_out)
            if key in found.value and list in (type(member), type(found.value[key])):
                found.twice = key
            elif key in found.value:
                found.faults.append((key, "duplicate key", repr(key)))
            found.value[key] = member
        else:
            found.faults.append(("", data.NOT_JSON, f"a key is expected at character {at}"))
            end = _end_of_member(text, at, by_line)
        at = SPACE.match(text, end).end()
        if text[at : at + 1] not in (",", "}", ""):
            found.faults.append(("", data.NOT_JSON, f"Expecting ',' delimiter at character {at}"))
            at = at if text[at] == '"' else _end_of_member(text, at, by_line)
        if text.startswith(",", at):
            at = SPACE.match(text, at + 1).end()
    found.closed, found.end = text.startswith("}", at), min(at + 1, len(text))
    return found


def _is_broken_list(text: str, at: int, end: int, key: str, member: Any) -> bool:
    """A list of objects with a fault inside; one of numbers (a vector) is not looked into."""
    if not text.startswith("[", at) or (end > at and not NO_UTF8.search(text, at, end)):
        return False
    objects = text.startswith("{", SPACE.match(text, at + 1).end())
    return objects or key in _USUAL or any(isinstance(row, dict) for row in member or ())


def _drained(items: Generator[Item, None, int | None]) -> tuple[list[Item], int | None]:
    """All items, and what their generator returns."""
    kept: list[Item] = []
    while True:
        try:
            kept.append(next(items))
        except StopIteration as end:
            return kept, end.value


def _outline(text: str, start: int, items: list[Item]) -> list[Any]:
    """A broken list as far as it tells rows from chat turns and numbers.

    What could not be read counts as what the list begins with.
    """
    start = SPACE.match(text, start).end()
    first = KEY.match(text, start)
    begin = {first[1]: None} if first else {} if text.startswith("{", start) else None
    return [begin if item.row is None else item.row for item in items]


def _end_of_member(text: str, at: int, in_line: bool) -> int:
    """The comma or brace behind a broken member, by its brackets; else the end of the text.

    Args:
        in_line: Look for it in the line of `at` alone.
    """
    open_: list[str] = []
    for token in TOKEN.finditer(text, at, _LINE.match(text, at).end() if in_line else len(text)):
        mark = token[0]
        if not open_ and mark in (",", "}"):
            return token.start()
        if mark in ("{", "["):
            open_.append("}" if mark == "{" else "]")
        elif mark in open_:
            while open_.pop() != mark:
                pass
    return len(text)


# --- the list that holds the rows ----------------------------------------------------------------


def _rows(source: Source, text: str, found: _Members, name: str) -> tuple[str, str, Iterator[Item]]:
    """(kind, unit, items) of an object; behind the rows stands what else is wrong with the file."""
    if found.twice:
        raise DataError(
            f"{name} is no JSON: the list {found.twice!r} comes twice. Rename one or join them."
        )
    key, unread = _list_key(found.value, name)
    items = found.items[key] if key in found.items else [
        Item(n, row) if isinstance(row, dict) else
        Item(n, None, f"a JSON {type(row).__name__} where an object is expected")
        for n, row in enumerate(found.value[key], 1)
    ]  # fmt: skip
    # A list that is not read may be broken; that of the rows has named its faults itself.
    lists = {key, *_row_lists(found.value)}
    faults = [(reason, detail) for of, reason, detail in found.faults if of not in lists]
    if found.closed:
        if rest := text[found.end :].strip():
            faults.append(("text after the object", repr(rest[:40])))
        if source.fault:
            faults.append((source.fault, REST_UNREAD))
    elif found.cut != key:
        faults.append((source.fault or "cut object", "the file ends before the object is closed"))
    after = [Item(len(items) + n, None, *fault) for n, fault in enumerate(faults, 1)]
    items, inside = _unwrapped(key, items)
    return f"JSON object, list {key!r}{inside}{unread}", "row", iter(items + after)


def _row_lists(value: Row) -> dict[str, list[Any]]:
    """Lists of objects. A list of chat turns is no list of rows."""
    return {
        key: rows for key, rows in value.items()
        if isinstance(rows, list) and any(isinstance(row, dict) for row in rows)
        and not any(isinstance(row, dict) and {"role", "from"} & row.keys() for row in rows)
    }  # fmt: skip


def _holds_rows(value: Row) -> bool:
    return bool(_row_lists(value)) or any(isinstance(value.get(key), list) for key in _USUAL)


def _list_key(value: Row, name: str) -> tuple[str, str]:
    """The key under which an object holds the rows, and what is said of lists that are not read.

    The hub's viewer puts its columns into "features".
    """
    lists = _row_lists(value)
    for key in _USUAL:
        if isinstance(value.get(key), list):
            others = [f"{k!r} ({len(v)})" for k, v in lists.items() if k not in (key, "features")]
            return key, f"; not read: {', '.join(others)}" if others else ""
    if len(lists) == 1:
        return next(iter(lists)), ""
    seen = f"lists [{listed(sorted(lists))}]" if lists else f"keys [{listed(sorted(value))}]"
    raise DataError(
        f"{name} is one JSON object ({seen}), a list of rows is needed: put the rows into a list "
        'under "data", or write one object per line in a .jsonl file.'
    )


def _unwrapped(key: str, items: list[Item]) -> tuple[list[Item], str]:
    """Rows as the hub's dataset server gives them: each under "row", beside its index.

    Long cells it may cut; it names them, and half a text is none to train on.
    """
    rows = [item.row for item in items if item.row is not None]
    if key != "rows" or not rows or not all(
        row.keys() - {"truncated_cells"} == {"row_idx", "row"} and isinstance(row["row"], dict)
        for row in rows
    ):  # fmt: skip
        return items, ""
    return [item if item.row is None else _cell_by_cell(item) for item in items], ", under 'row'"


def _cell_by_cell(item: Item) -> Item:
    row, cut = item.row["row"], item.row.get("truncated_cells")
    lost = [name for name in row if name in cut] if isinstance(cut, list) else []
    return item._replace(
        row={**row, **dict.fromkeys(lost)},
        lost=tuple((name, "a text that the dataset server cut") for name in lost),
    )
