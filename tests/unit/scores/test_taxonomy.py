"""Failure classes: one primary per answer, in the order of causes; strict JSON; nested fields."""

import json
import random
import time

import pytest

from sft_utils.errors import ConfigError
from sft_utils.scores import jsonanswers, scoring
from sft_utils.scores.taxonomy import CLASSES, classify, counts
from sft_utils.task import tickets

SCHEMA = {
    "type": "object",
    "required": ["name", "class", "n", "seat"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "class": {"enum": ["economy", "business"]},
        "n": {"type": "integer", "minimum": 1},
        "seat": {"type": ["string", "null"], "pattern": "^[0-9]+[A-F]$"},
        "on": {"type": ["string", "null"], "format": "date"},
        "code": {"type": "string", "x-derived": True},
        "tags": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/tag"}},
        "pay": {"oneOf": [
            {"type": "object", "required": ["kind", "iban"], "additionalProperties": False,
             "properties": {"kind": {"const": "bank"}, "iban": {"type": "string"}}},
            {"type": "object", "required": ["kind", "last4"], "additionalProperties": False,
             "properties": {"kind": {"const": "card"}, "last4": {"type": "string", "maxLength": 4}}},
            {"type": "null"}]},
    },
    "$defs": {"tag": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]}},
}  # fmt: skip
GOLD = {"name": "Ada Lovelace", "class": "economy", "n": 2, "seat": None}
SOURCE = "Two seats in economy for Ada Lovelace, please; Mr Babbage stays. Card ends in 4242, tag abc."
TEXT = json.dumps(GOLD)


def of(text, *, gold=GOLD, stopped=True, schema=SCHEMA):
    return classify(text, gold=gold, schema=schema, source_text=SOURCE, stopped=stopped)


def changed(**changes):
    return json.dumps({**GOLD, **changes})


def without(key):
    return json.dumps({k: v for k, v in GOLD.items() if k != key})


CASES = [
    (TEXT, "correct", "(root)"),
    (changed(n=2.0), "correct", "(root)"),
    (f"\n{TEXT} ", "correct", "(root)"),
    ("", "syntax", "(root)"),
    (TEXT[:-1], "syntax", "(root)"),
    (TEXT + "}", "syntax", "(root)"),
    (TEXT + TEXT, "syntax", "(root)"),
    ("\ufeff" + TEXT, "syntax", "(root)"),
    (TEXT.replace("2", "NaN"), "syntax", "(root)"),
    ('{"n": 1, "n": 2}', "syntax", "(root)"),
    ('{"pay": {"kind": "bank"}, "n": ', "syntax", "(root)"),
    ('Here: {"pay": {"kind": "bank"},}', "syntax", "(root)"),
    ("I cannot do that.", "syntax", "(root)"),
    ("It is seat [1].", "syntax", "(root)"),
    (f'[{TEXT}, {{"n"', "syntax", "(root)"),
    (f"{TEXT}{TEXT[:20]}", "syntax", "(root)"),
    (f"{TEXT} null", "syntax", "(root)"),
    (f"By [1]: {TEXT}", "prose around JSON", "(root)"),
    (f"Here: [{TEXT}]", "prose around JSON", "(root)"),
    (f"Sure! {TEXT}", "prose around JSON", "(root)"),
    (f"{TEXT} Bye!", "prose around JSON", "(root)"),
    (f"See [1, {TEXT}]", "prose around JSON", "(root)"),
    (f"```\n{TEXT}\n```", "prose around JSON", "(root)"),
    ("Sure! {}", "prose around JSON", "(root)"),
    (without("name"), "missing key", "name"),
    (without("seat"), "missing key", "seat"),
    (changed(note=1), "extra key", "note"),
    ("[]", "wrong type", "(root)"),
    (changed(n="2"), "wrong type", "n"),
    (changed(n=True), "wrong type", "n"),
    (changed(n=2.5), "wrong type", "n"),
    (changed(**{"class": "luxury"}), "enum", "class"),
    (changed(n=0), "bound/pattern", "n"),
    (changed(seat="A7"), "bound/pattern", "seat"),
    (changed(on="2026-02-30"), "bound/pattern", "on"),
    (changed(tags=["a", "a"]), "bound/pattern", "tags"),
    (changed(tags=["a", "toolong"]), "bound/pattern", "tags/1"),
    (changed(tags=["a", 1]), "wrong type", "tags/1"),
    (changed(name=None), "null vs absent", "name"),
    (changed(**{"class": None}), "null vs absent", "class"),
    (changed(seat="7A"), "null vs absent", "seat"),
    (changed(on=None), "null vs absent", "on"),
    (changed(tags=["abc"]), "null vs absent", "tags"),
    (changed(name="Grace Hopper"), "hallucinated value", "name"),
    (changed(name="mr. BABBAGE"), "wrong value", "name"),
    (changed(name="MrBabbage"), "wrong value", "name"),
    (changed(name="42 42"), "wrong value", "name"),
    (changed(name="eat"), "hallucinated value", "name"),  # three letters within a word are none
    (changed(n=3), "wrong value", "n"),
    (changed(**{"class": "business"}), "wrong value", "class"),
    (changed(pay=3), "wrong type", "pay"),
    (changed(pay={"kind": "card"}), "missing key", "pay/last4"),
    (changed(pay={"kind": "card", "iban": "X"}), "missing key", "pay/last4"),  # the kind decides
    (changed(pay={"kind": "card", "last4": "42424"}), "bound/pattern", "pay/last4"),
    (changed(pay={"kind": "cash", "last4": "4242"}), "enum", "pay/kind"),
    (changed(pay={"kind": "bank", "iban": None}), "null vs absent", "pay/iban"),
]


