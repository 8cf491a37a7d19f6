"""Constrained answers obey their schema, whatever the model would like to write."""

import json

import pytest
from jsonschema import Draft202012Validator

from sft_utils import constrain, generation
from sft_utils.errors import ConfigError

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
