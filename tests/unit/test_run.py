"""Profiles, the start of a run, the manifest, hand-offs and the checkpoint cell."""

import dataclasses
import json

import pytest

from sft_utils import artifacts, manifest, runtime, tickets
from sft_utils.config import PROFILES, get_profile
from sft_utils.errors import CheckError, ConfigError, DataError, HandoffError, expect_error
from sft_utils.report import checkpoint, interval_text, takeaway


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_RUNS", str(tmp_path))
    return runtime.start("00_is_sft_the_right_tool", "smoke", seed=3, extra=1)


def test_unknown_profile_suggests_the_closest():
    with pytest.raises(ConfigError, match=r"unknown profile 'cpuu'; known: smoke, cpu, .*'cpu'"):
        get_profile("cpuu")


def test_bad_profile_values_are_named():
    with pytest.raises(ConfigError, match="batch_size = 0, must be >= 1"):
        dataclasses.replace(get_profile("cpu"), batch_size=0)


@pytest.mark.parametrize("name", [n for n, p in PROFILES.items() if p.is_gpu])
def test_gpu_profile_without_gpu(name):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        runtime.start("x", name)


def test_run_id_follows_its_inputs(run, monkeypatch):
    first = manifest.build(run)
    assert manifest.build(run) == first
    for change in (
        lambda r: setattr(r, "seed", 4),
        lambda r: r.parameters.update(extra=2),
        lambda r: r.fingerprints.update(data="other"),
        lambda r: monkeypatch.setattr(manifest, "lock_hash", lambda: "other"),
    ):
        before = manifest.build(run)["run_id"]
        change(run)
        assert manifest.build(run)["run_id"] != before
    assert {"torch", "transformers", "trl", "peft"} <= first["versions"].keys()


def test_checkpoint_writes_and_require_reads(run):
    with checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5, n=4, ci95=[0.1, 0.9])
        c.equal("two", 2, 2)
        path = run.dir / "rows.jsonl"
        artifacts.write_text(path, '{"a": 1}\n')
        c.save_file("rows", path)
    result = artifacts.require(run.notebook, "smoke")
    assert result["run_id"] == manifest.build(run)["run_id"]
    assert result["metrics"]["base.parses"] == {"value": 0.5, "n": 4, "ci95": [0.1, 0.9]}
    assert artifacts.handed_file(result, "rows") == path
    path.write_text("changed")
    with pytest.raises(HandoffError, match="was changed after notebook 00"):
        artifacts.handed_file(result, "rows")


def test_failed_checks_raise_but_keep_the_numbers(run):
    with (
        pytest.raises(CheckError, match="1 of 2 checks failed, first: big: 3 is not in"),
        checkpoint(run, headline="base.parses") as c,
    ):
        c.metric("base.parses", 0.5)
        c.true("fine", True)
        c.between("big", 3, 0, 1)
    assert artifacts.read_json(artifacts.result_path(run.notebook, "smoke"))["passed"] is False
    with pytest.raises(HandoffError, match="holds failed checks"):
        artifacts.require(run.notebook, "smoke")


def test_headline_must_exist(run):
    with (
        pytest.raises(ConfigError, match="not published: nothing"),
        checkpoint(run, headline="nothing"),
    ):
        pass


def test_missing_hand_off_names_the_command(run):
    with pytest.raises(HandoffError, match="make nb NB=01 PROFILE=smoke"):
        artifacts.require("01_data_preparation", "smoke")


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        artifacts.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_broken_rows_name_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match="line 2: not JSON"):
        tickets.read_rows(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        tickets.read_rows(path)


@pytest.mark.parametrize("mode", ["", "dryrun"])  # unset, and as runtime.quiet() sets it
def test_tracking_is_offline_and_leaves_the_manifest(run, monkeypatch, mode):
    from sft_utils import tracking

    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    with tracking.tracked(run, "wandb", {"run_id": "abc"}) as tracker:
        tracker.log({"loss": 1.0})
        tracking.log_summary(tracker, {"tuned.field_f1": {"value": 0.9, "n": 3, "ci95": [0, 1]}})
    files = list((run.dir / "tracking").rglob("*.wandb"))
    assert len(files) == 1
    assert "offline-run" in str(files[0])
    with tracking.tracked(run, "none", {}) as tracker:
        assert tracker is None
    with (
        pytest.raises(ConfigError, match="report_to='mlflow'"),
        tracking.tracked(run, "mlflow", {}),
    ):
        pass


def test_expect_error_fails_when_nothing_fails():
    with pytest.raises(CheckError, match="finished without an error"), expect_error(ValueError):
        pass
    with pytest.raises(CheckError, match="expected a message"), expect_error(ValueError, match="b"):
        raise ValueError("a")


def test_words(capsys):
    takeaway("x", when=False)
    assert "not shown at this profile" in capsys.readouterr().out
    assert interval_text({"value": 0.5, "ci95": [0.4, 0.6]}) == "0.500 [0.400, 0.600]"
    assert json.dumps(interval_text({"value": 12}))
