"""Comparing two evaluations, naming tasks, format bleed: everything that needs no model."""

import json

import numpy as np
import pytest

from sft_utils.ability import general, harness
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
    path = questions(tmp_path, 96)
    assert general.task_names(get_profile("cpu"), file=str(path)) == (str(path),)


def questions(tmp_path, n):
    """A file of the reader's with n questions."""
    path = tmp_path / "own.jsonl"
    rows = ({"question": f"Q{k}?", "choices": ["x", "y"], "answer": 0} for k in range(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("profile", "least"), [("cpu", 96), ("gpu-16gb", 400), ("multi-gpu", 400)])
def test_own_questions_have_to_leave_as_many_to_judge_as_pick(tmp_path, profile, least):
    """Of 49 the verdict of 10 would read one, of 48 those that picked."""
    few = str(questions(tmp_path, least - 1))
    said = f"holds {least - 1} questions, profile '{profile}' needs at least {least}: {least // 2} pick .* Add 1,"
    with pytest.raises(ConfigError, match=said):
        general.task_names(get_profile(profile), file=few)
    assert general.task_names(get_profile("smoke"), file=few) == (few,)
    enough = str(questions(tmp_path, least))
    assert general.task_names(get_profile(profile), file=enough) == (enough,)


def test_readme_says_how_many_own_questions_10_needs():
    cpu, gpu = (2 * general.sizes(get_profile(name)).grid_items for name in ("cpu", "gpu-24gb"))
    text = " ".join((harness.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"at least {cpu} of them at `cpu`, {gpu} on a GPU" in text


def test_own_rows(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"question": "Q?", "choices": ["x", "y"]}
    forms = enumerate((1, "B", "y", "b"))
    path.write_text("".join(json.dumps(row | {"question": f"Q{k}?", "answer": a}) + "\n" for k, a in forms))
    assert [r["answer"] for r in harness.choice_rows(path)] == [1, 1, 1, 1]
    for bad in ({"answer": 2}, {"answer": "C"}, {"answer": True}, {"answer": "none"}, {"choices": "xy"}):
        path.write_text(json.dumps(row | {"answer": 0} | bad) + "\n")
        with pytest.raises(DataError, match="row 1"):
            harness.choice_rows(path)


def test_a_file_of_the_home_directory_is_found(tmp_path, monkeypatch):
    """No shell replaces the ~ inside of PARAMS="file=~/own.jsonl"."""
    own(tmp_path, {})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert general.task_names(get_profile("smoke"), file="~/own.jsonl") == (str(tmp_path / "own.jsonl"),)
    with pytest.raises(DataError, match="is no usable path: File name too long"):
        general.task_names(get_profile("smoke"), file="x" * 5000)


def test_ids_tell_rows_apart(tmp_path):
    """A topic as id would hide, by its name, items that picked nothing from the judgement of 10."""
    with pytest.raises(DataError, match="row 2: has the id 'geo' of row 1; .* Give each row its own"):
        own(tmp_path, {"id": "geo"}, {"id": "geo", "question": "Q2?"})
    rows = own(tmp_path, {"id": None}, {"question": "Q2?"}, {"id": 7, "question": "Q3?"})
    assert [r["id"] for r in rows] == ["1", "2", "7"]


Q = {"question": "Q?", "choices": ["x", "y"], "answer": 0}


def own(tmp_path, *rows):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(Q | row) + "\n" for row in rows))
    return harness.choice_rows(path)


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        ([10, 20], "20", 1), ([10, 20], 20, 1), ([1, 2, 3], "2", 1), ([0, 1, 2], 2, 2),
        (["4", "2", "9"], 1, 1), ([0.5, 1.5], 1.5, 1), (["an", "a"], 1, 1), (["A", "B"], "B", 1),
        (["yes", "no"], " no ", 1),
    ],
)  # fmt: skip
def test_an_answer_that_has_one_reading_is_taken(tmp_path, choices, answer, right):
    assert own(tmp_path, {"choices": choices, "answer": answer})[0]["answer"] == right


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"choices": [1, 2, 3], "answer": 2}, "answer 2 could be choice '2' or '3': give its text, in quotes"),
        ({"choices": ["1", "0"], "answer": 1}, "answer 1 could be choice '1' or '0'"),
        ({"choices": ["an", "a"], "answer": "a"}, "answer 'a' could be choice 'an' or 'a': give its index"),
        ({"choices": ["x"]}, "1 choices; a choice needs two"),
        ({"choices": ["x", "y", "x "]}, "choice 'x' stands there twice"),
        ({"choices": [1, "1"]}, "choice '1' stands there twice"),
        ({"choices": ["x", " "]}, "choice ' ' is empty"),
        ({"choices": ["x", None]}, "choice None is no text"),
        ({"choices": ["x", True]}, "choice True is no text"),
        ({"choices": ["x", ["y"]]}, "choice ['y'] is no text"),
        ({"answer": "ß"}, "answer 'ß' is none of the 2 choices"),
        ({"answer": None}, "answer None is none"),
        ({"answer": "-1"}, "answer '-1' is none"),
        ({"answer": -1}, "answer -1 is none"),
        ({"question": " "}, "wants `question`"),
        ({"question": "Q \ud83d?"}, "holds half a character (U+D83D), which no tokenizer takes"),
        ({"choices": ["x", "\udc00"]}, "holds half a character (U+DC00)"),
        (
            {"question": "q", "choices": {"text": ["a", "b"]}, "answerKey": "A", "answer": None},
            "wants `question` (text), `choices` (list of texts) and `answer`; it has `question` (text), "
            "`choices` (object), `answer` (null), `answerKey` (text). Write them under these names",
        ),
    ],
)
def test_an_unfit_row_is_named_with_its_reason(tmp_path, row, why):
    with pytest.raises(DataError) as error:
        own(tmp_path, {"question": "Another?"}, row)
    assert f"own.jsonl: row 2: {why}" in str(error.value)


