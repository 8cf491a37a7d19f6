"""The reader's own file becomes a task: split, checked, nothing dropped in silence."""

import json
import random

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.config import PROFILES
from sft_utils.errors import ConfigError, DataError, MaskError
from sft_utils.masks import masking
from sft_utils.task import structured, tasks, tickets

SIZES = {"seed": 17, "train_rows": 1000, "val_rows": 100, "test_rows": 100}
FLIGHTS = ROOT / "data" / "examples"


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def colours(n):
    return [{"prompt": f"Request number {i} from town {i * 7}: paint the fence {c}",
             "completion": json.dumps({"n": i, "colour": c})}
            for i, c in enumerate(["red", "blue", "green"][k % 3] for k in range(n))]  # fmt: skip


@pytest.mark.parametrize("name", ["flights.jsonl", "flights.csv", "flights_alpaca.json",
                                  "flights_sharegpt.json"])  # fmt: skip
def test_every_layout_of_the_example(name):
    mapping = "prompt=question,completion=slots" if name.endswith("csv") else ""
    mine = tasks.own(str(FLIGHTS / name), schema=str(FLIGHTS / "flights.schema.json"),
                     mapping=mapping, **SIZES)  # fmt: skip
    n = 160 if name == "flights.jsonl" else 60
    parts = [mine.train, mine.val, mine.test]
    assert sum(map(len, parts)) + len(mine.excluded) == n, "every row is somewhere"
    assert len(mine.test) >= n // 6
    requests = [{tasks.request(r) for r in part} for part in parts]
    assert not (requests[0] & requests[2])
    assert not (requests[1] & requests[2])
    assert not (requests[0] & requests[1])
    assert mine.task.metric == "field_f1"
    row = mine.test[0]
    gold = mine.task.answer(row)
    assert mine.task.score([row], [gold])[0].exact
    assert not mine.task.score([row], ['{"from_town": "Nowhere"}'])[0].exact
    told = mine.task.prompt(row, mine.task.instructions, mine.train[:2])
    assert [m["role"] for m in told] == ["system", *["user", "assistant"] * 2, "user"]
    assert "from_town" in told[0]["content"]
    assert mine.task.conversation(row)[-1]["content"] == gold


def test_nothing_is_dropped_in_silence(tmp_path):
    rows = colours(60)
    rows[3]["completion"] = "{broken"
    rows[5]["completion"] = '{"n": 5, "colour": "purple-ish", "extra": 1}'
    rows[7] = dict(rows[6])
    rows[9] = {**rows[8], "completion": '{"n": 1, "colour": "red"}'}
    rows[11]["completion"] = "[1]"
    rules = {"type": "object", "required": ["n", "colour"], "additionalProperties": False,
             "properties": {"n": {"type": "integer"}, "colour": {"type": "string"}}}  # fmt: skip
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rules))
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), schema=str(path), **SIZES)
    said = dict(mine.excluded)
    assert said[4].startswith("answer is not JSON: ")
    assert said[6].startswith("answer breaks the schema: ")
    assert said[8] == "repeated request: first in line 7"
    assert said[10] == "repeated request with another answer: first in line 9"
    assert said[12] == "answer is no JSON object: scoring needs keys"
    assert len(said) + len(mine.train) + len(mine.val) + len(mine.test) == 60
    assert {r["part"] for r in mine.rows()} >= {"train", "excluded: answer is not JSON"}


def test_training_rows_that_resemble_held_out_ones_go(tmp_path):
    """Eight wordings of one request: too few to be the template of the file."""
    long = "please send one van with two painters to the old mill behind the church on Monday"
    ends = ["", " now", " again", " today", " then", " too", " soon", " there"]
    leaks = set()
    for seed in range(4):
        rows = colours(40)
        rows += [{"prompt": long + e, "completion": '{"n": 1, "colour": "red"}'} for e in ends]
        mine = tasks.own(write(tmp_path / "d.jsonl", rows), **{**SIZES, "seed": seed})
        held = [r for r in mine.test + mine.val if tasks.request(r).startswith(long)]
        left = [r for r in mine.train if tasks.request(r).startswith(long)]
        leaked = [why for _, why in mine.excluded if why.startswith("resembles a held-out row")]
        assert len(held) + len(left) + len(leaked) == 8
        assert not (held and left)
        leaks.add(len(leaked))
    assert max(leaks) > 4


SYSTEM = ("You are a careful and friendly support assistant of the company Example. Answer in one short "
          "sentence, never invent facts, keep to the language of the customer, do not promise refunds.")  # fmt: skip
ORDER = "Extract the sender, the date and the amount from the following bank message in one sentence."


