"""Filters for structured answers: is it JSON, does it fit the schema, does the mail support it?"""

import math
import re
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

from sft_utils.artifacts import ROOT, read_json
from sft_utils.curation.grounding import ungrounded
from sft_utils.data.duplicates import composed
from sft_utils.data.filters import user_turns
from sft_utils.data.rows import Row, answer_of
from sft_utils.errors import DataError
from sft_utils.scores.scoring import parse_json, schema_errors
from sft_utils.task.tickets import SCHEMA

FACTS = ("product", "order_id", "amount", "currency", "date", "customer")
"""Fields that name this customer's case; topic, action and urgent are shared by thousands."""

_KNOWN = {"enum", "type", "pattern", "minLength", "maxLength", "minimum", "maximum", "format"}
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@lru_cache(maxsize=16)
def _parsed(answer: str) -> Any:
    """The parsed answer; several filters in a row ask for the same one."""
    return parse_json(answer)


def ticket_of(row: Row) -> dict[str, Any]:
    """The answer as an object; do not change it in place, it is shared.

    Raises:
        DataError: The answer is not a JSON object.
    """
    try:
        value = _parsed(answer_of(row))
    except (ValueError, RecursionError) as error:
        raise DataError(f"row {row.get('id')!r}: the answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"row {row.get('id')!r}: the answer is {type(value).__name__}, no object")
    return value


def answer_json(row: Row) -> str | None:
    """An answer that is not exactly one JSON value.

    Fences and chatter around it count: the model would learn to write them.
    """
    try:
        _parsed(answer_of(row))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}: {answer_of(row)[:40]!r}"
    return None


def answer_schema(row: Row, *, schema: str = SCHEMA) -> str | None:
    """An answer that violates the schema, formats included."""
    return schema_violation(_parsed(answer_of(row)), schema)


def answer_contradicts(row: Row) -> str | None:
    """An answer with a fact that its mail does not hold; see `grounding.ungrounded`.

    Of a dialogue every user turn counts: the order number stands in the first, "Yes please." last.
    """
    return ungrounded(ticket_of(row), "\n".join(user_turns(row)))


def facts_key(row: Row) -> str:
    """What makes the case of a row: two rows with different keys are never duplicates.

    One value may be written in several ways: 55 and 55.0 are one amount, and texts differ in case
    and in the Unicode form of an accent. More is not levelled: the labelling guidelines say how an
    order number or a date is written.
    """
    ticket = ticket_of(row)
    return "\x1f".join(_canonical(ticket.get(name)) for name in FACTS)


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return composed(str(value)).casefold()


def schema_violation(value: Any, schema: str) -> str | None:
    """The first violation of a JSON Schema, or None; agrees with `scoring.schema_errors`.

    jsonschema takes 100 times as long as the quick test, so it sees only what that one does not
    prove valid.

    Args:
        value: A parsed answer.
        schema: Path of the schema, relative to the repository root.
    """
    if _quick(schema)(value):
        return None
    errors = schema_errors(value, schema)
    return errors[0][:160] if errors else None


@lru_cache(maxsize=4)
def _quick(schema: str) -> Callable[[Any], bool]:
    """A test that is true only for valid objects; anything unusual is left to jsonschema.

    Rules come from the schema file. A keyword outside `_KNOWN` makes it say False for every
    value, which costs time, never truth.
    """
    rules = read_json(ROOT / schema)
    properties: dict[str, dict[str, Any]] = rules.get("properties", {})
    shape = rules.keys() - {"$schema", "$id", "title", "description"}
    simple = (
        shape == {"type", "properties", "required", "additionalProperties"}
        and rules["additionalProperties"] is False
        and set(rules["required"]) == set(properties)
        and all(set(rule) <= _KNOWN for rule in properties.values())
        and all(rule.get("format", "date") == "date" for rule in properties.values())
    )
    if not simple:
        return lambda value: False
    checks = {name: _quick_value(rule) for name, rule in properties.items()}

    def valid(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == checks.keys()
            and all(check(value[name]) for name, check in checks.items())
        )

    return valid


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _quick_value(rule: dict[str, Any]) -> Callable[[Any], bool]:
    """The quick test of one property."""
    types = rule.get("type", [])
    types = {types} if isinstance(types, str) else set(types)
    enum = {v for v in rule.get("enum", ()) if v is None or isinstance(v, str)}
    pattern = re.compile(rule.get("pattern", ""))
    shortest, longest = rule.get("minLength", 0), rule.get("maxLength", math.inf)
    least, most = rule.get("minimum", -math.inf), rule.get("maximum", math.inf)

    def valid(value: Any) -> bool:
        if "enum" in rule:
            return not types and (value is None or isinstance(value, str)) and value in enum
        if value is None or isinstance(value, bool):
            return ("null" if value is None else "boolean") in types
        if isinstance(value, str):
            return (
                "string" in types
                and shortest <= len(value) <= longest
                and pattern.search(value) is not None
                and ("format" not in rule or _is_day(value))
            )
        return isinstance(value, int | float) and "number" in types and least <= value <= most

    return valid
