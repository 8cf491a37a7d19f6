"""Problems of 06: the grader agrees with solvers of its own, the trace checker misses no fault."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "data"))
from reasoning import rows as drawing
from reasoning import words

from sft_utils.cot import answercheck, puzzles, reasoning, sandbox, statetraces, tracefaults, traces
from sft_utils.errors import ConfigError, DataError
from sft_utils.model.generation import Answer
from tests.unit.cot import reasoning_oracles as oracles

N = 1_000


@pytest.fixture(scope="module")
def drawn():
    """New problems of every structure, of another seed than the files."""
    made = {}
    for domain in drawing.DOMAINS:
        names = drawing.SEEN[domain] + drawing.HELD[domain]
        rows = drawing.sample(domain, names, N + 40, Random(f"test/{domain}"), set())
        made[domain] = [reasoning._item({"id": f"{domain}-{i}", **row}) for i, row in enumerate(rows)]
    return made


def agrees(item, answer):
    """The grader takes the solver's answer, and no other."""
    assert reasoning.grade(item, f"The answer is {answer}.").correct, (item, answer)
    for wrong in (f"{answer}0", f"-{answer}", "Nobody", ""):
        assert not reasoning.grade(item, f"The answer is {wrong}.").correct, (item, wrong)


def test_words_agree_with_counting(drawn):
    assert len(drawn["word"]) >= N
    for item in drawn["word"]:
        found = oracles.values(item.question, words.BY_NAME[item.structure].texts)
        agrees(item, str(oracles.COUNT[item.structure](**found)))


def test_puzzles_agree_with_reading_and_trying(drawn):
    assert len(drawn["logic"]) >= N
    for item in drawn["logic"]:
        agrees(item, oracles.logic(item.structure, item.question))


def test_programs_agree_with_running_the_question(drawn):
    assert len(drawn["code"]) >= N
    frame = [line for ask in drawing.programs.ASK for line in ask.split("\n") if line != "{code}"]
    sources = []
    for item in drawn["code"]:
        source = item.question
        for line in frame:
            source = source.removeprefix(f"{line}\n").removesuffix(f"\n{line}")
        sources.append(source)
    for item, ran in zip(drawn["code"], sandbox.run_many(sources), strict=True):
        assert ran.ok, (item, ran)
        agrees(item, ran.stdout.rstrip("\n"))


def test_every_right_trace_is_accepted(drawn):
    n = 0
    for item in (i for items in drawn.values() for i in items):
        for grain in traces.GRAINS:
            judged = reasoning.check(item, item.completion(grain))
            assert judged.ok, (item, judged)
            assert judged.answer_right
            n += 1
    assert n >= 3 * N


@pytest.mark.parametrize(("domain", "kind"), [(d, k) for d, kinds in tracefaults.FAULTS.items() for k in kinds])
def test_every_wrong_trace_is_rejected(drawn, domain, kind):
    rng, seeded = Random(kind), Counter()
    for item in drawn[domain]:
        grain = rng.choice(traces.GRAINS)
        text, fault = item.corrupted(rng, kind=kind, grain=grain)
        judged = reasoning.check(item, text)
        assert not judged.ok, (kind, text)
        assert text != item.completion(grain)
        seeded[fault] += 1
        if domain == "word":
            assert judged.reason in EXPECTED[fault], (fault, judged, text)
    assert seeded[kind] >= N // 2, seeded
    assert sum(seeded.values()) >= N


EXPECTED = {
    "wrong result": {"wrong arithmetic"}, "wrong operand": {"wrong step"},
    "dropped step": {"wrong step", "answer does not follow"}, "swapped answer": {"answer does not follow"},
    "other operation": {"wrong answer"},
}  # fmt: skip


def test_unknown_fault(drawn):
    with pytest.raises(DataError, match="unknown for logic"):
        drawn["logic"][0].corrupted(Random(1), kind="dropped step")


def test_a_corrupted_number_leads_elsewhere(drawn):
    rng, n = Random(5), 0
    for item in drawn["word"]:
        grain = rng.choice(traces.GRAINS)
        made = item.corrupted_number(rng, grain=grain)
        if made is None:
            continue
        n += 1
        assert made.prefix.endswith(f"= {made.new}.")
        assert made.new != made.old
        assert item.trace(grain).startswith(f"{made.prefix.removesuffix(f'{made.new}.')}{made.old}.")
        assert made.followed != item.answer
        said = tracefaults.completion(made.prefix, made.followed)
        assert reasoning.check(item, said).reason == "wrong arithmetic"
    assert n >= N // 2
    assert drawn["code"][0].corrupted_number(rng) is None


