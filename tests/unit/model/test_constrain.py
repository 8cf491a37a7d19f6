"""Constrained answers obey their schema, whatever the model would like to write."""

import json

import pytest
from jsonschema import Draft202012Validator

from sft_utils import artifacts
from sft_utils.errors import ConfigError
from sft_utils.model import constrain, generation

SCHEMAS = [
    {
        "title": "flat", "type": "object", "additionalProperties": False,
        "required": ["colour", "n"],
        "properties": {
            "colour": {"enum": ["red", "green", None]},
            "n": {"type": "integer", "minimum": 3, "maximum": 12},
            "day": {"type": "string", "format": "date"},
        },
    },
    {
        "title": "nested", "type": "object", "additionalProperties": False, "required": ["items"],
        "properties": {"items": {
            "type": "array", "minItems": 1, "maxItems": 2,
            "items": {
                "type": "object", "additionalProperties": False, "required": ["name", "ok"],
                "properties": {"name": {"type": "string", "maxLength": 6}, "ok": {"type": "boolean"}},
            },
        }},
    },
]  # fmt: skip
OPTIONS = {"max_new_tokens": 80, "batch_size": 3}


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer(f"Head. {text}")["input_ids"] for text in ("a", "b c d", "some text", "x")]


@pytest.fixture
def bound(tiny, tokenizer):
    schemas = [SCHEMAS[i % 2] for i in range(4)]
    stops = [tiny.generation_config.eos_token_id]
    return constrain.constraint(tokenizer, schemas, stops=stops, n_vocab=tiny.config.vocab_size)


def valid(text, schema):
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator(schema, format_checker=checker).is_valid(json.loads(text))


def test_a_random_model_obeys(tiny, tokenizer, prompts, bound):
    free = generation.generate(tiny, tokenizer, prompts, **OPTIONS)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(free[0].text)  # otherwise this test shows nothing
    answers = generation.generate(tiny, tokenizer, prompts, constraint=bound, **OPTIONS)
    for i, answer in enumerate(answers):
        assert answer.stopped
        assert valid(answer.text, SCHEMAS[i % 2]), answer.text


def test_shared_prefix_and_stock_agree(tiny, tokenizer, prompts, bound, monkeypatch):
    ours = generation.generate(tiny, tokenizer, prompts, constraint=bound, **OPTIONS)
    monkeypatch.setattr(generation.decoding, "supports", lambda model: False)
    stock = generation.generate(tiny, tokenizer, prompts, constraint=bound, **OPTIONS)
    assert [a.text for a in ours] == [a.text for a in stock]


def test_answers_of_another_grammar_are_not_reused(tiny, tokenizer, prompts, bound, tmp_path):
    cache = tmp_path / "answers.json"
    free = generation.generate(tiny, tokenizer, prompts, cache=cache, key="m", **OPTIONS)
    held = generation.generate(
        tiny, tokenizer, prompts, cache=cache, key="m", constraint=bound, **OPTIONS
    )
    assert [a.text for a in free] != [a.text for a in held]


