"""Why an answer is wrong: exactly one primary class per answer, and all others that apply.

The order of the classes is the order of causes. An answer that was cut off is bound to be broken
JSON; broken JSON has no keys to miss; where keys are missing, values cannot be compared. The
primary class is therefore the first that applies: mending a later one would not help the answer.
Within the schema's classes structure comes before content (a missing key, then a key too many,
then types, then values), for the same reason.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.scores.jsonanswers import (
    TYPE_NAMES,
    Schema,
    find_json,
    load_schema,
    parse_json,
    pointer,
    same_value,
)
from sft_utils.scores.schemafaults import schema_failures

CLASSES = (
    "correct",  # valid and equal to the gold object as JSON: {"n": 1.0} for {"n": 1}
    "truncated",  # hit the length limit, whatever else follows from that: {"name": "Ad
    "syntax",  # no JSON object to be found, or only broken ones: {"n": 1,}
    "prose around JSON",  # a whole object inside text or a code fence: Sure! {"n": 1}
    "missing key",  # a required key is not there: {} where "n" is required
    "extra key",  # a key the schema does not allow: {"n": 1, "note": "hm"}
    "wrong type",  # another JSON type than the schema's: {"n": "1"}
    "enum",  # not one of the listed values: {"class": "luxury"}
    "bound/pattern",  # minimum, length, pattern, format, multipleOf, uniqueItems: {"n": -1}
    "null vs absent",  # null or no key where a value belongs, or the reverse: {"n": null}
    "hallucinated value",  # a free text that is not in the input: {"name": "Bob"}, no Bob in it
    "wrong value",  # valid, but not what the gold object says: {"n": 2} for {"n": 1}
)
"""Primary classes in order of precedence; the comment of each says when, with an example."""

DERIVED_FORMATS = {"date", "time", "date-time", "duration", "uuid"}
"""Formats that an answer normalises: "12 March" becomes 2026-03-12, which no text contains."""

_ABSENT = object()
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is wrong with one answer."""

    primary: str  # one of CLASSES
    where: str  # path of the first value concerned, "(root)" for the whole answer
    detail: str  # one line for a reader
    all: tuple[str, ...]  # every class that applies, in the order of CLASSES; primary is the first


def classify(
    answer_text: str, *, gold: Any, schema: Schema, source_text: str, stopped: bool = True
) -> Failure:
    """The class of one answer: `CLASSES` in order, the first that applies.

    Args:
        answer_text: The generated text.
        gold: What it should say.
        schema: Object, JSON text, or path relative to the repository root.
        source_text: The input that the answer must be drawn from.
        stopped: Ended by a stop token, not by the length limit.
    Raises:
        ConfigError: The schema is broken.
    Example:
        >>> schema = {"type": "object", "required": ["name"]}
        >>> f = classify('{"name": "Bob"}', gold={"name": "Ada"}, schema=schema,
        ...              source_text="Ada calls.")
        >>> f.primary, f.where, f.detail
        ('hallucinated value', 'name', "'Bob' for 'Ada', not in the input")
    """
    found: list[tuple[str, str, str]] = []
    value: Any = _ABSENT
    try:
        value = parse_json(answer_text)
    except ValueError as error:
        inside, rest = _unwrap(answer_text, list if isinstance(gold, list) else dict)
        if inside and _is_prose(rest):
            value = inside[0]
            found.append(("prose around JSON", "(root)", f"text around JSON: {rest[:60]!r}"))
        else:
            found.append(("syntax", "(root)", str(error)))
    if value is not _ABSENT:
        broken = schema_failures(value, schema)
        found += broken or _value_failures(value, gold, load_schema(schema), source_text)
    if not found:
        return Failure(primary="correct", where="(root)", detail="equal", all=("correct",))
    if not stopped:
        found.append(("truncated", "(root)", f"cut off after {answer_text[-20:]!r}"))
    found.sort(key=lambda f: CLASSES.index(f[0]))  # stable: earlier paths stay first
    classes = tuple(dict.fromkeys(f[0] for f in found))
    return Failure(primary=classes[0], where=found[0][1], detail=found[0][2], all=classes)


def counts(failures: Sequence[Failure]) -> dict[str, int]:
    """How many answers have each primary class, zeros included, in the order of `CLASSES`.

    Example:
        >>> f = classify("{}", gold={}, schema={}, source_text="")
        >>> [item for item in counts([f, f]).items() if item[1]]
        [('correct', 2)]
    """
    return {name: sum(f.primary == name for f in failures) for name in CLASSES}