QUESTION = "Ana has 4 boxes of 12 nuts and 37 more. How many nuts?"
FINE = "In boxes: 4 * 12: 4 * 10 = 40, 4 * 2 = 8, 40 + 8 = 48. In all: 48 + 37: 48 + 30 = 78, 78 + 7 = 85.\nThe answer is 85."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FINE, ""),
        ("4 * 12 = 48. 48 + 37 = 85.\nThe answer is 85.", ""),
        ("4 × 12 nuts = 48 nuts, so 48 + 37 = 85.\n#### 85", ""),
        ("4 * 12 + 37 = 85. The answer is 85.", ""),
        (r"12 * 4 = 48 and 37 + 48 = 85, so \boxed{85}", ""),
        (FINE.replace("40 + 8 = 48", "40 + 8 = 58"), "wrong arithmetic"),
        (FINE.replace("48 + 30 = 78, 78 + 7 = 85", "48 + 7 = 55, 55 + 30 = 85"), ""),
        (FINE.replace("48 + 30 = 78, 78 + 7 = 85", "48 + 20 = 68, 68 + 17 = 85"), "wrong step"),
        (FINE.replace(", 78 + 7 = 85", ""), "wrong step"),
        (FINE.replace("4 * 12:", "4 * 13:"), "wrong step"),
        ("4 * 12 = 48. 48 + 38 = 86.\nThe answer is 86.", "wrong step"),
        ("4 + 12 = 16. 16 + 37 = 53.\nThe answer is 53.", "wrong answer"),
        ("4 * 12 = 48. 48 + 37 = 85.\nThe answer is 86.", "answer does not follow"),
        ("4 * 12 = 48. The answer is 85.", "answer does not follow"),
        ("37 / 0 = 5. The answer is 5.", "wrong arithmetic"),
        ("4 * 12 = **48**. 48 + 37 = 85.\nThe answer is **85**.", ""),
        (r"4 \times 12 = 48. 48 + 37 = 85. The answer is 85.", ""),
        (r"4 \times 12 = 50. 48 + 37 = 85. The answer is 85.", "wrong arithmetic"),
        ("4 * 12 = **50**. 48 + 37 = 85. The answer is 85.", "wrong arithmetic"),
        ("(4 + 12) * 3 = 90. 4 * 12 = 48. 48 + 37 = 85. The answer is 85.", "wrong step"),
        ("4 * 12 = 48 = 49. 48 + 37 = 85. The answer is 85.", "wrong step"),
        ("4 * 12 = 48 - 3. 48 + 37 = 85. The answer is 85.", "wrong step"),
        ("4 * 12 = 48 + 37 = 85. The answer is 85.", ""),
        ("The answer is 85.", "format"),
        ("4 * 12 = 48. 48 + 37 = 85.", "format"),
        ("", "format"),
    ],
)
def test_reasons(text, reason):
    judged = traces.check(text, question=QUESTION, answer="85")
    assert judged.reason == reason, judged
    assert judged.ok == (not reason)


GOOD = "4 * 12 = 48. 48 + 37 = 85. The answer is 85."


