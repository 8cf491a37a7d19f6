"""The local evaluate module gives the numbers of the package."""

import json

import evaluate
import pytest

from sft_utils import scoring, tickets
from sft_utils.artifacts import ROOT


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
