"""The two environments cannot drift apart, and the CPU one stays free of CUDA."""

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = [
    "jupyterlab",
    "papermill",
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "unsloth",
    "datasets",
    "evaluate",
    "wandb",
    "nbval",
]


def pins(text):
    return dict(re.findall(r"^\s*(?:- )?([\w.-]+)==([\w.+-]+)", text, flags=re.M))


def lock():
    return pins((ROOT / "requirements" / "cpu.lock").read_text())


def gpu_text():
    return (ROOT / "environment.yml").read_text()


def test_named_packages_are_pinned_in_both():
    assert set(NAMED) <= set(lock())
    assert all(f"{name}==" in gpu_text() for name in NAMED)


def test_same_versions():
    gpu_only = {"triton", "torchvision", "xformers", "langdetect", "immutabledict", "nltk"}
    different = {n: (v, lock().get(n)) for n, v in pins(gpu_text()).items()
                 if n not in gpu_only and lock().get(n) != v}  # fmt: skip
    assert not different
    unsloth = re.search(r"unsloth==([\d.]+)", gpu_text()).group(1)
    assert unsloth == lock()["unsloth"]


def test_every_gpu_pin_names_its_user():
    lines = [x for x in gpu_text().splitlines() if re.match(r"\s+- [\w.-]+==", x)]
    assert lines
    assert all("  # " in x for x in lines)


def test_cpu_lock_has_no_cuda():
    assert not [n for n in lock() if re.match(r"nvidia|cuda|triton|xformers|torchvision", n)]


def test_installed_is_what_the_lock_says():
    wrong = {}
    for name, version in lock().items():
        installed = importlib.metadata.version(name).split("+")[0]
        if installed != version:
            wrong[name] = (installed, version)
    assert not wrong