@pytest.mark.parametrize(
    "line",
    [
        "4 boxes * 12 nuts in each box = 50 nuts.", "4 boxes/day * 12 nuts/box = 50 nuts/day.", r"4 \times 12 \text{ nuts} = 50.",
        r"\frac{12}{4} = 5.", "4 * 12 == 50.", "4 * 12 nuts = about 50 nuts.", "√4 + 12 = 16.", r"\sqrt{4} + 12 = 16.", "1e4 + 12 = 16.",
        "4 4/4 + 37 = 38.", f"37 + {' + '.join('4' * 11)} = 40.", "2^4 + 12 = 16.", "2**4 + 12 = 16.", "3² = 10.", "3² + 4 + 12 = 16.",
        "4! * 4 + 12 = 16.", "10,4 + 12 = 16.", "37 times 4 + 12 = 16.", "37 boxes x 4 + 12 = 16.", "37 boxes of the shop - 4 + 12 = 16.",
        "x - 4 + 12 = 16.", "4 + 12 = 16e3.", "4 + 12 = 16².", "4 + 12 = 16 1/2.", "4 + 12 = 16^2.", "5 nuts times 4 boxes of 3 nuts = 70.",
        "4 boxes x 12 nuts in each box = 50.", "x = √16 = 5.", "4 * 12 → 50.", "4*12 -> 50.", "4 × 12 ≈ 50.", "4 * 12 ≠ 48.", "4 * 12 > 50.",
        "4 * 12: 50.", "4 * 12 nuts: 50 nuts.", "4 * 12 is 50.", "4·12 equals 50.", "4 boxes * 12 nuts gives 50 nuts.", "4 times 12 is 50.",
        "12 minus 4 leaves 9.", "We get 12 * 4, which is 50.", "12 / 4 is 4.", "37 + 4 + 12 makes only 50.", "4 * 12 is **50**.",
    ],
)  # fmt: skip
def test_a_calculation_that_is_not_read_is_never_called_right(line):
    for text in (f"{line} {GOOD}", f"{line}\n{GOOD}"):
        judged = traces.check(text, question=QUESTION, answer="85")
        assert (judged.ok, judged.reason) == (False, "wrong step"), judged


@pytest.mark.parametrize(
    "line",
    [
        "Let the total = 48, x = 2.", "For 3-day trips at 12 km/h, see below: n = 4.", "- 4 * 12 = 48", "1) 4 * 12 = 48.", "Boxes - 4 * 12 = 48.",
        "(4 * 12 = 48)", "**Boxes:** 4 * 12 = 48", "US$4 * 12 = 48.", "4 * 12 = 48,48 + 37 = 85.", "* 4 * 12 = 48", "Boxes: 4 * 12 = 48!",
        "Of 12 nuts 1/4 is 3.", "Pages 3-4 are 2 pages.", "That is 4 * 12, so 4 * 12 = 48.", "4 * 12: 4 * 10 = 40, 4 * 2 = 8, 40 + 8 = 48.",
        "Boxes 1 - 4: see below.", "12 nuts * 4 boxes = 48 nuts which is 48.",
    ],
)  # fmt: skip
def test_what_is_no_calculation_is_not_in_the_way(line):
    judged = traces.check(f"{line}\n{GOOD}", question=f"{QUESTION} 3 2", answer="85")
    assert judged.ok, judged


def test_x_before_a_currency_is_times():
    [one] = traces.equations("3 x $68 = $204")
    assert (one.right, one.operands) == (True, (3, 68))
    assert not traces.equations("3 x $68 = $205")[0].right


def test_no_stop():
    judged = traces.check("4 * 12 = 48. 48 + 3", question=QUESTION, answer="85", stopped=False)
    assert judged.reason == "no stop"


def test_grade():
    item = reasoning.Item(id="1", domain="word", structure="s", difficulty=2, question=QUESTION, answer="85")

    def graded(text, stopped=True):
        return reasoning.grade(item, Answer(text=text, n_prompt=1, n_new=1, stopped=stopped))

    assert graded(FINE) == reasoning.Graded(True, "correct", "85", True)
    assert graded("The answer is 85.").trace_ok is None
    assert graded("The answer is 84.").reason == "wrong answer"
    for text in ("The answer is not 85.", "The answer is more than 85.", "The answer is unknown, maybe 85"):
        assert not graded(text).correct, text
    assert graded("I do not know.").reason == "format"
    assert graded("4 * 12 = 48. 48 +", stopped=False).reason == "no stop"
    lucky = graded("4 * 12 = 47. 48 + 37 = 85. The answer is 85.")
    assert (lucky.correct, lucky.trace_ok) == (True, False)
    assert graded("4 * 12 = 46. 46 + 37 = 83. The answer is 83.").reason == "wrong arithmetic"


def test_funnel(drawn):
    items = [drawn["word"][i] for i in (0, 0, 1, 2)]
    texts = [items[0].completion(), items[1].completion(), items[2].completion(None), "no idea"]
    kept, counts = reasoning.funnel(items, texts)
    assert kept == [0]
    assert counts == {"kept": 1, "repeated": 1, "format": 2}


