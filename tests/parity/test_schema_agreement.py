"""Random schemas and answers: our verdicts against jsonschema's own, and the failure classes.

Derandomised: every run sees the same pairs. `WANTED` pairs are counted, not assumed.
"""

import json
import re
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.configuration import set_hypothesis_home_dir
from jsonschema import Draft202012Validator

from sft_utils.scores import scoring
from sft_utils.scores.taxonomy import CLASSES, classify

WANTED = 1000
"""Pairs of a schema and an answer that must have been compared."""

EXAMPLES, MUTANTS = 500, 4
KEYS = ["a", "b", "c", "d/e", "ä~"]
WORDS = st.text("abcö \\\"\n{}0", max_size=6) | st.sampled_from(["2026-02-28", "2026-02-30", "", "🙂"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(), WORDS,
    st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 2)),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _no_folder_in_the_checkout(tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@st.composite
def leaf_schemas(draw):
    kind = draw(st.sampled_from(["string", "date", "integer", "number", "boolean", "null", "enum", "const"]))
    if kind == "string":
        low = draw(st.integers(0, 3))
        return {"type": "string", "minLength": low, "maxLength": low + draw(st.integers(0, 4))}
    if kind == "date":
        return {"type": "string", "format": "date"}
    if kind in ("integer", "number"):
        low = draw(st.integers(-4, 4))
        low_key, high_key = draw(st.sampled_from([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")]))
        step = {"multipleOf": draw(st.sampled_from([1, 2, 0.5]))} if draw(st.booleans()) else {}
        return {"type": kind, low_key: low, high_key: low + draw(st.integers(2, 9)), **step}
    if kind == "enum":
        return {"enum": draw(st.lists(SCALARS, min_size=1, max_size=4))}
    return {"const": draw(SCALARS)} if kind == "const" else {"type": kind}


@st.composite
def schemas(draw, depth=3, refs=True):
    """A schema nested to `depth`; with `refs` it may point to #/$defs/leaf or #/$defs/tree."""
    kinds = ["leaf", "nullable", "ref"] if refs else ["leaf", "nullable"]
    kind = draw(st.sampled_from([*kinds, *["object", "object", "array", "anyOf", "oneOf"] * (depth > 0)]))
    if kind == "ref":
        return {"$ref": draw(st.sampled_from(["#/$defs/leaf", "#/$defs/tree"]))}
    if kind == "leaf":
        return draw(leaf_schemas())
    if kind == "nullable":
        inner = draw(leaf_schemas())
        return {**inner, "type": [inner["type"], "null"]} if inner.get("type", "null") != "null" else inner
    below = schemas(depth=depth - 1, refs=refs)
    if kind in ("anyOf", "oneOf"):
        return {kind: draw(st.lists(below, min_size=1, max_size=3))}
    if kind == "array":
        low = draw(st.integers(0, 2))
        return {"type": "array", "items": draw(below), "minItems": low, "maxItems": low + 2,
                "uniqueItems": draw(st.booleans())}  # fmt: skip
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=4))
    return {
        "type": "object",
        "properties": {key: draw(below) for key in keys},
        "required": [key for key in keys if draw(st.booleans())],
        "additionalProperties": draw(st.sampled_from([False, False, True, {"type": "integer"}])),
    }


@st.composite
def roots(draw):
    """An object schema with two definitions that it may use anywhere."""
    properties = {key: draw(schemas(depth=2)) for key in draw(st.lists(st.sampled_from(KEYS), unique=True, min_size=1))}
    return {
        "type": "object", "properties": properties, "additionalProperties": False,
        "required": [key for key in properties if draw(st.booleans())],
        "$defs": {"leaf": draw(leaf_schemas()), "tree": draw(schemas(depth=1, refs=False))},
    }  # fmt: skip


def instance(draw, schema, root):
    """A value that mostly satisfies the schema (uniqueItems and oneOf are left to chance)."""
    if "$ref" in schema:
        return instance(draw, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return instance(draw, draw(st.sampled_from(schema[key])), root)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "const" in schema:
        return schema["const"]
    kind = schema["type"] if isinstance(schema["type"], str) else draw(st.sampled_from(schema["type"]))
    if kind == "object":
        keys = [k for k in schema["properties"] if k in schema["required"] or draw(st.booleans())]
        return {key: instance(draw, schema["properties"][key], root) for key in keys}
    if kind == "array":
        n = draw(st.integers(schema["minItems"], schema["maxItems"]))
        return [instance(draw, schema["items"], root) for _ in range(n)]
    if kind == "string":
        if "format" in schema:
            return draw(st.dates().map(str))
        return draw(st.text("abc ", min_size=schema["minLength"], max_size=schema["maxLength"]))
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1)
        value = draw(st.integers(low, max(low, high)))
        return value - value % 2 if schema.get("multipleOf") == 2 and value - value % 2 >= low else value
    return draw(st.booleans()) if kind == "boolean" else None


def mutated(draw, value):
    """The value with one change somewhere inside."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], mutated(draw, value[i]), *value[i + 1 :]]
    if isinstance(value, dict) and draw(st.booleans()):
        if value and draw(st.booleans()):
            gone = draw(st.sampled_from(sorted(value)))
            return {k: v for k, v in value.items() if k != gone}
        return {**value, draw(st.sampled_from([*KEYS, "new"])): draw(SCALARS)}
    if isinstance(value, list) and draw(st.booleans()):
        return [*value, value[-1] if value else draw(SCALARS)]
    if isinstance(value, str) and draw(st.booleans()):
        return value + draw(WORDS)
    if isinstance(value, int | float) and not isinstance(value, bool) and draw(st.booleans()):
        return value + draw(st.sampled_from([-9, -1, 0.25, 1, 9, 10**30]))
    return draw(SCALARS | st.sampled_from([[], {}, [None], {"a": 1}]))


def dumped(draw, value):
    """The value as text, sometimes spoilt: cut off, fenced, with words or a second value."""
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])))
    how = draw(st.sampled_from(["", "", "", "", "", "", "cut", "fence", "words", "twice", "comma"]))
    return {
        "": text, "cut": text[: len(text) // 2], "fence": f"```json\n{text}\n```",
        "words": f"Here you are: {text}", "twice": text + text, "comma": text.replace("}", ",}", 1),
    }[how]  # fmt: skip


def reference(text, schema):
    """jsonschema's own verdict on the parsed text; text that is no JSON is not valid."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return validator.is_valid(value)


def ours(text, schema):
    return scoring.score(text, {}, schema).schema_valid


def run(check, phases=(Phase.generate, Phase.shrink)):
    """Call `check(schema, gold, text)` for all pairs of the fixed random sequence."""

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=EXAMPLES, phases=phases,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(st.data())
    def pairs(data):
        schema = data.draw(roots())
        gold = instance(data.draw, schema, schema)
        assume(reference(json.dumps(gold), schema))
        check(schema, gold, json.dumps(gold))
        for _ in range(MUTANTS):
            check(schema, gold, dumped(data.draw, mutated(data.draw, gold)))
        check(schema, gold, json.dumps(instance(data.draw, schema, schema)))

    pairs()


def agree(scorer, text, schema):
    want, got = reference(text, schema), scorer(text, schema)
    assert got == want, f"jsonschema says {want}, the scorer {got}: {text} for {schema}"


def test_verdicts_and_classes_agree_with_the_validator():
    seen: Counter[str] = Counter()
    pairs = set()  # a pair that comes twice counts once

    def check(schema, gold, text):
        agree(ours, text, schema)
        valid = reference(text, schema)
        failure = classify(text, gold=gold, schema=schema, source_text="abc")
        assert failure.primary in CLASSES
        assert failure.all[0] == failure.primary
        assert list(failure.all) == sorted(set(failure.all), key=CLASSES.index)
        same = valid and scoring.same_value(json.loads(text), gold)
        assert (failure.primary == "correct") == same
        if not valid:
            value_classes = {"hallucinated value", "wrong value"}
            assert not {failure.primary} & value_classes
        if text == json.dumps(gold):
            assert failure.primary == "correct"
        if (pair := json.dumps([schema, text])) not in pairs:
            pairs.add(pair)
            seen.update(["valid" if valid else "invalid", failure.primary])

    run(check)
    print(len(pairs), dict(seen))
    assert len(pairs) >= WANTED
    assert seen["valid"] >= WANTED / 4
    assert seen["invalid"] >= WANTED / 4
    # Cut off is a matter of `stopped`, which is not random here.
    assert {name for name in CLASSES if not seen[name]} <= {"truncated"}


@pytest.mark.parametrize(
    "scorer",
    [
        lambda text, schema: bool(re.search(r"\{.*\}", text, re.S)),
        lambda text, schema: scoring.extract_json(text) is not None,
        lambda text, schema: not scoring.schema_errors(scoring.extract_json(text) or {}, schema),
        lambda text, schema: False,
        lambda text, schema: reference(text, {k: v for k, v in schema.items() if k != "additionalProperties"}),
    ],
    ids=["braces", "an object inside", "validates what it can extract", "refuses all", "forgives extra keys"],
)
def test_the_comparison_finds_a_lenient_scorer(scorer):
    def check(schema, gold, text):
        agree(scorer, text, schema)

    with pytest.raises(AssertionError, match="jsonschema says"):
        run(check, phases=(Phase.generate,))


def test_without_format_checks_the_comparison_fails_too():
    """A validator that reads `format` as a comment accepts 2026-02-30."""
    schema, text = {"properties": {"on": {"format": "date"}}}, '{"on": "2026-02-30"}'
    agree(ours, text, schema)
    with pytest.raises(AssertionError, match="jsonschema says False"):
        agree(lambda t, s: Draft202012Validator(s).is_valid(json.loads(t)), text, schema)
