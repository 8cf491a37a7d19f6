"""Profiles, the start of a run, the manifest, hand-offs and the checkpoint cell."""

import contextlib
import dataclasses
import os
import platform
import re
import subprocess
import sys
import types

import pytest

from sft_utils import artifacts, manifest, runtime
from sft_utils.config import PROFILES, check_parameters, get_profile
from sft_utils.errors import CheckError, ConfigError, DataError, HandoffError, expect_error
from sft_utils.notebook import readme
from sft_utils.notebook.nbparams import defaults
from sft_utils.notebook.nbsource import Layout, notebook_names, parse, read_source
from sft_utils.report import checkpoint, interval_text, takeaway
from sft_utils.reporting import handfiles, handover, handpage
from sft_utils.task import tickets


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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "parameter seed = -1, must be finite, at least 0 and at most 4294967295"),
        ({"seed": 2**32}, "parameter seed = 4294967296"),
        ({"max_steps": -1}, "parameter max_steps = -1, must be finite, at least 0$"),
        ({"rank": 0}, "parameter rank = 0, must be finite, at least 1$"),
        ({"learning_rate": -1e-3}, r"learning_rate = -0\.001"),
        ({"margin": float("nan")}, "margin = nan"),
        ({"margin": float("inf")}, "margin = inf"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(given, message):
    """Also where a cell was edited by hand: -1, "no limit" elsewhere, trained three epochs."""
    with pytest.raises(ConfigError, match=message):
        runtime.start("x", "smoke", **given)


def test_every_default_of_a_notebook_is_within_its_bounds():
    layout = Layout.of()
    for notebook in notebook_names(layout):
        check_parameters(defaults(parse(read_source(layout, notebook), notebook)))
    check_parameters({"seed": 2**32 - 1, "fresh": True, "name": "-1", "max_steps": 0})


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
        lambda r: r.fingerprints.update(script="of the reader"),
        lambda r: monkeypatch.setattr(manifest, "lock_hash", lambda: "other"),
    ):
        before = manifest.build(run)["run_id"]
        change(run)
        assert manifest.build(run)["run_id"] != before
    assert {"torch", "transformers", "trl", "peft"} <= first["versions"].keys()
    assert first["packages"] == manifest.locked_versions(), "all of them can move a number"
    assert first["packages"].keys() > first["versions"].keys()


def test_the_code_hash_follows_the_package_and_this_notebook_alone(tmp_path, monkeypatch):
    for name in ("sft_utils/a.py", "sft_utils/room/b.py", "notebooks/src/00_x.py", "notebooks/src/01_y.py"):
        artifacts.write_text(tmp_path / name, name)
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    before = manifest.code_hash("00_x")
    assert len(before) == 64
    artifacts.write_text(tmp_path / "notebooks/src/01_y.py", "other")
    assert manifest.code_hash("00_x") == before != manifest.code_hash("01_y")
    for name in ("notebooks/src/00_x.py", "sft_utils/room/b.py"):
        artifacts.write_text(tmp_path / name, "other")
        assert manifest.code_hash("00_x") != before
        before = manifest.code_hash("00_x")
    assert manifest.code_hash("of_the_reader") not in ("", before)


def test_a_fingerprint_cannot_replace_what_is_computed(run):
    run.fingerprints["code"] = "mine"
    with pytest.raises(ConfigError, match="'code' is computed by the manifest"):
        manifest.build(run)


def test_run_id_follows_every_locked_package(monkeypatch):
    installed = manifest.importlib.metadata.version
    before = manifest.lock_hash()
    other = {"llguidance": "99.0"}
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda n: other.get(n) or installed(n))
        manifest.locked_versions.cache_clear()
        assert manifest.lock_hash() != before
    manifest.locked_versions.cache_clear()
    assert manifest.lock_hash() == before


def test_a_comment_in_the_lock_is_the_same_lock(monkeypatch, tmp_path):
    """It made another run id, and every stored trial of 08 was trained again."""
    before, text = manifest.lock_hash(), manifest.LOCK.read_text(encoding="utf-8")
    monkeypatch.setattr(manifest, "LOCK", tmp_path / "cpu.lock")
    manifest.LOCK.write_text("# more\n\n" + text.replace("\naiohttp==", "\n# why\naiohttp=="))
    assert manifest.lock_hash() == before
    manifest.LOCK.write_text(text.replace("\naiohttp==3", "\naiohttp==4"))
    assert manifest.lock_hash() != before