@pytest.mark.parametrize(("text", "primary", "where"), CASES)
def test_one_primary_class_with_its_place(text, primary, where):
    failure = of(text)
    assert (failure.primary, failure.where) == (primary, where), failure
    assert failure.all[0] == failure.primary
    assert list(failure.all) == sorted(failure.all, key=CLASSES.index)
    assert of(text) == failure


def test_every_class_has_an_answer():
    failures = [of(text) for text, _, _ in CASES] + [of(TEXT[:20], stopped=False)]
    assert all(counts(failures).values()), counts(failures)
    assert sum(counts(failures).values()) == len(failures)
    assert list(counts([])) == list(CLASSES)


def test_earlier_causes_win_and_the_others_are_kept():
    cut = of(TEXT[:20], stopped=False)
    assert cut.all == ("truncated", "syntax")
    assert of(TEXT, stopped=False).primary == "correct"  # nothing is missing: no harm done
    many = of("Hm: " + json.dumps({"n": "2", "class": "x", "note": 1}))
    assert many.all == ("prose around JSON", "missing key", "extra key", "wrong type", "enum")
    invented = of(changed(seat="7A", n=5))
    assert invented.all == ("null vs absent", "hallucinated value", "wrong value")


@pytest.mark.parametrize(
    ("gold", "answer", "classes"),
    [
        # listed, derived and normalised values cannot be expected to stand in the input
        ({"on": "2026-03-12"}, {"on": "2026-03-13"}, ("wrong value",)),
        ({"code": "X1"}, {"code": "Y9"}, ("wrong value",)),
        ({"pay": {"kind": "card", "last4": "4242"}}, {"pay": {"kind": "card", "last4": "1111"}}, ("hallucinated value", "wrong value")),
        # arrays: a wrong length is no question of null
        ({"tags": ["abc"]}, {"tags": ["abc", "tag"]}, ("wrong value",)),
        ({"tags": ["abc"]}, {"tags": ["abc", "zzz"]}, ("hallucinated value", "wrong value")),
        ({"tags": ["abc", "tag"]}, {"tags": ["abc"]}, ("wrong value",)),
        ({"tags": ["abc"]}, {"tags": [None]}, ("null vs absent",)),
        ({"tags": []}, {}, ("null vs absent",)),
        ({"pay": None}, {}, ("null vs absent",)),
        ({}, {"pay": None}, ("null vs absent",)),
    ],
)
def test_values_of_valid_answers(gold, answer, classes):
    assert of(json.dumps({**GOLD, **answer}), gold={**GOLD, **gold}).all == classes


