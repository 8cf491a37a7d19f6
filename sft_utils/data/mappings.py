"""The reader's mapping: which columns of a table are the prompt, the answer, the messages."""

import difflib
import re
from collections.abc import Mapping

from sft_utils.data import filters
from sft_utils.data.hints import kind, turn_role
from sft_utils.data.parsing import listed
from sft_utils.data.rows import Row
from sft_utils.errors import ConfigError, DataError

TARGETS = ("prompt", "completion", "system", "messages")
"""What a mapping can fill."""

_ASKING = ("system", "user", "human")
"""Roles that no answer begins with."""


class Unfit(DataError):
    """One row is no conversation; arguments are reason and detail."""


def _parts(mapping: str, columns: list[str]) -> list[str]:
    """The target=column parts of a mapping; a column's own name may have commas."""
    parts: list[str] = []
    for part in re.split(rf",(?=\s*(?:{'|'.join(TARGETS)})\s*=)", mapping):
        whole = part.partition("=")[2].strip() in columns
        parts += [part] if whole else part.split(",")
    return parts


def plan(mapping: str, columns: list[str]) -> dict[str, list[str]]:
    """A mapping as target -> columns of the file.

    Raises:
        ConfigError: It is malformed, names a column that no row has, or one on both sides.
    """
    example = "for example mapping='prompt=question,completion=answer'"
    found: dict[str, list[str]] = {}
    for part in _parts(mapping, columns):
        target, equals, right = (side.strip() for side in part.partition("="))
        if not equals or not right or target not in TARGETS or target in found:
            fault = "comes twice" if target in found else "is no target=column"
            raise ConfigError(
                f"mapping {mapping!r}: {part.strip()!r} {fault}; targets are {', '.join(TARGETS)}, "
                f"{example}."
            )
        # A column whose own name has a plus goes first.
        found[target] = [right] if right in columns else [n.strip() for n in right.split("+")]
        for name in found[target]:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, 1, 0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"There are {listed(columns)}."
                raise ConfigError(f"mapping {mapping!r}: no row has a column {name!r}. {hint}")
    if found.keys() - {"system"} not in ({"prompt", "completion"}, {"messages"}):
        raise ConfigError(
            f"mapping {mapping!r} fills {listed(list(found))}: prompt and completion (or messages "
            f"alone) are needed, {example}."
        )
    if both := [name for name in found.get("prompt", []) if name in found["completion"]]:
        raise ConfigError(
            f"mapping {mapping!r}: column {both[0]!r} fills prompt and completion; a model that is "
            f"told its answer learns to repeat it. Give two columns, {example}."
        )
    return found


def apply(row: Row, plan: Mapping[str, list[str]]) -> Row:
    """A row under the names of a mapping; columns of one target are joined by an empty line."""
    new: Row = {}
    for target, names in plan.items():
        if missing := [name for name in names if name not in row and target != "system"]:
            raise Unfit("column missing", repr(missing[0]))
        values = [row.get(name) for name in names]
        if len(names) > 1:
            values = ["" if value is None else value for value in values]
        lists = len(names) == 1 and target != "system"  # of messages; `conversation` reads them
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, (str, list) if lists else (str, type(None))):
                needed = "a list of messages" if target == "messages" else "a text"
                raise Unfit("non-text content", f"{name!r} is {kind(value)}, {needed} is needed")
        if len(names) > 1:
            values = ["\n\n".join(text for text in values if filters.visible(text))]
        elif target == "completion" and (first := turn_role(values[0])) in _ASKING:
            raise Unfit(
                "whole dialogue as completion",
                f"{names[0]!r} begins with {first}: mapping 'messages={names[0]}'",
            )
        new[target] = values[0]
    return new
