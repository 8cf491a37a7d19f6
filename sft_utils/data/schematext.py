"""A JSON Schema as a few lines that a small model can follow: one key per line, types in words."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from sft_utils.errors import DataError

Schema = dict[str, Any]

SHORT = 16
"""A bound of a text's length below this is told; longer ones (all inferred ones) cost tokens."""

FORMATS = {
    "date": "date (YYYY-MM-DD)",
    "time": "time (hh:mm:ssZ)",
    "date-time": "date-time (YYYY-MM-DDThh:mm:ssZ)",
}


def signature(schema: Mapping[str, Any]) -> str:
    """Render a schema for a prompt: every property in a line of its own, `?` if not required.

    Args:
        schema: A schema from `load_schema` or `infer_schema`.
    Returns:
        Lines without a final newline; the same schema always gives the same text.
    Raises:
        DataError: A reference leaves the schema or leads nowhere, or it is nested too deeply.
    Example:
        >>> fields = {
        ...     "class": {"enum": ["economy", "business"]},
        ...     "seats": {"type": "integer", "minimum": 1, "maximum": 9},
        ...     "note": {"type": ["string", "null"]},
        ... }
        >>> print(signature({"properties": fields, "required": ["class", "seats"]}))
        {
          class: "economy" | "business"
          seats: integer 1..9
          note?: string | null
        }
    """
    try:
        return _text(dict(schema), dict(schema), ("#",))
    except RecursionError as error:
        raise DataError("signature: the schema is nested too deeply") from error