LISTED = {"enum": ["Ada", "Bob"]}
ANCHORED = {"$defs": {"p": {"$anchor": "p", "properties": {"w": {"type": "string"}}}}}


@pytest.mark.parametrize(
    ("schema", "gold", "free"),
    [
        ({"properties": {"v": {"type": "string"}}}, {"v": "Ada"}, True),
        ({"properties": {"v": LISTED}}, {"v": "Ada"}, False),
        ({"properties": {"w": LISTED}}, {"v": "Ada"}, True),
        ({"properties": {"v": {"properties": {"w": LISTED}}}}, {"v": {"w": "Ada"}}, False),
        ({"properties": {"v": {"properties": {"w": {}}}, "w": LISTED}}, {"v": {"w": "Ada"}}, True),
        ({"patternProperties": {"^v": LISTED}}, {"v": "Ada"}, False),
        ({"patternProperties": {"^w": LISTED}}, {"v": "Ada"}, True),
        ({"additionalProperties": LISTED}, {"v": "Ada"}, False),
        ({"properties": {"v": {}}, "additionalProperties": LISTED}, {"v": "Ada"}, True),
        ({"properties": {"v": {"items": LISTED}}}, {"v": ["Ada"]}, False),
        ({"properties": {"v": {"prefixItems": [LISTED]}}}, {"v": ["Ada"]}, False),
        ({"properties": {"v": {"prefixItems": [{}], "items": LISTED}}}, {"v": ["Ada"]}, True),
        ({"properties": {"v": {"anyOf": [{"type": "null"}, LISTED]}}}, {"v": "Ada"}, False),
        ({"properties": {"v": {"allOf": [{"format": "date"}]}}}, {"v": "Ada"}, False),
        ({"if": {}, "then": {"properties": {"v": {"x-derived": True}}}}, {"v": "Ada"}, False),
        ({"properties": {"v": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": LISTED}}, {"v": "Ada"}, False),
        ({"properties": {"v": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}, "b": LISTED}}, {"v": "Ada"}, True),
        # an anchor is not followed, also not to the root
        ({"properties": {"v": {"$ref": "#p"}, "w": LISTED}, **ANCHORED}, {"v": {"w": "Ada"}}, True),
        # a circle through a branch that is not taken
        ({"if": {"type": "null"}, "then": {"$ref": "#"}}, {"v": "Ada"}, True),
    ],
)
def test_only_free_text_must_stand_in_the_input(schema, gold, free):
    answer = json.dumps(gold).replace("Ada", "2001-01-01" if "date" in str(schema) else "Bob")
    found = classify(answer, gold=gold, schema=schema, source_text="Ada calls.")
    assert ("hallucinated value" in found.all) == free, found


def test_a_value_of_another_shape_is_compared_too():
    def of_any(gold, answer):
        found = classify(json.dumps(answer), gold=gold, schema={}, source_text="Ada calls.")
        return found.where, found.all

    both = ("hallucinated value", "wrong value")
    assert of_any({"v": "Ada"}, {"v": {"w": ["Ada", "Bob"]}}) == ("v/w/1", both)
    assert of_any({"v": {"w": "Ada"}}, {"v": "Bob"}) == ("v", both)
    assert of_any("Ada", "Bob") == ("(root)", both)


@pytest.mark.parametrize(
    ("schema", "value", "classes"),
    [
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, 3, ("bound/pattern",)),
        ({"not": {"type": "object"}}, {}, ("bound/pattern",)),
        ({"properties": {"a": False}}, {"a": 1}, ("extra key",)),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, ("extra key",)),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, ("missing key",)),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {"type": "string"}}}]}, {"a": 1}, ("wrong type",)),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]}, {"b": 1}, ("extra key",)),
        ({"unevaluatedProperties": False, "properties": {"a": {"type": "string"}}}, {"a": 1, "b": 1}, ("extra key", "wrong type")),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {"type": "string"}}}]}, {"a": 1, "b": 1}, ("extra key", "wrong type")),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}, "required": ["c"]}]}, {"a": 1}, ("missing key",)),
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {"type": "string"}, "c": {}}}]}, {"a": 1}, ("wrong type",)),
        ({"prefixItems": [{}], "items": False}, [1, 2], ("bound/pattern",)),
        ({"contains": {"const": 1}}, [2], ("bound/pattern",)),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, ("missing key",)),
        ({"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}], "$defs": {"x": {"anyOf": [{"type": "string", "maxLength": 1}, {"type": "boolean"}]}}}, "ab", ("bound/pattern",)),
        ({"multipleOf": 0.03}, 10**400, ("bound/pattern",)),
        ({"$ref": "#"}, 1, ("bound/pattern",)),
    ],
)  # fmt: skip
def test_keywords(schema, value, classes):
    failure = classify(json.dumps(value), gold={"z": 1}, schema=schema, source_text="")
    assert failure.all == classes, failure


