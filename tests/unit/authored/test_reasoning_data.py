"""The rows of data/reasoning: reproducible, right, honestly split, short."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "data"))
from reasoning import logic, programs, words
from reasoning.generate import build_files
from reasoning.rows import COUNTS, DOMAINS, HELD, SEEN, SHOTS, SPLITS

from sft_utils.cot import puzzles, reasoning, traces

HERE = Path(__file__).resolve().parents[3] / "data" / "reasoning"
MOST_QUESTION = 64  # tokens
MOST_FINE = {("word", 1): 50, ("word", 2): 85, ("code", 1): 70, ("code", 2): 75, ("code", 3): 80,
             ("logic", 1): 60, ("logic", 2): 60, ("logic", 3): 75}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return {split: [json.loads(line) for line in (HERE / f"{split}.jsonl").read_text("utf-8").splitlines()] for split in SPLITS}


@pytest.fixture(scope="module")
def every(rows):
    return [row for split in SPLITS for row in rows[split]]


def test_files_are_what_the_generator_writes():
    for name, text in build_files().items():
        assert (HERE / name).read_bytes() == text.encode(), f"run data/reasoning/generate.py: {name}"


def test_another_seed_gives_other_rows():
    assert build_files(1)["test.jsonl"] != build_files()["test.jsonl"]


def test_counts(rows):
    for split in SPLITS:
        by = Counter((row["domain"], row["heldout_structure"]) for row in rows[split])
        assert {d: (by[d, False], by[d, True]) for d in DOMAINS} == COUNTS[split]
        for domain in DOMAINS:
            for held in (False, True):
                n = Counter(r["structure"] for r in rows[split] if r["domain"] == domain and r["heldout_structure"] == held)
                assert not n or max(n.values()) - min(n.values()) <= 1, "structures take turns"


def test_structures():
    assert len(words.STRUCTURES) >= 24
    assert len(programs.PROGRAMS) >= 12
    assert len(logic.STRUCTURES) >= 8
    assert all(len(set(s.texts)) >= 3 for s in words.STRUCTURES)
    assert {s.difficulty for s in words.STRUCTURES} == {1, 2, 3, 4, 5}
    assert 0.2 <= len(HELD["word"]) / len(words.STRUCTURES) <= 0.3
    assert {words.BY_NAME[name].difficulty for name in HELD["word"]} == {2, 3, 4, 5}
    used = {op for s in words.STRUCTURES for _, expr in s.steps for op in expr.split()[1]}
    assert used == set("+-*/")
    for domain in DOMAINS:
        assert HELD[domain]
        assert not set(HELD[domain]) & set(SEEN[domain])
        assert set(SHOTS[domain]) <= set(SEEN[domain])


def test_held_out_structures_are_never_trained(rows):
    for split in ("train", "val", "fewshot"):
        assert not [r["id"] for r in rows[split] if r["structure"] in HELD[r["domain"]] or r["heldout_structure"]]


def test_nothing_is_in_two_splits(rows, every):
    assert len({row["id"] for row in every}) == len(every)
    assert len({row["question"] for row in every}) == len(every)

    def problem(row):  # the same numbers in the same structure, under other names
        if row["domain"] == "word":
            return (row["structure"], *(step["expr"] for step in row["steps"]))
        return (row["structure"], row["question"])

    keys = {split: {problem(row) for row in rows[split]} for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not keys[one] & keys[other], (one, other)


def test_phrasings_are_all_used(rows):
    for structure in words.STRUCTURES:
        mine = [r["question"] for split in ("train", "test") for r in rows[split] if r["structure"] == structure.name]
        for text in structure.texts:
            start = text.split("{")[0]
            assert any(q.startswith(start) for q in mine), (structure.name, text)


def test_results_are_whole_and_small(every):
    for row in every:
        if row["domain"] != "word":
            continue
        assert len(row["steps"]) == row["difficulty"]
        assert row["steps"][-1]["result"] == row["answer"]
        for step in row["steps"]:
            [equation] = traces.equations(f"{step['expr']} = {step['result']}")
            assert equation.right
            assert 1 <= equation.stated <= words.TOP[row["difficulty"]]
            assert all(o.denominator == 1 and o >= 0 for o in equation.operands)


def test_every_row_passes_its_own_checks(every):
    for row in every:
        item = reasoning._item(row)
        for grain in traces.GRAINS:
            judged = reasoning.grade(item, item.completion(grain))
            assert judged.correct, row["id"]
            assert judged.trace_ok, (row["id"], judged)
        assert reasoning.grade(item, item.completion(None)).correct, row["id"]


def test_distractors_exist(every):
    assert any("green" in r["question"] and r["structure"] == "two_of_three" for r in every)


def test_puzzles_have_one_solution(every):
    for row in every:
        if row["domain"] == "logic":
            assert puzzles.solution(row["puzzle"]) is not None


def test_questions_and_traces_are_short(every, tokenizer):
    def n(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    for row in every:
        assert n(row["question"]) <= MOST_QUESTION, row["id"]
        most = MOST_FINE.get((row["domain"], row["difficulty"]))
        if most:
            assert n(traces.render(row["steps"], "fine", row["domain"])) <= most, row["id"]
