"""A reader's file through whole notebooks, by parameters alone (README, Bring your own data)."""

import json
import os
import subprocess
import sys

import pytest

from sft_utils.artifacts import ROOT, read_json

pytestmark = pytest.mark.slow


def run(number, folder, **given):
    """Run a notebook at smoke, below a folder of its own; returns its result and its folder."""
    parameters = [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "sft_utils.runner.nbrun", "run", "--nb", number, "--profile", "smoke", *parameters],
        cwd=ROOT, env={**os.environ, "SFT_RUNS": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
    found = (folder / "smoke").glob(f"{number}_*.json")
    [result] = [path for path in found if path.name.count(".") == 1]  # not its state or progress
    return read_json(result), result.with_suffix("")


def excluded(folder):
    return [json.loads(line) for line in (folder / "excluded.jsonl").read_text().splitlines()]


def test_texts_train_and_report_in_03(tmp_path):
    """ShareGPT rows under the reader's own system prompt; broken lines cost themselves only."""
    asked = ["opening hours", "parking", "delivery", "returns", "vouchers", "opening on Sunday", "invoices", "repairs"]
    lines = [
        json.dumps({"conversations": [
            {"from": "system", "value": "You answer for the shop in Basel."},
            {"from": "human", "value": f"What about {what} of branch {k * 37}?"},
            {"from": "gpt", "value": f"Ask for {what} at desk {k} of branch {k * 37}, please."}]})
        for k, what in enumerate(asked * 8)
    ]  # fmt: skip
    lines[5:5] = ['{"conversations": [', json.dumps({"conversations": [{"from": "human", "value": "Hello?"}]})]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines) + "\n")
    # A few steps at a rate that smoke cannot find out forget more than the usual budget.
    result, folder = run("03", tmp_path / "runs", data=tmp_path / "chats.jsonl", forgetting_budget=50)
    assert result["passed"]
    assert result["headline"] == "tuned.word_f1"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    broken = [row["line"] for row in excluded(folder) if not row["reason"].startswith("not needed")]
    assert broken == [6, 7]
    assert result["metrics"]["tuned.word_f1"]["n"] == 4


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("flights.csv", {"mapping": "prompt=question,completion=slots"}),
        ("flights_alpaca.json", {"schema": "data/examples/flights.schema.json"}),
    ],
)
def test_a_foreign_task_trains_and_reports_in_05(tmp_path, name, given):
    source = f"data/examples/{name}"
    result, folder = run("05", tmp_path / "runs", data=source, **given)
    assert result["passed"]
    assert result["parameters"]["data"] == source
    assert {"base.schema_valid", "tuned.schema_valid"} <= result["metrics"].keys()
    assert excluded(folder), "rows that smoke does not train are listed, too"
