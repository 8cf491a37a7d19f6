"""`make setup`: build the environment and the base model. Standard library only.

Idempotent: a stamp in the environment holds the hash of the lock; nothing is done while it is
unchanged. Every problem is one line that says what to do.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
TOKENIZERS = ROOT / "requirements" / "tokenizers.txt"
"""Packages whose tokenizer files the mutation benchmark reads; optional, never imported."""

MODEL_STAMP = ROOT / "outputs" / "models" / "smollm2-135m-instruct" / "sft_model.json"
MIN_PYTHON = (3, 11)
NEEDED_GIB = 5.0
"""Environment 2.4 GiB, wheels in flight 1 GiB, model 0.3 GiB, one run's outputs."""

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds: on Linux the default build pulls gigabytes of CUDA."""


def stop(problem: str) -> None:
    """End with one line."""
    sys.exit(f"setup: {problem}")


def check_machine() -> None:
    """Refuse what cannot work before anything is downloaded."""
    if sys.version_info < MIN_PYTHON:
        stop(
            f"Python {platform.python_version()} is too old, 3.11 or newer is needed. "
            "Install it and run: make setup PYTHON=python3.11"
        )
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    if free_gib < NEEDED_GIB:
        stop(f"only {free_gib:.1f} GiB of disk free here, {NEEDED_GIB:.0f} GiB are needed")


def pins(lock: Path) -> list[str]:
    """The `name==version` lines of a lock file."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if "==" in line.split("#")[0]]


def pip(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip of the environment; output is kept for the error line."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def explain(result: subprocess.CompletedProcess[str]) -> str:
    """The line of pip's output that says what went wrong."""
    text = result.stderr + result.stdout
    if "No space left" in text:
        return "the disk is full"
    signs = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")
    if any(sign in text for sign in signs):
        return "no network: the package index cannot be reached. Connect and run: make setup"
    lines = [line for line in text.splitlines() if "ERROR" in line or "error" in line]
    return (lines or text.splitlines() or ["pip failed"])[0].strip()


def install(python: Path) -> None:
    """Install the lock exactly: no resolver, no dependencies beyond what it lists."""
    wanted = pins(LOCK)
    torch = next(pin for pin in wanted if pin.startswith("torch=="))
    print(f"setup: installing {len(wanted)} pinned packages (about 2 minutes) …", flush=True)
    if sys.platform == "linux":
        # The CPU build carries a local version that sorts above the CUDA build of the same number.
        result = pip(python, "--no-deps", f"{torch}+cpu")
        if result.returncode:
            result = pip(python, "--no-deps", f"{torch}+cpu", "--index-url", TORCH_CPU_INDEX)
        if result.returncode:
            stop(f"cannot install {torch}+cpu: {explain(result)}")
    result = pip(python, "--no-deps", "-r", str(LOCK))
    if result.returncode:
        stop(explain(result))


def install_tokenizers(target: Path, python: Path) -> None:
    """Fetch tokenizer files of other model families; without them tests skip those by name."""
    folder = target / "share" / "sft-tokenizers"
    result = pip(python, "--no-deps", "--target", str(folder), "--upgrade", "-r", str(TOKENIZERS))
    if result.returncode:
        print(f"setup: optional tokenizers left out ({explain(result)})", flush=True)


def create(target: Path, python: Path) -> None:
    """Create the environment, or repair one that was left half-built (no pip)."""
    probe = [str(python), "-m", "pip", "--version"]
    if python.exists() and not subprocess.run(probe, capture_output=True, check=False).returncode:
        return
    print(f"setup: creating {target.name} with Python {platform.python_version()}", flush=True)
    try:
        venv.create(target, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        stop(f"cannot create {target.name} ({error}). On Debian: apt install python3-venv")


def link_checkout(python: Path) -> None:
    """What an editable install does, without a build backend and without network."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    (Path(site.stdout.strip()) / "sft_utils_checkout.pth").write_text(f"{ROOT}\n")


def model_is_current() -> bool:
    """Whether the base model was converted by today's recipe (that module needs torch)."""
    if not MODEL_STAMP.exists():
        return False
    source = (ROOT / "sft_utils" / "basemodel.py").read_text(encoding="utf-8")
    recipe = re.search(r"^RECIPE = (\d+)$", source, re.MULTILINE)
    stamp = json.loads(MODEL_STAMP.read_text(encoding="utf-8"))
    return bool(recipe) and stamp.get("recipe") == int(recipe[1])


def main() -> None:
    """Create or update the environment, then convert the base model once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    target = parser.parse_args().venv.resolve()
    python = target / "bin" / "python"
    stamp = target / "sft-lock.sha256"
    wanted = LOCK.read_bytes() + TOKENIZERS.read_bytes() + str(ROOT).encode()
    digest = hashlib.sha256(wanted).hexdigest()
    if (target / "conda-meta").is_dir():
        # A conda environment (GPU) has its own CUDA torch: never install over it.
        link_checkout(python)
    elif not (stamp.exists() and stamp.read_text() == digest):
        check_machine()
        stamp.unlink(missing_ok=True)
        create(target, python)
        install(python)
        install_tokenizers(target, python)
        link_checkout(python)
        stamp.write_text(digest)
    if not (model_is_current() or os.environ.get("SFT_MODELS")):
        result = subprocess.run([str(python), "-m", "sft_utils.basemodel"], cwd=ROOT, check=False)
        if result.returncode:
            stop("the base model could not be prepared, see the line above")


if __name__ == "__main__":
    main()
