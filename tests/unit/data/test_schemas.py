"""Schemas of answers: refused with a reason, wide enough for what was seen, whole in a prompt."""

import json
import random

import jsonschema
import pytest

from sft_utils.data.schemas import DIALECT, infer_schema, load_schema, signature
from sft_utils.errors import DataError

BASE = "https://example.org/schema"


def put(folder, content):
    path = folder / "s.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def valid(value, schema):
    kind = jsonschema.Draft202012Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "items": {"type": "string"}},
        {"type": "string", "enum": ["a", "b"]},
        {"$schema": DIALECT + "#", "type": "object"},
        {
            "$ref": "#/$defs/a~1b",
            "$defs": {"a/b": {"type": "object", "properties": {"kids": {"$ref": "#"}}}},
        },
        {
            "properties": {
                "$ref": {"type": "string"},
                "x": {"const": {"$ref": f"{BASE}"}, "examples": [{"$ref": "y"}]},
            }
        },
        {"anyOf": [True, {"$ref": "#/anyOf/0"}]},
        {"$ref": "#/$defs/a%20b%7E1c", "$defs": {"a b/c": {"type": "string"}}},
    ],
)
def test_whole_schemas_load(tmp_path, schema):
    assert load_schema(put(tmp_path, schema)) == schema
    assert (
        load_schema(put(tmp_path, b"\xef\xbb\xbf\n " + json.dumps(schema).encode() + b"\n"))
        == schema
    )


def _component(rule):
    """What an OpenAPI file refers to stands outside of "$defs", where the meta-schema does not look."""
    return {"$ref": "#/components/schemas/Order", "components": {"schemas": {"Order": rule}}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "schema s.json cannot be read, not JSON: Expecting value at character 0. Repair it."),
        (b'{"type": "object"', "schema s.json cannot be read, not JSON: Expecting ',' delimiter at character 17. Repair it."),
        (b"{} {}", "schema s.json cannot be read, text after the JSON value: at character 2. Repair it."),
        (b'{"type": "object", "type": "array"}', "schema s.json cannot be read, duplicate key: 'type'. Repair it."),
        (b'{"a": "\xe9"}', "schema s.json is not UTF-8 (byte 7). Save it so."),
        ([1], "schema s.json holds [1]: an object is needed."),
        (True, "schema s.json holds true: an object is needed."),
        ({"type": "strng"}, "schema s.json is no JSON Schema: 'strng' is not valid under any of the given schemas at $.type."),
        ({"properties": {"a": {"minimum": "1"}}}, "schema s.json is no JSON Schema: '1' is not of type 'number' at $.properties.a.minimum."),
        ({"properties": {"a": {"pattern": "("}}}, "schema s.json is no JSON Schema: '(' is not a 'regex' at $.properties.a.pattern."),
        ({"required": "a"}, "schema s.json is no JSON Schema: 'a' is not of type 'array' at $.required."),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "schema s.json declares 'http://json-schema.org/draft-07/schema#': draft 2020-12 is read. Convert it (definitions become $defs, lists of items become prefixItems) and declare that."),
        ({"properties": {"a": {"$ref": BASE}}}, f"schema s.json, $.properties.a: $ref '{BASE}' is no path in this file, and nothing is fetched. Copy what it means into \"$defs\" and write \"#/$defs/NAME\"."),
        ({"items": {"$ref": "#/$defs/x"}, "$defs": {}}, "schema s.json, $.items: $ref '#/$defs/x' leads nowhere ('x' is not there)."),
        ({"items": {"$ref": "#/required"}, "required": ["a"]}, "schema s.json, $.items: $ref '#/required' leads to no schema."),
        ({"name": "x", "strict": True, "schema": {"type": "object"}}, "schema s.json permits every answer: its keys are 'name', 'strict', 'schema', and none of them is a rule of JSON Schema (type, properties, required, ...). Give what stands under 'schema'."),
        ({"name": "f", "description": "d", "parameters": {"type": "object"}}, "schema s.json permits every answer: its keys are 'name', 'description', 'parameters', and none of them is a rule of JSON Schema (type, properties, required, ...). Give what stands under 'parameters'."),
        ({"n": 1, "k": "a"}, "schema s.json permits every answer: its keys are 'n', 'k', and none of them is a rule of JSON Schema (type, properties, required, ...). Is it an example answer?"),
        (_component({"type": "str"}), "schema s.json is no JSON Schema: 'str' is not valid under any of the given schemas at $.type."),
        (_component({"type": "string", "pattern": r"^\p{L}+$"}), "schema s.json is no JSON Schema: '^\\\\p{L}+$' is not a 'regex' at $.pattern."),
        (_component({"minimum": 0, "exclusiveMinimum": True}), "schema s.json is no JSON Schema: True is not of type 'number' at $.exclusiveMinimum."),
        ({"allOf": [{}, {"$dynamicRef": "#node"}]}, "schema s.json, $.allOf[1]: $ref '#node' is no path in this file, and nothing is fetched. Copy what it means into \"$defs\" and write \"#/$defs/NAME\"."),
    ],
)  # fmt: skip
def test_schemas_that_cannot_work_are_named(tmp_path, content, words):
    with pytest.raises(DataError) as caught:
        load_schema(put(tmp_path, content))
    assert str(caught.value) == words