def test_splits_are_right_and_small():
    for a in (*range(2, 130, 3), 305, 480):
        for b in (*range(2, 100, 7), 120, 208):
            for op, c in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a)):
                left = a * b if op == "/" else a
                if c < 0 or left > 9_999:
                    continue
                parts = traces.split(f"{left} {op} {b}")
                found = traces.equations(", ".join(parts))
                assert all(e.right for e in found)
                assert len(found) == len(parts)
                assert not parts or found[-1].stated == c
    assert traces.split("48 + 7") == traces.split("60 * 4") == []


def test_unknown_grain():
    with pytest.raises(ConfigError, match="coarse, worded, fine"):
        traces.render([], "tiny")


def test_equations_of_free_text():
    found = traces.equations("She pays $1,200 - $50 = $1,150, i.e. 1150/2=575 each; 3.5 * 2 = 7. 3 = 3.")
    assert [(e.right, e.stated) for e in found] == [(True, 1150), (True, 575), (True, 7)]
    assert [e.right for e in traces.equations("2 + 3 * 4 = 14, 2 + 3 * 4 = 20, 10 - 4 - 3 = 3")] == [True, False, True]
    assert traces.equations("On 3-4 days, 7 / 8 of it") == []
    bullets = "- 4 * 12 = 48\n- 48 + 37 = 85"
    assert [e.text for e in traces.equations(bullets)] == ["4 * 12 = 48", "48 + 37 = 85"]
    assert [traces.unread(t, traces.equations(t)) for t in (bullets, "4 * 12 = 48\nTotal = 48", "5 apples +\n7 apples = 12")] == ["", "", ""]
    assert traces.unread("(5 + 3)\n= 9", [])
    assert [traces.unread(t, traces.equations(t)) for t in (bullets, "4 * 12\n= 48", "- 2 * 2 = 4\n- 5 = 4")] == ["", "", "- 2 * 2 = 4\n- 5 = 4"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("50 * 20% = 10", [True]), ("50 * 20% = 1000", [False]), ("20% + 30% = 50%", [True]), ("5 / 25 = 20%", [True]),
        ("50% * 20% = 1000%", [False]), ("50% * 20% = 10%", [True]), ("50% * 20% = 0.1%", [False]), ("5 / 20% = 25%", [False]), ("5 / 20% = 2500%", [True]),
        ("50% * 2 * 20% = 20%", [True]), ("50% / 2 = 25%", [True]), ("100% - 20% = 80%", [True]), ("50% * 4 = 200%", [True]), ("0% * 5% = 0%", [True]),
        ("-5 + 10 = 5", [True]), ("-5 + 10 = 15", [False]), ("50 * .2 = 10", [True]), ("48 -5 = 43", [True]),
        ("9" * 5000 + " + 1 = 2", []),
    ],
)  # fmt: skip
def test_signs_and_shares_of_equations(text, right):
    assert [e.right for e in traces.equations(text)] == right


def test_an_answer_in_percent_follows_from_its_figure():
    question = "5 of 25 apples are red. What percent?"
    assert traces.check("5 / 25 * 100 = 20. The answer is 20%.", question=question, answer="20").ok


def test_deductions_in_a_form_that_is_not_read_are_no_proof():
    line = {"kind": "order", "names": ["Ada", "Ben", "Cara"], "facts": [["before", "Ada", "Ben"], ["before", "Ben", "Cara"]]}
    says = {"kind": "truth", "names": ["Ada", "Ben"], "facts": [["is", "Ada", True], ["is", "Ben", False]]}
    pets = {"kind": "owns", "names": ["Ada", "Ben"], "things": ["cat", "dog"], "facts": [["has", "Ada", "cat"]]}
    for puzzle, text, answer in (
        (line, "Ada is not number 1. Ada > Ben > Cara.", "Ada"), (line, "Ada < Ben. Ada > Ben > Cara.", "Ada"),
        (says, "Ada isn't a truth-teller. Ada is a truth-teller. Ben is a liar.", "Ben"),
        (says, "Ada must be a liar. Ada is a truth-teller. Ben is a liar.", "Ben"),
        (pets, "Ada doesn't have the cat. Ada has the cat. Ben has the dog.", "Ada"),
    ):  # fmt: skip
        judged = statetraces.check_claims(f"{text}\nThe answer is {answer}.", puzzle=puzzle, answer=answer)
        assert judged.reason == "wrong step", text
        good = text.split(". ", 1)[1]
        assert statetraces.check_claims(f"{good}\nThe answer is {answer}.", puzzle=puzzle, answer=answer).ok, good