def _unwrap(text: str, kind: type) -> tuple[list[Any], str]:
    """Objects (or arrays) that stand whole in a text, and what stands around all values.

    Only outermost values: the first whole item of an array that breaks off is not the answer. An
    array counts for an object if it holds one, so that a marker like [1] does not.
    """
    found, around, end = [], [], 0
    while place := find_json(text, start=end, inner=False, brackets="{["):
        value, start, until = place
        if isinstance(value, kind) or any(isinstance(item, dict) for item in value):
            found.append(value)
        around.append(text[end:start])
        end = until
    return found, " ... ".join([*around, text[end:]]).strip()


def _is_prose(rest: str) -> bool:
    """Is what stands around JSON text, and not stray signs or a second, broken value?"""
    words = re.sub(r'"[^"]*"?|\b(?:true|false|null)\b', "", rest)
    return "```" in rest or any(c.isalpha() for c in words)


# --- values -----------------------------------------------------------------------------------


def _value_failures(
    value: Any, gold: Any, schema: dict[str, Any], source: str
) -> Iterator[tuple[str, str, str]]:
    """(class, where, detail) of every difference to the gold object."""
    for path, want, got in _differences(gold, value, ()):
        where = pointer(*path) or "(root)"
        listed = bool(path) and isinstance(path[-1], int) and (want is _ABSENT or got is _ABSENT)
        if not listed and (_empty(want) or _empty(got)):
            # An array too long or too short is no question of null: only keys can be absent.
            yield "null vs absent", where, f"{_show(got)} for {_show(want)}"
        else:
            yield "wrong value", where, f"{_show(got)} for {_show(want)}"
        for leaf, text in _strings(got, path):
            if not _free_text(schema, leaf) or _occurs(text, source):
                continue
            yield (
                "hallucinated value",
                pointer(*leaf) or "(root)",
                f"{_show(text)} for {_show(want)}, not in the input",
            )


def _differences(want: Any, got: Any, path: _Path) -> Iterator[tuple[_Path, Any, Any]]:
    if isinstance(want, dict) and isinstance(got, dict):
        for key in [*want, *(k for k in got if k not in want)]:
            yield from _differences(want.get(key, _ABSENT), got.get(key, _ABSENT), (*path, key))
    elif isinstance(want, list) and isinstance(got, list):
        for i in range(max(len(want), len(got))):
            pair = (side[i] if i < len(side) else _ABSENT for side in (want, got))
            yield from _differences(*pair, (*path, i))
    elif not same_value(want, got):
        yield path, want, got


def _empty(value: Any) -> bool:
    return value is None or value is _ABSENT


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "no key"
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{TYPE_NAMES[type(value)]} {text[:50]}..."


def _strings(value: Any, path: _Path) -> Iterator[tuple[_Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(child, (*path, key))


def _free_text(schema: dict[str, Any], path: _Path) -> bool:
    """Must the string at this path stand in the input?

    Not where the schema lists the values, where the format is a normal form (`DERIVED_FORMATS`),
    or where the schema says so with `"x-derived": true` (validators ignore unknown keywords).
    """
    places = _places(schema, path, schema, frozenset())
    return not any(
        place.keys() & {"enum", "const"}
        or place.get("format") in DERIVED_FORMATS
        or place.get("x-derived")
        for place in places
    )


def _places(
    node: Any, path: _Path, root: dict[str, Any], seen: frozenset[int]
) -> Iterator[dict[str, Any]]:
    """Subschemas that may describe the value at `path`, references inside the schema followed."""
    if not isinstance(node, dict) or id(node) in seen:
        return
    beside = seen | {id(node)}
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in node.get(key, []):
            yield from _places(branch, path, root, beside)
    for key in ("if", "then", "else"):
        yield from _places(node.get(key), path, root, beside)
    if str(node.get("$ref", "")).startswith("#"):
        yield from _places(_target(root, node["$ref"]), path, root, beside)
    if not path:
        yield node
        return
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        prefix = node.get("prefixItems", [])
        below = [prefix[step]] if step < len(prefix) else [node.get("items")]
    else:
        below = [node.get("properties", {}).get(step)]
        below += [s for p, s in node.get("patternProperties", {}).items() if re.search(p, step)]
        named = any(child is not None for child in below)  # an empty schema is one as well
        below += [] if named else [node.get("additionalProperties")]
    for child in below:
        yield from _places(child, rest, root, frozenset())


def _target(root: Any, reference: str) -> Any:
    """The subschema of a local reference; None for anchors, which are not followed."""
    if not reference.startswith("#/"):
        return root if reference == "#" else None
    for step in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(root, dict):
            return None
        root = root.get(step.replace("~1", "/").replace("~0", "~"))
    return root


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def _occurs(value: str, source: str) -> bool:
    """Does the value stand in the text, up to case, accents' encoding, spaces and signs?"""
    words, text = _words(value), _words(source)
    n = len(words)
    if any(text[i : i + n] == words for i in range(len(text) - n + 1)):
        return True
    joined = "".join(words)
    return len(joined) >= 4 and joined in "".join(text)  # KX-1042 and "kx 1042"