def test_hostile_answers_take_no_time():
    started = time.process_time()
    for text in ("{" * 20_000, '{"a":' * 20_000, '[{"a":1},' * 5000, '{"' * 10_000, '{"a":NaN,' * 5000, '{"a":1,"a":2}' * 2000):
        assert of(text).primary == "syntax"
    assert time.process_time() - started < 5


def test_a_list_may_be_the_answer():
    schema = {"type": "array", "items": {"type": "string"}}
    assert of('["tag"]', gold=["tag"], schema=schema).primary == "correct"
    assert of('Tags: ["tag"]', gold=["tag"], schema=schema).primary == "prose around JSON"
    assert scoring.score('Tags: ["tag", "x"]', ["tag"], schema).fp == 1


def test_a_broken_schema_is_an_error_of_the_user():
    for schema in ({"type": "strin"}, {"$ref": "#/$defs/no"}, {"$ref": "https://example.org/s"}, "no.json", '{"a": 1, "a": 2}'):
        with pytest.raises(ConfigError):
            of(TEXT, schema=schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "duplicate key"), ("NaN", "NaN"), ("[-Infinity]", "-Infinity"),
        ("1e999", "beyond the range"), ('"a\nb"', "U\\+000A in a string"), ('"\x00"', "U\\+0000 in a string"),
        ("{}\x00", "U\\+0000 outside"), ("\ufeff{}", "byte order mark"), ("{}\u00a0", "Extra data"),
        ('"\\ud800"', "surrogate pair.*D800"), ('{"\udfff": 1}', "surrogate pair.*DFFF.*key"),
        ("{} {}", "Extra data"), ("[1,]", "line 1"), ("01", "Extra data"), ("+1", "Expecting"), ("1.", "Extra"),
        ("'a'", "Expecting"), ("{a: 1}", "double quotes"), ("// c\n1", "Expecting"), ('"\\x"', "escape"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"), ("[" * 100_000, "nested deeper"), ("9" * 5000, r"^an integer has more than 4300 digits"), ("-" + "9" * 5000, "^an integer"),
        ("٣", "Expecting"), ("", "Expecting"), ("True", "Expecting"),
    ],
)  # fmt: skip
def test_rfc_8259_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        jsonanswers.parse_json(text)


def test_rfc_8259_keeps():
    same = {
        '"\\ud83d\\ude00"': "\U0001f600", '"\\u0000"': "\x00", r'"\\\"\\n{\"a\":1}"': '\\"\\n{"a":1}',
        "123456789012345678901234567890": 123456789012345678901234567890, "-0": 0, "1E2": 100.0,
        "\t\r\n [ ] \n": [], "[" * 64 + "]" * 64: json.loads("[" * 64 + "]" * 64), '"\x7f\u2028"': "\x7f\u2028",
    }  # fmt: skip
    for text, value in same.items():
        assert jsonanswers.same_value(jsonanswers.parse_json(text), value), text
    assert not jsonanswers.same_value(12345678901234567890123, float(12345678901234567890123))


def test_lists_of_another_length_are_no_equal_values():
    for a, b in (([1], [1, 2]), ([1, 2], [1]), ([], [1])):
        assert not jsonanswers.same_value(a, b)
        assert not jsonanswers.same_value({"a": a}, {"a": b})


def test_values_in_prose_are_as_strict_as_whole_ones():
    half = '{"a": "' + chr(92) + 'ud800"}'
    assert jsonanswers.extract_json(f"Here: {half}") is None
    assert jsonanswers.extract_json(f'Here: {half} or {{"a": 1}}', inner=False) == {"a": 1}
    assert jsonanswers.extract_json('{"b": {"a": 1}, "b": 2}', inner=False) is None