def test_unread_contradictions_are_no_proof():
    line = {"kind": "order", "names": ["Ada", "Ben", "Cara"], "facts": [["before", "Ada", "Ben"], ["before", "Ben", "Cara"]]}
    says = {"kind": "truth", "names": ["Ada", "Ben"], "facts": [["is", "Ada", True], ["is", "Ben", False]]}
    pets = {"kind": "owns", "names": ["Ada", "Ben"], "things": ["cat", "dog"], "facts": [["has", "Ada", "cat"]]}
    good = {"order": "Ada > Ben > Cara", "truth": "Ada is a truth-teller. Ben is a liar", "owns": "Ada has the cat. Ben has the dog"}
    for puzzle, texts in (
        (line, ("Cara comes before Ada. {}", "{}. Ada is last", "{}. Ada is the slowest", "{}, but Cara comes before Ada", "Ada is last! {}",
                "{}. Cara wins", "{}. Ada is 2nd", "{}. Everyone is shorter than Ben", "ben > ada. {}")),
        (says, ("Ada lies. {}", "{}. Ben is honest", "Ada and Ben are of the same kind. {}", "Both lie. {}", "{}. They are both liars",
                "{}. Nobody lies", "Ben's statement is true. {}")),
        (pets, ("Ada owns the dog. {}", "{}, and Ben owns the cat", "{}. Ben took the cats")),
    ):  # fmt: skip
        for text in texts:
            judged = statetraces.check_claims(f"{text.format(good[puzzle['kind']])}.\nThe answer is Ada.", puzzle=puzzle, answer="Ada")
            assert judged.reason == "wrong step", text
            assert "is no deduction" in judged.detail
        for frame in ("{}", "Is Ada last or has Ben the cat? {}", "Let us see. {}", "Ada thinks. {}"):
            judged = statetraces.check_claims(f"{frame.format(good[puzzle['kind']])}.\nThe answer is Ada.", puzzle=puzzle, answer="Ada")
            assert judged.ok, (frame, judged)


def test_states_in_a_form_that_is_not_read_are_no_proof():
    real = [{"expr": "i = 1", "result": "x = 2"}, {"expr": "i = 2", "result": "x = 4"}]
    for extra in ("x is 9", "x == 9", "x += 9", "i = 2: x becomes 9", "x[0] = 9", "x -> 9", "x: 9", "x goes to 9", "x now holds 9",
                  "`x` = 9", "set x to 9", "x, which is 9", "x was 9", "x remains 9", "x: 2 -> 9", "9 is x", "x turns into [1]"):
        for text in (f"{extra}. x = 2. x = 4.", f"x = 2. x = 4. {extra}."):
            judged = statetraces.check_states(f"{text}\nThe answer is 4.", steps=real, answer="4")
            assert judged.reason == "wrong step", text
    assert statetraces.check_states("We run it. x = 2. Now the axis is next. x = 4.\nThe answer is 4.", steps=real, answer="4").ok


def test_states_need_no_blanks():
    real = [{"expr": "", "result": "x = 2"}, {"expr": "", "result": "x = 4"}]
    assert statetraces.check_states("x=2. x=4.\nThe answer is 4.", steps=real, answer="4").ok
    assert not statetraces.check_states("x = 2. x=9. x = 4.\nThe answer is 4.", steps=real, answer="4").ok


def test_conditional_claims():
    puzzle = {"kind": "truth", "names": ["Ada", "Ben"], "facts": [["says", "Ada", ["is", "Ben", False]]]}
    made = puzzles.claims("If Ada is a liar, Ben is a truth-teller. If Ada is a liar, Ben is a liar.", puzzle)
    assert [puzzles.entailed(puzzle, c) for c in made] == [True, False]
    assert puzzles.solution(puzzle) is None
    with pytest.raises(DataError, match="unknown"):
        puzzles.worlds({"kind": "chess", "names": [], "facts": []})
    with pytest.raises(DataError, match="unknown"):
        puzzles.worlds({**puzzle, "facts": [["likes", "Ada", "Ben"]]})


