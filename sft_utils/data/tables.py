"""Rows of tables: CSV, whose values are texts, and Parquet, whose values have types."""

import csv
import datetime
import decimal
import io
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sft_utils.artifacts import display_path
from sft_utils.data.parsing import LF, Item, Source, lines, unreadable
from sft_utils.data.rows import Row
from sft_utils.errors import DataError

UNNAMED = "Unnamed: 0"
"""What pandas calls a first column without a name: its own row numbers, written by `to_csv`."""


def delimited(source: Source, limit: int, delimiter: str, *, told: bool = False) -> Iterator[Item]:
    """Rows of a CSV under its header; every value is a text.

    Args:
        told: The first line names the delimiter, the header follows it.
    Raises:
        DataError: The header is broken, a name after the first is empty, one comes twice, or no
            line follows.
    """
    where = f"{display_path(source.path)}, header"
    records = _records(source, limit, delimiter)
    filled = (one for one in records if one[1] != [])
    if told:
        next(filled)
    line, names, reason, detail = next(filled, (0, [], "", ""))
    if names == []:
        raise DataError(f"{where}: none follows the line that names the delimiter. Add it.")
    if names is None:
        raise DataError(f"{where} (line {line}): {f'{reason} {detail}'.strip()}. Repair it.")
    names = [name.strip() for name in names]  # no mapping could say the " b" of "a, b"
    if not names[0] and UNNAMED not in names[1:]:
        names = [UNNAMED, *names[1:]]
    for place, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{where}: column {place} has no name. Name every column.")
        if name in names[: place - 1]:
            raise DataError(f"{where}: two columns are called {name!r}. Rename one.")
    blank: list[int] = []
    header = line
    for line, fields, reason, detail in records:
        if fields == []:
            blank.append(line)
            continue
        yield from (Item(n, None, "blank line between rows") for n in blank)
        blank.clear()
        if fields is not None and len(fields) != len(names):
            detail = f"{len(fields)} where the header has {len(names)}"
            fields, reason = None, "wrong number of fields"
        row = None if fields is None else dict(zip(names, fields, strict=True))
        yield Item(line, row, reason, detail)
    if line == header or line - header == len(blank):
        raise DataError(f"{where}: no row follows the columns {', '.join(names)}.")


_HEADER = re.compile(rb'(?:[^"\r\n]|"[^"]*")*(\r?\n|\r|)')
"""The header and its end; a line break between quotes ends nothing."""


def _records(
    source: Source, limit: int, delimiter: str
) -> Iterator[tuple[int, list[str] | None, str, str]]:
    """Records of a CSV as (first line, fields, reason, detail).

    Every record has a reader of its own: after a fault in one of several lines (a quote that is
    never closed), the second line is tried again as the begin of a record.
    """
    waiting: deque[tuple[int, bytes, str, str]] = deque()
    # Where a line feed ends the header, a lone CR is part of a text that somebody did not quote
    # (csv.writer with lineterminator="\n"): taken as an end, it would cut the text in silence.
    end = _HEADER.match(source.head.lstrip())[1]
    rest = lines(source, limit, LF) if end.endswith(b"\n") else lines(source, limit)

    def pull() -> tuple[int, bytes, str, str] | None:
        return waiting.popleft() if waiting else next(rest, None)

    while first := pull():
        number, _, reason, detail = first
        used, fields = [first], None
        if not reason:
            reader = csv.reader(_fed(used, pull, limit), delimiter=delimiter, strict=True)
            before = csv.field_size_limit(limit)  # a setting of the whole process
            try:
                fields = next(reader, None)
            except csv.Error as error:
                waiting.extendleft(reversed(used[1:]))
                del used[1:]
                reason = str(error)
                for seen, words in _CSV_FAULTS:
                    reason = words if seen in reason else reason
            finally:
                csv.field_size_limit(before)
            for line, raw, *fault in used:
                found = fault if fault[0] else unreadable(raw)
                if found[0]:
                    fields, reason = None, found[0]
                    detail = f"{found[1]} of line {line}" if line > number else found[1]
                    break
        yield number, fields, reason, detail


_CSV_FAULTS = (
    ("unexpected end of data", "a quote opens here and is never closed"),
    ("expected after '\"'", "text after a closing quote"),
    ("new-line character", "a carriage return outside quotes"),
)
"""Part of what the csv module says -> what it means."""


def _fed(used: list[Any], pull: Callable[[], Any], limit: int) -> Iterator[str]:
    """The lines of one record, as far as its reader asks for them; noted in `used`."""
    size = 0
    while size <= limit:
        raw = used[-1][1]
        size += len(raw)
        yield raw.decode("utf-8", "replace")
        if (line := pull()) is None:
            return
        used.append(line)


_UNREADABLE = (ValueError, OverflowError, KeyError)
"""What pyarrow raises for a date beyond the year 9999, an unknown time zone or a broken text."""


def parquet(source: Source) -> Iterator[Item]:
    """Rows of a Parquet file, one row group in memory.

    Raises:
        DataError: The file is cut, broken, or has two columns of one name.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    where = display_path(source.path)
    try:
        file = ParquetFile(io.BytesIO(source.read_all()) if source.packed else source.path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{where} is cut or broken Parquet: {str(error).splitlines()[0][:90]}. Fetch it again."
        ) from error
    names = file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: two columns are called {twice[0]!r}. Rename one.")
    number = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        try:
            table = file.read_row_group(group)
        except (pyarrow.ArrowException, OSError) as error:
            detail = f"rows {number + 1} to {number + count}: {str(error).splitlines()[0][:90]}"
            yield Item(number + 1, None, "broken row group", detail)
            number += count
            continue
        for index in range(count):
            number += 1
            try:
                row, lost = table.slice(index, 1).to_pylist()[0], ()
            except _UNREADABLE:
                row, lost = _cells(table, index)
            yield plain(number, row, lost)


def _cells(table: Any, index: int) -> tuple[Row, list[tuple[str, str]]]:
    """A row cell by cell, and the columns whose cell Python cannot hold, with the reason."""
    row: Row = {}
    lost: list[tuple[str, str]] = []
    for field in table.schema:
        row[field.name] = None
        try:
            row[field.name] = table.column(field.name)[index].as_py()
        except UnicodeDecodeError:
            lost.append((field.name, "invalid UTF-8"))
        except _UNREADABLE:
            lost.append((field.name, f"a value that Python cannot hold ({field.type})"))
    return row, lost


def plain(number: int, row: Row, lost: Iterable[tuple[str, str]] = ()) -> Item:
    """A row of a typed table with JSON values only: dates become texts.

    What JSON cannot hold is null, and `lost` says so: it costs the row only where somebody reads
    its column.

    Args:
        lost: Columns that are null already, with the reason.
    """
    new, gone = {}, list(lost)
    for column, value in row.items():
        try:
            new[column] = _json_value(value)
        except ValueError as error:
            new[column] = None
            gone.append((column, str(error)))
    return Item(number, new, lost=tuple(gone))


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("NaN or Infinity")
        return value
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise ValueError(f"a value that JSON cannot hold ({type(value).__name__})")
