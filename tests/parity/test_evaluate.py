"""The local evaluate modules give the numbers of the package."""

import json

import evaluate
import pytest

from sft_utils.artifacts import ROOT
from sft_utils.scores import scoring, taxonomy
from sft_utils.task import tickets


def test_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    rows = tickets.read_rows(tickets.TEST, 8)
    golds = [r["messages"][1]["content"] for r in rows]
    answers = [*golds[:5], golds[0], "no json", json.dumps({"topic": "billing"})]
    metric = evaluate.load(str(ROOT / "data" / "metrics" / "ticket_fields"))
    result = metric.compute(predictions=answers, references=golds)
    scores = [
        scoring.score(a, json.loads(g), tickets.SCHEMA) for a, g in zip(answers, golds, strict=True)
    ]
    assert result["field_f1"] == pytest.approx(scoring.field_f1(scores))
    assert result["schema_valid"] == sum(s.schema_valid for s in scores) / len(scores)
    assert 0 < result["field_f1"] < 1
    with pytest.raises(ValueError, match="Mismatch"):
        metric.compute(predictions=answers, references=golds[:-1])


@pytest.mark.parametrize(("name", "more"), [("ticket_fields", {}), ("structured_answers", {"schema": {}})])
def test_no_rows_and_references_that_are_no_json_are_named(tmp_path, monkeypatch, name, more):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(str(ROOT / "data" / "metrics" / name))
    with pytest.raises(ValueError, match="no answers to score"):
        metric.compute(predictions=[], references=[], **more)
    with pytest.raises(ValueError, match=r"reference 2 of 2 is not JSON \(.*\): 'nope'"):
        metric.compute(predictions=["{}", "{}"], references=["{}", "nope"], **more)


TRIP = {
    "type": "object", "required": ["passengers"], "additionalProperties": False,
    "properties": {"passengers": {"type": "array", "items": {
        "type": "object", "required": ["name", "age"],
        "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}}}}},
}  # fmt: skip


@pytest.mark.parametrize("schema", [TRIP, json.dumps(TRIP), tickets.SCHEMA], ids=["object", "text", "path"])
def test_structured_answers_takes_the_schema_as_a_keyword(tmp_path, monkeypatch, schema):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    gold = {"passengers": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": None}]}
    if schema == tickets.SCHEMA:
        gold = tickets.gold(tickets.read_rows(tickets.TEST, 1)[0])
    text = json.dumps(gold)
    answers = [text, f"Here: {text}", text[:-1], text[:-1], "{}"]
    metric = evaluate.load(str(ROOT / "data" / "metrics" / "structured_answers"))
    result = metric.compute(
        predictions=answers, references=[text] * 5, schema=schema, stopped=[True, True, True, False, True],
    )  # fmt: skip
    scores = [scoring.score(a, gold, schema) for a in answers]
    assert result["field_f1"] == pytest.approx(scoring.field_f1(scores))
    assert 0 < result["field_f1"] < 1
    assert (result["parses"], result["schema_valid"], result["exact_match"]) == (0.4, 0.2, 0.2)
    assert {k: n for k, n in result["classes"].items() if n} == {
        "correct": 1, "truncated": 1, "syntax": 1, "prose around JSON": 1, "missing key": 1,
    }  # fmt: skip
    assert list(result["classes"]) == list(taxonomy.CLASSES)


def test_structured_answers_needs_sources_to_call_a_value_hallucinated(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(str(ROOT / "data" / "metrics" / "structured_answers"))
    given = {"predictions": ['{"name": "Bob"}'], "references": ['{"name": "Ada"}'], "schema": {}}
    assert metric.compute(**given)["classes"]["wrong value"] == 1
    assert metric.compute(**given, sources=["Ada calls."])["classes"]["hallucinated value"] == 1
    with pytest.raises(ValueError, match="Mismatch.*sources"):
        metric.compute(**given, sources=[])
    with pytest.raises(TypeError, match="schema"):
        metric.compute(predictions=["{}"], references=["{}"])
