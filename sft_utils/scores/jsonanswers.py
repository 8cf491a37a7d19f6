"""Answers that are JSON: strict parsing, schema validation, fields by path.

Validation is jsonschema's, draft 2020-12 with format checks. Two habits of it are kept as they
are: patterns are Python regular expressions (`$` also matches before a final newline), and 1.0
is an integer. One is not: `multipleOf` is checked in decimals (`multiples`). What this module adds
is a parser that accepts exactly one RFC 8259 value, no network, and an error instead of a crash
for hostile input.
"""

import json
import math
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_utils.artifacts import ROOT
from sft_utils.errors import ConfigError
from sft_utils.scores.multiples import decimal_multiples

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

TYPE_NAMES = {
    dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number",
    type(None): "null",
}  # fmt: skip
"""JSON's name of a Python type."""

Schema = dict[str, Any] | str | Path
"""A schema as an object, as JSON text, or as a path relative to the repository root."""

MAX_DEPTH = 64
"""Levels of nesting. RFC 8259 section 9 allows a limit; without one it is Python's stack, which
depends on the caller, and the validator needs about ten frames per level of a recursive schema."""

_SPACE = " \t\n\r"  # RFC 8259 section 2; str.strip() alone would also forgive a no-break space
_CONTROL = "Invalid control character"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError(f"duplicate key in {keys}")
    return dict(pairs)


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is beyond the range of a number")
    return number


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # the interpreter's bound, made against denial of service
        most = sys.get_int_max_str_digits()
        raise ValueError(f"an integer has more than {most} digits (RFC 8259 section 6)") from None


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constants, parse_float=_finite,
    parse_int=_integer,
)  # fmt: skip


def parse_json(text: str) -> Any:
    r"""Parse a whole answer as one JSON value, exactly by RFC 8259.

    Integers keep every digit, up to the 4,300 that Python reads. Refused, each by name: duplicate
    keys, NaN and infinity (written or by overflow), longer integers, a byte order mark, raw control
    characters, halves of surrogate pairs, nesting deeper than `MAX_DEPTH`, anything before or after
    the value.

    Raises:
        ValueError: Not JSON; the message says where.
    Example:
        >>> parse_json(' {"n": 12345678901234567890123} ')
        {'n': 12345678901234567890123}
        >>> parse_json('{"a": "\\ud800"}')
        Traceback (most recent call last):
        ValueError: half of a surrogate pair (U+D800) in the string at a

    Source: rfc-editor.org/rfc/rfc8259
    """
    if text.startswith("\ufeff"):
        raise ValueError("byte order mark (U+FEFF) before the value: RFC 8259 section 8.1")
    body = text.strip(_SPACE)
    try:
        value = _DECODER.decode(body)
    except json.JSONDecodeError as error:
        code = ord(body[error.pos]) if error.pos < len(body) else 0x20
        if code >= 0x20:
            raise
        where = "in a string" if error.msg.startswith(_CONTROL) else "outside of strings"
        raise ValueError(f"control character U+{code:04X} {where}, character {error.pos}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    """Refuse what Python's parser lets through: depth and half surrogate pairs."""
    todo: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while todo:
        node, path = todo.pop()
        if isinstance(node, dict | list):
            if len(path) >= MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            for key, child in node.items() if isinstance(node, dict) else enumerate(node):
                todo.append((child, (*path, str(key))))
                if isinstance(key, str):
                    _whole(key, f"a key below {'/'.join(path) or '(root)'}")
        elif isinstance(node, str):
            _whole(node, f"the string at {'/'.join(path) or '(root)'}")


def _whole(text: str, where: str) -> None:
    half = next((c for c in text if "\ud800" <= c <= "\udfff"), None) if text else None
    if half is not None:
        raise ValueError(f"half of a surrogate pair (U+{ord(half):04X}) in {where}")


def extract_json(text: str, *, inner: bool = True) -> dict[str, Any] | None:
    """First JSON object in an answer that may have prose or a code fence around it.

    Field scores use this for every arm, so that a prompted model is not scored zero for saying
    "Here is the JSON:" first. Whether the answer *is* JSON is `parse_json`'s question.

    Args:
        text: The answer.
        inner: Also look inside an object that is broken further on. Wanted where a flat object may
            be wrapped, wrong where the gold object is nested: the first whole piece of a
            truncated answer is not the answer.
    Example:
        >>> extract_json('Sure: {"a": 1}!')
        {'a': 1}
        >>> extract_json('{"trip": {"a": 1}, "tr', inner=False) is None
        True
    """
    found = find_json(text, inner=inner)
    return found[0] if found else None


def find_json(
    text: str, *, start: int = 0, inner: bool = True, brackets: str = "{"
) -> tuple[Any, int, int] | None:
    """The value that `extract_json` gives, with its place in the text.

    Args:
        text: The answer.
        start: Where to begin.
        inner: As in `extract_json`.
        brackets: Characters that may open the value: "{" objects, "[" arrays.
    Returns:
        (value, start, end), or None if there is no such value.
    """
    start = _next(text, brackets, start)
    while start != -1:
        try:
            value, end = _DECODER.raw_decode(text, start)
            _check(value)
        except (ValueError, RecursionError) as error:
            start = _next(text, brackets, start + 1 if inner else _resume(text, start, error))
            continue
        return value, start, end
    return None


def _next(text: str, brackets: str, start: int) -> int:
    return min((i for i in (text.find(b, start) for b in brackets) if i != -1), default=-1)


def _resume(text: str, start: int, error: Exception) -> int:
    """Where to look on after a broken value: behind the part that was read."""
    if isinstance(error, json.JSONDecodeError):
        return max(error.pos, start + 1)
    try:  # grammatical, but with duplicate keys or the like: skip the whole value
        return json.JSONDecoder().raw_decode(text, start)[1]
    except json.JSONDecodeError as later:
        return max(later.pos, start + 1)
    except (ValueError, RecursionError):
        return len(text)


def load_schema(schema: Schema) -> dict[str, Any]:
    """The schema (or any other specification) as an object; shared, do not change it in place.

    Raises:
        ConfigError: No such file, or not a JSON object.
    """
    return schema if isinstance(schema, dict) else _parsed(*_text_of(schema))


def _text_of(schema: Schema) -> tuple[str, str]:
    """(JSON text, what to call it in a message). Files are read each time: they may be edited."""
    if isinstance(schema, dict):
        return json.dumps(schema), "the schema"
    text = str(schema)
    if text.lstrip(_SPACE).startswith("{"):
        return text, "the schema text"
    path = ROOT / text
    if not path.is_file():
        raise ConfigError(f"no schema at {text}. Give a path below the repository, or a dict.")
    return path.read_text(encoding="utf-8"), text


@lru_cache(maxsize=64)
def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}. Mend the file or the text.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where} holds a {TYPE_NAMES[type(value)]}; a schema is an object")
    return value