def test_a_long_complaint_is_shortened(tmp_path):
    with pytest.raises(DataError) as caught:
        load_schema(put(tmp_path, {"properties": {"a": ["x" * 1000]}}))
    assert len(str(caught.value)) < 260
    assert str(caught.value).endswith("... at $.properties.a.")


@pytest.mark.parametrize("end", ["", "#"])
def test_the_draft_may_be_named_without_encryption(tmp_path, end):
    plain = {"$schema": DIALECT.replace("https", "http") + end, "type": "object"}
    assert load_schema(put(tmp_path, plain)) == {"$schema": DIALECT, "type": "object"}


def test_a_missing_schema_is_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match=f"schema {path} does not exist or is not a file"):
            load_schema(path)


def test_a_place_that_no_system_takes_is_no_traceback(tmp_path):
    (tmp_path / "loop.json").symlink_to("loop.json")
    for path in ("x" * 5000, tmp_path / "loop.json", "a\0b"):
        with pytest.raises(DataError, match="is no usable path: "):
            load_schema(path)


def test_a_schema_in_the_home_directory_is_found(tmp_path, monkeypatch):
    """Shells other than bash leave the ~ of SCHEMA=~/x.json to us."""
    put(tmp_path, {"type": "object"})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_schema("~/s.json") == {"type": "object"}


def test_deep_schemas_are_one_error(tmp_path):
    deep = b'{"not":' * 900 + b"{}" + b"}" * 900
    with pytest.raises(DataError, match="nested too deeply"):
        load_schema(put(tmp_path, deep))


# --- inference --------------------------------------------------------------------------------


def inferred(values):
    schema = infer_schema(values)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(valid(value, schema) for value in values)
    assert schema.pop("$schema") == DIALECT
    assert (
        schema.pop("$comment")
        == f"Inferred from {len(values)} answers; what they do not show is not in it."
    )
    return schema


