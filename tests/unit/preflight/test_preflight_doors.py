"""The three doors of the preflight: notebook, training script and command line."""

import ast
import doctest
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from sft_utils import basemodel, manifest, preflight, runtime
from sft_utils.artifacts import ROOT
from sft_utils.data import layouts
from sft_utils.errors import ConfigError, DataError, PreflightError
from sft_utils.masks import masking
from sft_utils.preflight import capture, cli, stages, view
from sft_utils.preflight.capture import library_warnings
from sft_utils.preflight.record import Finding, RunRecord
from sft_utils.preflight.sides import trl_templates

ROOM = ROOT / "sft_utils" / "preflight"

ASKED = [
    ("Capital of France?", "Paris is the capital."),
    ("Write a line about rain.", "Rain falls softly on the roof tonight."),
    ("2+2?", "The sum is 4."),
    ("Translate 'cat' to German.", "Die Katze."),
    ("Who wrote Faust?", "Goethe wrote it in two parts."),
    ("Name a prime above ten.", "Eleven is prime."),
]


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


CHATS = [[user(q), answer(a)] for q, a in ASKED]
MESSAGES = [{"messages": chat} for chat in CHATS]
PAIRED = [{"prompt": chat[:1], "completion": chat[1:]} for chat in CHATS]


def finding(code="M1", severity="FAIL", **changes):
    facts = {"what": "seen", "where": "row 0", "fix": "change it", **changes}
    return Finding(id=code, severity=severity, **facts)


# --- stages ---------------------------------------------------------------------------------


def test_merge_keeps_the_first_and_counts():
    found = [
        finding("M10", "WARN"),
        finding("M1", what="first", count=2),
        finding("M1", what="second", count=3),
        finding("M1", "WARN"),
    ]
    merged = preflight.merge(found)
    assert [(f.id, f.severity, f.count) for f in merged] == [
        ("M1", "FAIL", 5),
        ("M10", "WARN", 1),
        ("M1", "WARN", 1),
    ], "FAIL comes first, a WARN of the same id is another finding"
    assert merged[0].what == "first"


@pytest.mark.parametrize(
    ("n", "limit", "expected"),
    [(5, 3, [0, 2, 4]), (5, 1, [0]), (0, 3, []), (4, 4, [0, 1, 2, 3])],
)
def test_stratified(n, limit, expected):
    assert stages.stratified(range(n), limit) == expected


def test_stratified_spreads_over_sizes():
    sizes = [7, 100, 3, 50, 9, 1, 80, 20]
    chosen = stages.stratified(sizes, 4)
    assert len(set(chosen)) == 4
    assert {sizes[i] for i in chosen} >= {1, 100}, "the shortest and the longest are in"


def test_inspect_runs_the_stages_in_order(monkeypatch, tokenizer):
    monkeypatch.setitem(stages.STAGES, "data", (lambda r: [finding("D3")],))
    monkeypatch.setitem(stages.STAGES, "settings", (lambda r: [finding("O3")],))
    record = RunRecord(tokenizer=tokenizer, conversations=CHATS)
    found = preflight.inspect(record, stages=("data", "settings"))
    assert [f.id for f in found] == ["D3", "O3"]
    assert preflight.inspect(record, stages=()) == []
    with pytest.raises(ConfigError, match="unknown preflight stage 'masks'; known: settings, data"):
        preflight.inspect(record, stages=("data", "masks"))


def test_before_is_all_that_needs_no_forward_pass():
    assert set(stages.BEFORE) == set(stages.STAGES) - {"dryrun", "export"}
    assert all(stages.STAGES[name] for name in stages.STAGES), "a stage without a detector"


@pytest.fixture
def watched(monkeypatch):
    """One detector that keeps the records it gets."""
    seen = []

    def detector(record):
        seen.append((record, record.train_batches))
        return ()

    monkeypatch.setattr(stages, "STAGES", {"batches": (detector,)})
    return seen


def trainer_of(rows, model=None):
    return SimpleNamespace(
        model=model,
        args=SimpleNamespace(learning_rate=1e-4),
        train_dataset=rows,
        data_collator=lambda part: masking.collate(part, 0),
        get_train_dataloader=lambda: [masking.collate(rows, 0)],
    )


@pytest.fixture
def rows(tokenizer):
    return [masking.assistant_labels(tokenizer, chat, max_length=400) for chat in CHATS]


def test_check_hands_on_what_it_was_given(watched, rows, tokenizer):
    trainer = trainer_of(rows)
    declared = {"packing": False}
    assert preflight.check(trainer, CHATS, tokenizer, stages=("batches",), declared=declared) == []
    record, batches = watched[0]
    assert record.declared is declared
    assert record.arguments is trainer.args
    assert record.trainer is trainer
    assert len(batches[0]["input_ids"]) == len(rows)


