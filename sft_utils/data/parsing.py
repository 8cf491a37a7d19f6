"""Bytes of a file as numbered rows; whatever is no row is named with its place, never dropped."""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sft_utils.data import rows as data
from sft_utils.data.rows import Row

BLOCK = 1 << 20
HEAD = 1 << 18
"""Bytes that are looked at to tell what a file is."""

GZIP = b"\x1f\x8b"
# The four-byte marks first: the one of UTF-32-LE begins with the one of UTF-16-LE.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)


class Item(NamedTuple):
    """One place of a file: a row (a reason is then a warning), or why there is none."""

    number: int  # 1-based line (JSONL, CSV) or row (JSON list, Parquet)
    row: Row | None
    reason: str = ""
    detail: str = ""
    lost: tuple[tuple[str, str], ...] = ()  # (column, why its value cannot be used: it is null)


REST_UNREAD = "nothing can be read from here on"
INNER_MARK = "byte order mark inside the file"


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first twelve."""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(map(repr, names[:12])) + more


class Source:
    """The content of a file as UTF-8 bytes: unpacked, without byte order mark.

    What ends a file early (a cut gzip, half a character) is kept in `fault` and reads as its end:
    the rows before it are good.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.fault = path, ""
        self._file: Any = path.open("rb")
        self.packed = self._file.read(2) == GZIP
        self._file.seek(0)
        if self.packed:
            self._file = gzip.GzipFile(fileobj=self._file)
        self._decoder, self.encoding, self._rest = None, "UTF-8", b""
        while len(self._rest) < 4 and (block := self._raw(4)):
            self._rest += block
        mark, name = next(((m, n) for m, n in MARKS if self._rest.startswith(m)), (b"", ""))
        self._rest = self._rest[len(mark) :]
        if mark:
            self.encoding = f"{name} with byte order mark"
        if name not in ("", "UTF-8"):
            self._decoder = codecs.getincrementaldecoder(name)("surrogatepass")
            self._rest = self._recoded(self._rest)
        while len(self._rest) < HEAD and (block := self._block()):
            self._rest += block
        self.head = self._rest

    def reopen(self) -> None:
        """Back to the start."""
        self.close()
        self.__init__(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> bytes:
        """The next block; empty at the end."""
        block, self._rest = self._rest, b""
        return block or self._block()

    def read_all(self) -> bytes:
        """Everything that is left."""
        return b"".join(iter(self.read, b""))

    def _block(self) -> bytes:
        while raw := self._raw(BLOCK):
            if self._decoder is None:
                return raw
            if text := self._recoded(raw):
                return text
        return self._recoded(b"") if self._decoder else b""

    def _recoded(self, raw: bytes) -> bytes:
        try:
            return self._decoder.decode(raw, final=not raw).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            name = self.encoding.split()[0]
            self.fault = f"invalid {name}"
            self._decoder.reset()
            good = error.object[: error.start]
            return good.decode(name, "surrogatepass").encode("utf-8", "surrogatepass")

    def _raw(self, size: int) -> bytes:
        if self.fault:
            return b""
        try:
            return self._file.read1(size) if self.packed else self._file.read(size)
        except EOFError:
            self.fault = "cut gzip file"
        except (gzip.BadGzipFile, zlib.error) as error:
            self.fault = f"broken gzip file ({str(error).splitlines()[0][:60]})"
        except OSError as error:
            self.fault = f"read error ({error.strerror})"
        return b""


_END = re.compile(rb"\r\n|\n|\r")


LF = re.compile(rb"\r?\n")


def lines(
    source: Source, limit: int, ends: re.Pattern[bytes] = _END
) -> Iterator[tuple[int, bytes, str, str]]:
    """Lines as (number, content with its end, reason, detail); at most `limit` bytes in memory.

    A line above the limit is counted to its end and comes without content.

    Args:
        ends: What ends a line; a lone CR too if not given (a JSON string cannot hold one).
    """
    number, passed, rest, block = 1, 0, b"", b" "  # passed: bytes of an over-long line let go

    def line(content: bytes) -> tuple[int, bytes, str, str]:
        if passed or len(content) > limit:
            size = passed + len(content)
            return number, b"", "over-long line", f"{size} bytes, the limit is {limit}"
        return number, content, "", ""

    while block:
        block, start = source.read(), 0
        searched = max(len(rest) - 1, 0)  # a CR at the seam is looked at again
        rest += block
        for end in ends.finditer(rest, searched):
            if end[0] == b"\r" and end.end() == len(rest) and block:
                break  # an LF may follow in the next block
            yield line(rest[start : end.end()])
            number, passed, start = number + 1, 0, end.end()
        rest = rest[start:]
        if len(rest) > limit:
            passed, rest = passed + len(rest) - 1, rest[-1:]
    if source.fault:  # what is left is half a line, even if it looks whole, as in a CSV
        yield number, rest, source.fault, REST_UNREAD
    elif rest:
        yield line(rest)


def jsonl(source: Source, limit: int) -> Iterator[Item]:
    """One JSON object per line."""
    blank: list[int] = []
    for number, raw, reason, detail in lines(source, limit):
        if not reason and not raw.strip():
            blank.append(number)
            continue
        yield from (Item(n, None, "blank line between rows") for n in blank)
        blank.clear()
        row, joint = None, number > 1 and raw.startswith(codecs.BOM_UTF8)
        if joint:  # files that were written one behind the other each bring their mark
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if not reason:
            row, reason, detail = data.decode_line(raw)
        elif raw and data.decode_line(raw)[0]:  # only its line end is lost
            yield Item(number, data.decode_line(raw)[0])
            number += 1
        if reason == data.NOT_JSON and not _END.search(raw[-1:]):
            reason = "not JSON, the last line may be cut"
        yield Item(number, row, reason or INNER_MARK * (joint and row is not None), detail)


def unreadable(raw: bytes) -> tuple[str, str]:
    """What makes a line no text (reason, detail), or two empty strings."""
    if b"\0" in raw:
        return "NUL byte", f"at byte {raw.index(0)}"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return "invalid UTF-8", f"at byte {error.start}"
    return "", ""