CLASSES = ["economy"] * 6 + ["business"] * 4


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([None], {"type": "null"}),
        ([True, False], {"type": "boolean"}),
        ([True, 3], {"type": ["boolean", "integer"], "minimum": 0, "maximum": 6}),
        ([2, 5], {"type": "integer", "minimum": 0, "maximum": 8}),
        ([10, 12], {"type": "integer", "minimum": 8, "maximum": 14}),
        ([-1, 1], {"type": "integer", "minimum": -3, "maximum": 3}),
        ([0], {"type": "integer", "minimum": 0, "maximum": 1}),
        ([0.5, 2], {"type": "number", "minimum": 0, "maximum": 3.5}),
        ([2**60, 2**60 + 1], {"type": "integer", "minimum": 2**60 - 1, "maximum": 2**60 + 2}),
        ([1e308, -1e308], {"type": "number"}),
        ([10**400, 0.5], {"type": "number"}),
        (["abc", "d"], {"type": "string", "maxLength": 22}),
        (["", None], {"type": ["string", "null"], "maxLength": 16}),
        (["2026-02-28", "2024-02-29"], {"type": "string", "format": "date"}),
        (["2026-02-28", "2026-02-30"], {"type": "string", "maxLength": 36}),
        (CLASSES, {"type": "string", "enum": ["business", "economy"]}),
        ([*CLASSES, None], {"type": ["string", "null"], "enum": ["business", "economy", None]}),
        ([*CLASSES, 3], {"type": ["integer", "string"], "minimum": 0, "maximum": 6, "maxLength": 32}),
        (["a"] * 9 + ["b"], {"type": "string", "maxLength": 18}),  # b is seen once
        (["a", "b"] * 4, {"type": "string", "maxLength": 18}),  # 2 of 8 are more than a fifth
        ([str(i) for i in range(13)] * 9, {"type": "string", "maxLength": 20}),  # 13 are too many
        ([[], []], {"type": "array", "maxItems": 2}),
        ([[1, None], [3]], {"type": "array", "items": {"type": ["integer", "null"], "minimum": 0, "maximum": 5}, "maxItems": 4}),
        ([{}], {"type": "object", "properties": {}, "required": [], "additionalProperties": False}),
        (
            [{"a": {"b": [{"c": 1}]}, "x": None}, {"a": {"b": []}}],
            {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {
                "a": {"type": "object", "required": ["b"], "additionalProperties": False, "properties": {
                    "b": {"type": "array", "maxItems": 3, "items": {
                        "type": "object", "required": ["c"], "additionalProperties": False,
                        "properties": {"c": {"type": "integer", "minimum": 0, "maximum": 2}}}}}},
                "x": {"type": "null"}}},
        ),
    ],
)  # fmt: skip
def test_what_is_inferred(values, schema):
    assert inferred(values) == schema


def test_an_inferred_schema_refuses_what_was_never_seen():
    rows = [{"k": "ab"[i % 2], "n": i % 9, "d": "2026-01-01", "l": [1]} for i in range(20)]
    schema = infer_schema(rows)
    for change in (
        {"k": "c"},
        {"n": 99},
        {"n": "1"},
        {"n": 1.5},
        {"d": "1 May"},
        {"l": [1] * 9},
        {"new": 1},
    ):
        assert not valid({**rows[0], **change}, schema), change
    assert not valid({"k": "a"}, schema)


@pytest.mark.parametrize(
    "values",
    [[], [float("nan")], [{"a": float("inf")}], [{1: "a"}], [(1,)], [{"a": {1, 2}}], [b"x"]],
)
def test_what_is_no_json_is_refused(values):
    with pytest.raises(DataError, match="infer_schema: "):
        infer_schema(values)


def test_deep_answers_are_one_error():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        infer_schema([deep])


