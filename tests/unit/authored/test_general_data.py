"""The items of general ability: reproducible, balanced, right, and asked nowhere else."""

import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "data"))
from general import arithmetic, grammar
from general.generate import GRAMMAR_EACH, build_files
from general.tasks.items import follows

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "data" / "general"
CHOICE = {"facts": 4, "cloze": 4, "grammar": 2, "arithmetic": 4}
NAMES = [*CHOICE, "instructions", "questions", "heldout_text"]


def rows(name, folder=HERE):
    return [json.loads(x) for x in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def plain(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def test_files_are_what_the_generator_writes():
    files = build_files()
    assert set(files) == {f"{n}.jsonl" for n in NAMES} | {"README.md"}
    assert [n for n, text in files.items() if (HERE / n).read_bytes() != text.encode()] == []


def test_enough_items_for_three_points():
    n = sum(len(rows(name)) for name in CHOICE)
    assert 1.96 * (0.25 / n) ** 0.5 < 0.03  # the widest a proportion can be


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_are_distinct(name):
    found = rows(name)
    assert len({r["id"] for r in found}) == len(found)
    texts = [plain(json.dumps([v for k, v in r.items() if k not in ("id", "answer")])) for r in found]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", CHOICE)
def test_choices_are_distinct_and_positions_balanced(name):
    found = rows(name)
    for row in found:
        assert len({c.casefold() for c in row["choices"]}) == len(row["choices"]) == CHOICE[name], row
        assert all(c == c.strip() and c for c in row["choices"]), row
    places = Counter(r["answer"] for r in found)
    assert set(places) == set(range(CHOICE[name]))
    assert max(places.values()) - min(places.values()) <= 1


@pytest.mark.parametrize("name", ["facts", "cloze"])
def test_the_right_choice_is_not_told_by_its_length(name):
    found = rows(name)
    longest = sum(len(r["choices"][r["answer"]]) == max(map(len, r["choices"])) for r in found)
    shortest = sum(len(r["choices"][r["answer"]]) == min(map(len, r["choices"])) for r in found)
    assert longest / len(found) < 0.55
    assert shortest / len(found) < 0.55


def solve(question):
    """A second way to the answer, from the text alone."""
    n = [int(x) for x in re.findall(r"\d+", question)]
    if "largest" in question or "smallest" in question:
        return max(n) if "largest" in question else min(n)
    if "Continue" in question:
        assert len({b - a for a, b in itertools.pairwise(n)}) == 1
        return 2 * n[-1] - n[-2]
    if re.search("right (after|before)", question):
        return n[0] + (1 if "after" in question else -1)
    if "half" in question:
        assert n[0] % 2 == 0
        return n[0] // 2
    if re.search("twice|double", question):
        return 2 * n[0]
    a, b = n
    if re.search("divided|shared", question):
        assert a % b == 0
        return a // b
    if re.search(r"times|\*|bags", question):
        return a * b
    if re.search(r"minus| - |loses|away", question):
        return a - b
    assert re.search(r"plus|\+|more|together", question), question
    return a + b


def test_sums_are_right():
    found = rows("arithmetic")
    assert [r["id"] for r in found if solve(r["question"]) != int(r["choices"][r["answer"]])] == []
    assert {r["topic"] for r in found} == set(arithmetic.KINDS)


def test_grammar_pairs_are_minimal():
    found = rows("grammar")
    assert Counter(r["topic"] for r in found) == dict.fromkeys(grammar.PHENOMENA, GRAMMAR_EACH)
    for row in found:
        right, wrong = (row["choices"][i].lower().split() for i in (row["answer"], 1 - row["answer"]))
        changed = Counter(right) - Counter(wrong), Counter(wrong) - Counter(right)
        assert sum(map(Counter.total, changed)) <= 4, row
        assert row["choices"][0][0].isupper()


def test_instructions_have_checks_that_can_fail_and_pass():
    good = {
        "words": "cold", "most": "in the sea", "number": "4", "commas": "a, b, c", "sentences": "One.",
        "lower": "paris", "upper": "ROME", "quoted": '"night"', "dashes": "- a\n- b\n- c",
        "numbered": "1. a\n2. b\n3. c", "count": "tick tick tick",
    }  # fmt: skip
    bad = {
        "words": "It is cold", "most": "one two three four five six seven eight nine ten eleven",
        "number": "four", "commas": "a b", "sentences": "One. Two. Three.", "lower": "Paris", "upper": "Rome",
        "quoted": "night", "dashes": "a, b", "numbered": "a", "count": "tick", "equals": "no", "contains": "no",
        "avoids": "cat snow green blue", "oneof": "maybe", "ends": "no", "starts": "no",
    }  # fmt: skip
    for row in rows("instructions"):
        check, value = row["check"], row["value"]
        fine = {
            "equals": value, "contains": value.replace(",", " and "), "avoids": "It is big.",
            "oneof": value.split(",")[0] + ", it is.", "ends": f"Is it{value}", "starts": f"{value}, it is.",
            "sentences": "It rains. " * int(value if check == "sentences" else 1),
            "commas": ", ".join("abcd"[: int(value) + 1]) if check == "commas" else "",
            "dashes": "- a\n" * int(value if check == "dashes" else 1),
            "numbered": "1. a\n2. b\n3. c\n"[: 5 * int(value)] if check == "numbered" else "",
        }.get(check, good.get(check))  # fmt: skip
        assert follows(fine, check, value), (row, fine)
        assert not follows(bad[check], check, value), row
        assert not follows("", check, value)
    with pytest.raises(ValueError, match="unknown check"):
        follows("a", "rhymes")


def test_a_capital_word_is_asked_for_in_capitals():
    assert follows("HELLO", "contains", "HELLO")
    assert not follows("hello", "contains", "HELLO")
    assert follows("A blueish bread", "contains", "bread")
    assert not follows("The cats sleep", "avoids", "cat")


def test_nothing_is_trained_or_asked_elsewhere():
    elsewhere = {plain(r["question"]) for r in rows("questions", ROOT / "data" / "replay")}
    elsewhere |= {plain(r["question"]) for r in rows("general", ROOT / "data" / "probes")}
    assert len(elsewhere) == 160
    ours = [r["question"] for n in ("questions", "facts", "arithmetic") for r in rows(n)]
    ours += [r["instruction"] for r in rows("instructions")]
    assert [q for q in ours if plain(q) in elsewhere] == []


ASKING = set(re.findall(r"\w+", "what does with give tell your have name write about when where which that make good"))


def words(text):
    return {w for w in re.findall(r"[a-z]+", text.lower()) if len(w) > 3} - ASKING


def test_bleed_questions_resemble_no_replay_question():
    trained = [words(r["question"]) for r in rows("questions", ROOT / "data" / "replay")]
    near = [q for q in (r["question"] for r in rows("questions"))
            if any(len(words(q) & t) / max(1, len(words(q) | t)) >= 0.5 for t in trained)]  # fmt: skip
    assert near == []


def test_questions_do_not_want_json():
    assert not [r for r in rows("questions") if re.search("json|list|table|schema", r["question"], re.I)]


def test_texts_are_short_paragraphs():
    lengths = [len(r["text"].split()) for r in rows("heldout_text")]
    assert min(lengths) >= 40
    assert max(lengths) <= 80
    assert len(lengths) >= 60


def test_the_card_states_licence_and_limits():
    text = (HERE / "README.md").read_text("utf-8")
    assert "CC-BY-4.0" in text
    assert "## Limits" in text