def test_a_schema_file_that_holds_a_list_is_refused(tmp_path):
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(ConfigError, match="a schema is an object"):
        jsonanswers.load_schema(str(tmp_path / "s.json"))


def test_the_deepest_value_can_be_validated():
    node = {"anyOf": [{"type": "null"}, {"properties": {"c": {"allOf": [{"$ref": "#"}]}}, "type": "object"}]}
    deep = '{"c":' * 64 + "null" + "}" * 64
    assert jsonanswers.schema_errors(jsonanswers.parse_json(deep), node) == []
    assert jsonanswers.schema_errors(jsonanswers.parse_json(deep.replace("null", "1")), node)


def test_nested_fields():
    gold = {"id": "A1", "legs": [{"from": "BER", "to": "OSL", "via": None}, {"from": "OSL", "to": "ARN"}]}

    def fields(answer):
        s = scoring.score(json.dumps(answer), gold, {})
        return s.tp, s.fp, s.fn

    assert fields(gold) == (5, 0, 0)
    assert fields({**gold, "legs": gold["legs"][:1]}) == (3, 0, 2)
    assert fields({**gold, "legs": gold["legs"][1:]}) == (1, 2, 4)  # aligned by index, not by content
    assert fields({**gold, "legs": [*gold["legs"], {"from": "X", "to": "Y"}]}) == (5, 2, 0)
    assert fields({"id": "A1", "legs": [{**gold["legs"][0], "via": "CPH"}, gold["legs"][1]]}) == (5, 1, 0)
    cut = scoring.score(json.dumps(gold)[:-8], gold, {})
    assert (cut.tp, cut.fp, cut.fn) == (0, 0, 5)  # the first leg is not the answer
    assert jsonanswers.flatten({"a/b": [{"~": 1}], "c": {}}) == {"a~1b/0/~0": 1}


def former_score(answer, gold):
    """`scoring.score` as the published numbers of 00 and 03 were made (flat tickets only)."""
    decoder = scoring.parse_json.__globals__["_DECODER"]
    try:
        parsed, parses = decoder.decode(answer.strip()), True
    except (ValueError, RecursionError):
        parsed, parses = None, False
    found, start = {}, answer.find("{")
    while start != -1:
        try:
            found, _ = decoder.raw_decode(answer, start)
            break
        except (ValueError, RecursionError):
            start = answer.find("{", start + 1)
    tp = fp = fn = 0
    for key in gold.keys() | found.keys():
        want, got = gold.get(key), found.get(key)
        hit = want is not None and got is not None and scoring.same_value(want, got)
        tp, fn, fp = tp + hit, fn + (want is not None and not hit), fp + (got is not None and not hit)
    exact = parses and isinstance(parsed, dict) and parsed.keys() == gold.keys()
    return scoring.Score(
        parses=parses,
        schema_valid=parses and not scoring.schema_errors(parsed, tickets.SCHEMA),
        exact=exact and all(scoring.same_value(parsed[k], gold[k]) for k in gold),
        tp=tp, fp=fp, fn=fn,
    )  # fmt: skip


def test_flat_tickets_score_as_before():
    rng = random.Random(0)
    rows = [tickets.gold(r) for r in tickets.read_rows(tickets.TEST, 20)]
    odd = [None, "", [], {}, ["a", "b"], {"a": 1, "b": {"c": 2}}, True, 0, 49.0, "EUR"]
    compared = 0
    for gold in rows:
        for _ in range(20):
            answer = dict(gold)
            for key in rng.sample([*gold, "extra"], rng.randint(0, 3)):
                answer[key] = rng.choice(odd)
            if rng.random() < 0.3:
                answer.pop(rng.choice(list(gold)))
            text = json.dumps(answer)
            wrapped = f'{{"ticket": {text}, oops'
            for form in (text, f"```json\n{text}\n```", text[: rng.randint(0, len(text))], wrapped, f"[{text}]"):
                assert scoring.score(form, gold, tickets.SCHEMA) == former_score(form, gold), form
                compared += 1
    assert compared == 2000
