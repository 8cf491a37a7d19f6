"""Violations of a JSON Schema as classes of failures, each with its place."""

import re
from typing import TYPE_CHECKING, Any

from sft_utils.scores.jsonanswers import Schema, pointer, violations

if TYPE_CHECKING:
    from jsonschema import ValidationError

_KEYWORDS = {
    "required": "missing key", "dependentRequired": "missing key",
    "additionalProperties": "extra key", "unevaluatedProperties": "extra key",
    None: "extra key",  # a key whose schema is `false`
    "type": "wrong type", "enum": "enum", "const": "enum",
}  # fmt: skip
"""Every other keyword constrains a value that has the right type: bound/pattern."""


def schema_failures(value: Any, schema: Schema) -> list[tuple[str, str, str]]:
    """(class, where, detail) of every violation; the order depends on nothing but the input."""
    errors = [leaf for error in violations(value, schema) for leaf in _resolve(error)]
    others = [e for e in errors if not str(e.validator).startswith("unevaluated")]
    errors = others + [e for e in errors if e not in others and (not others or _is_extra(e))]
    errors.sort(key=lambda e: (_order(e.absolute_path), _order(e.absolute_schema_path)))
    return [(_class_of(e), _where(e), e.message[:200]) for e in errors]


def _is_extra(error: "ValidationError") -> bool:
    """Whether a key that was not evaluated is one too many, whatever else is wrong.

    A key counts as unevaluated as soon as anything beside it is wrong in the part of the schema
    that names it; then that is the cause. So only keys that no part names are one too many.
    """
    if not isinstance(error.instance, dict) or not isinstance(error.schema, dict):
        return False
    named = _named(error.schema)
    listed = error.message.rpartition("(")[2]
    return named is not None and any(
        repr(key) in listed and not any(re.search(pattern, key) for pattern in named)
        for key in error.instance
    )


def _named(schema: Any) -> list[str] | None:
    """Patterns of the keys that a schema names in any part; None if it refers elsewhere."""
    found = []
    for key, part in schema.items() if isinstance(schema, dict) else ():
        if key in ("$ref", "$dynamicRef"):
            return None
        if key == "properties":
            found += [f"^{re.escape(name)}$" for name in part]
        elif key == "patternProperties":
            found += list(part)
        elif key in ("allOf", "anyOf", "oneOf", "dependentSchemas", "if", "then", "else"):
            parts = part.values() if key == "dependentSchemas" else part
            for one in parts if key not in ("if", "then", "else") else [part]:
                inner = _named(one)
                if inner is None:
                    return None
                found += inner
    return found


def _order(path: Any) -> list[tuple[str, Any]]:
    return [(type(step).__name__, step) for step in path]  # ints and strings do not compare


def _resolve(error: "ValidationError") -> "list[ValidationError]":
    """Violations of the branch that the answer most likely meant; others as they are.

    A failed anyOf says only that no branch fits. The branch meant is the one of the right type
    (object or null: an object means the first), then the one whose constants agree (a "kind" key),
    then the one with the fewest violations, then the first in the schema.
    """
    if not error.context:
        return [error]
    branches: dict[int, list[ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(int(inner.relative_schema_path[0]), []).append(inner)

    def distance(index: int) -> tuple[bool, int, int, int]:
        top = [e for e in branches[index] if not e.relative_path]
        constants = [e for e in branches[index] if e.validator in ("const", "enum")]
        wrong_type = any(e.validator in ("type", None) for e in top)
        return wrong_type, len(constants), len(branches[index]), index

    nearest = branches[min(branches, key=distance)]
    return [leaf for inner in nearest for leaf in _resolve(inner)]


def _class_of(error: "ValidationError") -> str:
    if "propertyNames" in error.absolute_schema_path:
        return "extra key"
    kind = _KEYWORDS.get(error.validator, "bound/pattern")
    if error.instance is None and kind in ("wrong type", "enum"):
        return "null vs absent"
    return kind


def _where(error: "ValidationError") -> str:
    path = list(error.absolute_path)
    if error.validator == "required":
        path += [key for key in error.validator_value if error.message.startswith(f"{key!r} is ")]
    elif error.validator == "additionalProperties":
        known, patterns = (error.schema.get(k, {}) for k in ("properties", "patternProperties"))
        path += [
            key
            for key in error.instance
            if key not in known and not any(re.search(p, key) for p in patterns)
        ][:1]
    return pointer(*path) or "(root)"
