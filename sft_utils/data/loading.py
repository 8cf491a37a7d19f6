"""A file or hub dataset of any usual format as rows; every row that is left out is named."""

import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path, given_path, reader_path
from sft_utils.data import filters, hub
from sft_utils.data.parsing import Item, Source
from sft_utils.data.rows import Row
from sft_utils.data.sniffing import DATA_NAMES, recognise, suffix_of
from sft_utils.errors import ConfigError, DataError

MAX_LINE_BYTES = 8 * 2**20
"""Longest line (JSONL, CSV) or row (JSON list) that is read; 8 MiB are a million words."""


@dataclass(frozen=True, slots=True)
class LoadedRow:
    """A row and its place."""

    number: int  # 1-based line (JSONL, CSV) or row (JSON list, Parquet, hub)
    row: Row
    lost: tuple[tuple[str, str], ...] = ()  # (column that is null, what it held instead)


@dataclass(frozen=True, slots=True)
class Excluded:
    """A place that gave no row."""

    number: int
    reason: str  # the same words for the same fault
    detail: str = ""  # what was seen

    def __str__(self) -> str:
        colon = ":" * (bool(self.detail) and not self.detail.startswith(("(", "at ", "in ")))
        return f"{self.reason}{colon} {self.detail}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a file gave."""

    source: str  # as outputs may show it
    kind: str  # format, and what had to be found out to read it
    encoding: str
    unit: str  # what the numbers count: "line" or "row"
    rows: list[LoadedRow] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)
    warnings: dict[str, list[int]] = field(default_factory=dict)  # reason -> numbers of kept rows
    limited: bool = False  # `limit` was reached: what comes after was not read

    @property
    def reasons(self) -> Counter[str]:
        """Excluded rows by reason."""
        return Counter(excluded.reason for excluded in self.excluded)

    def summary(self) -> str:
        """Kept, excluded and suspicious rows, with the first numbers of each reason."""
        n, more = len(self.rows), " (limit reached, the rest is not read)" * self.limited
        text = f"{self.source} ({self.kind}; {self.encoding}): {n} row{'s' * (n != 1)} kept{more}"
        if faults := tally(self.excluded, self.unit):
            text += f", {len(self.excluded)} excluded: {faults}"
        if self.warnings:
            kinds = [f"{k} ({_numbers(self.unit, found)})" for k, found in self.warnings.items()]
            more = f"; and {len(kinds) - 12} more" if len(kinds) > 12 else ""
            text += f"\nkept with a warning: {'; '.join(kinds[:12])}{more}"
        return text


