"""The curation funnel: a raw file in, the rows worth training on out, every dropped row named.

One pass after a look at `SAMPLE` rows for boilerplate, one row in memory. What grows with the file:
8 bytes for the place of a row, about 170 bytes for its exact key, 1.3 KB for its MinHash bands. A
million rows cost about 1.5 GiB.
"""

import codecs
import json
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path, storage_error
from sft_utils.curation import answers
from sft_utils.curation.leaks import Leaks
from sft_utils.curation.personal import personal_data
from sft_utils.data import filters
from sft_utils.data.duplicates import (
    ALIKE,
    CONTAINED_SIZE,
    PROPOSED,
    SAMPLE,
    NearDuplicates,
    Shingles,
    common_shingles,
    exact_key,
    jaccard,
    shingles,
)
from sft_utils.data.rows import (
    Line,
    Row,
    dump_row,
    mail_of,
    open_bytes,
    parse_line,
    read_at,
    read_jsonl,
)
from sft_utils.errors import DataError

FUNNEL = (
    "parse", "roles", "empty", "over_long", "encoding", "markup", "licence", "personal_data",
    "answer_json", "answer_schema", "answer_contradicts", "leakage", "exact_duplicate",
    "near_duplicate",
)  # fmt: skip
"""Filters in their order: each may rely on what the earlier ones guarantee, cheap ones first.

Leaks go before duplicates: the copy of a leaked mail is a leak, not a copy.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Why a line is not in the training set."""

    line: int  # 1-based
    id: str  # "" where the row has none
    filter: str
    evidence: str  # what the filter saw
    of: str = ""  # id of the row it repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user decides about the funnel."""

    max_words: int  # `filters.length_fence` of the raw file, or your own bound
    held_out: tuple[Path, ...]  # files that no training row may resemble
    schema: str = answers.SCHEMA  # relative to the repository root
    licences: frozenset[str] = filters.LICENCES
    near: float = ALIKE  # Jaccard similarity of near-duplicates of the same case


@dataclass(slots=True, kw_only=True)
class Funnel:
    """What went in, what came out."""

    lines: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rows_per_s(self) -> float:
        """Lines judged per second."""
        return self.lines / self.seconds

    def steps(self) -> list[dict[str, Any]]:
        """One table row per filter: lines in, dropped, share, lines left."""
        left, rows = self.lines, []
        for name in FUNNEL:
            out = self.dropped[name]
            rows.append({"filter": name, "in": left, "dropped": out,
                         "share": f"{out / self.lines:.1%}", "left": left - out})  # fmt: skip
            left -= out
        return rows


def row_filters(settings: Settings) -> dict[str, filters.Filter]:
    """The filters that need no other row, in their order."""
    return {
        "roles": filters.roles,
        "empty": filters.empty,
        "over_long": partial(filters.over_long, max_words=settings.max_words),
        "encoding": _encoding,
        "markup": filters.markup,
        "licence": partial(filters.licence, allowed=settings.licences),
        "personal_data": personal_data,
        "answer_json": answers.answer_json,
        "answer_schema": partial(answers.answer_schema, schema=settings.schema),
        "answer_contradicts": answers.answer_contradicts,
    }


def _encoding(row: Row) -> str | None:
    """Text that was decoded wrongly, or half a surrogate anywhere: no file can hold that one."""
    if reason := filters.encoding(row):
        return reason
    try:
        dump_row(row).encode()
    except UnicodeEncodeError as error:
        return f"U+{ord(error.object[error.start]):04X} outside the messages"
    return None


def mail_lengths(path: Path | str) -> Sequence[int]:
    """Words of every mail of a raw file, in file order; rows without valid roles left out.

    Raises:
        DataError: The file is missing, unreadable, empty, or no line of it is a row with messages.
    """
    lengths, first, number = array("L"), "", 0
    for line in read_jsonl(path):
        number = line.number
        reason = line.reason if line.row is None else filters.roles(line.row)
        if line.row is not None and reason is None:
            lengths.append(len(mail_of(line.row).split()))
        first = first or f"line {number}: {reason}"
    if not lengths:
        raise DataError(
            f"{display_path(path)}: none of {number} lines is a row with messages ({first}). "
            'Curation reads unpacked JSONL: one object with "messages" per line.'
        )
    return lengths


def _asked(row: Row) -> str:
    """All that the user says: two dialogues that end with "Yes please." are no copies."""
    return "\n".join(filters.user_turns(row))