def test_what_only_gpu_machines_have_counts_where_it_is_installed(monkeypatch):
    """A faster kernel of another triton moves numbers; on a CPU no id moves for its absence."""
    manifest.locked_versions.cache_clear()
    lock = set(re.findall(r"^([\w.-]+)==", manifest.LOCK.read_text(), flags=re.M))
    only_there = {"triton", "xformers", "torchvision", "langdetect", "nltk", "immutabledict"}
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda name: "1")
        assert set(manifest.locked_versions()) == lock | only_there
    manifest.locked_versions.cache_clear()


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


def test_a_run_on_a_gpu_records_its_memory_there(run, monkeypatch):
    """The tables had a place for it, and no result held it."""
    monkeypatch.setattr("sft_utils.report.hardware", lambda profile: "1 x T4")
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**30)
    for name in ("gpu-16gb", "smoke"):
        run.profile = get_profile(name)
        with checkpoint(run, headline="x.parses") as c:
            c.metric("x.parses", 0.5, n=4, ci95=[0.1, 0.9])
    results = [artifacts.read_json(artifacts.result_path(run.notebook, n)) for n in ("gpu-16gb", "smoke")]
    assert [r.get("peak_gpu_gib") for r in results] == [3, None]
    assert readme.memory(results[0]).endswith("RAM, 3.0 GiB GPU")


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


def test_answers_and_trainings_are_kept_until_the_checks_have_passed(run):
    """A notebook that is killed or fails while it scores has not lost what it trained."""
    answers, mark = run.dir / "answers-base.json", run.dir / "train" / "arm" / artifacts.IDENTITY
    for path in (answers, mark):
        artifacts.write_json(path, {})
    ended = mark.with_name(artifacts.COMPLETE)
    with pytest.raises(CheckError), checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
        c.true("fine", False)
    assert (answers.exists(), ended.exists()) == (True, False)
    with checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
        c.true("fine", True)
    assert (answers.exists(), mark.exists(), ended.exists()) == (False, True, True)


def test_a_failed_run_on_a_file_of_the_readers_is_repeated_on_that_file(run):
    """Without its parameters the command trains on the tickets and replaces the reader's adapter."""
    run.parameters |= {"data": "my rows.jsonl", "schema": "s.json", "mapping": ""}
    with pytest.raises(CheckError), checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
        c.true("fine", False)
    again = r"make nb NB=00 PROFILE=smoke DATA='my rows\.jsonl' SCHEMA=s\.json$"
    with pytest.raises(HandoffError, match=again):
        artifacts.require(run.notebook, "smoke")


def test_a_value_below_its_bound_fails_at_the_end(run):
    with (
        pytest.raises(CheckError, match=r"1 of 3 checks failed, first: low: 0\.25 is not >= 0\.5"),
        checkpoint(run, headline="base.parses") as c,
    ):
        c.metric("base.parses", 0.5)
        c.at_least("low", 0.25, 0.5)
        c.at_least("on the bound", 0.5, 0.5)
        c.true("reached", True)
    result = artifacts.read_json(artifacts.result_path(run.notebook, "smoke"))
    assert [(k["name"], k["bound"], k["passed"]) for k in result["checks"]] == [
        ("low", ">= 0.5", False), ("on the bound", ">= 0.5", True), ("reached", "is true", True),
    ]  # fmt: skip


def test_a_bound_that_is_not_judged_is_recorded_as_such(run):
    with checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
        c.at_least("low", 0.25, 0.5, when=False)
        c.between("wide", 3, 0, 1, when=False)
    assert artifacts.require(run.notebook, "smoke")["checks"] == [
        {"name": "low", "value": 0.25, "bound": ">= 0.5, not judged in this run", "passed": True},
        {"name": "wide", "value": 3, "bound": "in [0, 1], not judged in this run", "passed": True},
    ]