def test_what_cannot_be_enforced_is_refused():
    schema = {"title": "t", "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(ConfigError, match="schema 't' cannot constrain decoding: .*uniqueItems"):
        constrain.compile_schema(schema)
    with pytest.raises(ConfigError, match="cannot constrain decoding"):
        constrain.compile_schema({"title": "empty", "type": "integer", "minimum": 5, "maximum": 3})


def test_a_dead_grammar_is_named(tiny, tokenizer, bound):
    guide = bound.guide([0])
    with pytest.raises(ConfigError, match="stopped in answer 0"):
        guide.advance([0], [tokenizer("nonsense")["input_ids"][0]])


def allowed(tokenizer, schema, text):
    """Whether a whole answer can be written under a schema."""
    bound = constrain.constraint(
        tokenizer, [schema], stops=[tokenizer.eos_token_id], n_vocab=len(tokenizer)
    )
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    return bound.allows(0, ids)


def test_numbers_end(tokenizer):
    schema = {"type": "object", "required": ["a"], "additionalProperties": False,
              "properties": {"a": {"type": ["number", "null"]}}}  # fmt: skip
    for text in ('{"a":12.5}', '{"a":-3}', '{"a": null}', '{"a":0.123456}'):
        assert allowed(tokenizer, schema, text), text
    for text in ('{"a":0.1234567}', '{"a":1' + "0" * 16 + "}", '{"a":"1"}'):
        assert not allowed(tokenizer, schema, text), text
    assert schema["properties"]["a"] == {"type": ["number", "null"]}, "the caller's schema stays"


def test_bounds_beyond_our_own(tokenizer):
    """The bound that keeps numbers short must not contradict the schema's."""
    for own, good, bad in (({"minimum": 10**16}, 10**16 + 5, 5), ({"maximum": -(10**16)}, -(10**16) - 5, -5)):
        schema = {"type": "object", "required": ["a"], "additionalProperties": False,
                  "properties": {"a": {"type": "integer", **own}}}  # fmt: skip
        assert allowed(tokenizer, schema, f'{{"a":{good}}}')
        assert not allowed(tokenizer, schema, f'{{"a":{bad}}}')


def test_what_the_engine_permits_and_the_validator_refuses(tokenizer):
    """Named in `compile_schema`; when a release closes one of them, its words can go."""
    date = {"type": "string", "format": "date"}
    assert allowed(tokenizer, date, '"2026-02-29"')
    assert allowed(tokenizer, {"type": "object"}, '{"a":1,"a":2}')


def test_what_can_go_on_for_ever_is_named():
    schema = {"type": "object", "additionalProperties": False, "properties": {
        "a": {"type": "string"}, "b": {"type": ["array", "null"], "items": {"type": "string", "maxLength": 3}},
        "c": {"enum": ["x"], "type": "string"}, "d": {"type": "string", "format": "date"},
    }}  # fmt: skip
    assert constrain.endless(schema) == [
        "$.properties.a: text without maxLength", "$.properties.b: array without maxItems"
    ]
    assert [constrain.endless(s) for s in SCHEMAS] == [[], []]


def closed(**properties):
    return {"type": "object", "additionalProperties": False, "properties": properties}


def text(**bound):
    return closed(a={"type": "string", **bound})


NODE = {"$ref": "#/$defs/n", "$defs": {"n": closed(c={"$ref": "#/$defs/n"})}}


@pytest.mark.parametrize(("schema", "places"), [
    ({}, ["$: value without type"]),
    ({"type": "object"}, ["$: object without additionalProperties: false"]),
    ({"type": "object", "properties": {"a": {"type": "boolean"}}}, ["$: object without additionalProperties: false"]),
    ({"type": "object", "additionalProperties": {"type": "null"}}, ["$: object without additionalProperties: false"]),
    ({"type": "object", "additionalProperties": False, "patternProperties": {"^x": {"type": "null"}}}, ["$: object without additionalProperties: false"]),
    (closed(a={}, b=True, c={"title": "t"}), [f"$.properties.{k}: value without type" for k in "abc"]),
    (closed(enum={"type": "string"}), ["$.properties.enum: text without maxLength"]),
    (closed(a={"anyOf": [{"type": "string"}, {}, {"enum": [1]}]}), ["$.properties.a.anyOf[0]: text without maxLength", "$.properties.a.anyOf[1]: value without type"]),
    (closed(a={"type": "array", "prefixItems": [{"type": "string"}], "items": False}), ["$.properties.a.prefixItems[0]: text without maxLength"]),
    (NODE, ["$.$defs.n.properties.c: refers to #/$defs/n, which it is a part of"]),
    *[(text(**bound), ["$.properties.a: text without maxLength"]) for bound in (
        {"pattern": "^x+$"}, {"pattern": "^x*y$"}, {"pattern": "x"}, {"pattern": "^x{2,}$"}, {"pattern": "^x$|y$"}, {"pattern": "^x"},
        {"pattern": r"^x\$"}, {"format": "email"}, {"format": "uri"}, {"format": "date-time"}, {"format": "made up"})],
    *[(text(**bound), []) for bound in (
        {"pattern": "^[A-Z+*]{2}-[0-9]{3}$"}, {"pattern": r"^\+?\d{2,5}$"}, {"pattern": "^(a|b(c|d))$"}, {"pattern": "^x+$", "maxLength": 3},
        {"format": "date"}, {"format": "uuid"}, {"format": "email", "maxLength": 9}, {"enum": ["x"]}, {"const": "x"})],
    ({"enum": [{}]}, []),
    (closed(a={"$ref": "#/$defs/x"}) | {"$defs": {"x": {"type": "null"}}}, []),
    (closed(a={"type": "null"}, b={"type": "null"}) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, []),
])  # fmt: skip
def test_only_what_bounds_a_length_counts_as_a_bound(schema, places):
    assert constrain.endless(schema) == places


def test_answers_that_are_named_as_endless_can_be_long(tokenizer):
    for schema, answer in (
        ({"type": "object", "properties": {}}, '{"x":"' + "x" * 99 + '"}'), (closed(a={}), '{"a":"' + "x" * 99 + '"}'),
        (text(pattern="^x+$"), '{"a":"' + "x" * 99 + '"}'), (text(format="email"), '{"a":"' + "x" * 50 + '@example.org"}'),
    ):  # fmt: skip
        assert constrain.endless(schema)
        assert allowed(tokenizer, schema, answer), schema
    assert not allowed(tokenizer, text(format="uuid"), '{"a":"' + "1" * 99 + '"}')


def test_no_schema_of_05_is_endless():
    for path in sorted((artifacts.ROOT / "data/structured/schemas").glob("*.json")):
        assert constrain.endless(json.loads(path.read_text(encoding="utf-8"))) == [], path.name


def test_a_decoder_of_another_family_is_noticed(tokenizer):
    """What a converted GGUF tokenizer looked like: masks that take a blank for a letter."""
    import copy

    from tokenizers import decoders

    broken = copy.deepcopy(tokenizer)
    broken.backend_tokenizer.model.byte_fallback = True
    broken.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.ByteLevel()]
    )
    assert broken.decode(broken.encode("a b")) == "a b", "the tokenizer itself does not notice"
    with pytest.raises(ConfigError, match="reads the tokens of"):
        constrain.constraint(broken, SCHEMAS[:1], stops=[2], n_vocab=len(tokenizer))


@pytest.mark.parametrize("name", ["const", "enum", "type", "properties"])
def test_a_field_may_be_called_as_a_keyword(name):
    """A number called "const" had no bounds, and a model could write digits until the limit."""
    fields = {name: {"type": "number"}}
    bounded = constrain._bounded({"type": "object", "properties": fields})["properties"][name]
    assert {"multipleOf", "minimum", "maximum"} <= bounded.keys()
