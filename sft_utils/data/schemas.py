"""JSON Schemas of answers: load one, infer one from examples, show one to a small model."""

import datetime
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path, given_path, reader_path
from sft_utils.data import rows as data
from sft_utils.data.schematext import Schema, resolve, signature
from sft_utils.errors import DataError

__all__ = ["infer_schema", "load_schema", "signature"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

ENUM_VALUES = 12
"""More distinct texts than this are no closed set."""

ENUM_SHARE = 0.2
"""A closed set repeats: at most this share of the texts is distinct, each seen at least twice."""

_LITERAL = ("const", "enum", "default", "examples", "dependentRequired")
"""Their content is data, not schema."""
_NAMED = ("properties", "patternProperties", "$defs", "dependentSchemas")
"""Their keys are names, not keywords."""


def load_schema(path: Path | str) -> Schema:
    """Read a JSON Schema (draft 2020-12) that stands on its own; its root may be of any type.

    Args:
        path: A UTF-8 file with one JSON object.
    Raises:
        DataError: Missing, no JSON, no valid schema, of another draft, or with a reference that
            leaves the file or leads nowhere.
    """
    path = reader_path(path)
    name = display_path(path)
    if not path.is_file():
        raise DataError(
            f"schema {given_path(path)} does not exist or is not a file. Check the path."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"schema {name} is not UTF-8 (byte {error.start}). Save it so.") from error
    except OSError as error:
        raise DataError(f"schema {name} cannot be read: {error.strerror}.") from error
    start = len(text) - len(text.lstrip())
    schema, end, reason, detail = data.decode(text, start)
    if not reason and text[end:].strip():
        reason, detail = "text after the JSON value", f"at character {end}"
    if reason:
        raise DataError(f"schema {name} cannot be read, {reason}: {detail}. Repair it.")
    if not isinstance(schema, dict):
        raise DataError(f"schema {name} holds {json.dumps(schema)[:40]}: an object is needed.")
    if schema.get("$schema") in (f"http{DIALECT[5:]}", f"http{DIALECT[5:]}#"):
        schema["$schema"] = DIALECT  # the same draft, as older ones wrote their address
    _check(schema, name)
    _require_rules(schema, name)
    return schema


def _require_rules(schema: Schema, name: str) -> None:
    """A wrapper or an example answer is a valid schema that permits everything.

    Raises:
        DataError: No key of the root says anything about an answer.
    """
    from jsonschema import Draft202012Validator

    if not schema or schema.keys() & Draft202012Validator.VALIDATORS.keys():
        return  # {} says "anything" on purpose
    inside = [key for key, value in schema.items() if isinstance(value, dict) and "type" in value]
    raise DataError(
        f"schema {name} permits every answer: its keys are {', '.join(map(repr, schema))}, and "
        f"none of them is a rule of JSON Schema (type, properties, required, ...). "
        + (f"Give what stands under {inside[0]!r}." if inside else "Is it an example answer?")
    )


def _check(schema: Schema, name: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        raise DataError(
            f"schema {name} declares {dialect!r}: draft 2020-12 is read. Convert it (definitions "
            "become $defs, lists of items become prefixItems) and declare that."
        )
    try:
        Draft202012Validator.check_schema(schema)
        for place, reference in _references(schema):
            # What stands outside of "$defs" is checked by nobody else.
            target = resolve(schema, reference, f"schema {name}, {place}")
            Draft202012Validator.check_schema(target)
    except SchemaError as error:
        text = error.message if len(error.message) <= 160 else f"{error.message[:157]}..."
        raise DataError(f"schema {name} is no JSON Schema: {text} at {error.json_path}.") from error
    except RecursionError as error:
        raise DataError(f"schema {name} is nested too deeply.") from error


def _references(node: Any, place: str = "$") -> Iterator[tuple[str, Any]]:
    """Every reference of a schema with its place."""
    if isinstance(node, list):
        for index, part in enumerate(node):
            yield from _references(part, f"{place}[{index}]")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            yield place, value
        elif key in _NAMED and isinstance(value, dict):  # in an annotation it may be anything
            for name, part in value.items():
                yield from _references(part, f"{place}.{key}.{name}")
        elif key not in _LITERAL:
            yield from _references(value, f"{place}.{key}")


# --- from examples -------------------------------------------------------------------------------


def infer_schema(values: Sequence[Any]) -> Schema:
    """A schema that all these answers obey, closed where they give a reason to close it.

    Bounds are wider than what was seen (by the observed span; texts twice as long), because the
    next answer is not among these. Read it before you rely on it.

    Args:
        values: Parsed JSON answers, at least one.
    Raises:
        DataError: No value, or one that JSON cannot hold.
    Example:
        >>> infer_schema([{"n": 1}, {"n": 3, "x": None}])["properties"]["n"]
        {'type': 'integer', 'minimum': 0, 'maximum': 5}
    """
    if not values:
        raise DataError("infer_schema: no answer was given, at least one is needed")
    comment = f"Inferred from {len(values)} answers; what they do not show is not in it."
    try:
        return {"$schema": DIALECT, "$comment": comment, **_infer(list(values))}
    except RecursionError as error:
        raise DataError("infer_schema: an answer is nested too deeply") from error


_KINDS = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string",
          list: "array", dict: "object"}  # fmt: skip


def _infer(values: list[Any]) -> Schema:
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        kind = _KINDS.get(type(value), "")
        bad_key = kind == "object" and not all(isinstance(key, str) for key in value)
        if not kind or bad_key or (kind == "number" and not math.isfinite(value)):
            raise DataError(
                f"infer_schema: {str(value)[:40]!r} ({type(value).__name__}) is no JSON"
            )
        by_kind.setdefault(kind, []).append(value)
    if "number" in by_kind:
        by_kind["number"] = by_kind.pop("integer", []) + by_kind["number"]
    kinds = [kind for kind in _KINDS.values() if kind in by_kind and kind != "null"]
    kinds += ["null"] * ("null" in by_kind)
    schema: Schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    for kind in kinds:
        rules = {"string": _texts, "integer": _numbers, "number": _numbers, "array": _lists,
                 "object": _objects}.get(kind)  # fmt: skip
        if rules is not None:
            schema |= rules(by_kind[kind])
    if "enum" in schema:  # an enumeration binds values of every type
        if set(kinds) <= {"string", "null"}:
            schema["enum"] += [None] * ("null" in by_kind)
        else:
            del schema["enum"]
            schema["maxLength"] = _longest(by_kind["string"])
    return schema


def _longest(texts: list[str]) -> int:
    return 2 * max(map(len, texts)) + 16


def _texts(texts: list[str]) -> Schema:
    if all(map(_is_date, texts)):
        return {"format": "date"}
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    few = len(counts) <= min(ENUM_VALUES, ENUM_SHARE * len(texts))
    if few and min(counts.values()) > 1:
        return {"enum": sorted(counts)}
    return {"maxLength": _longest(texts)}


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text)) and bool(
            datetime.date.fromisoformat(text)
        )
    except ValueError:
        return False


def _numbers(numbers: list[int | float]) -> Schema:
    """Bounds one observed span beyond what was seen; what was never negative stays so."""
    low, high = min(numbers), max(numbers)
    try:
        span = high - low or abs(high) or 1
        lower, upper = (max(0, low - span) if low >= 0 else low - span), high + span
        finite = math.isfinite(lower) and math.isfinite(upper)
    except OverflowError:  # an integer that no float can hold
        finite = isinstance(low, int) and isinstance(high, int)
    return {"minimum": lower, "maximum": upper} if finite else {}


def _lists(lists: list[list[Any]]) -> Schema:
    parts = [part for one in lists for part in one]
    longest = max(map(len, lists))
    items = {"items": _infer(parts)} if parts else {}
    return {**items, "maxItems": max(2 * longest, longest + 2)}


def _objects(objects: list[dict[str, Any]]) -> Schema:
    keys = list(dict.fromkeys(key for one in objects for key in one))
    return {
        "properties": {key: _infer([one[key] for one in objects if key in one]) for key in keys},
        "required": [key for key in keys if all(key in one for one in objects)],
        "additionalProperties": False,
    }