def words(n, k):
    """`n` texts of `k` words that share none by chance alone."""
    rng = random.Random(n)
    return [" ".join(rng.sample([f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(676)], k))
            for _ in range(n)]  # fmt: skip


def chat(system, user):
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user},
                         {"role": "assistant", "content": "ok"}]}  # fmt: skip


SHARED = {
    "a system prompt": [chat(SYSTEM, w) for w in words(200, 6)],
    "a document in the system prompt": [chat(w, "Summarise it!") for w in words(200, 40)],
    "an Alpaca instruction": [{"instruction": ORDER, "input": w, "output": "ok"} for w in words(200, 6)],
    "five instructions": [{"instruction": f"{ORDER[i % 5 * 9 :]} {'abcde'[i % 5]}", "input": w, "output": "ok"}
                          for i, w in enumerate(words(200, 3))],
    "a footer": [{"prompt": f"{w}. {SYSTEM}", "completion": "ok"} for w in words(200, 6)],
    "a short question": [{"prompt": f"What is the capital of {w}?", "completion": "ok"} for w in words(200, 1)],
    "arithmetic": [{"prompt": f"What is {a} {o} {b}?", "completion": str(a)}
                   for a in range(10, 18) for b in range(10, 18) for o in "+-*"],
    "word problems": [{"prompt": f"Tom has {a} apples and buys {b} more. How many apples has he now?",
                       "completion": str(a + b)} for a in range(15) for b in range(15)],
}  # fmt: skip


@pytest.mark.parametrize("kind", SHARED)
def test_what_all_rows_share_makes_none_resemble_another(tmp_path, kind):
    rows = SHARED[kind]
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    alike = [why for _, why in mine.excluded if "held-out" in why]
    assert len(alike) <= len(rows) // 50, alike[:3]


def test_a_near_copy_is_found_under_a_shared_system_prompt_and_footer(tmp_path):
    asked = words(200, 20)
    rows = [chat(SYSTEM, f"{w}. {SYSTEM}") for w in asked]
    rows += [chat(SYSTEM, f"please {w} thanks. {SYSTEM}") for w in asked]
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    train, held = ({r["line"] % 200 for r in part} for part in (mine.train, mine.test + mine.val))
    assert mine.reasons["resembles a held-out row"] > 40
    assert not train & held


def test_plain_answers_are_a_text_task(tmp_path):
    rows = [{"prompt": f"Say the words of number {i} twice", "completion": f"word {i} word {i}"}
            for i in range(60)]  # fmt: skip
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    assert mine.task.schema is None
    assert (mine.task.metric, mine.task.metrics) == ("word_f1", ("word_f1", "exact_match"))
    row = mine.test[0]
    half = mine.task.score([row], ["word"])[0]
    assert (half.tp, half.fp, half.fn, half.exact) == (1, 0, 3, False)


def test_a_name_that_no_system_takes_is_no_traceback():
    with pytest.raises(DataError, match="is no usable path: File name too long"):
        tasks.own("x" * 5000, seed=1, train_rows=9, val_rows=1, test_rows=9)


def test_too_few_rows_are_refused_with_the_reasons(tmp_path):
    rows = colours(60)
    for row in rows[:50]:
        row["completion"] = "{"
    path = tmp_path / "rules.json"
    path.write_text('{"type": "object"}')
    with pytest.raises(DataError, match=r"at least 16 and 8 are needed. Excluded: 50 × answer is not JSON; the first of the commonest, line 1: answer is not JSON: .* Give more rows, or repair what excludes them"):
        tasks.own(write(tmp_path / "d.jsonl", rows), schema=str(path), **SIZES)


def test_a_row_too_long_to_train_is_named_and_the_others_stay(tmp_path, tokenizer):
    rows = colours(60)
    rows[4]["prompt"] += " slowly" * 600
    rows[6]["completion"] = json.dumps({"n": 6, "colour": "red " * 600})
    path = write(tmp_path / "d.jsonl", rows)
    mine = tasks.own(path, **SIZES, tokenizer=tokenizer, max_length=512)
    long = {line: why for line, why in mine.excluded if why.startswith("too long: ")}
    assert sorted(long) == [5, 7]
    assert all(why.endswith("tokens, at most 512 (max_length)") for why in long.values())
    kept = [*mine.train, *mine.val, *mine.test]
    assert len(kept) == 58
    for row in kept:
        masking.assistant_labels(tokenizer, mine.task.conversation(row), max_length=512)
    assert len(tasks.own(path, **SIZES).excluded) == 0, "no tokenizer, no lengths"
    for half in ({"tokenizer": tokenizer}, {"max_length": 512}):
        with pytest.raises(ConfigError, match="lengths are checked with both, or not at all"):
            tasks.own(path, **SIZES, **half)