def _boilerplate(path: Path | str) -> Shingles:
    """Shingles of the runs of words that many mails share: footers, greetings of a template."""
    mails, at = [], 0
    with open_bytes(Path(path)) as handle:
        size = handle.seek(0, os.SEEK_END)
        while at < size:
            handle.seek(max(at - 1, 0))
            if at:
                handle.readline()  # to the next row; nothing of it if `at` begins one
            row, _ = parse_line(handle.readline().removeprefix(codecs.BOM_UTF8))
            if row is not None and filters.roles(row) is None:
                mails.append(_asked(row))
            at = max(handle.tell(), at + size // SAMPLE)
    return common_shingles(mails, CONTAINED_SIZE)


class _Repeats:
    """The filters that compare a row with held-out mails and with the rows kept so far."""

    def __init__(self, path: Path | str, settings: Settings) -> None:
        self.path, self.near = path, settings.near
        self.common = _boilerplate(path)
        self.leaks = Leaks(settings.held_out, self.common)
        self.exact: dict[int, int] = {}
        self.places = array("Q")  # byte offset of each kept row
        self.index = NearDuplicates()
        self._original = lru_cache(maxsize=2 * PROPOSED)(self._read)

    def judge(self, line: Line, row: Row) -> Drop | None:
        """Compare, and remember the row if it stays."""
        mail = _asked(row)
        drop = partial(Drop, line=line.number, id=str(row.get("id", "")))
        parts, case, key = shingles(mail), answers.facts_key(row), exact_key(mail)
        if leak := self.leaks.find(row, mail, parts, key):
            return drop(filter="leakage", evidence=leak)
        if key in self.exact:
            name, _, _, its_answer = self._original(self.exact[key])
            # One of the two answers is wrong; which, a reader has to say.
            differs = "" if its_answer == answers.ticket_of(row) else ", another answer"
            evidence = f"same mail as {name}{differs}"
            return drop(filter="exact_duplicate", evidence=evidence, of=name)
        number = len(self.places)
        if parts := parts - self.common:  # a mail of nothing else repeats none that is not equal
            sketch = self.index.sketch(parts, case)
            for candidate in self.index.candidates(sketch):
                name, its_case, its_parts, _ = self._original(candidate)
                alike = jaccard(parts, its_parts)
                if alike >= self.near and its_case == case:
                    evidence = f"same case as {name}, Jaccard {alike:.2f}"
                    return drop(filter="near_duplicate", evidence=evidence, of=name)
            self.index.add(number, sketch)
        self.places.append(line.offset)
        self.exact[key] = number
        return None

    def _read(self, number: int) -> tuple[str, str, Shingles, dict[str, Any]]:
        """A kept row once more: its id, its case, its shingles, its answer."""
        row = read_at(self.path, self.places[number])
        parts = shingles(_asked(row)) - self.common
        return str(row.get("id", "")), answers.facts_key(row), parts, answers.ticket_of(row)


def judge_rows(path: Path | str, settings: Settings) -> Iterator[tuple[Line, Drop | None]]:
    """Stream a raw file through the funnel; a row that stays comes with None.

    Raises:
        DataError: The file is missing or empty, or a held-out file is broken.
    """
    repeats, single = _Repeats(path, settings), row_filters(settings)
    for line in read_jsonl(path):
        if line.row is None:
            yield line, Drop(line=line.number, id="", filter="parse", evidence=line.reason)
            continue
        for name, judge in single.items():
            if reason := judge(line.row):
                name_of = str(line.row.get("id", ""))
                yield line, Drop(line=line.number, id=name_of, filter=name, evidence=reason)
                break
        else:
            yield line, repeats.judge(line, line.row)


def curate(path: Path | str, kept: Path, dropped: Path, settings: Settings) -> Funnel:
    """Run the funnel over a file and write two: the rows that stay, and why the others go.

    Both files appear when the pass is complete; an interrupted pass leaves older ones in place.

    Args:
        path: Raw JSONL, any size.
        kept: Receives the rows that stay, unchanged, in their order.
        dropped: Receives one `Drop` per dropped line.
        settings: Thresholds, allow-list, held-out files.
    Raises:
        DataError: The file is missing, unreadable or empty, a file that is read would be written,
            or no row is left; names the hungriest filter.
        StorageError: A file cannot be written.
    """
    funnel, started = Funnel(), time.perf_counter()
    targets = [Path(kept), Path(dropped)]
    read = {Path(one).resolve() for one in (path, *settings.held_out)}
    if both := next((target for target in targets if target.resolve() in read), None):
        raise DataError(
            f"{display_path(both)} is read and would be written: its rows would be lost. Write to "
            "another folder."
        )
    parts = [target.with_name(f".part-{target.name}") for target in targets]
    try:
        with ExitStack() as stack:
            for part in parts:
                part.parent.mkdir(parents=True, exist_ok=True)
            keep, drop = (stack.enter_context(part.open("w", encoding="utf-8")) for part in parts)
            for line, verdict in judge_rows(path, settings):
                funnel.lines += 1
                if verdict is None:
                    funnel.kept += 1
                    keep.write(dump_row(line.row or {}))
                else:
                    funnel.dropped[verdict.filter] += 1
                    # ASCII escapes: evidence may quote half a surrogate pair
                    drop.write(json.dumps(asdict(verdict)) + "\n")
        for part, target in zip(parts, targets, strict=True):
            part.replace(target)
    except OSError as error:
        raise storage_error(targets[0], error) from error
    finally:
        with suppress(OSError):  # of a folder that cannot be; the error above says so
            for part in parts:
                part.unlink(missing_ok=True)
    funnel.seconds = time.perf_counter() - started
    if not funnel.kept:
        name, count = funnel.dropped.most_common(1)[0]
        raise DataError(
            f"{display_path(path)}: none of {funnel.lines} rows is left, {name} dropped {count}. "
            f"Read {display_path(dropped)} and repair the data or the settings."
        )
    return funnel
