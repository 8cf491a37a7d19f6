"""Held-out texts in training rows, in whichever turn they hide.

A dialogue may hold a test mail in its first turn and "Thanks!" in its last, or a test mail may be
an example in the system text. A row of one mail is one text, and compared once.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from sft_utils.artifacts import display_path
from sft_utils.data import filters
from sft_utils.data.duplicates import (
    CONTAINED_SIZE,
    HeldOut,
    Shingles,
    common_shingles,
    exact_key,
    shingles,
    words_of,
)
from sft_utils.data.rows import Row, read_jsonl
from sft_utils.errors import DataError


def held_out_turns(paths: Sequence[Path | str]) -> dict[str, list[str]]:
    """The user turns of every held-out row under a name of its own: `id`, or file and line.

    Raises:
        DataError: A row has no roles to read a mail from, so leaks of it would go unseen.
    """
    turns: dict[str, list[str]] = {}
    for path in map(Path, paths):
        for line in read_jsonl(path, strict=True):
            if line.row is None:
                continue
            if reason := filters.roles(line.row):
                raise DataError(
                    f"{display_path(path)}:{line.number}: this held-out row cannot be compared "
                    f"({reason}). Give it `messages` that end with a user and an assistant turn."
                )
            name = str(line.row.get("id", ""))
            if not name or name in turns:  # files number their rows alike: no row may hide another
                name = f"{name} ({path.name}:{line.number})".lstrip()
            turns[name] = filters.user_turns(line.row)
    return turns


class Leaks:
    """Every user turn and the system text of a row against every user turn held out.

    Of a held-out dialogue the whole counts and each of its turns, but for the short ones: fewer
    than `CONTAINED_SIZE` words ("Yes please.") are common speech, and no leak.
    """

    def __init__(self, paths: Sequence[Path | str], common: Shingles) -> None:
        """Read and index the held-out files.

        Args:
            paths: Files that no training row may resemble.
            common: `common_shingles` of the training file: they count for nothing.
        Raises:
            DataError: A file is missing, empty or broken, or a row of it has no roles.
        """
        self._common = common
        self._texts: dict[str, str] = {}
        held = held_out_turns(paths)
        for name, turns in held.items():
            for number, text in enumerate(turns if len(turns) > 1 else [], 1):
                if len(words_of(text)) >= CONTAINED_SIZE:
                    self._texts[f"{name}, turn {number}"] = text
        self._whole = {name: "\n".join(turns) for name, turns in held.items()}
        self._held = HeldOut(self._texts | self._whole, common)
        self._of_system = lru_cache(maxsize=256)(self._in_system)  # most rows share theirs

    def find(self, row: Row, asked: str, parts: Shingles, key: int) -> str | None:
        """What a row repeats, and where in it, or None.

        Args:
            row: A row with valid roles.
            asked: Its user turns as one text.
            parts: `shingles(asked)`.
            key: `exact_key(asked)`.
        """
        turns = filters.user_turns(row)
        for number, text in enumerate(turns if len(turns) > 1 else [], 1):
            its_parts = shingles(text)
            if its_parts <= self._common:  # an opening or a farewell of many rows is no leak
                continue
            if leak := self._held.find(text, its_parts, exact_key(text)):
                return f"{leak} (user turn {number})"
        if leak := self._held.find(asked, parts, key):
            return leak
        first = row["messages"][0]
        return self._of_system(first["content"]) if first["role"] == "system" else None

    def _in_system(self, text: str) -> str | None:
        leak = self._held_by_system.find(text, shingles(text), exact_key(text))
        return f"{leak} (system text)" if leak else None

    @cached_property
    def _held_by_system(self) -> HeldOut:
        """Held-out rows may have the instructions in the user turn that a system text gives here.

        What several of them share is therefore no leak; a mail of theirs as an example is one.
        """
        shared = common_shingles(list(self._whole.values()), CONTAINED_SIZE, rows=2)
        return HeldOut(self._texts | self._whole, self._common | shared)
