"""Rows in and out: streaming JSONL, fingerprints, splits that respect groups, tokenised sets."""

import codecs
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sft_utils.artifacts import display_path, given_path, sha256_text, write_text
from sft_utils.errors import DataError

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a JSONL file: a row, or the reason why there is none."""

    number: int  # 1-based, as an editor counts
    offset: int  # bytes from the start of the file; `read_at` returns to it
    row: Row | None
    reason: str = ""  # why `row` is None


def read_jsonl(path: Path | str, *, strict: bool = False) -> Iterator[Line]:
    """Stream a JSONL file line by line; a broken line is named, never skipped.

    One line is in memory at a time. CRLF ends and blank lines at the end of the file are
    accepted. A byte order mark is accepted too: it is no part of the first row.

    Args:
        path: A UTF-8 file with one JSON object per line.
        strict: Raise at the first broken line instead of yielding it.
    Yields:
        Every line, broken ones with `row=None` and a reason.
    Raises:
        DataError: The file is missing, unreadable or holds no line, or (strict) a line is broken.
    Example:
        >>> next(read_jsonl("data/tickets/test.jsonl")).number  # doctest: +SKIP
        1
    """
    path = Path(path)
    offset = blank = number = 0
    with open_bytes(path) as handle:
        for number, raw in enumerate(handle, 1):
            content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not content.strip():
                blank += 1
            else:
                if blank:
                    yield from _blank_lines(path, number - blank, number, offset, strict)
                    blank = 0
                row, reason = parse_line(content)
                if strict and row is None:
                    raise DataError(f"{display_path(path)}, line {number}: {reason}. Repair it.")
                yield Line(number=number, offset=offset, row=row, reason=reason)
            offset += len(raw)
    if number == blank:
        raise DataError(f"{display_path(path)} is empty: no row in {number} lines.")


def open_bytes(path: Path) -> BinaryIO:
    """A file opened for reading.

    Raises:
        DataError: It is missing, no file, or may not be read.
    """
    if not path.is_file():
        raise DataError(f"{given_path(path)} does not exist or is not a file. Check the path.")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"{display_path(path)} cannot be read: {error.strerror}. Check its permissions."
        ) from error


def _blank_lines(path: Path, first: int, end: int, offset: int, strict: bool) -> Iterator[Line]:
    """Blank lines between rows: often the trace of a row that was lost."""
    if strict:
        raise DataError(f"{display_path(path)}, line {first}: blank line between rows. Repair it.")
    for number in range(first, end):
        yield Line(number=number, offset=offset, row=None, reason="blank line between rows")


def parse_line(raw: bytes) -> tuple[Row | None, str]:
    """Parse one line: (row, "") or (None, reason).

    Example:
        >>> parse_line(b'{"a": 1}{"a": 2}')
        (None, 'two JSON values in one line (second at character 8)')
    """
    row, reason, detail = decode_line(raw)
    return row, f"{reason}{':' * (reason == NOT_JSON)} {detail}".strip()


NOT_JSON = "not JSON"
WINDOW = 1 << 16
"""Characters in which a JSON value is looked for first."""


def decode_line(raw: bytes) -> tuple[Row | None, str, str]:
    """`parse_line` with the kind of fault and its place apart: (row, reason, detail).

    Example:
        >>> decode_line(b'{"a": 1, "a": 2}')
        (None, 'duplicate key', "'a'")
    """
    if b"\0" in raw:
        return None, "NUL byte", f"at byte {raw.index(0)}"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, "invalid UTF-8", f"at byte {error.start}"
    text = text.strip()
    value, end, reason, detail = decode(text)
    if reason:
        return None, reason, detail
    if end != len(text):
        if text[end:].lstrip()[:1] in ("{", "["):
            return None, "two JSON values in one line", f"(second at character {end})"
        return None, "text after the JSON value", f"at character {end}"
    if not isinstance(value, dict):
        return None, f"a JSON {type(value).__name__} where an object is expected", ""
    return value, "", ""


def decode(text: str, start: int = 0) -> tuple[Any, int, str, str]:
    """The JSON value at a place of a text: (value, its end, reason, detail).

    Stricter than `json.loads`: a key that comes twice would lose its first value, NaN and 1e999
    are no JSON numbers. Integers of any size stay exact.

    Returns:
        Reason and detail are empty for a value, else value is None and the end is `start`.
    Example:
        >>> decode('[1] x', 0)
        ([1], 3, '', '')
    """
    size = WINDOW
    while True:
        # A part alone: an error counts all lines before it, which for every row is quadratic.
        part = text[start : start + size]
        cut = start + len(part) < len(text)
        try:
            value, end = _DECODER.raw_decode(part)
            if not cut or end < len(part) - 16:
                return value, start + end, "", ""
        except json.JSONDecodeError as error:
            of_cut = error.pos > len(part) - 16 or error.msg.startswith("Unterminated")
            if not (cut and of_cut):
                return None, start, NOT_JSON, f"{error.msg} at character {start + error.pos}"
        except RecursionError:
            return None, start, NOT_JSON, "nested too deeply to be read"
        except _Refused as error:
            return None, start, *error.args
        except ValueError:  # the interpreter's bound for digits, made against denial of service
            limit = sys.get_int_max_str_digits()
            return None, start, NOT_JSON, f"an integer has more than {limit} digits"
        size *= 8


class _Refused(ValueError):
    """What `json` reads and we do not; arguments are reason and detail."""


def _constant(name: str) -> Any:
    raise _Refused(NOT_JSON, f"{name} is not JSON")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise _Refused(NOT_JSON, f"{number[:20]} is beyond the range of a float")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        again = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused("duplicate key", repr(again))
    return row


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
)


def read_at(path: Path | str, offset: int) -> Row:
    """The row that starts at a byte offset yielded by `read_jsonl`.

    Raises:
        DataError: There is no row at this place (the file was changed meanwhile).
    """
    with Path(path).open("rb") as handle:
        handle.seek(offset)
        row, reason = parse_line(handle.readline().removeprefix(codecs.BOM_UTF8))
    if row is None:
        raise DataError(f"{display_path(path)}: {reason} at offset {offset}; was it changed?")
    return row


def rows_of(path: Path | str) -> list[Row]:
    """All rows of a small file that must be whole.

    Raises:
        DataError: The file is missing or empty, or a line is broken.
    """
    return [line.row for line in read_jsonl(path, strict=True) if line.row is not None]


def dump_row(row: Row) -> str:
    """One row as one line, the form in which every file of this project is written."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSONL, atomically."""
    write_text(path, "".join(map(dump_row, rows)))