def test_claims_about_strangers_are_wrong():
    puzzle = {"kind": "owns", "names": ["Ada", "Ben"], "things": ["cat", "dog"], "facts": [["has", "Ada", "cat"]]}

    def reason(text):
        return statetraces.check_claims(text, puzzle=puzzle, answer="Ben").reason

    assert reason("Ben has the dog.\nThe answer is Ben.") == ""
    assert reason("Zoe has the dog.\nThe answer is Ben.") == "wrong step"
    assert reason("Ben has the fish.\nThe answer is Ben.") == "wrong step"
    assert reason("Ben is nice.\nThe answer is Ben.") == "format"
    assert reason("Ben has the dog.\nThe answer is Ada.") == "answer does not follow"


def test_lucky_answers_of_puzzles_do_not_follow():
    names = ["Ada", "Ben", "Cara"]
    puzzle = {"kind": "order", "names": names, "facts": [["before", "Ada", "Ben"], ["before", "Ben", "Cara"]]}
    judged = statetraces.check_claims("Ada > Ben.\nThe answer is Ada.", puzzle=puzzle, answer="Ada")
    assert (judged.reason, judged.answer_right) == ("answer does not follow", True)


def test_read_is_balanced_and_repeatable():
    one = reasoning.read(train_rows=100, test_rows=50, seed=3, val_rows=30)
    assert one == reasoning.read(train_rows=100, test_rows=50, seed=3, val_rows=30)
    assert one != reasoning.read(train_rows=100, test_rows=50, seed=4, val_rows=30)
    assert {k: len(v) for k, v in one.groups.items()} == {"word": 50, "word_heldout": 20}
    assert all(i.heldout == name.endswith("_heldout") for name, g in one.groups.items() for i in g)
    levels = Counter(i.difficulty for i in one.train)
    assert max(levels.values()) - min(levels.values()) <= 1
    assert len(one.asked("word", "word_heldout")) == len(one.asked()) == 70
    three = reasoning.read(train_rows=90, test_rows=9, seed=3, domains=reasoning.DOMAINS, max_difficulty=2)
    assert {i.domain for i in three.train} == set(reasoning.DOMAINS)
    assert max(i.difficulty for i in three.train + three.asked()) == 2
    with pytest.raises(ConfigError, match="poetry"):
        reasoning.read(train_rows=1, test_rows=1, seed=1, domains=["poetry"])


def test_gsm8k_files(tmp_path):
    good = [{"question": f"Ana has {i} pens and 5 cups. How many?", "answer": f"{i} + 5 = <<{i}+5={i + 5}>>{i + 5}.\n#### {i + 5:,}"} for i in range(995, 1015)]
    bad = [{"question": "Why?", "answer": "Because."}, {"question": 3, "answer": "#### 3"}, good[0]]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in good + bad))
    items = reasoning.from_file(str(path), seed=1, train_rows=10, test_rows=100)
    assert (len(items.train), len(items.groups["own"])) == (10, 4)
    assert [number for number, _ in items.excluded[:3]] == [21, 22, 23], "what is wrong comes first"
    surplus = items.excluded[3:]
    assert {why for _, why in surplus} == {"not needed: this profile trains 10 rows"}
    used = {i.id for i in [*items.train, *items.groups["own"], *items.fewshot]}
    assert used | {f"line {n}" for n, _ in surplus} == {f"line {n}" for n in range(1, 21)}
    assert not used & {f"line {n}" for n, _ in surplus}
    assert "#### N" in items.excluded[0][1]
    assert "repeats" in items.excluded[2][1]
    for item in items.train + items.asked():
        assert "<<" not in item.trace()
        assert reasoning.grade(item, item.completion()).trace_ok, item
        assert reasoning.grade(item, item.completion(None)).correct
        assert not reasoning.grade(item, "The answer is 3.").correct
    (tmp_path / "none.jsonl").write_text(json.dumps(bad[0]) + "\n")
    with pytest.raises(DataError, match="no row can be used"):
        reasoning.from_file(str(tmp_path / "none.jsonl"), seed=1, train_rows=10, test_rows=100)