def anything(draw, depth=0):
    """A random JSON value."""
    kinds = [
        None,
        True,
        draw.randint(-5, 10**20),
        draw.uniform(-1e300, 1e300),
        draw.choice(["", "é🙂", "2026-01-31", "b"]),
    ]
    kind = draw.randrange(7 if depth < 3 else 5)
    if kind < 5:
        return kinds[kind]
    parts = [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    return parts if kind == 5 else {draw.choice("abc$"): part for part in parts}


@pytest.mark.parametrize("seed", range(40))
def test_every_answer_obeys_the_schema_inferred_from_it(seed):
    draw = random.Random(seed)
    values = [anything(draw) for _ in range(draw.choice([1, 2, 10, 40]))]
    schema = inferred(values)
    assert schema == inferred(json.loads(json.dumps(values))), (
        "the same answers give the same schema"
    )
    text = signature(schema)
    assert text == signature(json.loads(json.dumps(schema)))
    for name in names_in(schema):
        assert (
            f"{name}: " in text
            or f"{name}?: " in text
            or f'"{name}": ' in text
            or f'"{name}"?: ' in text
        )


def names_in(node):
    """Names of all properties of a schema without properties called properties."""
    if isinstance(node, list):
        return {name for part in node for name in names_in(part)}
    if not isinstance(node, dict):
        return set()
    own = set(node.get("properties", {}))
    return own.union(*(names_in(part) for part in node.values()))


# --- the signature ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "any"),
        ({"not": {}}, "never"),
        ({"type": "string"}, "string"),
        ({"type": "string", "maxLength": 99}, "string"),
        ({"type": "string", "maxLength": 5}, "string, at most 5 characters"),
        ({"type": "string", "format": "email"}, "string (email)"),
        ({"format": "date"}, "date (YYYY-MM-DD)"),
        ({"format": "date-time"}, "date-time (YYYY-MM-DDThh:mm:ssZ)"),
        ({"pattern": "^[A-Z]+$"}, "string matching /^[A-Z]+$/"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer 1..9"),
        ({"type": "integer", "minimum": 0}, "integer >= 0"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number > 0, <= 1"),
        ({"type": "number", "minimum": 0, "multipleOf": 0.5}, "number >= 0, multiple of 0.5"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"enum": ["a", 1, None, "é"]}, '"a" | 1 | null | "é"'),
        ({"const": "x"}, '"x"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "string"}]}, "string | null"),
        ({"oneOf": [{"const": 1}, {"$ref": "#/$defs/d"}], "$defs": {"d": {"format": "date"}}}, "1 | date (YYYY-MM-DD)"),
        ({"type": "array"}, "array"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 3}, "array (at most 3) of string"),
        ({"items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2, "uniqueItems": True}, 'array (1..2, no repeats) of ("a" | "b")'),
        ({"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "null"}}, "array [string, integer, then null]"),
        ({"type": ["array", "null"], "items": {"items": {"type": "integer"}}}, "array of array of integer | null"),
        ({"type": "object"}, "object"),
        ({"type": "object", "additionalProperties": False}, "{}"),
        ({"additionalProperties": {"type": "integer"}}, "{\n  [key]: integer\n}"),
        ({"patternProperties": {"^x": {}}, "properties": {"a": True, "b": False}}, "{\n  a?: any\n  b?: never\n  [key matching /^x/]: any\n}"),
        ({"required": ["a b"], "properties": {"a b": {"type": "string", "description": "Why.\nMore"}}}, '{\n  "a b": string  // Why.\n}'),
        ({"required": ["late"]}, "{\n  late: any\n}"),
        ({"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"maxLength": 3}, "b": {}}, "required": ["a"]}]},
         "{\n  a: string, at most 3 characters\n  b?: any\n}"),
        ({"properties": {"a": {}}, "if": {}, "then": {"properties": {"b": {}}, "required": ["b"]}, "else": {"properties": {"c": {}}}},
         "{\n  a?: any\n  b?: any\n  c?: any\n}"),
        ({"properties": {"a": {"type": ["string", "null"]}}, "if": {}, "then": {"properties": {"a": {"const": None}, "b": {}}}},
         "{\n  a?: string | null\n  b?: any\n}"),
        ({"if": {}, "then": {"properties": {"a": {"const": 1}}}, "else": {"properties": {"a": {"const": 2}}}}, "{\n  a?: 1 | 2\n}"),
        ({"if": {}, "then": {"properties": {"a": {"type": "string", "description": "why"}}}, "else": {"properties": {"a": False}}},
         "{\n  a?: string  // why\n}"),
        ({"if": {}, "then": {"properties": {"a": {"type": "string", "description": "why"}}},
          "else": {"properties": {"a": {"type": "string", "description": "why"}}}}, "{\n  a?: string  // why\n}"),
        ({"if": {}, "then": {"properties": {"a": {"const": 1}}}, "else": {"properties": {"a": {}}}}, "{\n  a?: any\n}"),
        ({"allOf": [{"if": {}, "then": {"properties": {"a": {"const": 1}}}}, {"properties": {"a": {"const": 2}}, "required": ["a"]}]},
         "{\n  a: 2\n}"),
        ({"type": "integer", "if": {"minimum": 10}, "then": {"multipleOf": 10}}, "integer"),
        ({"allOf": [{"type": "number", "minimum": 1, "maximum": 1000}, {"type": ["integer", "null"], "minimum": 5, "maximum": 10}]},
         "integer 5..10"),
        ({"$ref": "#/$defs/n", "type": ["integer", "null"], "$defs": {"n": {"type": "integer", "minimum": 5}}}, "integer >= 5"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": 3, "maximum": 9}, "number > 3, <= 9"),
        ({"properties": {"a": {}}, "dependentSchemas": {"a": {"properties": {"d": {}}}}}, "{\n  a?: any\n  d?: any\n}"),
        ({"properties": {"a": {}}, "required": ["a"], "oneOf": [{"properties": {"b": {}}, "required": ["b"]}, {"properties": {"c": {}}}]},
         "{\n  a: any\n  b: any\n} | {\n  a: any\n  c?: any\n}"),
        ({"properties": {"list": {"type": "array", "items": {"properties": {"x": {"type": "null"}}, "required": ["x"]}}}},
         "{\n  list?: array of {\n    x: null\n  }\n}"),
        ({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}},
         "{\n  kids?: array of node again (recursive)\n}"),
        ({"properties": {"self": {"$ref": "#"}, "a": {"$ref": "#/$defs/s"}, "b": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "string"}}},
         "{\n  self?: the whole again (recursive)\n  a?: string\n  b?: string\n}"),
    ],
)  # fmt: skip
def test_signatures(schema, text):
    jsonschema.Draft202012Validator.check_schema(schema)
    before = json.dumps(schema)
    assert signature(schema) == text
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"properties": {"kid": {"$ref": "#/$defs/n"}}}}},
         "{\n  kid?: n again (recursive)\n}"),
        # What is merged in is not being rendered around the keys beside it.
        ({"allOf": [{"$ref": "#/$defs/e"}], "properties": {"buyer": {"$ref": "#/$defs/e"}},
          "$defs": {"e": {"properties": {"id": {"type": "integer"}}}}},
         "{\n  buyer?: {\n    id?: integer\n  }\n  id?: integer\n}"),
        # Alternatives of several lines keep their brackets.
        ({"items": {"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}},
         "array of ({\n  a?: any\n} | {\n  b?: any\n})"),
        ({"oneOf": [{"items": {"properties": {"a": {}}}}, {"properties": {"b": {}}}]},
         "array of {\n  a?: any\n} | {\n  b?: any\n}"),
        ({"items": {"properties": {"a": {"enum": [1, 2]}}}}, "array of {\n  a?: 1 | 2\n}"),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
            "a": {"properties": {"x": {"type": "null"}}},
            "b": {"allOf": [{"$ref": "#/$defs/a"}], "properties": {"y": {"type": "null"}}}}},
         "{\n  x?: null\n  y?: null\n}"),
        ({"properties": {"kid": {"if": {}, "then": {"$ref": "#/$defs/n"}}}, "$defs": {
            "n": {"properties": {"kid": {"if": {}, "then": {"$ref": "#/$defs/n"}}}}}},
         "{\n  kid?: {\n    kid?: any\n  }\n}"),
    ],
)  # fmt: skip
def test_references_that_meet_again(schema, text):
    assert signature(schema) == text


@pytest.mark.parametrize("extra", [{"x-ui": {"properties": ["a"]}}, {"dependentRequired": {"properties": ["a"]}}])
def test_properties_need_not_be_the_keyword(tmp_path, extra):
    schema = {"type": "object", "properties": {"a": {"type": "null"}, "properties": {"type": "null"}}, **extra}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    assert load_schema(path) == schema


def test_a_signature_does_not_follow_what_is_elsewhere():
    for reference in (BASE, "#/$defs/none"):
        with pytest.raises(DataError, match="signature: .ref"):
            signature({"properties": {"a": {"$ref": reference}}})


def test_the_signature_of_the_tickets_names_every_field():
    from sft_utils.artifacts import ROOT
    from sft_utils.curation.answers import SCHEMA

    schema = load_schema(ROOT / SCHEMA)
    text = signature(schema)
    assert names_in(schema)
    assert all(f"  {name}" in text for name in names_in(schema))
