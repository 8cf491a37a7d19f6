"""Rows of somebody else's file as conversations; unknown shapes are named, never guessed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_utils import data
from sft_utils.artifacts import display_path
from sft_utils.chat import Message
from sft_utils.errors import DataError

KEYS = "messages, prompt + completion, conversations (ShareGPT), instruction + output (Alpaca)"


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file: one JSON object per line, or one JSON list of objects.

    Which of the two it is, is told by the first character, not by the file's name.

    Raises:
        DataError: Missing, empty or broken; names the line (of a list: the row).
    """
    try:
        return _list(path) if _first(path) == b"[" else data.rows_of(path)
    except (DataError, UnicodeDecodeError) as error:
        hint = ""
        if path.is_file() and path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
            hint = f" JSON or JSONL is needed; this is a {path.suffix or 'nameless kind of'} file."
        where = "" if isinstance(error, DataError) else f"{display_path(path)} is not UTF-8: "
        raise DataError(f"{where}{error}{hint}") from error


def _first(path: Path) -> bytes:
    """The first character that is no white space; empty for a missing or empty file."""
    if not path.is_file():
        return b""
    with path.open("rb") as handle:
        return handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _list(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that holds one JSON list."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{display_path(path)} begins with '[' but is no JSON list: {error}. Repair it, or "
            "write one object per line (JSONL)."
        ) from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{display_path(path)}, row {number}: {_kind(row)}, not an object")
    if not rows:
        raise DataError(f"{display_path(path)} is empty: a list without rows.")
    return rows


def conversation(row: Mapping[str, Any], number: int) -> list[Message]:
    """One row as messages. Roles stay as they are: foreign ones are a finding, not a repair.

    Args:
        row: A row of any known layout.
        number: Its 1-based number, for the message.
    Raises:
        DataError: An unknown layout, or a field of the wrong kind; names the row and the field.
    """
    if "messages" in row:
        return _turns(row, "messages", number)
    if "prompt" in row and "completion" in row:
        sides = (("prompt", "user"), ("completion", "assistant"))
        return [m for field, role in sides for m in _side(row, field, role, number)]
    if "conversations" in row:
        return _turns(row, "conversations", number)
    if "instruction" in row and "output" in row:
        asked = [_text(row, field, number) for field in ("instruction", "input") if row.get(field)]
        return [
            {"role": "user", "content": "\n\n".join(asked)},
            {"role": "assistant", "content": _text(row, "output", number)},
        ]
    raise DataError(f"row {number}: keys {sorted(row)} are no known layout. Known: {KEYS}")


def _turns(row: Mapping[str, Any], field: str, number: int) -> list[Message]:
    """A list of messages; ShareGPT's from/value become role/content."""
    turns = row[field]
    if not isinstance(turns, list):
        raise DataError(f"row {number}: {field!r} is {_kind(turns)}, a list of messages is needed")
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise DataError(f"row {number}: {field}[{index}] is {_kind(turn)}, an object is needed")
    renamed = {"from": "role", "value": "content"}
    return [{renamed.get(key, key): value for key, value in turn.items()} for turn in turns]


def _side(row: Mapping[str, Any], field: str, role: str, number: int) -> list[Message]:
    """A prompt or completion: a text, or already messages."""
    if isinstance(row[field], list):
        return _turns(row, field, number)
    return [{"role": role, "content": _text(row, field, number)}]


def _text(row: Mapping[str, Any], field: str, number: int) -> str:
    """A field that must be a text."""
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: {field!r} is {_kind(row[field])}, a text is needed")
    return row[field]


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's own words."""
    names = {"str": "a string", "list": "a list", "dict": "an object", "bool": "a boolean"}
    return "null" if value is None else names.get(type(value).__name__, "a number")