def test_check_takes_a_sample_of_aligned_rows(watched, rows, tokenizer):
    preflight.check(trainer_of(rows), CHATS, tokenizer, stages=("batches",), limit=3)
    _, batches = watched[0]
    assert [len(b["input_ids"]) for b in batches] == [3]
    shorter = trainer_of(rows[:-1])  # rows that TRL dropped: positions no longer match
    preflight.check(shorter, CHATS, tokenizer, stages=("batches",), limit=3)
    assert len(watched[1][1][0]["input_ids"]) == len(rows) - 1
    preflight.check(trainer_of(rows), CHATS, tokenizer, stages=("batches",), limit=None)
    assert len(watched[2][1][0]["input_ids"]) == len(rows)


def test_a_sample_of_rows_in_another_order_is_not_compared_by_position(rows, tokenizer):
    """As many rows as declared, each at another place: nothing is wrong with them."""
    moved = trainer_of([*rows[1:], rows[0]])
    found = preflight.check(moved, CHATS, tokenizer, stages=("batches",), limit=4)
    assert [(f.id, f.what) for f in found if f.severity == "FAIL"] == []


def test_a_sample_of_cut_rows_stays_a_sample(watched, rows, tokenizer):
    cut = [{key: row[key][:-2] for key in row} for row in rows]
    preflight.check(trainer_of(cut), CHATS, tokenizer, stages=("batches",), limit=3)
    assert [len(b["input_ids"]) for b in watched[0][1]] == [3]


@pytest.mark.parametrize("as_dataset", [True, False])
def test_a_sample_has_the_columns_that_the_loader_has(rows, tokenizer, tiny, tmp_path, as_dataset):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    def strict(part):
        assert all(set(row) == {"input_ids", "labels"} for row in part), "a column nobody takes"
        return masking.collate(part, 0)

    more = [{**row, "ticket": f"T{i}"} for i, row in enumerate(rows)]
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model=tiny, args=arguments, data_collator=strict,
                      train_dataset=Dataset.from_list(more) if as_dataset else more)  # fmt: skip
    for limit in (None, 3):
        assert preflight.check(trainer, CHATS, tokenizer, stages=("batches",), limit=limit) == []
    raw = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True,
                            remove_unused_columns=False)  # fmt: skip
    trainer.args = raw
    with pytest.raises(AssertionError, match="a column nobody takes"):
        preflight.check(trainer, CHATS, tokenizer, stages=("batches",), limit=3)


def test_the_steps_of_a_run_are_those_of_all_its_rows(rows, tokenizer):
    """A warmup of 5 steps is most of a sample of four rows, and a tenth of the run."""
    chats, many = CHATS * 10, rows * 10
    trainer = trainer_of(many)
    trainer.args = SimpleNamespace(learning_rate=1e-4, num_train_epochs=1.0, warmup_steps=5,
                                   gradient_accumulation_steps=1, max_steps=-1)  # fmt: skip
    trainer.get_train_dataloader = lambda: [masking.collate([row], 0) for row in many]
    for limit in (None, 4):
        found = preflight.check(trainer, chats, tokenizer, stages=("settings",), limit=limit)
        assert "O15" not in [f.id for f in found], limit


def test_check_draws_no_random_numbers(watched, rows, tokenizer):
    trainer = trainer_of(rows)
    trainer.get_train_dataloader = lambda: [torch.rand(3), masking.collate(rows, 0)][1:]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    preflight.check(trainer, CHATS, tokenizer, stages=("batches",))
    assert torch.equal(torch.rand(3), expected)


# --- the gate -------------------------------------------------------------------------------


@pytest.fixture
def run(profile):
    return runtime.Run(notebook="02_template_masking", profile=profile, seed=1, parameters={})


def test_gate_stops_a_fact(capsys):
    with pytest.raises(PreflightError, match=r"M1, D3 · seen \(row 0; 4x\)\. Fix: change it"):
        preflight.gate([finding("M1", count=4), finding("D3"), finding("M10", "WARN")])
    preflight.gate([finding("M10", "WARN")])
    assert capsys.readouterr().out == "preflight: 1 findings, none fatal; warnings: M10\n"
    preflight.gate([])
    assert "0 findings, none fatal" in capsys.readouterr().out


def test_suppression_goes_on_record(run, capsys):
    reason = "12 known label errors, counted in the data card"
    preflight.gate([finding("D11")], suppress={"D11": reason}, run=run)
    assert "suppressed: D11" in capsys.readouterr().out
    assert run.suppressed == {"D11": reason}
    assert manifest.build(run)["suppressed"] == {"D11": reason}


