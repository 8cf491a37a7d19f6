"""The shape of a data row, and how alike two mails are."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
LICENCE = "CC-BY-4.0"
ALIKE = 0.5  # word-triple similarity that no two clean mails reach


@dataclass(slots=True, kw_only=True)
class Item:
    """A row on its way into raw.jsonl, with what is wrong with it."""

    row: Row
    defect: str = ""  # "" clean, "none" clean but looks suspicious, else the kind
    note: str = ""
    of: Row | None = None  # the row that a duplicate repeats
    damage: Callable[[str], str] | None = None  # applied to the finished line


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file without damage."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def dump(value: object) -> str:
    """Compact JSON, non-ASCII letters as they are."""
    return ENCODER.encode(value)


def make_row(
    mail: str, ticket: dict[str, Any], *, source: str, style: str, scenario: str, thread: str
) -> Row:
    """A row without an id yet; the answer is the compact JSON of the ticket."""
    return {
        "id": "",
        "source": source,
        "licence": LICENCE,
        "thread": thread,
        "style": style,
        "scenario": scenario,
        "messages": [
            {"role": "user", "content": mail},
            {"role": "assistant", "content": dump(ticket)},
        ],
    }


def with_texts(row: Row, mail: str | None = None, answer: str | None = None) -> Row:
    """A copy of a row with another mail or answer."""
    old_mail, old_answer = (message["content"] for message in row["messages"])
    return {
        **row,
        "messages": [
            {"role": "user", "content": old_mail if mail is None else mail},
            {"role": "assistant", "content": old_answer if answer is None else answer},
        ],
    }


def mail_of(row: Row) -> str:
    """The customer's mail."""
    return row["messages"][0]["content"]


def ticket_of(row: Row) -> dict[str, Any]:
    """The labelled ticket."""
    return json.loads(row["messages"][1]["content"])


def triples(text: str) -> frozenset[tuple[str, ...]]:
    """The set of three consecutive words, in small letters, without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the word triples of two texts, 0 to 1."""
    one, two = triples(a), triples(b)
    return len(one & two) / len(one | two)


class Collection:
    """Mails that must not resemble each other."""

    def __init__(self) -> None:
        self._sets: list[frozenset[tuple[str, ...]]] = []
        self._index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)

    def nearest(self, text: str) -> float:
        """Highest similarity to a mail in the collection."""
        mine = triples(text)
        shared: defaultdict[int, int] = defaultdict(int)
        for triple in mine:
            for n in self._index.get(triple, ()):
                shared[n] += 1
        return max(
            (count / (len(mine) + len(self._sets[n]) - count) for n, count in shared.items()),
            default=0.0,
        )

    def add(self, text: str) -> bool:
        """Add a mail unless it is too similar (`ALIKE`) to another one."""
        if self.nearest(text) >= ALIKE:
            return False
        mine = triples(text)
        for triple in mine:
            self._index[triple].append(len(self._sets))
        self._sets.append(mine)
        return True
