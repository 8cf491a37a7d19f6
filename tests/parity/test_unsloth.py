"""Unsloth as a backend: the same rows, mask, token counts and losses as plain TRL, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sft_utils.artifacts import ROOT
from sft_utils.config import cpu_threads
from sft_utils.errors import ConfigError, ModelError
from sft_utils.gpu import gpuruns
from sft_utils.masks import masking
from sft_utils.task import tickets
from sft_utils.train import backends

SCRIPT = Path(__file__).with_name("train_unsloth.py")
STEPS = 3


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [
        masking.assistant_labels(tokenizer, tickets.conversation(r), max_length=512)
        for r in tickets.read_rows(tickets.TEST, 12)
    ]


def through_unsloth(folder, rows, quantization="none", dtype="float32", steps=STEPS, **extra):
    folder.mkdir(parents=True)
    settings = {"rows": rows, "quantization": quantization, "dtype": dtype, "steps": steps,
                "extra": extra, "folder": str(folder)}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "settings.json")], capture_output=True, text=True,
        check=False, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0]), done.stdout


def through_trl(folder, rows, quantization="none", dtype=torch.float32, steps=STEPS):
    torch.set_num_threads(cpu_threads())
    job = {"device": "cpu", "tiny": True, "work": str(folder)}
    profile = gpuruns.profile_for(job, batch_size=4, quantization=quantization)
    config = gpuruns.sft_config(
        job, profile, max_steps=steps, learning_rate=1e-3, gradient_checkpointing=False
    )
    return gpuruns.trajectory(profile, rows, config, backend="plain", dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "dtype", "bound"), [("none", "float32", 1e-5), ("nf4", "bfloat16", 1e-5)]
)
def test_it_trains_the_same_model(rows, tmp_path, quantization, dtype, bound):
    """Step 1 shows the same forward and mask; the later steps the same gradients and optimizer."""
    theirs, _ = through_unsloth(tmp_path / "unsloth", rows, quantization, dtype)
    ours = through_trl(tmp_path / "trl", rows, quantization, getattr(torch, dtype))
    for key in ("rows", "mask", "trained_tokens"):
        assert theirs[key] == ours[key], key
    expected = [sum(t != -100 for row in rows for t in row["labels"])]
    assert [sum(ours["trained_tokens"])] == expected, "three steps of four rows are all twelve"
    gaps = [abs(a - b) for a, b in zip(theirs["losses"], ours["losses"], strict=True)]
    print(f"{quantization}: losses {ours['losses']}, differences {gaps}")
    assert gaps[0] <= bound
    assert max(gaps) <= bound
    assert ours["losses"][-1] < ours["losses"][0]
    assert theirs["kernels"] == [], "its kernels are not in a CPU run, which says nothing of speed"


@pytest.mark.slow
def test_packing_is_turned_off_aloud(rows, tmp_path):
    """Asked to pack, its CPU backend prints that it does not, and trains padded batches."""
    found, said = through_unsloth(tmp_path / "packed", rows[:4], steps=1, packing=True)
    assert found["packing"] == [False, False]
    assert "packing needs FlashAttention" in said


def test_it_must_be_imported_first(profile, rows):
    """This process has transformers loaded already: half a patched library is refused."""
    assert "transformers" in sys.modules
    assert "unsloth" not in sys.modules
    with pytest.raises(ConfigError, match=r"imported before .* transformers.* fresh one"):
        backends.load_for_training(
            profile, rows, gpuruns.adapter_config(), backend="unsloth", available_gib=100.0
        )


def test_unknown_backends_are_refused():
    with pytest.raises(ConfigError, match="plain, unsloth"):
        backends.prepare("unslot", cpu=True)


def test_what_does_not_fit_is_refused_before_loading(profile, rows, monkeypatch):
    monkeypatch.setattr(backends.modeling, "load_model", lambda *a, **k: pytest.fail("it loaded"))
    with pytest.raises(ConfigError, match=r"predicted .* GiB for profile 'smoke', 2 x \d+ tokens .* usable"):
        backends.load_for_training(profile, rows, gpuruns.adapter_config(), available_gib=0.1)


def test_a_silent_fallback_to_16_bits_is_caught(profile, rows, monkeypatch):
    """A backend that prints and loads 16 bits instead of 4, as Unsloth does where 4 do not work."""
    import dataclasses

    from sft_utils.model import modeling

    load = modeling.load_model
    monkeypatch.setattr(
        modeling, "load_model", lambda p, quantization=None, **options: load(p, **options)
    )
    four = dataclasses.replace(profile, quantization="nf4")
    with pytest.raises(ModelError, match=r"asks for .*'nf4', but 0 of 210 projections"):
        backends.load_for_training(four, rows, gpuruns.adapter_config())


def test_the_start_depends_on_the_seed_alone(profile, rows):
    """Equal seeds give equal adapters whatever was drawn before; other seeds do not."""
    drawn = []
    for seed, noise in ((17, 1), (17, 2), (18, 1)):
        torch.manual_seed(noise)
        model, _ = backends.load_for_training(profile, rows, gpuruns.adapter_config(), seed=seed)
        state = {n: p.detach().float() for n, p in model.named_parameters() if "lora_" in n}
        drawn.append(state)
    first, again, other = drawn
    assert all(first[n].equal(again[n]) for n in first)
    a = [n for n in first if "lora_A" in n]
    assert not any(first[n].equal(other[n]) for n in a)
    assert all(not first[n].any() for n in first if "lora_B" in n)
    spread = torch.cat([first[n].flatten() for n in a if "down_proj" not in n])
    assert spread.abs().max() <= 1 / 576**0.5 * 1.01  # peft's own bound for 576 inputs
    assert spread.std() == pytest.approx(1 / (3 * 576) ** 0.5, rel=0.02)