def mail_of(row: Row) -> str:
    """The last user message of a row with valid roles."""
    return row["messages"][-2]["content"]


def answer_of(row: Row) -> str:
    """The last assistant message of a row with valid roles."""
    return row["messages"][-1]["content"]


def fingerprint(rows: Iterable[Row]) -> str:
    """Hex sha256 of a set of rows: independent of row order, key order and file layout.

    Example:
        >>> fingerprint([{"a": 1}, {"b": 2}]) == fingerprint([{"b": 2}, {"a": 1}])
        True
    """
    canonical = (
        json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False) for row in rows
    )
    return sha256_text("\n".join(sorted(map(sha256_text, canonical))))


def in_turns(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The same items, their keys taking turns; a key that runs out leaves its turns to the others.

    Args:
        items: In the order in which each key gives its own.
        key: What takes turns, for example the name of a schema.
    Example:
        >>> in_turns(["a1", "a2", "a3", "b1"], key=lambda x: x[0])
        ['a1', 'b1', 'a2', 'a3']
    """
    given: Counter[Hashable] = Counter()
    turns = []
    for item in items:
        turns.append((given[key(item)], item))
        given[key(item)] += 1
    return [item for _, item in sorted(turns, key=lambda pair: pair[0])]


def group_split(
    rows: Sequence[Row], *, group: Callable[[Row], Hashable], share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Split rows so that no group lies on both sides.

    Mails of one conversation share names, order numbers and wording: split by row, the held-out
    side would be partly memorised. Groups are drawn by a hash of their name, so the result does
    not depend on the order of the rows, and taken while they fit.

    Args:
        rows: Rows with groups.
        group: Maps a row to its group.
        share: Part of the rows to hold out, in (0, 1).
        seed: Another seed draws other groups.
    Returns:
        (rest, held out), each in the order of `rows`; held out has at most share * N rows, rounded.
    Raises:
        DataError: The share is out of range, or no group fits into it.
    Example:
        >>> rows = [{"thread": "a"}, {"thread": "a"}, {"thread": "b"}, {"thread": "c"}]
        >>> rest, held = group_split(rows, group=lambda row: row["thread"], share=0.5, seed=1)
        >>> {r["thread"] for r in rest} & {r["thread"] for r in held}
        set()
    """
    if not 0 < share < 1:
        raise DataError(f"group_split: share = {share}, must be between 0 and 1")
    sizes: dict[Hashable, int] = {}
    for row in rows:
        sizes[group(row)] = sizes.get(group(row), 0) + 1
    wanted, taken, held = round(share * len(rows)), 0, set()
    for name in sorted(sizes, key=lambda name: sha256_text(f"{seed}:{name}")):
        if taken + sizes[name] <= wanted:
            held.add(name)
            taken += sizes[name]
    if not held:
        raise DataError(
            f"group_split: no group fits into {wanted} of {len(rows)} rows (smallest group: "
            f"{min(sizes.values(), default=0)} rows). Raise the share or use finer groups."
        )
    return (
        [row for row in rows if group(row) not in held],
        [row for row in rows if group(row) in held],
    )


def crossing_groups(
    one: Iterable[Row], other: Iterable[Row], *, group: Callable[[Row], Hashable]
) -> set[Hashable]:
    """Groups that lie in both parts; empty for an honest split."""
    return {group(row) for row in one} & {group(row) for row in other}
