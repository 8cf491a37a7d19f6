"""Comparing two evaluations, naming tasks, format bleed: everything that needs no model."""

import json

import pytest

from sft_utils import general, harness
from sft_utils.config import get_profile
from sft_utils.errors import ConfigError, DataError, TemplateError


def result(i, correct, **changed):
    values = {"task": "facts", "id": f"fa-{i}", "prompt": f"Q{i}", "choices": (" a", " b")}
    return general.Result(**(values | changed), correct=correct)


def test_same_prompts_names_the_first_difference():
    a = [result(i, True) for i in range(3)]
    assert general.same_prompts(a, [result(i, False) for i in range(3)])
    other = [a[0], result(1, True, prompt="<|im_start|>Q1"), a[2]]
    with pytest.raises(TemplateError, match="facts/fa-1 was asked in two ways"):
        general.same_prompts(a, other)
    with pytest.raises(TemplateError, match="fa-1"):
        general.same_prompts(a, [a[0], result(1, True, choices=(" a", " c")), a[2]])
    with pytest.raises(TemplateError, match="fa-2 stands against cloze/fa-2"):
        general.same_prompts(a, [*a[:2], result(2, True, task="cloze")])
    with pytest.raises(TemplateError, match="3 items against 2"):
        general.same_prompts(a, a[:2])


def test_paired_difference_is_narrower_than_two_rates():
    base = [result(i, i % 3 > 0) for i in range(300)]
    worse = [result(i, i % 3 > 0 and i % 25 > 0) for i in range(300)]
    found = general.accuracy_difference(worse, base)
    lost = sum(a.correct != b.correct for a, b in zip(base, worse, strict=True))
    assert found["value"] == pytest.approx(-lost / 300)
    assert lost == 8
    assert found["ci95"][1] < 0  # eight of 300, all in one direction
    few = [result(i, i % 3 > 0 and i % 50 > 0) for i in range(300)]
    assert general.accuracy_difference(few, base)["ci95"][1] > 0, "four of 300 (McNemar: p = 0.125)"
    low, high = general.accuracy_difference(base, base)["ci95"]
    assert low < 0 < high, "equal answers to 300 items do not show equal models"
    assert general.accuracy(base)["value"] == pytest.approx(2 / 3)


def test_accuracy_of_some_tasks():
    results = [result(0, True), result(1, False, task="cloze")]
    assert general.accuracy(results, ["facts"])["value"] == 1
    assert general.accuracy_difference(results, results, ["cloze"])["n"] == 1
    with pytest.raises(ConfigError, match="same items: 0 and 0"):
        general.accuracy_difference([], [])
    with pytest.raises(ConfigError, match="no items"):
        general.accuracy(results, ["grammar"])


@pytest.mark.parametrize("text", [
    '{"topic": "billing"}', 'Here you are:\n{"a": 1}', '```json\n{"a": 1}\n```', "```JSON\nnothing",
    '{"topic": "bil', '[{"a": 1}, {"a"', "{}", "[1, 2]", ' { "key": [1, 2', '```\n{"a": {"b": 1}}\n```',
])  # fmt: skip
def test_json_is_seen(text):
    assert general.is_json_answer(text)


@pytest.mark.parametrize("text", [
    "", "Paris.", "The set {a, b} has two members.", "See [1] and [2].", "12", "true", '"quoted"',
    "Use ```python\nprint(1)\n```", "{ warm }", "- one\n- two", "A dictionary maps keys: values.", "null",
])  # fmt: skip
def test_prose_is_not_json(text):
    assert not general.is_json_answer(text)


def test_json_share_is_a_metric():
    share = general.json_share(['{"a": 1}', "No.", "Yes.", "Perhaps."])
    assert (share["value"], share["n"]) == (0.25, 4)
    assert share["ci95"][0] > 0


def test_tasks_by_profile(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert general.task_names(get_profile("cpu")) == harness.LOCAL
    assert general.task_names(get_profile("gpu-24gb")) == harness.HUB
    assert general.task_names(get_profile("cpu"), wanted="facts, cloze") == ("facts", "cloze")
    with pytest.raises(ConfigError, match="mmlu: these data sets come from the hub"):
        general.task_names(get_profile("cpu"), wanted="facts,mmlu")
    with pytest.raises(ConfigError, match="no file"):
        general.task_names(get_profile("cpu"), file="data/general/none.jsonl")
    path = tmp_path / "own.jsonl"
    path.write_text("{}\n")
    assert general.task_names(get_profile("cpu"), file=str(path)) == (str(path),)


def test_own_rows(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"question": "Q?", "choices": ["x", "y"]}
    path.write_text("".join(json.dumps(row | {"answer": a}) + "\n" for a in (1, "B", "y", "b")))
    assert [r["answer"] for r in harness.choice_rows(path)] == [1, 1, 1, 1]
    for bad in ({"answer": 2}, {"answer": "C"}, {"answer": True}, {"answer": "none"}, {"choices": "xy"}):
        path.write_text(json.dumps(row | {"answer": 0} | bad) + "\n")
        with pytest.raises(DataError, match="row 1"):
            harness.choice_rows(path)


def test_perplexity_weighs_texts_by_their_tokens():
    assert general.perplexity([(10.0, 10), (0.0, 30)])["value"] == pytest.approx(2.718281828**0.25)


def test_perplexity_of_nothing_is_refused():
    for nothing in ([], [(0.0, 0)]):
        with pytest.raises(ConfigError, match="texts without a scored token"):
            general.perplexity(nothing)


def test_an_unknown_choice_task_is_refused():
    with pytest.raises(ConfigError, match="none of the local tasks"):
        general.requests("instructions", None)