def test_suppressing_one_fact_leaves_the_others_fatal(run):
    with pytest.raises(PreflightError, match="^M1 ·"):
        preflight.gate([finding("D11"), finding("M1")], suppress={"D11": "known"}, run=run)


@pytest.mark.parametrize("reason", ["", "  "])
def test_suppression_needs_a_reason(run, reason):
    with pytest.raises(ConfigError, match="D11 needs run= and a reason"):
        preflight.gate([finding("D11")], suppress={"D11": reason}, run=run)
    assert run.suppressed == {}


def test_suppression_needs_a_run_and_a_finding(run):
    with pytest.raises(ConfigError, match="D11 needs run= and a reason"):
        preflight.gate([finding("D11")], suppress={"D11": "known"})
    with pytest.raises(ConfigError, match="M7 is suppressed but was not found; found: .'D11'"):
        preflight.gate([finding("D11")], suppress={"M7": "known"}, run=run)
    assert run.suppressed == {}


# --- view -----------------------------------------------------------------------------------


def test_text_names_everything_a_reader_needs():
    text = view.as_text([finding(why="it breaks", count=3), finding("M10", "WARN")])
    assert text.splitlines() == [
        "FAIL  M1  seen  (3x)",
        "      where  row 0",
        "      why    it breaks",
        "      fix    change it",
        "WARN  M10  seen",
        "      where  row 0",
        "      fix    change it",
    ]
    assert view.as_text([]) == "preflight: nothing found"


def test_show(capsys, rows, tokenizer):
    record = RunRecord(
        tokenizer=tokenizer, conversations=CHATS, batches=[masking.collate(rows, 0)]
    )
    preflight.show([finding()], record)
    preflight.show([])
    printed = capsys.readouterr().out
    assert "M1" in printed
    assert "nothing found" in printed


# --- what the libraries say -----------------------------------------------------------------


@pytest.fixture
def logger():
    """The logger of a library as it was before the test, after it."""
    log = logging.getLogger("trl")
    before = log.level, log.propagate, list(log.handlers)
    yield log
    log.setLevel(before[0])
    log.propagate = before[1]
    log.handlers[:] = before[2]


def test_warnings_and_logs_are_collected(logger):
    with library_warnings() as said:
        logging.getLogger("trl.trainer.sft_trainer").warning("%s is ignored", "packing")
        logger.info("no warning")
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
        logging.getLogger("somebody.else").warning("not a training library")
    assert said == ["trl.trainer.sft_trainer: packing is ignored", "DeprecationWarning: old name"]
    logger.warning("after the block")
    assert len(said) == 2


def test_a_silenced_logger_is_heard_and_stays_silent(logger):
    printed = []
    handler = logging.Handler()
    handler.emit = lambda r: printed.append(r.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    with library_warnings() as said:
        logger.warning("quiet")
        logger.error("loud")
    assert said == ["trl: quiet", "trl: loud"]
    assert printed == ["loud"], "what was silenced is not printed"
    assert (logger.level, handler.level, logger.propagate) == (logging.ERROR, 0, True)


def test_an_exception_loses_nothing(logger):
    handlers = list(logger.handlers)
    with pytest.raises(ValueError, match="refused"), library_warnings() as said:
        warnings.warn("before the end", UserWarning, stacklevel=1)
        raise ValueError("refused")
    assert said == ["UserWarning: before the end"]
    assert logger.handlers == handlers


@pytest.mark.parametrize("module", [capture, stages])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


# --- layouts --------------------------------------------------------------------------------


def jsonl(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("q"), answer("a")]},
        {"prompt": [user("q")], "completion": [answer("a")]},
        {"prompt": "q", "completion": "a"},
        {"prompt": [user("q")], "completion": "a"},
        {
            "conversations": [
                {"from": "user", "value": "q"},
                {"from": "assistant", "value": "a"},
            ]
        },
        {"conversations": [user("q"), answer("a")]},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
    ],
)
def test_layouts(row):
    before = json.dumps(row)
    assert layouts.conversation(row, 1) == [user("q"), answer("a")]
    assert json.dumps(row) == before, "the row itself stays as it is"


def test_alpaca_input_follows_the_instruction():
    row = {"instruction": "Translate.", "input": "cat", "output": "Katze"}
    assert layouts.conversation(row, 1)[0] == user("Translate.\n\ncat")