def test_lengths_count_the_instructions_where_they_are_trained(tmp_path, tokenizer):
    rows = colours(60)
    path = write(tmp_path / "d.jsonl", rows)
    bare = tasks.own(path, **SIZES)
    longest = max(len(masking.assistant_labels(tokenizer, bare.task.conversation(r), max_length=512)["input_ids"])
                  for r in [*bare.train, *bare.val, *bare.test])  # fmt: skip
    fits = tasks.own(path, **SIZES, tokenizer=tokenizer, max_length=longest)
    assert fits.excluded == []
    with pytest.raises(DataError, match="60 × too long"):
        tasks.own(path, **SIZES, tokenizer=tokenizer, max_length=longest, told=True)


def test_rows_that_cannot_be_masked_are_named(tmp_path, tokenizer, monkeypatch):
    honest = masking.assistant_labels

    def picky(tokenizer, messages, *, max_length):
        if "number 4 " in messages[-2]["content"]:
            raise MaskError("message 1: no prefix")
        return honest(tokenizer, messages, max_length=max_length)

    monkeypatch.setattr(masking, "assistant_labels", picky)
    mine = tasks.own(write(tmp_path / "d.jsonl", colours(60)), **SIZES, tokenizer=tokenizer, max_length=512)
    assert mine.excluded == [(5, "cannot be masked: message 1: no prefix")]


def test_rows_beyond_what_a_profile_trains_are_listed(tmp_path):
    mine = tasks.own(write(tmp_path / "d.jsonl", colours(100)), **{**SIZES, "train_rows": 20})
    assert len(mine.train) == 20
    assert mine.reasons == {"not needed": 100 - 20 - len(mine.val) - len(mine.test)}
    assert "excluded: not needed" in {r["part"] for r in mine.rows()}


def test_the_schema_is_inferred_from_training_answers_alone(tmp_path):
    rows = [{"prompt": w, "completion": json.dumps({"city": ["Rome", "Oslo", "Bern"][i % 3]})}
            for i, w in enumerate(words(100, 8))]  # fmt: skip
    first = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    assert "Rome" in first.task.instructions
    changed = [r["line"] for r in (*first.test[:4], *first.val[:1])]
    for line in changed:
        rows[line - 1]["completion"] = '{"city": "Lyon"}'
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    assert "Lyon" not in mine.task.instructions + json.dumps(mine.task.schema)
    assert [line for line, _ in mine.excluded] == sorted(changed)
    assert {why for _, why in mine.excluded} == {
        "held-out answer outside the training schema: city: 'Lyon' is not one of "
        "['Bern', 'Oslo', 'Rome']"}  # fmt: skip
    rules = tmp_path / "rules.json"
    rules.write_text('{"type": "object", "properties": {"city": {"type": "string"}}}')
    given = tasks.own(str(tmp_path / "d.jsonl"), schema=str(rules), **SIZES)
    assert given.excluded == []


def test_a_file_without_a_row_to_validate_is_refused(tmp_path):
    """03 would take the largest learning rate, and promote by an F1 over no rows, which is 1."""
    rows = colours(45)
    first = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    assert (len(first.val), len(first.test)) == (4, 9)
    for row in first.val:
        rows[row["line"] - 1]["completion"] = '{"n": "many", "colour": "red"}'
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=r"and 9 to test are left; .* None is left to validate\. Excluded: 4 × held-out answer outside the training schema"):
        tasks.own(path, **SIZES)
    assert len(tasks.own(path, **SIZES | {"val_rows": 0}).test) > 8  # 05 validates nothing


def test_what_nothing_reads_and_what_looks_wrong_is_told(tmp_path):
    rows = [{"instruction": r["prompt"], "output": r["completion"], "hint": [["q", "a"]],
             "tools": None} for r in colours(60)]  # fmt: skip
    rows[4]["instruction"] = "fa\u00c3\u00a7ade one paint it red"
    rows[7] |= {"instruction": "caf\u00c3\u00a9", "output": ""}
    mine = tasks.own(write(tmp_path / "d.jsonl", rows), **SIZES)
    said = {r["part"]: r for r in mine.rows()}
    assert said["not used: hint"]["rows"] == 59, "the excluded row is used for nothing"
    assert said["kept with a warning: mojibake"] == {
        "part": "kept with a warning: mojibake", "rows": 1, "lines": "5", "the first": ""}  # fmt: skip
    assert said["excluded: empty completion"]["lines"] == "8"
    assert "not used: tools" not in said