@lru_cache(maxsize=64)
def _compiled(text: str, where: str) -> "Draft202012Validator":
    import jsonschema_specifications
    from jsonschema import Draft202012Validator, SchemaError

    schema = _parsed(text, where)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        at = "/".join(map(str, error.absolute_path)) or "(root)"
        raise ConfigError(f"{where} is not draft 2020-12: {error.message} at {at}") from error
    # The explicit registry keeps references off the network; jsonschema's default fetches them.
    return decimal_multiples(Draft202012Validator)(
        schema,
        format_checker=Draft202012Validator.FORMAT_CHECKER,
        registry=jsonschema_specifications.REGISTRY,
    )


def violations(value: Any, schema: Schema) -> "list[ValidationError]":
    """What the validator says, as its own error objects, ordered by path.

    Args:
        value: A parsed JSON value.
        schema: Object, JSON text or path.
    Raises:
        ConfigError: The schema is broken or refers to something that is not in it.
    """
    from jsonschema import ValidationError
    from referencing.exceptions import Unresolvable

    try:
        found = list(_compiled(*_text_of(schema)).iter_errors(value))
    except Unresolvable as error:
        why = f"the schema refers to {error.ref!r}, which is not in it"
        raise ConfigError(f"{why}. References are not fetched: copy it into $defs.") from error
    except (RecursionError, OverflowError) as error:
        why = f"cannot be validated: {error}"
        found = [ValidationError(why, validator="limit", instance=value, schema={})]
    return sorted(found, key=lambda e: list(map(str, e.path)))


def schema_errors(value: Any, schema: Schema) -> list[str]:
    """All violations of a JSON Schema (draft 2020-12, formats checked), empty if valid.

    Args:
        value: A parsed JSON value.
        schema: Object, JSON text, or path relative to the repository root.
    Raises:
        ConfigError: The schema is broken.
    Example:
        >>> schema_errors({"n": 0}, {"properties": {"n": {"minimum": 1}}})
        ['n: 0 is less than the minimum of 1']

    Source: json-schema.org/draft/2020-12
    """
    return [
        f"{'/'.join(map(str, e.path)) or '(root)'}: {e.message}" for e in violations(value, schema)
    ]


def same_value(a: Any, b: Any) -> bool:
    """JSON equality: 1 equals 1.0, but true does not equal 1, at any depth.

    Example:
        >>> same_value({"a": [1]}, {"a": [1.0]}), same_value([True], [1])
        (True, False)
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return a == b


def pointer(*steps: str | int) -> str:
    """A path of keys and indices as text, escaped like a JSON pointer (RFC 6901).

    Example:
        >>> pointer("legs", 0, "from/to")
        'legs/0/from~1to'
    """
    return "/".join(str(s).replace("~", "~0").replace("/", "~1") for s in steps)


def flatten(value: Any) -> dict[str, Any]:
    """Leaf values by path as text (`leaves`).

    Example:
        >>> flatten({"passengers": [{"name": "Ada", "age": None}], "bags": []})
        {'passengers/0/name': 'Ada', 'passengers/0/age': None}
    """
    return {pointer(*path): leaf for path, leaf in leaves(value).items()}


def leaves(value: Any) -> dict[tuple[str | int, ...], Any]:
    """Leaf values by path; arrays are aligned by index.

    Alignment by index is harsh on purpose: an item left out at the front makes all later ones
    wrong, as it does for a program that reads the answer. Where order means nothing, sort both
    sides before scoring. Empty objects and arrays have no leaves. A key is text and an index a
    number, so that no object looks like an array.

    Example:
        >>> leaves({"a": ["x"]}), leaves({"a": {"0": "x"}}), leaves("x")
        ({('a', 0): 'x'}, {('a', '0'): 'x'}, {(): 'x'})
    """
    found: dict[tuple[str | int, ...], Any] = {}
    todo: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    while todo:
        node, path = todo.pop()
        if isinstance(node, dict | list):
            items = list(node.items() if isinstance(node, dict) else enumerate(node))
            todo += [(child, (*path, key)) for key, child in reversed(items)]
        else:
            found[path] = node
    return found