def test_foreign_roles_and_other_fields_stay():
    row = {"conversations": [{"from": "gpt", "value": "a", "weight": 0}]}
    assert layouts.conversation(row, 1) == [{"role": "gpt", "content": "a", "weight": 0}]
    calls = [{"function": {"name": "f", "arguments": {}}}]
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}
    assert layouts.conversation(row, 1) == row["messages"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"row 7: keys \[\] are no known layout\. Known: messages, prompt \+ completion"),
        ({"text": "x", "id": 1}, r"row 7: keys \['id', 'text'\] are no known layout"),
        ({"prompt": "q"}, "row 7: keys"),
        ({"messages": None}, "row 7: 'messages' is null, a list of messages is needed"),
        ({"messages": "q"}, "row 7: 'messages' is a string, a list"),
        ({"messages": [user("q"), "a"]}, r"row 7: messages\[1\] is a string, an object"),
        ({"conversations": [["q"]]}, r"row 7: conversations\[0\] is a list, an object"),
        ({"prompt": "q", "completion": None}, "row 7: 'completion' is null, a text"),
        ({"prompt": [3], "completion": "a"}, r"row 7: prompt\[0\] is a number, an object"),
        ({"instruction": "q", "output": ["a"]}, "row 7: 'output' is a list, a text"),
        ({"instruction": {"a": 1}, "output": "a"}, "row 7: 'instruction' is an object, a text"),
    ],
)
def test_unknown_shapes_are_named(row, message):
    with pytest.raises(DataError, match=message):
        layouts.conversation(row, 7)