def test_a_row_that_repeats_another_is_named_and_so_are_all_faults(tmp_path):
    with pytest.raises(DataError, match="row 2: asks the same as row 1") as error:
        own(tmp_path, {}, {"choices": ["y", "x"], "answer": "x"}, {"answer": 5}, *[{"answer": 7}] * 4)
    assert "row 3: answer 5" in str(error.value)
    assert str(error.value).endswith("; and 1 more")
    assert len(own(tmp_path, {}, {"choices": ["x", "z"]})) == 2


def test_another_kind_of_file_is_refused_by_its_name(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,choices,answer\n")
    with pytest.raises(ConfigError, match=r"own.csv does not end in .jsonl or .json: .* Convert it"):
        general.task_names(get_profile("cpu"), file=str(path))


def test_perplexity_weighs_texts_by_their_tokens():
    assert general.perplexity([(10.0, 10), (0.0, 30)])["value"] == pytest.approx(2.718281828**0.25)


def test_perplexity_of_nothing_is_refused():
    for nothing in ([], [(0.0, 0)]):
        with pytest.raises(ConfigError, match="texts without a scored token"):
            general.perplexity(nothing)


def test_perplexities_are_compared_text_by_text():
    """Texts differ far more than arms do; paired, the interval holds the change alone."""
    before = [(10.0, 10), (60.0, 20), (15.0, 12), (90.0, 30)]
    after = [(n + 0.1 * t, t) for n, t in before]
    found = general.perplexity_difference(after, before)
    alone = general.perplexity(before)
    assert found["value"] == pytest.approx(alone["value"] * (np.exp(0.1) - 1))
    assert found["ci95"][0] > 0
    assert alone["ci95"][0] < alone["value"] - found["value"]
    for other in (before[:3], [*before[:3], (90.0, 31)], []):
        with pytest.raises(ConfigError, match="needs the same texts: 4 with 72 scored tokens and"):
            general.perplexity_difference(after, other)


def test_an_unknown_choice_task_is_refused():
    with pytest.raises(ConfigError, match="none of the local tasks"):
        general.requests("instructions", None)


def test_items_of_a_group_carry_the_name_that_was_asked_for(tiny, monkeypatch):
    """mmlu is 57 tasks to lm-eval; asked for "mmlu", no item was found in the results."""
    from lm_eval import evaluator

    def samples(n):
        return [{"doc": {}, "doc_id": i, "acc": i % 2, "arguments": [("p", "a"), ("p", "b")],
                 "filtered_resps": [(-1.0, True), (-2.0, False)]} for i in range(n)]  # fmt: skip

    found = {"samples": {"mmlu_anatomy": samples(2), "mmlu_virology": samples(4)}}
    monkeypatch.setattr(harness, "load", lambda name: ({"tasks": {}}, None))
    monkeypatch.setattr(harness, "wrap", lambda *_: None)
    monkeypatch.setattr(evaluator, "evaluate", lambda *_, **__: found)
    results = general.evaluate(tiny, None, tasks=["mmlu"], limit=4)
    assert general.accuracy(results, ["mmlu"])["n"] == 6
    assert len({r.id for r in results}) == 6