def test_a_run_that_diverged_fails_by_name_and_keeps_its_other_numbers(run):
    """The file was refused as a whole ("Out of range float values"), behind all of the training."""
    nan = float("nan")
    with (
        pytest.raises(CheckError, match=r"3 of 4 checks failed, first: metric tuned\.perplexity: nan is not"),
        checkpoint(run, headline="tuned.perplexity") as c,
    ):
        c.metric("tuned.perplexity", nan, n=4, ci95=[nan, nan])
        c.metric("tuned_minus_base.perplexity", 1.0, n=4, ci95=[0.5, float("inf")])
        c.metric("base.perplexity", 50.0, n=4, ci95=[40.0, 60.0])
        c.between("first loss", nan, 0, 1)
        c.between("not asked of this run", nan, 0, 1, when=False)
        artifacts.write_json(run.dir / "adapter" / "adapter_config.json", {})
        c.save_file("adapter", run.dir / "adapter")
    result = artifacts.read_json(artifacts.result_path(run.notebook, "smoke"))
    assert result["passed"] is False
    assert list(result["metrics"]) == ["base.perplexity"]
    assert [k["value"] for k in result["checks"]] == ["nan", "1.0", "nan", "nan"]
    artifacts.write_json(run.dir / "adapter" / "adapter_config.json", {"another": "adapter"})
    every = {run.notebook: result}
    failed = handover.track(run.notebook, result, every)
    assert "checks failed" in handpage._glance([failed])
    assert handfiles.model_cards(every)[0]["headline"] == {"tuned.perplexity": None}


def test_headline_must_exist(run):
    with (
        pytest.raises(ConfigError, match="not published: nothing"),
        checkpoint(run, headline="nothing"),
    ):
        pass


def test_missing_hand_off_names_the_command(run):
    with pytest.raises(HandoffError, match="make nb NB=01 PROFILE=smoke"):
        artifacts.require("01_data_preparation", "smoke")


def test_a_run_on_a_file_of_the_readers_is_not_taken_for_ours(run):
    run.parameters["data"] = "flights.jsonl"
    with checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
    assert artifacts.require(run.notebook, "smoke")["passed"]
    message = r"is of a run on flights\.jsonl.* Copy .*00_\w+ away .* replaces it: make nb NB=00 PROFILE=smoke$"
    with pytest.raises(HandoffError, match=message):
        artifacts.require(run.notebook, "smoke", ours=True)
    run.parameters["data"] = ""
    with checkpoint(run, headline="base.parses") as c:
        c.metric("base.parses", 0.5)
    assert artifacts.require(run.notebook, "smoke", ours=True)["passed"]


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
        pytest.raises(ConfigError, match=r"report_to='tensorboard' is not one of .*'mlflow'"),
        tracking.tracked(run, "tensorboard", {}),
    ):
        pass


class FakeMlflow:
    """What `tracking` calls of mlflow 3.17.2, recorded."""

    def __init__(self):
        self.calls, self.runs, self.experiment = [], {}, None

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.append((name, args, options))

    def set_tracking_uri(self, uri):
        self.calls.append(("set_tracking_uri", (uri,), {}))
        os.environ["MLFLOW_TRACKING_URI"] = uri  # as the real one does

    def get_experiment_by_name(self, name):
        return self.experiment

    def search_runs(self, filter_string, **options):
        wanted = filter_string.split("'")[1]
        return [r for r in self.runs.values() if r.tags["run_id"] == wanted]

    @contextlib.contextmanager
    def start_run(self, run_id=None, run_name=None, tags=None):
        opened = self.runs.get(run_id) or types.SimpleNamespace(tags=tags)
        opened.info = types.SimpleNamespace(run_id=run_id or f"m{len(self.runs)}")
        self.runs[opened.info.run_id] = opened
        yield opened
        self.calls.append(("ended", (opened.info.run_id,), {}))


