"""What a file is: told by its content first, by its name second, never assumed."""

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from sft_utils.artifacts import display_path
from sft_utils.data import jsonfiles, parsing, tables
from sft_utils.data import rows as data
from sft_utils.data.parsing import HEAD, Item, Source, listed
from sft_utils.errors import DataError

DATA_NAMES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_FOREIGN = (
    (b"PK\x03\x04", "an Excel, Word or zip file", "save the table as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save the table as CSV"),
    (b"%PDF", "a PDF", "export the data as CSV or JSONL"),
    (b"BZh", "a bzip2 file", "unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "an xz file", "unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\x1f\x8b", "a gzip file in a gzip file", "unpack it once"),
    (b"ARROW1", "an Arrow file", "save it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"\x80\x04", "a Python pickle, which could run code", "save it as Parquet or JSONL"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself", "run git lfs pull"),
)


def suffix_of(path: Path) -> str:
    """The suffix below .gz, in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def recognise(source: Source, limit: int) -> tuple[str, str, Iterator[Item]]:
    """(kind, unit of its numbers, items) of a file.

    Raises:
        DataError: It is of no known format; names what it looks like.
    """
    head, name = source.head, display_path(source.path)
    for mark, what, fix in _FOREIGN:
        if head.startswith(mark):
            raise DataError(f"{name} is {what}: {fix}.")
    if head.startswith(b"PAR1"):
        return "Parquet", "row", tables.parquet(source)
    start = head.lstrip()
    if not start:
        fault = f" ({source.fault})" if source.fault else ""
        raise DataError(f"{name} is empty: no row in it{fault}. Check how it was written.")
    if re.match(rb"<(!doctype|html|\?xml|head|body)", start, re.IGNORECASE):
        raise DataError(f"{name} is an HTML or XML page, perhaps an error page of a download: "
                        "fetch the data file itself.")  # fmt: skip
    # ASCII in two bytes per character has a NUL in every second place.
    shares = [half.count(0) / len(half) for half in (head[0:2048:2], head[1:2048:2]) if half]
    if len(head) > 3 and max(shares) > 0.4 and min(shares) < 0.1:
        raise DataError(f"{name} is UTF-16 without a byte order mark: save it as UTF-8.")
    return _text_format(source, start, limit)


def _text_format(source: Source, start: bytes, limit: int) -> tuple[str, str, Iterator[Item]]:
    """JSONL, a JSON document or a CSV: by whole objects in lines, then by the file's name."""
    lines, suffix = [line for line in start.splitlines() if line.strip()], suffix_of(source.path)
    named = suffix in (".jsonl", ".ndjson")
    whole = any(line.lstrip()[:1] == b"{" and data.decode_line(line)[0] for line in lines)
    reason = data.decode_line(lines[0])[1]
    match start[:1]:
        case b"[":
            # Whole lists in several lines are no JSON: each line is a row that is no object.
            more = len(lines) > 1 and lines[1].lstrip()[:1] == b"["
            by_line = (whole or more) and reason.startswith("a JSON list")
        case b"{":
            by_line = (not reason and (named or len(lines) > 1)) or (
                named and (whole or not re.search(rb"[\r\n]", start))
            )
        case _:
            by_line = whole or named
    if by_line:
        return "JSONL", "line", parsing.jsonl(source, limit)
    if start[:1] in (b"[", b"{") or suffix == ".json":
        return jsonfiles.document(source, limit, whole or named)
    return _table(source, lines, limit)


_DELIMITERS = {",": "CSV", ";": "CSV with semicolons", "\t": "TSV", "|": "CSV with '|'"}
_TOLD = re.compile(r'"?sep=([^\w\s"]|\t)"?', re.IGNORECASE)
"""What Excel reads as the delimiter, if it is the first line."""


def _table(source: Source, lines: list[bytes], limit: int) -> tuple[str, str, Iterator[Item]]:
    """A CSV or TSV; its delimiter cuts more records than others do into as many fields as the
    header. Of several a .tsv takes the tab, a .csv any other.

    Raises:
        DataError: Several do alike, and nothing says which is meant.
    """
    texts = [line.decode("utf-8", "replace") for line in lines[:2]]
    if told := _TOLD.fullmatch(texts[0]):
        kind = _DELIMITERS.get(told[1], f"CSV with {told[1]!r}")
        return kind, "line", tables.delimited(source, limit, told[1], told=True)
    suffix, name = suffix_of(source.path), display_path(source.path)
    names = {d: _fields(texts[0], d) for d in _DELIMITERS}
    found = [d for d in _DELIMITERS if len(names[d]) > 1]
    shares = dict.fromkeys(_DELIMITERS, 0.0)
    if len(found) > 1:
        shares |= {d: _agreeing(source.head, d) for d in found}
    elif found and len(texts) > 1:
        shares[found[0]] = float(len(_fields(texts[1], found[0])) == len(names[found[0]]))
    tab = {".tsv": 1, ".csv": -1}.get(suffix, 0) * (len(names["\t"]) > 1)
    best = max(shares, key=lambda d: (shares[d], tab * (d == "\t"), len(names[d])))
    if suffix not in (".csv", ".tsv") and not shares[best]:
        raise DataError(
            f"{name} is no JSON, JSONL, CSV, TSV or Parquet: it begins with "
            f"{texts[0][:30]!r}. A table needs a header and the suffix .csv or .tsv."
        )
    alike = [d for d in found if shares[d] == shares[best] > 0 and not (tab and "\t" in (d, best))]
    if len(alike) > 1:
        read = " or ".join(f"{listed(names[d])} (by {d!r})" for d in alike)
        raise DataError(
            f"{name}: its columns are {read}; the lines fit both. Put a first line sep={alike[-1]} "
            "above the header, with the delimiter that is meant."
        )
    return _DELIMITERS[best], "line", tables.delimited(source, limit, best)


def _agreeing(head: bytes, delimiter: str) -> float:
    """The share of the first records that have as many fields as the header."""
    records = csv.reader(io.StringIO(head.decode("utf-8", "replace"), newline=""),
                         delimiter=delimiter)  # fmt: skip
    counts: list[int] = []
    with contextlib.suppress(csv.Error):  # a field above the limit of the csv module
        counts += (len(fields) for fields in records if fields)
    rest = counts[1:-1] if len(head) >= HEAD and len(counts) > 2 else counts[1:]
    return sum(n == counts[0] for n in rest) / max(len(rest), 1)


def _fields(line: str, delimiter: str) -> list[str]:
    """Fields of one line; a delimiter between quotes is none."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field above the limit of the csv module
        return line.split(delimiter)
