"""The examples of 05: every gold answer is worth full marks under its own rules."""

import json
from collections import Counter

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.errors import ConfigError, DataError
from sft_utils.model.generation import Answer
from sft_utils.task import outlines, structured, tickets


@pytest.fixture(scope="module")
def items():
    return structured.read(train_rows=10_000, group_rows=1_000, seed=17)


def test_gold_answers_are_right(items):
    assert set(items.groups) == {"tickets", "seen", "unseen", "xml", "citation", "report"}
    for item in items.asked():
        score = structured.score_item(item, item.answer)
        assert score.parses, item
        assert score.exact, item
        assert score.schema_valid, (item, structured.verdict(item, item.answer))
        assert score.fp == score.fn == 0
        assert score.tp > 0


def test_wrong_answers_are_wrong(items):
    for name in items.groups:
        item, other = items.groups[name][:2]
        if name != "citation":
            assert structured.score_item(item, "Here you are!").schema_valid is False
        assert structured.score_item(item, other.answer).exact is False


def test_unseen_schemas_are_unseen(items):
    trained = {i.name for i in items.train}
    assert not trained & {i.name for i in items.groups["unseen"]}
    assert {i.name for i in items.groups["seen"]} <= trained
    texts = {i.text for i in items.train}
    assert not texts & {i.text for i in items.asked()}


def test_a_part_is_balanced_and_repeatable():
    one = structured.read(train_rows=70, group_rows=20, seed=1)
    assert one == structured.read(train_rows=70, group_rows=20, seed=1)
    counts = Counter(i.name for i in one.groups["seen"])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {name: len(g) for name, g in one.groups.items()} == {
        "seen": 20, "unseen": 20, "tickets": 10, "xml": 10, "citation": 10, "report": 10
    }  # fmt: skip
    written = [i.source == "handwritten" for i in structured.read(train_rows=5000, group_rows=1, seed=1).train]
    assert written == sorted(written, reverse=True), "hand-written rows are never left out first"


@pytest.mark.parametrize("size", structured.SIZES.values(), ids=structured.SIZES)
def test_prompts_on_unseen_schemas_have_examples(size):
    """At the sizes of a GPU all were asked once, and the arm with examples was the base arm."""
    found = structured.read(train_rows=size.train_rows, group_rows=size.group_rows, seed=17)
    for item in found.groups["unseen"]:
        examples = found.examples(item, structured.SHOTS)
        assert len(examples) == structured.SHOTS, item.name
        assert not {e.id for e in examples} & {i.id for i in found.asked()}
    assert len(found.groups["unseen"]) >= 0.9 * size.group_rows


def test_tickets_join_what_is_trained():
    few = structured.read(train_rows=14, group_rows=2, seed=1)
    rows = tickets.read_rows(tickets.TEST, 3)
    mixed = structured.with_tickets(few, rows)
    added = [i for i in mixed.train if i.id in {r["id"] for r in rows}]
    assert [(i.group, i.name) for i in added] == [("tickets", "ticket")] * 3
    kept = [i for i in mixed.train if i not in added]
    assert sorted(kept, key=lambda i: i.id) == sorted(few.train, key=lambda i: i.id)
    assert len(mixed.train) == len(few.train) + 3
    assert (mixed.groups, mixed.spare, mixed.own) == (few.groups, few.spare, few.own)
    assert structured.with_tickets(few, rows[::-1]) == mixed, "the order of the file decides nothing"


def test_prompts_carry_the_rules(items):
    rules = {i.kind: i.rules for i in items.train}
    assert rules["xml"].startswith("<")
    assert rules["report"].endswith("Status: open | blocked | done")
    assert all(i.rules for i in items.train if i.kind != "citation")


def test_failures_have_a_class(items):
    item = items.groups["seen"][0]

    def said(text, stopped=True):
        answer = Answer(text=text, n_prompt=1, n_new=1, stopped=stopped)
        return structured.failure(item, answer).primary

    assert said(item.answer) == "correct"
    assert said(item.answer[:-4], stopped=False) == "truncated"
    assert said("{}") == "missing key"
    assert said("No.") == "syntax"


def test_an_own_file():
    source = str(ROOT / "data/examples/flights.jsonl")
    mine = structured.from_file(source, seed=17, train_rows=500, group_rows=32)
    assert {i.group for i in mine.asked()} == {"own"}
    assert len(mine.groups["own"]) == 32
    assert all(structured.score_item(i, i.answer).schema_valid for i in mine.asked())
    assert structured.overview(mine)[0]["trained"] == len(mine.train)


def test_texts_have_no_schema_to_obey(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"prompt": "q {i} {i}", "completion": "a {i}"}}\n' for i in range(60)))
    with pytest.raises(DataError, match="0 of 48 training answers are JSON objects"):
        structured.from_file(str(path), seed=17, train_rows=500, group_rows=32)
    fenced = '{"prompt": "q %d %d", "completion": "```json\\n{\\"a\\": %d}\\n```"}\n'
    path.write_text("".join(fenced % (i, i, i) for i in range(60)))
    with pytest.raises(DataError, match="Take the code fences around them away"):
        structured.from_file(str(path), seed=17, train_rows=500, group_rows=32)


def test_own_system_prompts_and_earlier_turns_keep_their_roles(tmp_path):
    """As one user text they trained 05 on prompts that a server never sends."""
    rows = [{"messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": f"order {i * 7919}?"},
                          {"role": "assistant", "content": "Which one?"}, {"role": "user", "content": f"number {i}"},
                          {"role": "assistant", "content": json.dumps({"n": i})}]} for i in range(60)]  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows))
    item = structured.from_file(str(tmp_path / "d.json"), seed=17, train_rows=500, group_rows=12).train[0]
    assert item.system == "Be exact."
    assert [m["role"] for m in item.turns()] == ["user", "assistant", "user", "assistant"]
    assert "Be exact." in item.text, "what a value may be taken from"
    ours = structured.read(train_rows=14, group_rows=2, seed=17).train[0]
    assert (ours.system, [m["role"] for m in ours.turns()]) == ("", ["user", "assistant"])


def test_outlines():
    assert outlines.of_xsd("data/structured/xsd/event.xsd") == (
        '<event type="concert | workshop | market | lecture">\n'
        "  <title>text</title>\n  <venue>text</venue>\n  <day>date (YYYY-MM-DD)</day>\n"
        "  <price>integer 0..500</price> (optional)\n</event>"
    )
    assert outlines.of_report("data/structured/report.json").splitlines()[3] == "- 2 to 3 bullets"


def test_an_xsd_without_outline_is_refused(tmp_path):
    path = tmp_path / "x.xsd"
    path.write_text('<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">'
                    '<xs:element name="n" type="xs:int"/></xs:schema>')  # fmt: skip
    with pytest.raises(ConfigError, match="no outline"):
        outlines.of_xsd(path)