def test_mlflow_stands_behind_the_same_call(run, monkeypatch):
    from sft_utils import tracking

    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = {"run_id": "abc", "rank": 16, "manifest": {"a": 1}}
    with tracking.tracked(run, "mlflow", config) as tracker:
        tracker.log({"loss": 1.0, "note": "no number"}, step=3)
        tracking.log_summary(tracker, {"tuned.field_f1": {"value": 0.9, "n": 3, "ci95": [0, 1]}})
    calls = {name: (args, options) for name, args, options in fake.calls}
    assert calls["set_tracking_uri"][0][0] == f"sqlite:///{run.dir / 'tracking' / 'mlflow' / 'mlflow.db'}"
    assert calls["log_params"][0][0] == {"run_id": "abc", "rank": 16}
    assert calls["log_dict"][0][0] == config
    assert calls["log_metrics"] == (({"loss": 1.0},), {"step": 3})
    logged = [args for name, args, _ in fake.calls if name == "log_metric"]
    assert logged == [("tuned.field_f1", 0.9), ("tuned.field_f1.n", 3.0),
                      ("tuned.field_f1.ci95.low", 0.0), ("tuned.field_f1.ci95.high", 1.0)]  # fmt: skip
    assert calls["create_experiment"][1] == {"artifact_location": (run.dir / "tracking/mlflow/files").as_uri()}
    with tracking.tracked(run, "mlflow", config):
        pass
    assert "MLFLOW_TRACKING_URI" not in os.environ, "else the next run is put into this folder"
    assert list(fake.runs) == ["m0"], "a later block with the same id adds to the same run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    with tracking.tracked(run, "mlflow", {"run_id": "other"}):
        pass
    assert fake.calls[-1] == ("ended", ("m1",), {})
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert ("set_tracking_uri", ("http://127.0.0.1:5000",), {}) in fake.calls


def test_arms_are_runs_of_their_own(run, monkeypatch):
    """MLflow refuses another value of a parameter, W&B mixes the curves."""
    from sft_utils import tracking

    fake = FakeMlflow()
    opened = []

    def init(**options):
        opened.append((options["id"], options["name"]))
        return types.SimpleNamespace(finish=lambda: None)

    wandb = types.SimpleNamespace(init=init, Settings=lambda **options: None)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    configs = [{"run_id": "abc", **arm} for arm in ({"arm": "direct"}, {"arm": "cot"}, {}, {"arm": "cot"})]
    for config in configs:
        for where in ("wandb", "mlflow"):
            with tracking.tracked(run, where, config):
                pass
    assert [r.tags["run_id"] for r in fake.runs.values()] == ["abc-direct", "abc-cot", "abc"]
    assert [id for id, _ in opened] == ["abc-direct", "abc-cot", "abc", "abc-cot"]
    assert opened[1][1] == opened[2][1] + "-cot", "their names tell them apart"


def test_a_missing_mlflow_is_named_with_its_installation(run, monkeypatch):
    from sft_utils import tracking

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(ConfigError, match=r"report_to='mlflow' needs .*pip install .mlflow-skinny=="),
        tracking.tracked(run, "mlflow", {}),
    ):
        pass


