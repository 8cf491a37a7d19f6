"""A notebook alone on a rented machine: fetch the repository, install the pinned set beside.

Standard library only: it runs before anything is installed. `CELL` is put at the head of every
published notebook (`nbsource.with_setup_cell`); where `sft_utils` can be imported it does nothing.
A cell that failed leaves nothing importable behind, so that running it again is a whole attempt.
"""

import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

from sft_utils.bootstrap import LOCK, TORCH_CPU_INDEX, explain, pins, pip

REPOSITORY = "https://git.example.org/OWNER/sft-notebooks.git"
"""The address of this repository, in this one place. SFT_REPOSITORY overrides it where a notebook
runs; whoever publishes a copy writes its address here and runs `make renew`."""

FOLDER = "sft-notebooks"

CELL = f'''\
# Colab, RunPod: fetches the repository. Nothing happens where it is there already (README).
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("sft_utils") is None:
    folder = os.path.abspath("{FOLDER}")
    where = os.environ.get("SFT_REPOSITORY", "{REPOSITORY}")
    commit = os.environ.get("SFT_COMMIT", "HEAD")
    steps = [] if os.path.isdir(folder) else [("SFT_REPOSITORY", where, ["clone", where, folder])]
    steps += [("SFT_COMMIT", commit, ["-C", folder, "checkout", "--detach", commit])]
    for name, value, words in steps:
        done = subprocess.run(["git", *words], capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.split())
            sys.exit(f"{{name}}={{value}} cannot be used: {{said}} · Set it above (README)")
    sys.path.insert(0, folder)
    try:
        from sft_utils import colab

        colab.install()
    except BaseException:  # so that this cell, run again, begins again
        sys.path.remove(folder)
        for name in [m for m in sys.modules if m.split(".")[0] == "sft_utils"]:
            del sys.modules[name]
        raise
    os.chdir(folder)'''

RESTART = "SFT_RESTART"
"""Environment variable of a kernel that has to be restarted: a new one does not have it."""

GPU_ONLY = ("triton", "torchvision", "xformers")
"""Pins of environment.yml that only a CUDA build of torch can use."""

IFEVAL = ("langdetect", "immutabledict", "nltk")
"""Pins of environment.yml that lm-eval's IFEval imports: 10 asks it at GPU profiles."""

ENVIRONMENT = LOCK.parents[1] / "environment.yml"


def base(version: str) -> str:
    """A version without its local part: a machine's 2.13.0+cu130 satisfies the pin 2.13.0."""
    return version.split("+")[0]


def installed() -> dict[str, str]:
    """Distribution -> version of this environment, names normalised."""
    return {
        normal(d.metadata["Name"]): d.version
        for d in importlib.metadata.distributions()
        if d.metadata["Name"]
    }


def normal(name: str) -> str:
    """A distribution's name as pip compares it.

    Example:
        >>> normal("Typing_Extensions")
        'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def kernel_packages(have: dict[str, str]) -> set[str]:
    """What the running kernel stands on: ipykernel and all it needs, as far as installed.

    Exchanging these under a live kernel breaks it, and they decide no number.
    """
    found: set[str] = set()
    waiting = {"ipykernel"} & have.keys()
    while waiting:
        name = waiting.pop()
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            if "extra ==" not in line:
                needed = normal(re.match(r"[\w.-]+", line)[0])
                waiting |= ({needed} & have.keys()) - found
    return found


def plan(wanted: list[str], have: dict[str, str]) -> list[str]:
    """The pins that this machine does not satisfy yet, the kernel's own packages left alone."""
    keep = kernel_packages(have)
    missing = []
    for pin in wanted:
        name, version = pin.split("==")
        present = have.get(normal(name))
        if normal(name) in keep or (present and base(present) == version):
            continue
        missing.append(pin)
    return missing


def has_gpu() -> bool:
    """Whether an NVIDIA driver is here; torch cannot be asked yet."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def install() -> None:
    """Install what is missing of the pinned set into the running environment.

    The machine's torch stays if it has the pinned version, whatever CUDA it was built for.

    Raises:
        SystemExit: pip failed, or a package that was exchanged is loaded already; the latter again
            at each further call, until the kernel has been restarted.
    """
    if RESTART in os.environ:
        sys.exit(os.environ[RESTART])
    python, gpu = Path(sys.executable), has_gpu()
    wanted = pins(LOCK)
    if gpu:
        lines = re.findall(r"- ([\w.-]+==[\w.]+)", ENVIRONMENT.read_text(encoding="utf-8"))
        wanted += [pin for pin in lines if pin.split("==")[0] in GPU_ONLY + IFEVAL]
    missing = plan(wanted, installed())
    torch = [pin for pin in missing if pin.startswith("torch==")]
    print(f"{len(wanted)} pinned packages, {len(missing)} to install; "
          + ("torch among them" if torch else "the machine's torch stays"), flush=True)  # fmt: skip
    if torch and (gpu or sys.platform != "linux"):
        _pip(python, *torch)  # with its CUDA libraries
    elif torch and pip(python, "--no-deps", f"{torch[0]}+cpu").returncode:
        _pip(python, "--no-deps", f"{torch[0]}+cpu", "--index-url", TORCH_CPU_INDEX)
    rest = [pin for pin in missing if pin not in torch]
    if rest:
        _pip(python, "--no-deps", *rest)
    loaded = sorted(exchanged_and_loaded(missing))
    if loaded:
        os.environ[RESTART] = (
            f"installed; {', '.join(loaded)} had been loaded by this kernel before. Restart it "
            "(Runtime > Restart session) and run this notebook from the top."
        )
        sys.exit(os.environ[RESTART])


def exchanged_and_loaded(missing: list[str]) -> set[str]:
    """Packages of `missing` of which this process holds another version in memory."""
    names = {normal(pin.split("==")[0]) for pin in missing}
    modules = importlib.metadata.packages_distributions()
    return {
        top
        for top, owners in modules.items()
        if top in sys.modules and names & {normal(owner) for owner in owners}
    }


def _pip(python: Path, *arguments: str) -> None:
    result = pip(python, *arguments)
    if result.returncode:
        sys.exit(f"setup: {explain(result, again='this cell again')}")
