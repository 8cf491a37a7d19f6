"""The GPU check: refusal without a GPU, resuming, and a rehearsal of every arm on the CPU."""

import fcntl
import json
import os
import subprocess
import sys
import types

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.errors import ConfigError
from sft_utils.gpu import gpuarms, gpucheck, gpuruns
from sft_utils.notebook import readme


def test_without_a_gpu_one_clear_line():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "sft_utils.gpu.gpucheck"], cwd=ROOT, text=True,
                          env=environment, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "torch sees no NVIDIA GPU" in done.stderr
    assert done.stdout == ""


def test_an_8b_model_is_not_tried_on_a_cpu(capsys):
    with pytest.raises(SystemExit):
        gpucheck.main(["--device", "cpu"])
    assert "--tiny" in capsys.readouterr().err


def test_names_of_files_and_of_arms():
    names = [a.name for a in gpucheck.arms(tiny=False)]
    assert len(set(names)) == len(names) == 17
    for backend in ("plain", "ours", "unsloth"):
        assert {f"{backend}_{b}_{n}" for b in ("nf4", "bf16") for n in (2048, 8192)} <= set(names)


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """The check with `run` replaced by prepared statuses; returns (exit status, result, ran)."""
    monkeypatch.setenv("SFT_RUNS", str(tmp_path / "runs"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")  # main sets these; so they are put back
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    out, ran = tmp_path / "out.json", []

    def go(statuses, *arguments):
        ran.clear()

        def fake(todo, job, command, deadline, keep):
            for arm in todo:
                ran.append(arm.name)
                keep(arm.name, statuses.get(arm.name, {"status": "ok"}))

        monkeypatch.setattr(gpucheck, "run", fake)
        code = gpucheck.main(["--device", "cpu", "--tiny", "--out", str(out), *arguments])
        return code, json.loads(out.read_text()), list(ran)

    return go


def test_a_second_call_runs_what_is_missing(scripted):
    stopped = {
        "plain_parity": {"status": "timed out", "why": "stopped"},
        "unsloth_nf4_32": {"status": "no time left", "why": ""},
        "unsloth_nf4_96": {"status": "unavailable", "why": "no unsloth"},
    }
    code, result, ran = scripted(stopped)
    assert (code, result["complete"], len(ran)) == (1, False, 17)
    code, result, ran = scripted({})
    assert ran == ["weights", "plain_parity", "unsloth_nf4_32"], "the checkpoint is made again"
    assert (code, result["complete"]) == (0, True)
    assert result["arms"]["unsloth_nf4_96"]["why"] == "no unsloth"
    assert scripted({})[2] == []
    assert len(scripted({}, "--force")[2]) == 17


def test_two_at_a_time_are_refused(scripted, tmp_path, capsys):
    """They share the random checkpoint, and each removes it at its end."""
    scripted({})
    with (tmp_path / "runs/gpu-check/.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, ran = scripted({}, "--force")
    assert (code, ran) == (1, [])
    assert "another one is at work" in capsys.readouterr().err
    assert scripted({}, "--force")[0] == 0


def test_rows_of_another_program_are_not_kept(scripted, monkeypatch):
    scripted({})
    monkeypatch.setattr(gpucheck, "key", lambda device, tiny: "changed")
    assert len(scripted({})[2]) == 17


def test_the_key_follows_code_packages_and_machine(monkeypatch, tmp_path):
    keys = [gpucheck.key("cuda", False), gpucheck.key("cuda", True), gpucheck.key("cpu", True)]
    package = tmp_path / "sft_utils" / "preflight"
    package.mkdir(parents=True)
    monkeypatch.setattr(gpucheck, "ROOT", tmp_path)
    for text in ("x = 1", "x = 2"):  # of any module: arms reach most of the package
        (package / "masks.py").write_text(text)
        keys.append(gpucheck.key("cuda", False))
    monkeypatch.setattr(gpucheck, "locked_versions", lambda: {"torch": "0"})
    keys.append(gpucheck.key("cuda", False))
    assert len(set(keys)) == len(keys)
    assert gpucheck.key("cuda", False) == keys[-1]


def test_figures_of_finished_arms_are_metrics():
    rows = {
        "ours_nf4_32": {"status": "ok", "tokens_per_s": 9.0, "peak_gib": 1.5, "n": 4, "wall_s": 3},
        "plain_parity": {"status": "failed", "max_difference": 0.1},
    }
    assert gpucheck.metrics(rows) == {
        "ours_nf4_32.tokens_per_s": {"value": 9.0, "n": 4}, "ours_nf4_32.peak_gib": {"value": 1.5, "n": 4},
    }  # fmt: skip


def test_a_check_that_does_not_hold_is_a_failure(scripted, capsys):
    code, _, _ = scripted({"ours_qlora": {"status": "ok", "checks": {"loss falls": False}}})
    assert code == 1
    assert "ours_qlora: does not hold: loss falls" in capsys.readouterr().out


def raising(error):
    def work():
        raise error

    return work


def test_whatever_happens_in_an_arm_is_a_row():
    import torch

    from sft_utils.errors import ConfigError

    refused = ConfigError("predicted 90.0 GiB for training ({}) but only 70.0 of 80 GiB are usable.")
    cases = {
        "ok": lambda: {"checks": {"fine": True}},
        "out of memory": raising(torch.OutOfMemoryError("CUDA out of memory. Tried 20 GiB")),
        "does not fit": raising(refused),
        "failed": raising(KeyError("lm_head")),
    }
    for status, work in cases.items():
        row = gpuarms.attempt(work)
        assert row["status"] == status
        assert row["wall_s"] >= 0
        assert (status == "ok") == ("why" not in row)
    assert gpuarms.attempt(lambda: {"first_loss": float("nan")})["status"] == "failed"
    assert gpuarms.attempt(raising(ConfigError("the disk is small")))["status"] == "failed"


def test_every_arm_has_a_function():
    for tiny in (True, False):
        for arm in gpucheck.arms(tiny=tiny):
            job = {"device": "cpu", "tiny": tiny, "worker": arm.worker, "work": "nowhere"}
            assert callable(gpuarms.arm(job, arm.name))
    with pytest.raises(ValueError, match="not enough values"):
        gpuarms.arm({"worker": "ours"}, "ours_qlor")


def test_differences_are_found():
    plain = {"rows": ["a", "b"], "mask": ["c", "d"], "trained_tokens": [7, 8], "losses": [2.5, 2.0]}
    assert all(gpuruns.compare(plain, plain, "cpu")["checks"].values())
    for key, other in {"rows": ["a", "x"], "mask": ["c", "x"], "trained_tokens": [7, 9]}.items():
        checks = gpuruns.compare(plain, plain | {key: other}, "cuda")["checks"]
        assert [k for k, passed in checks.items() if not passed] == [key]
    with pytest.raises(ValueError, match="zip"):
        gpuruns.compare(plain, plain | {"losses": [2.5]}, "cpu")
    for lost in ([2.5, float("nan")], [float("inf"), 2.0]):
        row = gpuruns.compare(plain, plain | {"losses": lost}, "cuda")
        assert [k for k, passed in row["checks"].items() if not passed] == ["losses"]
        assert gpuarms.attempt(lambda row=row: row)["status"] == "ok", "a row that can be written"


def test_a_loss_that_is_no_number_is_logged_as_such(tmp_path):
    """TRL's default logs NaN as 0.0: a training that broke would "fall" and be "finite"."""
    job = {"device": "cpu", "tiny": True, "worker": "ours", "work": str(tmp_path)}
    assert gpuruns.sft_config(job, gpuruns.profile_for(job), max_steps=1).logging_nan_inf_filter is False


@pytest.mark.parametrize(
    ("curve", "findings", "cosine", "broken"),
    [
        ([3.0, 3.0, 2.4, 2.4], [], 1.0, set()),
        ([3.0, 3.0, 2.7, 2.7], [], 1.0, {"loss falls"}),
        ([3.0, 3.0, float("nan"), 2.0, 2.0], [], 1.0, {"finite"}),
        ([3.0, 3.0, 2.0, 2.0], ["MASK-1"], 1.0, {"labels match the oracle"}),
        ([3.0, 3.0, 2.0, 2.0], [], 0.9, {"an evaluation leaves gradients alone"}),
    ],
)
def test_qlora_is_judged_by_what_it_did(monkeypatch, tmp_path, curve, findings, cosine, broken):
    """Everything that computes is replaced; the verdicts must follow what it would have said."""
    from sft_utils import preflight
    from sft_utils.train import training

    found = [types.SimpleNamespace(id=name) for name in findings]
    nothing = types.SimpleNamespace(train=lambda: None)
    for module, name, value in [
        (gpuruns, "ticket_rows", lambda n: ([], [])), (gpuarms, "build", lambda *a: nothing),
        (gpuarms.backends, "load_for_training", lambda *a, **k: (None, None)),
        (gpuruns, "cosine_around_evaluation", lambda *a: cosine), (gpuarms, "sft_config", lambda *a, **k: None),
        (training, "fit_adapter_precision", lambda *a: None), (preflight, "check", lambda *a: found),
        (gpuarms.memory, "watch", lambda trainer: {"peak_bytes": 1}), (gpuarms, "losses", lambda t: curve),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, value)
    job = {"device": "cpu", "tiny": False, "worker": "ours", "work": str(tmp_path)}
    checks = gpuarms.qlora(job)["checks"]
    assert {name for name, passed in checks.items() if not passed} == broken


def test_parity_is_judged_by_what_it_did(monkeypatch, tmp_path):
    told = {"rows": ["a"], "mask": ["b"], "trained_tokens": [7]}
    monkeypatch.setattr(gpuruns, "ticket_rows", lambda n: ([], []))
    job = {"device": "cpu", "tiny": True, "work": str(tmp_path)}
    for backend, loss, passed in [("plain", 2.5, True), ("unsloth", 2.5, True), ("unsloth", 2.6, False)]:
        monkeypatch.setattr(gpuruns, "trajectory", lambda *a, x=loss, **k: {**told, "losses": [x]})
        checks = gpuarms.parity({**job, "worker": backend})["checks"]
        assert all(checks.values()) == passed, backend
    with pytest.raises(ConfigError, match=r"of this code and machine is missing.*--force"):
        gpuarms.parity({**job, "worker": "unsloth", "key": "another program"})


def test_the_readme_table_says_what_is_not_measured():
    assert "not measured" in readme.gpu_table({})
    rows = {"arms": {"ours_nf4_2048": {"status": "ok", "tokens_per_s": 5012.4, "peak_gib": 9.8765}},
            "hardware": "GPU X", "measured_on": "2026-01-01"}  # fmt: skip
    text = readme.gpu_table({"gpu-x": rows})
    assert "5,012" in text
    assert "9.9 GiB" in text
    assert "not measured" in text, "the other arms"


@pytest.mark.slow
def test_rehearsal_runs_every_arm(tmp_path):
    out = tmp_path / "rehearsal.json"
    environment = os.environ | {"SFT_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-m", "sft_utils.gpu.gpucheck", "--device", "cpu", "--tiny", "--minutes", "60",
         "--out", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads(out.read_text())
    wanted = [a.name for a in gpucheck.arms(tiny=True)]
    assert result["complete"]
    assert {name: result["arms"][name]["status"] for name in wanted} == dict.fromkeys(wanted, "ok")
    for name in wanted:
        assert all(result["arms"][name]["checks"].values()), name
    assert result["arms"]["unsloth_parity"]["step1_difference"] <= 1e-5
    assert result["arms"]["ours_nf4_32"]["peak_gib"] > 0
    assert not (tmp_path / "runs" / "gpu-check" / "random-llama").exists()