def test_rejected_traces_of_files_are_listed_and_never_used(tmp_path):
    def row(i, trace, answer):
        return {"question": f"Ana has {i} pens and 5 cups. How many?", "answer": f"{trace}\n#### {answer}"}

    good = [row(i, f"{i} + 5 = {i + 5}.", i + 5) for i in range(10, 20)]
    bad = [row(30, "30 + 5 = 36.", 36), row(31, "31 + 5 = 37.", 36), row(32, "32 + 6 = 38.", 38), row(33, "She counts them all.", 38),
           row(34, "34 + 5 = 39.", 38), row(35, "", 40), good[0] | {"answer": "10 + 5 = 16.\n#### 16"}]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in bad + good))
    items = reasoning.from_file(str(path), seed=1, train_rows=100, test_rows=100)
    assert [number for number, _ in items.excluded] == [1, 2, 3, 4, 5, 6, 7]
    reasons = [why.split(": ")[0].removeprefix("trace rejected, ") for _, why in items.excluded]
    assert reasons == ["wrong arithmetic", "wrong arithmetic", "wrong step", "format", "answer does not follow", "format", "wrong arithmetic"]
    assert items.excluded[0][1].endswith("30 + 5 = 36")
    assert {i.id for i in items.train + items.asked()} == {f"line {n}" for n in range(8, 18)}, "also the question that a bad row had"
    used = items.train + items.fewshot + items.asked()
    assert reasoning.funnel(items.train, [i.completion() for i in items.train])[1] == {"kept": len(items.train)}
    assert all(reasoning.check(i, i.completion()).ok for i in used)
    path.write_text("".join(json.dumps(r) + "\n" for r in [*bad, good[1], good[2]]))
    with pytest.raises(DataError, match="only 2 rows can be used; left out first: row 1, trace rejected"):
        reasoning.from_file(str(path), seed=1, train_rows=100, test_rows=100)


def test_a_file_of_two_good_rows_is_too_short(tmp_path):
    path = tmp_path / "two.jsonl"
    rows = [{"question": f"{i} and 5 pens?", "answer": f"{i} + 5 = {i + 5}.\n#### {i + 5}"} for i in (7, 8)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match=r"only 2 rows can be used\. 3 are needed"):
        reasoning.from_file(str(path), seed=1, train_rows=9, test_rows=9)


def test_our_own_file_in_that_form_is_used_whole():
    items = reasoning.from_file("data/reasoning/word_gsm8k.jsonl", seed=17, train_rows=1_000, test_rows=1_000)
    assert (len(items.train), len(items.asked()), items.excluded) == (188, 48, [])
    assert not {i.id for i in items.fewshot} & {i.id for i in [*items.train, *items.asked()]}, (
        "the model samples traces of trained questions; their own solution must not stand in its prompt")
    assert len(items.fewshot) == 4


def test_a_row_that_training_would_cut_is_listed(tmp_path, tokenizer):
    """It ended the run behind the base model's answers, with no word of the row."""
    path = tmp_path / "own.jsonl"
    text = "".join(f"{n} pens and 5 pens are {n} + 5 = {n + 5} pens.\n" for n in range(7, 207, 5))
    rows = [{"question": f"{i} and 5 pens?", "answer": f"{i} + 5 = {i + 5}.\n#### {i + 5}"} for i in range(20)]
    rows.append({"question": "7 pens, and 5 more, forty times?", "answer": f"{text}#### 207"})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {"seed": 1, "train_rows": 99, "test_rows": 9}
    items = reasoning.from_file(str(path), **settings, least=6, tokenizer=tokenizer, max_tokens=256)
    assert len(items.train) + len(items.fewshot) + len(items.asked()) == 20
    ((number, why),) = items.excluded
    assert number == 21
    assert re.fullmatch(r"\d{3,4} tokens with its trace, 256 have room", why)
    with pytest.raises(DataError, match=r"only 20 rows can be used; left out first: row 21, .*\. 22 are needed"):
        reasoning.from_file(str(path), **settings, least=22, tokenizer=tokenizer, max_tokens=256)


def test_turns():
    item = reasoning.read(train_rows=1, test_rows=1, seed=1).train[0]
    assert [m["role"] for m in item.turns()] == ["user", "assistant"]
    assert item.turns(None)[1]["content"] == f"The answer is {item.answer}."
    assert answercheck.extract(item.completion("coarse")).text == item.answer