def resolve(root: Schema, reference: str, where: str) -> Any:
    """The schema that a local reference means; nothing is ever fetched.

    Raises:
        DataError: It leaves the schema, leads nowhere or to something else; begins with `where`.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise DataError(
            f"{where}: $ref {reference!r} is no path in this file, and nothing is fetched. Copy "
            'what it means into "$defs" and write "#/$defs/NAME".'
        )
    node: Any = root
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            raise DataError(f"{where}: $ref {reference!r} leads nowhere ({part!r} is not there).")
    if not isinstance(node, dict | bool):
        raise DataError(f"{where}: $ref {reference!r} leads to no schema.")
    return node


_BRANCHES = ("then", "else")
_AGAIN = "$again"  # marks a reference to something that is being rendered
_WITHIN = "$within"  # property -> references inside which its own rule stands
_MAYBE = "$maybe"  # properties that only conditional parts name: another one adds a choice


def _flat(node: Any, root: Schema, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """A schema with its references and `allOf` merged in; what is conditional is optional."""
    if not isinstance(node, dict):
        return ({} if node else {"not": {}}), seen
    joined = ("$ref", "allOf", "if", *_BRANCHES, "dependentSchemas")
    merged = {key: value for key, value in node.items() if key not in joined}
    # Known already of a part that was flattened before; else what is being rendered around it.
    merged[_WITHIN] = dict.fromkeys(node.get("properties", {}), seen) | node.get(_WITHIN, {})
    parts: list[tuple[Any, bool]] = [(part, True) for part in node.get("allOf", [])]
    parts += [(node[key], False) for key in _BRANCHES if key in node]
    parts += [(part, False) for part in node.get("dependentSchemas", {}).values()]
    if reference := node.get("$ref"):
        if reference in seen:
            merged[_AGAIN] = "the whole" if reference == "#" else reference.rsplit("/", 1)[-1]
        else:
            seen = (*seen, reference)
            parts.insert(0, (resolve(root, reference, "signature"), True))
    here = seen
    for part, binding in parts:
        flat, inner = _flat(part, root, here)  # two parts may refer to the same schema
        seen = tuple(dict.fromkeys((*seen, *inner)))
        _merge(merged, flat, root, seen, binding)
    return merged, seen


def _merge(
    into: Schema, part: Schema, root: Schema, seen: tuple[str, ...], binding: bool = True
) -> None:
    """Add the rules of a part: bounds and types as narrow as both say, otherwise the first stays.

    Of a conditional part (not `binding`) only keys are taken that are not there yet: what it says
    about others holds in some answers only. Two conditional parts that name one key give a choice.
    """
    for key, value in part.items():
        if key == "properties":
            known, within = dict(into.get("properties", {})), into.setdefault(_WITHIN, {})
            maybe: set[str] = into.setdefault(_MAYBE, set())
            for name, rule in value.items():
                around = part.get(_WITHIN, {}).get(name, seen)
                loose = not binding or name in part.get(_MAYBE, ())
                if name not in known:
                    known[name] = rule
                    maybe |= {name} if loose else set()
                elif loose and name not in maybe:
                    continue
                elif loose:
                    known[name] = _either(known[name], rule)
                elif name in maybe:  # what always holds stands before what holds at times
                    known[name], within[name] = rule, ()
                    maybe.discard(name)
                else:
                    known[name] = {"allOf": [known[name], rule]}
                within[name] = tuple(dict.fromkeys((*within.get(name, ()), *around)))
            into["properties"] = known
        elif key in (_WITHIN, _MAYBE):
            continue
        elif key in ("anyOf", "oneOf") and (key in into or not binding):
            for branch in value:  # a second choice: its keys are named as optional ones
                _merge(into, _flat(branch, root, seen)[0], root, seen, binding=False)
        elif key == "required":
            if binding:
                into["required"] = list(dict.fromkeys([*into.get("required", []), *value]))
        elif not binding:
            continue
        elif key == "enum" and "enum" in into:
            into["enum"] = [one for one in into["enum"] if one in value]
        elif key == "type" and "type" in into:
            into["type"] = _both(into["type"], value)
        elif key in _NARROWER and key in into:
            into[key] = _NARROWER[key](into[key], value)
        elif key not in into:
            into[key] = value


def _either(one: Any, other: Any) -> Any:
    """What two conditional parts say about one key. References stay with the first: what is being
    rendered around them is known for one part only.
    """
    if other is False or one == other or "$ref" in json.dumps([one, other]):
        return one
    if one is False:
        return other
    if {} in (one, other) or True in (one, other):
        return {}
    return {"anyOf": [one, other]}


_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_NARROWER = dict.fromkeys(_LOWER, max) | dict.fromkeys(_UPPER, min)


def _both(one: str | list[str], other: str | list[str]) -> str | list[str]:
    """The types that two rules for one value both allow; every integer is a number."""
    first, second = ([t] if isinstance(t, str) else t for t in (one, other))
    kinds = [
        "integer" if {a, b} == {"integer", "number"} else a
        for a in first for b in second if a == b or {a, b} == {"integer", "number"}
    ]  # fmt: skip
    kinds = list(dict.fromkeys(kinds)) or list(first)
    return kinds[0] if len(kinds) == 1 else kinds


def _text(node: Any, root: Schema, seen: tuple[str, ...]) -> str:
    """One schema in words; several lines for an object."""
    flat, seen = _flat(node, root, seen)
    if "not" in flat and flat["not"] in ({}, True):
        return "never"
    if _AGAIN in flat:
        return f"{flat[_AGAIN]} again (recursive)"
    if "const" in flat or "enum" in flat:
        values = [flat["const"]] if "const" in flat else flat["enum"]
        return _union(json.dumps(value, ensure_ascii=False) for value in values)
    for choice in ("anyOf", "oneOf"):
        if choice in flat:
            base = {key: value for key, value in flat.items() if key != choice}
            return _union(_text({"allOf": [base, one]}, root, seen) for one in flat[choice])
    kind = flat.get("type") or _implied(flat)
    if isinstance(kind, list):
        return _union(_text({**flat, "type": one}, root, seen) for one in kind)
    if kind == "object":
        return _object(flat, root, seen)
    if kind == "array":
        return _array(flat, root, seen)
    if kind == "string":
        return _string(flat)
    if kind in ("integer", "number"):
        return f"{kind} {_range(flat)}".strip()
    return kind


def _union(texts: Iterator[str]) -> str:
    return " | ".join(dict.fromkeys(texts)) or "never"


_IMPLIES = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "maxItems", "minItems"),
    "string": ("format", "pattern", "maxLength", "minLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _implied(flat: Schema) -> str:
    """The type that the keywords of a schema without one are about."""
    return next((kind for kind, keys in _IMPLIES.items() if any(k in flat for k in keys)), "any")


def _object(flat: Schema, root: Schema, seen: tuple[str, ...]) -> str:
    required = flat.get("required", [])
    rules = {**dict.fromkeys(required, True), **flat.get("properties", {})}
    order = [*flat.get("properties", {}), *(key for key in required if key in rules)]
    entries = []
    for name in dict.fromkeys(order):
        shown = (
            name if re.fullmatch(r"[A-Za-z_]\w*", name) else json.dumps(name, ensure_ascii=False)
        )
        around = flat.get(_WITHIN, {}).get(name, seen)
        entries.append((f"{shown}{'' if name in required else '?'}", rules[name], around))
    for pattern, rule in flat.get("patternProperties", {}).items():
        entries.append((f"[key matching /{pattern}/]", rule, seen))
    if isinstance(flat.get("additionalProperties"), dict):
        other = "[any other key]" if entries else "[key]"
        entries.append((other, flat["additionalProperties"], seen))
    if not entries:
        return "{}" if flat.get("additionalProperties") is False else "object"
    lines = []
    for shown, rule, around in entries:
        first, *rest = _text(rule, root, around).split("\n")
        said = _flat(rule, root, around)[0].get("description", "").strip().split("\n")[0][:100]
        lines.append(f"  {shown}: {first}" + (f"  // {said}" if said else ""))
        lines += [f"  {line}" for line in rest]
    return "\n".join(["{", *lines, "}"])


def _array(flat: Schema, root: Schema, seen: tuple[str, ...]) -> str:
    low, high = flat.get("minItems"), flat.get("maxItems")
    counts = f"{low}..{high}" if low and high is not None else ""
    counts = counts or (f"at most {high}" if high is not None else f"at least {low}" if low else "")
    said = ", ".join(filter(None, [counts, "no repeats" if flat.get("uniqueItems") else ""]))
    head = f"array ({said})" if said else "array"
    first = [_text(part, root, seen) for part in flat.get("prefixItems", [])]
    items = flat.get("items", True)
    rest = "" if items in (True, False, {}) else _text(items, root, seen)
    if first:
        return f"{head} [{', '.join([*first, *([f'then {rest}'] if rest else [])])}]"
    if not rest:
        return head
    # Lines of an object's keys are indented; alternatives stand on the others.
    choice = any(" | " in line for line in rest.split("\n") if not line.startswith(" "))
    return f"{head} of ({rest})" if choice else f"{head} of {rest}"


def _string(flat: Schema) -> str:
    text = FORMATS.get(flat.get("format", ""), "")
    if not text:
        text = f"string ({flat['format']})" if "format" in flat else "string"
    if "pattern" in flat:
        text += f" matching /{flat['pattern']}/"
    if flat.get("maxLength", SHORT) < SHORT:
        text += f", at most {flat['maxLength']} characters"
    return text


def _range(flat: Schema) -> str:
    """The bounds of a number, for example 1..9."""
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    low, high, above, below = (flat.get(name) for name in names)
    if low is not None and above is not None:
        low, above = (low, None) if low > above else (None, above)
    if high is not None and below is not None:
        high, below = (high, None) if high < below else (None, below)
    if low is not None and high is not None:
        text = f"{low}..{high}"
    else:
        bounds = ((">=", low), (">", above), ("<=", high), ("<", below))
        text = ", ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
    if step := flat.get("multipleOf"):
        text += f"{',' * bool(text)} multiple of {step}"
    return text.strip()