def test_the_real_mlflow_keeps_a_run(run, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is optional and not in the lock")
    from sft_utils import tracking

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (1, 2):
        with tracking.tracked(run, "mlflow", {"run_id": "abc", "rank": 16}) as tracker:
            tracker.log({"loss": 1.0 / step}, step=step)
            tracking.log_summary(tracker, {"f1": {"value": 0.5, "n": 2, "ci95": [0.1, 0.9]}})
    found = mlflow.search_runs(experiment_names=["sft-notebooks"], output_format="list")
    assert len(found) == 1
    assert found[0].data.metrics == {
        "loss": 0.5, "f1": 0.5, "f1.n": 2.0, "f1.ci95.low": 0.1, "f1.ci95.high": 0.9,
    }  # fmt: skip
    assert found[0].data.params["rank"] == "16"
    assert list((run.dir / "tracking" / "mlflow" / "files").rglob("config.json"))


def test_expect_error_fails_when_nothing_fails():
    with pytest.raises(CheckError, match="finished without an error"), expect_error(ValueError):
        pass
    with pytest.raises(CheckError, match="expected a message"), expect_error(ValueError, match="b"):
        raise ValueError("a")


FAULTS = """
import resource, sys
import torch
from sft_utils import runtime
if sys.argv[1] == "start":
    runtime.start("00_is_sft_the_right_tool", "smoke")
else:
    torch.set_num_threads(2)
for _ in range(6):  # sums of 128 MiB that live for a moment, as between the layers of a model
    a = torch.ones(2**25) + 1.0
    del a
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    a = torch.ones(2**25) + 1.0
    del a
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    """Pages that the kernel had to hand out, not time: without the setting a fault per 4 KiB or 2 MiB."""
    faults = {}
    for how in ("start", "plain"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout.split()[-1])
    assert faults["plain"] >= 10 * 2**27 / 2**21, "nothing was mapped anew: the test shows nothing"
    assert faults["start"] < faults["plain"] / 4, faults


@pytest.mark.parametrize("given", ["", "0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_cannot_be_is_refused(monkeypatch, given):
    monkeypatch.setenv("SFT_THREADS", given)
    with pytest.raises(ConfigError, match=f"SFT_THREADS={given!r}: a whole number above 0"):
        runtime.start("00_is_sft_the_right_tool", "smoke")


GIVEN_BACK = """
import psutil
import torch
from sft_utils import heap
heap.keep_freed_memory()
blocks = [torch.ones(2**20) for _ in range(256)]  # 1 GiB in blocks of 4 MiB
last = torch.ones(2**20)  # on top of them, so that nothing below is given back by itself
del blocks
kept = psutil.Process().memory_info().rss
heap.give_back_freed_memory()
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_can_be_given_back():
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2**29, "at least half of the gibibyte"


def test_words(capsys):
    takeaway("x", when=False)
    assert "not claimed of this run" in capsys.readouterr().out
    assert interval_text({"value": 0.5, "ci95": [0.4, 0.6]}) == "0.500 [0.400, 0.600]"
    assert interval_text({"value": 12}) == "12"
    nearly = {"value": 0.9999, "ci95": [0.9996, 0.99997]}
    assert interval_text(nearly) == "0.9999 [0.9996, 0.99997]", "a share never rounds to certainty"


def test_a_trainer_uses_one_gpu_of_many(monkeypatch, tmp_path):
    """With two visible GPUs TrainingArguments would double the rows of every batch."""
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", TrainingArguments.n_gpu)
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True)
    assert arguments.n_gpu == 0, "on a CPU"
    arguments._n_gpu = 2  # what it sets itself where the machine shows two
    assert arguments.train_batch_size == 8
    runtime.one_gpu_per_trainer()
    runtime.one_gpu_per_trainer()
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


def test_numbers_of_numpy_are_published_and_others_are_named(run):
    """They could not be stored: an error behind all the work, and no result at all."""
    import numpy as np

    with checkpoint(run, headline="mine.share") as c:
        c.metric("mine.share", np.float32(0.5), n=np.int64(4), ci95=np.array([0.25, 0.75]))
        c.metric("mine.rows", {"value": np.int64(3), "n": 3})
        c.equal("sizes", [np.int64(3)], [3])
    result = artifacts.read_json(artifacts.result_path(run.notebook, "smoke"))
    assert result["metrics"] == {
        "mine.share": {"value": 0.5, "n": 4, "ci95": [0.25, 0.75]},
        "mine.rows": {"value": 3, "n": 3},
    }
    for value in (np.array([0.1, 0.2]), None, "0.5"):
        with pytest.raises(ConfigError, match=r"metric 'mine.x' is .* numbers"), checkpoint(run, headline="x") as c:
            c.metric("mine.x", value)


def test_a_check_of_nan_fails_by_its_name(run):
    """JSON has no NaN: the result was not written, and the error named no check."""
    with (
        pytest.raises(CheckError, match="1 of 2 checks failed, first: loss: nan is not >= 0"),
        checkpoint(run, headline="mine.x") as c,
    ):
        c.metric("mine.x", 0.5)
        c.at_least("loss", float("nan"), 0)
        c.at_least("steps", float("inf"), 0)
    result = artifacts.read_json(artifacts.result_path(run.notebook, "smoke"))
    assert [k["value"] for k in result["checks"]] == ["nan", "inf"]