def test_read_lines_and_lists(tmp_path):
    lines = jsonl(tmp_path / "rows.jsonl", MESSAGES)
    assert layouts.read(lines) == MESSAGES
    whole = tmp_path / "rows.json"
    whole.write_text("\ufeff\n " + json.dumps(MESSAGES, indent=2), encoding="utf-8")
    assert layouts.read(whole) == MESSAGES
    assert layouts.read(lines.rename(tmp_path / "lines.json")) == MESSAGES, "JSONL named .json"
    (tmp_path / "cr.jsonl").write_bytes(b'{"a": 1}\r{"a": 2}\r')
    assert layouts.read(tmp_path / "cr.jsonl") == [{"a": 1}, {"a": 2}]
    whole.write_text(json.dumps({"data": MESSAGES}))
    assert layouts.read(whole) == MESSAGES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', "line 2: blank line between rows. 1 of 3 rows"),
        ("a.jsonl", '{"a": 1}\n3\n', "line 2: a JSON int where an object"),
        ("a.jsonl", '{"a": NaN}\n', "line 1: not JSON: NaN"),
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.json", "[]", "a.json is empty: no row in it"),
        ("a.json", '[{"a": 1}, 3]', "a.json, row 2: a JSON int where an object"),
        ("a.json", '[\n{"a": 1},\n{"a" 2}]', "row 2: not JSON: Expecting ':' .*line 3"),
        ("a.json", "[" * 100_000, "a.json .*no row can be used"),
        ("a.jsonl", '[1]\n{"a": 1}\n', "line 1: a JSON list where an object"),
        ("a.json", '[{"a": 1, "a": 2}, {"a": 3}]', "row 1: duplicate key: 'a'"),
        ("a.json", '[{"a": NaN}, {"a": 3}]', "row 1: not JSON: NaN"),
        ("a.json", '[{"a": ' + "9" * 5000 + '}, {"a": 3}]', "row 1: not JSON: an integer has more"),
        ("a.csv", "prompt,completion\nq\n2,3", "a.csv, line 2: wrong number of fields"),
        ("a.txt", "Dear all,\nhello", "a.txt is no JSON, JSONL, CSV, TSV or Parquet"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        layouts.read(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="none.jsonl does not exist"):
        layouts.read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a directory"):
        layouts.read(tmp_path)
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_bytes(b'[{"a": "\xff"}]' if name == "a.json" else b'{"a": "\xff"}')
        with pytest.raises(DataError, match=f"{name}.*UTF-8"):
            layouts.read(tmp_path / name)


# --- the command line -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def served():
    return basemodel.bundled_model()


@pytest.fixture
def able(served, tmp_path):
    """A tokenizer folder whose template prints tools and tool calls."""
    folder = tmp_path / "able"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(served / name, folder)
    shutil.copy(trl_templates() / "qwen2_5.jinja", folder / "chat_template.jinja")
    return folder


@pytest.fixture
def command(tmp_path, served, capsys):
    """rows, options -> (exit code, stdout, stderr) of the command line."""

    def run(rows, *options, model=served):
        data = jsonl(tmp_path / "rows.jsonl", rows) if isinstance(rows, list) else rows
        capsys.readouterr()
        code = cli.main(["--model", str(model), "--data", str(data), *map(str, options)])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return run


def ids(text, severity="FAIL"):
    return set(re.findall(rf"^{severity}  (\w+)", text, re.M))


def test_a_healthy_file(command):
    code, out, err = command(PAIRED)
    assert code in (0, 1)
    assert "FAIL  " not in out
    assert re.search(r"preflight: 6 rows of .*rows\.jsonl: 0 FAIL, \d WARN; exit code [01], ", out)
    assert err == ""


def test_messages_without_a_mask(command):
    code, out, _ = command(MESSAGES)
    assert code == 2
    assert "M1" in ids(out)
    assert "exit code 2, FAIL means that this run would be ruined" in out
    assert "Rows and messages count from 0" in out


def test_a_flag_that_trl_ignores(command):
    code, out, _ = command(MESSAGES, "--completion-only-loss")
    assert code == 2
    assert {"M1", "T5"} <= ids(out)


def test_a_run_that_trl_refuses(command):
    """The served template has no generation markers, and TRL knows no substitute."""
    code, out, _ = command(MESSAGES, "--assistant-only-loss")
    assert code == 2
    assert "TRL" in ids(out)
    assert "SFTTrainer refuses this run with ValueError: The chat template is not" in out
    assert "give rows with prompt and completion" in out


def test_cut_answers_and_lost_rows(command):
    code, out, _ = command(PAIRED, "--max-length", 38)
    assert code == 2
    assert "P1" in ids(out)
    long = [{"prompt": [user("word " * 200)], "completion": [answer("Yes, it is.")]}]
    code, out, _ = command(PAIRED + long, "--max-length", 64)
    assert code == 2
    assert "P3" in ids(out)
    assert "row 6" in out or "rows [6]" in out


def test_a_file_of_which_nothing_is_left(command):
    long = [{"prompt": [user("word " * 200)], "completion": [answer("Yes, it is.")]}] * 3
    code, out, _ = command(long, "--max-length", 64)
    assert code == 2
    assert "TRL drops all 3 rows: within max_length=64 none has an answer" in out


def test_no_limit_of_length(command):
    long = [{"prompt": [user("word " * 1200)], "completion": [answer("Yes, it is.")]}]
    code, out, _ = command(PAIRED + long, "--max-length", 0)
    assert code in (0, 1), out


@pytest.mark.parametrize("roles", [("human", "gpt"), ("User", "Assistant")])
def test_foreign_roles(command, roles):
    rows = [
        {"conversations": [{"from": r, "value": t} for r, t in zip(roles, pair, strict=True)]}
        for pair in ASKED
    ]
    code, out, _ = command(rows)
    assert code == 2
    assert "C18" in ids(out)
    assert f"{roles[0]!r} -> 'user'" in out


def test_sharegpt_with_known_roles_is_read_by_trl(command):
    rows = [
        {"conversations": [{"from": m["role"], "value": m["content"]} for m in c]} for c in CHATS
    ]
    code, out, _ = command(rows)
    assert (code, ids(out)) == (2, {"M1"}), out


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([{"conversations": chat} for chat in CHATS], "conversations"),
        ([{"instruction": q, "input": "", "output": a} for q, a in ASKED], "instruction, output"),
    ],
)
def test_layouts_that_trl_does_not_read(command, rows, column):
    code, out, _ = command(rows)
    assert code == 2
    assert f"TRL reads no columns of this layout ({column})" in out


def test_texts_without_a_template(command):
    code, out, _ = command([{"prompt": q, "completion": a} for q, a in ASKED])
    assert code == 2
    assert ids(out) & {"C1", "C13"}, out
    assert "TRL applies no chat template to plain texts; write them as messages" in out