def tally(excluded: list[Excluded], unit: str) -> str:
    """Reasons with their counts and first numbers, the commonest first.

    Example:
        >>> tally([Excluded(3, "NUL byte"), Excluded(9, "NUL byte")], "line")
        '2 NUL byte (lines 3, 9)'
    """
    places: dict[str, list[int]] = {}
    for one in excluded:
        places.setdefault(one.reason, []).append(one.number)
    ordered = sorted(places.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{len(n)} {reason} ({_numbers(unit, n)})" for reason, n in ordered)


def _numbers(unit: str, numbers: list[int]) -> str:
    more = ", …" if len(numbers) > 3 else ""
    return f"{unit}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:3]))}{more}"


def load(
    source: Path | str, *, limit: int | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Loaded:
    """Read JSONL, JSON, CSV, TSV or Parquet (each also as .gz), or a dataset of the hub.

    What a file is, is told by its content first and by its name second. JSONL, CSV and Parquet
    are streamed; a JSON list is read whole. A fault excludes its own row only. A typed value that
    JSON cannot hold (NaN, bytes) is null, with a warning, until somebody reads its column.

    Args:
        source: A path, or a hub id `owner/name[:config][:split]@commit` (split: train if not given,
            config: the one called `default`; a config stands before a split).
        limit: Rows to keep at most.
        max_line_bytes: Longer lines are excluded and never held in memory.
    Returns:
        The rows with their numbers, and every place that gave none.
    Raises:
        DataError: There is no such file, it is of no known format, or no row can be used.
        ConfigError: A hub id without a commit, a config or split that it does not have, or a limit
            below 1.
    Example:
        >>> load("data/tickets/test.jsonl", limit=2).summary()  # doctest: +SKIP
        'data/tickets/test.jsonl (JSONL; UTF-8): 2 rows kept (limit reached, the rest is not read)'
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit = {limit}, must be at least 1 (None: all rows)")
    path = reader_path(source)
    if not path.exists() and (named := hub.hub_id(str(source))):
        about = {"source": str(source), "kind": "hub dataset", "encoding": "UTF-8", "unit": "row"}
        return _collect(hub.rows(named), limit, **about)
    _check(path)
    name = display_path(path)
    try:
        opened = Source(path)
    except OSError as error:
        raise DataError(
            f"{name} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    try:
        kind, unit, items = recognise(opened, max_line_bytes)
        about = {"source": name, "kind": kind + ", gzip" * opened.packed, "unit": unit}
        return _collect(items, limit, encoding=opened.encoding, **about)
    finally:
        opened.close()


_HALF = re.compile("[\ud800-\udfff]")


def _collect(items: Iterator[Item], limit: int | None, **about: Any) -> Loaded:
    """Sort items into kept and excluded; judge the texts of rows, whatever the format."""
    loaded, limited = Loaded(**about), False
    for item in items:
        fault, warnings = (item.reason, []) if item.row is None else ("", [item.reason])
        warnings += [f"{why} in column {column!r}, read as null" for column, why in item.lost]
        detail = item.detail
        if item.row is not None:
            texts = list(_texts(item.row))
            half = next((m for t in texts if (m := _HALF.search(t))), None)
            odd = filters.encoding({"messages": [{"content": t} for t in texts]})
            if half:  # whatever else is odd: no tokenizer and no file takes it
                fault = "lone surrogate"
                detail = f"U+{ord(half[0]):04X} at character {half.start()}"
            elif odd:
                warnings.append(odd.split(":" if odd.startswith("mojibake") else None)[0])
        if fault:
            loaded.excluded.append(Excluded(item.number, fault, detail))
            continue
        if limit is not None and len(loaded.rows) == limit:
            limited = True
            break
        loaded.rows.append(LoadedRow(item.number, item.row or {}, item.lost))
        for warning in filter(None, warnings):
            loaded.warnings.setdefault(warning, []).append(item.number)
    if not loaded.rows:
        if not loaded.excluded:
            raise DataError(f"{loaded.source} is empty: no row in it. Check how it was written.")
        first = loaded.excluded[0]
        raise DataError(
            f"{loaded.source} ({loaded.kind}): no row can be used, {len(loaded.excluded)} "
            f"excluded; the first, {loaded.unit} {first.number}: {first}. Repair the file."
        )
    return Loaded(**about, rows=loaded.rows, excluded=loaded.excluded, warnings=loaded.warnings,
                  limited=limited)  # fmt: skip


def _texts(row: Row) -> Iterator[str]:
    """All texts of a row, keys included, at any depth."""
    left: list[Any] = [row]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value


def _check(path: Path) -> None:
    """There is a file; if not, say what is there instead."""
    if path.is_dir():
        found = sorted(p.name for p in path.iterdir() if suffix_of(p) in DATA_NAMES)
        hint = f"Name one file, for example {found[0]}." if found else "It holds no data file."
        raise DataError(f"{given_path(path)} is a directory. {hint}")
    if path.exists():
        if not path.is_file():
            raise DataError(f"{given_path(path)} is no ordinary file. Save its content in one.")
        return
    if hint := _no_path(str(path)):
        raise DataError(f"{given_path(path)} is no file of this machine: {hint}")
    if path.is_symlink():
        raise DataError(f"{given_path(path)} is a link to {path.readlink()}, which does not exist.")
    if not path.parent.is_dir():
        gone = next(folder for folder in reversed(path.parents) if not folder.is_dir())
        raise DataError(f"{given_path(path)} does not exist, nor does its directory: "
                        f"{given_path(gone)} is no folder.")  # fmt: skip
    names = {p.name.casefold(): p.name for p in path.parent.iterdir()}
    near = [names[n] for n in difflib.get_close_matches(path.name.casefold(), names, 3, 0.6)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "Check the path."
    raise DataError(f"{given_path(path)} does not exist. {hint}")


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)
_WINDOWS = re.compile(r"([a-z]):[\\/](.*)", re.IGNORECASE | re.DOTALL)


def _no_path(text: str) -> str:
    """What to do about a name that is spelled as no path of this machine is; else nothing."""
    if found := _ADDRESS.fullmatch(text):
        if found[1].lower() == "file":
            return f"give its path alone: /{found[2]}"
        return ("fetch it and give the path of the file, or name a dataset of the hub as "
                "owner/name:train@<commit>.")  # fmt: skip
    if found := _WINDOWS.fullmatch(text):
        return f"WSL has it as /mnt/{found[1].lower()}/{found[2]}".replace("\\", "/")
    for what, bare in (("quotes", text.strip("\"'")), ("spaces", text.strip())):
        if bare != text and os.path.isfile(os.path.expanduser(bare)):
            return f"take the {what} around {bare} away."
    if glob.has_magic(text) and (files := sorted(glob.glob(text))):
        return f"one file is read, and {len(files)} fit; for example {files[0]}."
    return ""