def test_all_that_is_left_out_is_listed_in_a_file(tmp_path):
    """The table shows six numbers and the first reason; with fifty that is not enough to repair them."""
    rows = colours(60) + [{"prompt": f"what? {i}", "completion": "  "} for i in range(9)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    mine = tasks.own(str(tmp_path / "d.json"), **SIZES)
    said = mine.write_excluded(tmp_path / "out" / "excluded.jsonl")
    assert said.startswith("9 left out, each with its reason in ")
    listed = [json.loads(x) for x in (tmp_path / "out" / "excluded.jsonl").read_text().splitlines()]
    assert [x["row"] for x in listed] == list(range(61, 70))
    assert all(x["reason"].startswith("empty completion: ") for x in listed)
    assert mine.rows()[-1]["the first"], "why, not only where"


def test_case_and_indentation_may_be_the_point_of_a_request(tmp_path):
    """Keyed without them, right rows were called contradictions of each other and dropped."""
    odd = ["SMILES name: CO", "SMILES name: Co", "SMILES name: co", "What prints?\nif a:\n  b()\nc()",
           "What prints?\nif a:\n  b()\n  c()"]  # fmt: skip
    rows = colours(60) + [{"prompt": p, "completion": c["completion"]} for p, c in zip(odd, colours(5), strict=True)]
    rows.append({"prompt": " SMILES name: CO\n", "completion": rows[60]["completion"]})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    mine = tasks.own(str(tmp_path / "d.json"), **SIZES)
    assert [e for e in mine.excluded if "repeated" in e[1]] == [(66, "repeated request: first in row 61")]


def test_texts_and_json_in_one_file_are_named_and_not_trained_as_texts(tmp_path):
    rows = [{"prompt": f"case {i}: which colour?", "completion": json.dumps({"n": i})} for i in range(85)]
    rows += [{"prompt": f"other {i}: which colour?", "completion": '{"n": 1'} for i in range(15)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"85 of 100 answers are JSON objects.*row 86: answer is not JSON"):
        tasks.own(str(tmp_path / "d.json"), **SIZES)


def test_rows_of_a_list_are_called_rows(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([*colours(60), colours(2)[1]]))
    mine = tasks.own(str(tmp_path / "d.json"), **SIZES)
    assert mine.unit == "row"
    assert mine.excluded == [(61, "repeated request: first in row 2")]
    assert {tuple(r) for r in mine.rows()} == {("part", "rows", "row numbers", "the first")}


def test_another_seed_holds_out_other_rows(tmp_path):
    path = write(tmp_path / "d.jsonl", colours(100))
    one, two, again = (tasks.own(path, **{**SIZES, "seed": s}) for s in (1, 2, 1))
    assert [r["id"] for r in one.test] == [r["id"] for r in again.test]
    assert [r["id"] for r in one.test] != [r["id"] for r in two.test]


def test_tickets_are_asked_as_before():
    row = tickets.read_rows(tickets.TEST, 1)[0]
    assert tasks.TICKETS.prompt(row) == tickets.prompt(row)
    assert tasks.TICKETS.conversation(row) == tickets.conversation(row)
    shots = tickets.read_rows(tickets.FEW_SHOT, 2)
    told = tasks.TICKETS.prompt(row, tickets.INSTRUCTIONS, shots)
    assert told == tickets.prompt(row, tickets.INSTRUCTIONS, shots)


def test_a_system_prompt_of_the_file_stays():
    row = {"id": "line 1", "messages": [{"role": "system", "content": "Be brief."},
                                       {"role": "user", "content": "Hi"},
                                       {"role": "assistant", "content": "Yo"}]}  # fmt: skip
    task = tasks.Task(name="x", system="", instructions="Told.", schema=None)
    assert task.prompt(row)[0]["content"] == "Be brief."
    assert task.prompt(row, task.instructions)[0]["content"] == "Be brief.\n\nTold."
    shots = task.prompt(row, "", [row])
    assert [m["role"] for m in shots] == ["system", "user", "assistant", "user"]


def test_readme_says_how_much_of_a_file_is_used():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cpu, gpu = PROFILES["cpu"], [p for p in PROFILES.values() if p.is_gpu]
    five = structured.SIZES
    assert {(p.train_rows, p.test_rows, p.val_rows, p.max_length, p.max_new_tokens) for p in gpu} == {
        (4096, 168, 96, 1024, 96)
    }
    assert f"| {cpu.train_rows}, 4,096 | {five['cpu'].train_rows}, {five['gpu'].train_rows:,} |" in text
    assert f"{cpu.test_rows} to test and {cpu.val_rows} to validate, 168 and 96" in text
    assert f"| {five['cpu'].group_rows}, {five['gpu'].group_rows} |" in text
    assert f"| {cpu.max_length}, 1,024 |" in text
    assert f"| {cpu.max_new_tokens}, or the longest held-out answer |" in text
    assert f"{tasks.MIN_TRAIN} to train on and {tasks.MIN_HELD} to test are the least" in text