def test_the_finding_that_the_main_readme_shows(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, _ = command("data/examples/flights.jsonl", model=basemodel.bundled_model())
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```text\nFAIL")[1].split("```")[0]
    assert (code, out.split("Rows and messages")[0]) == (2, f"FAIL{shown}")


def test_several_answers_in_a_row(command):
    rows = [{"prompt": [*c, user("Sure?")], "completion": [answer("Yes, I am.")]} for c in CHATS]
    code, out, _ = command(rows)
    assert (code, ids(out)) == (2, {"M8"}), out
    assert "--turns last, if only the completion is meant" in out
    code, out, _ = command(rows, "--turns", "last")
    assert code in (0, 1), out


def test_rows_that_the_template_refuses(command):
    parts = [{**r, "completion": [answer([{"type": "text", "text": "Yes."}])]} for r in PAIRED[:1]]
    code, out, _ = command(parts)
    assert code == 2
    assert "SFTTrainer refuses this run with TypeError" in out
    assert "first repair what C0 found" in out


def test_mixed_layouts(command):
    code, out, _ = command([*PAIRED[:3], *MESSAGES[3:]])
    assert code == 2
    assert "D15" in ids(out)


def test_packing(command):
    code, out, _ = command(PAIRED, "--packing")
    assert code in (0, 1), out
    assert ids(out, "WARN") >= {"P5"}, "TRL's own warning is passed on"
    code, out, _ = command(PAIRED, "--packing", "--packing-strategy", "wrapped", "--max-length", 64)
    assert code == 2
    assert ids(out) == {"P5", "P6"}, out


def test_tools_that_the_rows_bring(command, able):
    """TRL renders the tools of each row: they belong to the served text, or hide every fault."""
    look, book = (
        [{"type": "function", "function": {"name": name, "parameters": {}}}]
        for name in ("look_up", "book")
    )
    code, out, _ = command([{**row, "tools": look} for row in PAIRED], model=able)
    assert code in (0, 1), out
    assert "C8" not in ids(out)
    code, out, _ = command([{**row, "tools": look} for row in MESSAGES], model=able)
    assert ids(out) == {"M1"}, "the fault behind it"
    code, out, _ = command([{**row, "tools": json.dumps(look)} for row in PAIRED])
    assert ids(out) == {"C14"}, "this template prints no tools"
    code, out, _ = command([{**row, "tools": "look it up"} for row in PAIRED], model=able)
    assert "TRL" in ids(out), "no JSON: TRL refuses it"
    mixed = [{**row, "tools": look if i % 2 else book} for i, row in enumerate(PAIRED)]
    code, out, _ = command(mixed, model=able)
    assert ids(out) == set()
    assert "tools of row 1 and row 0" in out
    assert "split the file" in out


def test_columns_that_trl_takes_for_its_own(command):
    for name, value in (("labels", ["billing"]), ("completion_mask", "x"), ("assistant_masks", None)):
        code, out, _ = command([*PAIRED[:2], {**PAIRED[2], name: value}])
        assert (code, ids(out)) == (2, {"TRL"}), out
        assert f"the column {name} has a name that SFTTrainer uses for tokens" in out
        assert f"rename or drop the column {name}" in out
    tokens = [{**row, "input_ids": [1, 2], "labels": [-100, 2]} for row in PAIRED]
    assert "uses for tokens" not in command(tokens)[1], "rows of tokens may have labels"


def test_a_prompt_beside_messages(command):
    code, out, _ = command([{"prompt": q, "messages": c} for (q, _), c in zip(ASKED, CHATS, strict=True)])
    assert (code, ids(out)) == (2, {"TRL"}), out
    assert "drop the column prompt" in out


def test_a_column_of_texts_is_trained_whole(command):
    """Alpaca as the hub has it: TRL does not stop, it trains the text with its prompt."""
    rows = [{"instruction": q, "input": "", "output": a, "text": f"### {q}\n### {a}"} for q, a in ASKED]
    code, out, _ = command(rows)
    assert code == 2
    assert ids(out) & {"M1", "C13"}, out
    assert "reads no columns" not in out


def test_system_prompts_in_a_column_of_their_own(command):
    rows = [{**row, "system": "Be brief."} for row in PAIRED]
    code, out, _ = command(rows)
    assert (code, ids(out)) == (2, {"C15"}), out
    assert "(6x)" in out
    told = [{**row, "prompt": [{"role": "system", "content": "Be brief."}, *row["prompt"]]} for row in rows]
    assert "C15" not in ids(command(told)[1])
    assert "C15" not in ids(command([{**row, "system": " "} for row in PAIRED])[1])


def test_arguments_that_are_written_as_a_quoted_text(command, able):
    """OpenAI gives arguments as JSON text; this template would write a text into the call."""

    def rows(arguments):
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        return [{"prompt": chat[:1], "completion": [said]} for chat in CHATS]

    code, out, _ = command(rows('{"city": "Rome"}'), "--turns", "last", model=able)
    assert (code, ids(out)) == (2, {"C14"}), out
    assert "the arguments of a tool call are written as a quoted text" in out
    assert "json.loads them in every row" in out
    assert "C14" not in ids(command(rows({"city": "Rome"}), "--turns", "last", model=able)[1])


def test_tool_calls_with_other_arguments_per_row(command):
    def chat(name, arguments):
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return [
            user("Look it up."),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "found"},
            answer("It was found."),
        ]

    rows = [{"messages": chat("weather", {"city": "Paris"})}, {"messages": chat("sum", {"x": 1})}]
    assert "D13" not in ids(command(rows)[1]), "load_dataset keeps the objects of a JSON file apart"


def test_schema_and_held_out_rows(command, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "required": ["a"]}')
    held = jsonl(tmp_path / "held.jsonl", PAIRED[:2])
    rows = [{**r, "completion": [answer('{"b": 1}')]} for r in PAIRED]
    code, out, _ = command(rows, "--schema", schema, "--eval-data", held)
    assert code == 2
    assert "D9" in ids(out)
    assert ids(out) | ids(out, "WARN") >= {"D1"}, out


def test_a_learning_rate_is_only_judged_if_given(command):
    assert "O7" not in command(PAIRED)[1]
    assert "O7" in ids(command(PAIRED, "--learning-rate", 1e-3)[1], "WARN")


def test_another_training_tokenizer(command, served, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(served / name, other)
    template = other / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    assert "SmolLM" in text
    template.write_text(text.replace("SmolLM", "Somebody"), encoding="utf-8")
    code, out, _ = command(PAIRED, "--train-tokenizer", other)
    assert code == 2
    assert ids(out) & {"C8", "C13"}, out
    code, _, err = command(PAIRED, "--train-tokenizer", tmp_path / "none")
    assert (code, "none: no such directory" in err) == (65, True)


def test_a_sample_is_announced(command):
    _, out, _ = command(PAIRED, "--limit", 2)
    assert "6 rows of" in out
    assert "(tokens of 2 compared; --limit 0: all)" in out
    assert "compared" not in command(PAIRED, "--limit", 0)[1]


def test_json(command):
    code, out, err = command(MESSAGES, "--format", "json")
    found = json.loads(out)
    assert list(found) == ["rows", "exit", "findings"]
    assert (found["rows"], found["exit"], code, err) == (6, 2, 2, "")
    keys = ["id", "severity", "rows", "what", "where", "why", "fix"]
    assert all(list(f) == keys for f in found["findings"])
    assert "M1" in [f["id"] for f in found["findings"]]


# Files and models that cannot be used: one line, exit code 65.


def unusable(result):
    code, out, err = result
    assert code == 65
    assert out == ""
    assert err.startswith("preflight: ")
    assert err.count("\n") == 1, err
    return err


def test_a_missing_or_broken_file(command, tmp_path):
    none = tmp_path / "none.jsonl"
    assert f"{none} does not exist" in unusable(command(none)), "which of them all is said"
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": []}\n{"messages": \n')
    assert "broken.jsonl, line 2: not JSON" in unusable(command(broken))
    assert "row 1: keys ['text'] are no known layout" in unusable(command([{"text": "x"}]))
    assert "row 2: 'messages' is null" in unusable(command([MESSAGES[0], {"messages": None}]))
    held = tmp_path / "held.jsonl"
    held.write_text('{"messages": []}\n{"messages": null}\n')
    assert "held.jsonl, row 2: 'messages' is null" in unusable(command(PAIRED, "--eval-data", held)), "which of two files"
    missing = tmp_path / "none.jsonl"
    assert "none.jsonl" in unusable(command(PAIRED, "--eval-data", missing))


@pytest.mark.parametrize("rate", [0, -1, "nan", "inf"])
def test_a_rate_that_trains_nothing(command, rate):
    code, out, _ = command(PAIRED, f"--learning-rate={rate}")
    assert code == 2
    assert "O15" in ids(out)
    assert "the learning rate is" in out


def test_a_fault_of_the_preflight_itself_is_no_verdict(served, tmp_path, capsys, monkeypatch):
    def broken(options):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(cli, "_examine", broken)
    data = jsonl(tmp_path / "rows.jsonl", PAIRED)
    assert cli.main(["--model", str(served), "--data", str(data)]) == 70
    said = capsys.readouterr()
    assert said.out == ""
    assert "ZeroDivisionError: nothing is said about this run" in said.err


def test_a_broken_schema(command, tmp_path):
    schema = tmp_path / "schema.json"
    assert f"schema {schema} does not exist" in unusable(command(PAIRED, "--schema", schema))
    schema.write_text("{")
    assert "schema schema.json cannot be read" in unusable(command(PAIRED, "--schema", schema))
    schema.write_text("[]")
    assert "an object is needed" in unusable(command(PAIRED, "--schema", schema))


def test_rows_that_make_no_table(command):
    rows = [{**PAIRED[0], "id": 1}, {**PAIRED[1], "id": 10**40}]
    assert "the rows do not make one table" in unusable(command(rows))
    assert command([{**PAIRED[0], "id": "a"}, {**PAIRED[1], "id": {"b": 1}}])[0] == 0, "as load_dataset"


def test_a_model_that_cannot_be_served(command, served, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty: no tokenizer there (none of tokenizer.json" in unusable(
        command(PAIRED, model=empty)
    )
    assert "nowhere: no such directory" in unusable(command(PAIRED, model=tmp_path / "nowhere"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(served / name, bare)
    assert "bare: its tokenizer has no chat template" in unusable(command(PAIRED, model=bare))
    (bare / "tokenizer.json").write_text("{")
    assert "bare: no tokenizer can be loaded (" in unusable(command(PAIRED, model=bare))


def test_a_tokenizer_folder_alone_is_enough(command, served, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(served / name, folder)
    code, out, _ = command(PAIRED, model=folder)
    assert code in (0, 1), out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: --model, --data"),
        (["--model", "x", "--data", "y", "--pakcing"], "unrecognized arguments: --pakcing"),
        (["--model", "x", "--dat", "y"], "the following arguments are required: --data"),
        (["--model", "x", "--data", "y", "--limit", "-1"], "'-1' is not a whole number"),
        (["--model", "x", "--data", "y", "--max-length", "1k"], "'1k' is not a whole number"),
        (["--model", "x", "--data", "y", "--turns", "first"], "invalid choice: 'first'"),
        (["--model", "x", "--data", "y", "--packing-strategy", "x"], "invalid choice: 'x'"),
    ],
)
def test_a_wrong_command(capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(options)
    assert stop.value.code == 64
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "64 wrong option" in " ".join(text.split())
    assert f"default {stages.SAMPLE}," in text


def test_as_a_process(tmp_path, served):
    """stdout is the report and nothing else, whatever the libraries print."""
    data = jsonl(tmp_path / "rows.jsonl", MESSAGES)
    done = subprocess.run(
        [sys.executable, "-m", "sft_utils.preflight", "--model", str(served), "--data", str(data),
         "--format", "json"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["exit"] == 2
    assert "Traceback" not in done.stderr


# --- the catalogue --------------------------------------------------------------------------

CODE = re.compile(r"[CMPODXQEST]\d{1,2}|W1|TRL")


def emitted():
    """Ids that the modules write, found in their source."""
    return {
        node.value
        for path in sorted(ROOM.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value)
    }


def table():
    """Rows of the catalogue table in the README: (id, severity, fault, compared, stage)."""
    text = (ROOM / "README.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if len(row) == 5 and CODE.fullmatch(row[0])]


def test_the_catalogue_table_is_complete():
    listed = [row[0] for row in table()]
    assert len(listed) == len(set(listed)), "an id twice"
    assert set(listed) == emitted()


def test_the_catalogue_table_is_filled():
    stages_known = {*stages.STAGES, "callback", "command line"}
    for code, severity, fault, compared, stage in table():
        assert set(severity.split(", ")) <= {"FAIL", "WARN"}, code
        assert fault, code
        assert compared, code
        assert set(stage.split(", ")) <= stages_known, code


def test_every_module_is_in_the_readme():
    text = (ROOM / "README.md").read_text(encoding="utf-8")
    names = {p.stem for p in ROOM.glob("*.py")} - {"__init__"}
    assert not {name for name in names if f"`{name}`" not in text}


def test_the_examples_in_the_readme_run(tmp_path, monkeypatch):
    text = (ROOM / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert names["trainer"].state.global_step == 1
    row = {"messages": [names["user"], names["answer"]]}
    whole = names["SFTTrainer"](
        names["stand_in"](names["tokenizer"]),
        names["trainer"].args,
        train_dataset=names["Dataset"].from_list([row]),
        processing_class=names["tokenizer"],
    )
    found = preflight.check(whole, names["conversations"], names["tokenizer"])
    assert "M1" in [f.id for f in found], "as the text between the examples says"


@pytest.mark.parametrize("endless", [True, False])
def test_a_stream_is_drawn_once_or_refused(tokenizer, endless):
    """`list` of a stream that repeats its rows never returned."""
    rows = [masking.assistant_labels(tokenizer, chat, max_length=200) for chat in CHATS]

    def loader():
        yield from (masking.collate([row], 0) for row in rows)
        while endless:
            yield masking.collate([rows[0]], 0)

    trainer = SimpleNamespace(model=None, args=None, train_dataset=iter(()), get_train_dataloader=loader)
    if endless:
        with pytest.raises(ConfigError, match=r"a stream that goes on after 2013 rows, and 6 .*take\(6\)"):
            preflight.check(trainer, CHATS, tokenizer, stages=("batches",))
    else:
        assert preflight.check(trainer, CHATS, tokenizer, stages=("batches",)) == []
