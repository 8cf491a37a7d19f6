"""`make setup`: build the environment and the base model; `make distclean`: remove the former.

Standard library only.

Idempotent: a stamp in the environment holds the hash of the lock; nothing is done while it is
unchanged. Every problem is one line that says what to do.
"""

from __future__ import annotations  # an old Python shall reach the line that calls it too old

import argparse
import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
TOKENIZERS = ROOT / "requirements" / "tokenizers.txt"
"""Packages whose tokenizer files the mutation benchmark reads; optional, never imported."""

MODEL_STAMP = ROOT / "outputs" / "models" / "smollm2-135m-instruct" / "sft_model.json"
MIN_PYTHON = (3, 11)
NEEDED_GIB = 5.0
"""Environment 2.4 GiB, wheels in flight 1 GiB, model 0.3 GiB, one run's outputs."""

STAMP = "sft-lock.sha256"
PARTS = {"bin", "include", "lib", "lib64", "share", "etc", "pyvenv.cfg", ".gitignore", STAMP}
"""All that an environment consists of, made here or by `python -m venv` (which adds .gitignore
since 3.13): a folder that holds more is never erased."""

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds: on Linux the default build pulls gigabytes of CUDA."""


MACOS = "appnope==0.1.4"
"""Every kernel imports it there, and nowhere else, so it is no line of the lock."""


def stop(problem: str) -> None:
    """End with one line."""
    sys.exit(f"setup: {problem}")


def check_names(typed: list[str], known: list[str]) -> None:
    """Refuse NAME=value on make's command line where nothing reads NAME.

    Environment variables like HF_HUB_OFFLINE=0 pass: make hands them on.
    """
    for name in typed:
        variable = re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", name)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8 if variable else 0.6)
        if name in known or (variable and not close):
            continue
        hint = f"Did you mean {close[0]}=? " if close else ""
        if name.upper() in known:
            hint = f"Did you mean {name.upper()}=? "
        elif name.islower():
            hint = f'A parameter of a notebook goes into PARAMS="{name}=…". '
        stop(f"make reads no {name}=. {hint}It reads: {' '.join(known)}")


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


def explain(result: subprocess.CompletedProcess[str], again: str = "make setup") -> str:
    """The line of pip's output that says what went wrong; `again` is what to run then."""
    text = result.stderr + result.stdout
    if "No space left" in text:
        return "the disk is full"
    signs = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")
    if any(sign in text for sign in signs):
        return f"no network: the package index cannot be reached. Connect and run: {again}"
    # pip then says that no version was found, which sounds as if the pin were wrong.
    refused = re.search(r"ConnectTimeoutError|ReadTimeoutError|ProxyError|SSLError", text)
    if refused:
        why = f"the package index cannot be reached ({refused[0]})"
        return f"{why}. Check proxy and certificates, then run: {again}"
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
    more = [MACOS] if sys.platform == "darwin" else []
    result = pip(python, "--no-deps", "-r", str(LOCK), *more)
    if result.returncode:
        stop(explain(result))


def install_tokenizers(target: Path, python: Path) -> None:
    """Fetch tokenizer files of other model families; without them tests skip those by name."""
    folder = target / "share" / "sft-tokenizers"
    result = pip(python, "--no-deps", "--target", str(folder), "--upgrade", "-r", str(TOKENIZERS))
    if result.returncode:
        print(f"setup: optional tokenizers left out ({explain(result)})", flush=True)


def check_place(given: str) -> Path:
    """The folder that VENV names; never one with the repository or the user's home in it."""
    if not given.strip():
        stop(
            "VENV is empty (VENV=$CONDA_PREFIX without an active conda environment?). "
            "Activate it; or leave VENV= out (unset VENV): the environment is .venv then"
        )
    if given.startswith("~"):  # zsh hands it on like this, and Path takes it for a name
        stop(f"VENV={given}: your shell has left the ~ as it is. Write VENV=$HOME/… instead")
    target = Path(given).resolve()
    home = Path(os.path.expanduser("~")).resolve()
    if os.path.exists(target):
        if not (target.is_dir() and os.access(target, os.R_OK | os.X_OK)):
            stop(f"VENV={given} is no folder that can be read. Name a new one")
        for kept, what in ((ROOT, "this repository"), (home, "your home")):
            # Compared as files, not as names: a disk may take /Users/Me and /users/me for one.
            if any(os.path.exists(p) and target.samefile(p) for p in (kept, *kept.parents)):
                stop(f"VENV={given} is {target}, which holds {what}. Name a folder of its own")
    return target


def check_erasable(target: Path) -> None:
    """Refuse to erase a folder that holds anything but an environment."""
    names = {entry.name for entry in target.iterdir()} if target.exists() else set()
    marked = "pyvenv.cfg" in names  # else set-up may have been killed at its first folders
    if names <= PARTS and (marked or not any(entry.is_file() for entry in target.rglob("*"))):
        return
    problem = "is no Python environment and not empty"
    if marked:
        problem = "holds more than an environment"
    found = ", ".join(sorted(names - PARTS or names)[:3])
    stop(
        f"VENV={target} {problem} ({found}), so it is not erased. Nothing was changed. "
        "Name a new folder or an environment whose pip works, or delete this one yourself"
    )


def erase(target: Path) -> None:
    """Remove what is left of an environment; its mark goes last, should this be interrupted."""
    entries = list(target.iterdir()) if target.exists() else []
    for entry in sorted(entries, key=lambda entry: entry.name == "pyvenv.cfg"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check_idle() -> None:
    """Refuse `make clean` while a run writes there; its lock would be gone as well."""
    for pattern in ("runs/*/.lock", "reproduce/*/*/.lock"):
        for path in (ROOT / "outputs").glob(pattern):
            with path.open("r+", encoding="utf-8") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    who = f"{path.parent.relative_to(ROOT)} ({handle.read().strip()})"
                    stop(f"a run is writing to {who}. Wait for it or stop it. Nothing was removed")
                except OSError:  # a network folder without locks
                    continue


def remove(given: str) -> None:
    """`make distclean`: remove the environment; of a link, the link."""
    target = check_place(given)
    if Path(given).is_symlink():
        Path(given).unlink()
    elif (target / "pyvenv.cfg").is_file():
        check_erasable(target)
        print(f"setup: removing {target}", flush=True)
        erase(target)
        target.rmdir()


def works(python: Path) -> bool:
    """Whether the environment's Python starts and has pip: the system's may have been exchanged."""
    try:
        probe = [str(python), "-c", "import pip"]
        return not subprocess.run(probe, capture_output=True, check=False).returncode
    except OSError:  # absent, or nothing that can be started
        return False


def create(target: Path, python: Path) -> None:
    """Create the environment, or repair one that was left half-built (no pip)."""
    if works(python):
        return
    check_erasable(target)
    print(f"setup: creating {target.name} with Python {platform.python_version()}", flush=True)
    try:
        erase(target)
        venv.create(target, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        stop(f"cannot create {target.name} ({error}). On Debian: apt install python3-venv")


def check_python(target: Path, given: str, typed: list[str]) -> None:
    """Refuse a PYTHON= that would be ignored, since the environment is there already."""
    settings = target / "pyvenv.cfg"
    if "PYTHON" not in typed or not settings.is_file():
        return
    text = settings.read_text(encoding="utf-8")
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", text, re.MULTILINE)
    mine = "{}.{}".format(*sys.version_info)
    if found and found[1] != mine and works(target / "bin" / "python"):
        stop(
            f"PYTHON= is Python {mine}, and VENV={given} is an environment of {found[1]}. "
            f"Delete that folder, or name another: VENV=.venv-{mine}"
        )


def link_checkout(python: Path) -> None:
    """What an editable install does, without a build backend and without network."""
    code = (
        "import importlib.util, sysconfig; print(sysconfig.get_paths()['purelib']); "
        "print(importlib.util.find_spec('torch') is not None)"
    )
    said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    site, complete = said.stdout.splitlines()
    if complete != "True":  # a conda environment of somebody else: we install nothing there
        stop(
            f"VENV={python.parent.parent} is a conda environment without torch. "
            "Make the one of environment.yml (its header has the commands), or leave VENV= out"
        )
    (Path(site) / "sft_utils_checkout.pth").write_text(f"{ROOT}\n")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait for another set-up of this clone: each would erase what the other builds."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: waiting for another set-up of this clone …", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a network folder without locks
            pass
        yield
    finally:
        os.close(folder)


def model_is_current() -> bool:
    """Whether the base model was converted by today's recipe (that module needs torch)."""
    if not MODEL_STAMP.exists():
        return False
    source = (ROOT / "sft_utils" / "basemodel.py").read_text(encoding="utf-8")
    recipe = re.search(r"^RECIPE = (\d+)$", source, re.MULTILINE)
    stamp = json.loads(MODEL_STAMP.read_text(encoding="utf-8"))
    return bool(recipe) and stamp.get("recipe") == int(recipe[1])


def main() -> None:
    """Create or update the environment, then convert the base model once; or remove the former."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=str(ROOT / ".venv"))
    parser.add_argument("--names", default="", help="what the Makefile reads, with blanks")
    parser.add_argument("--typed", default="", help="what was given on its command line")
    parser.add_argument("--idle", action="store_true", help="say whether a run is active, and end")
    parser.add_argument("--remove", action="store_true", help="the environment, and nothing else")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # a locale of before Unicode has no "…"
    check_names(options.typed.split(), options.names.split())
    if options.idle:
        check_idle()
        return
    with alone():
        if options.remove:
            remove(options.venv)
        else:
            prepare(options.venv, options.typed.split())


def prepare(given: str, typed: list[str]) -> None:
    """Do what is still to do; nothing while the stamps are current.

    Args:
        given: The folder of the environment.
        typed: Names that were given on make's command line.
    """
    target = check_place(given)
    check_python(target, given, typed)
    python = target / "bin" / "python"
    stamp = target / STAMP
    wanted = LOCK.read_bytes() + TOKENIZERS.read_bytes() + str(ROOT).encode()
    digest = hashlib.sha256(wanted).hexdigest()
    if (target / "conda-meta").is_dir():
        # A conda environment (GPU) has its own CUDA torch: never install over it.
        link_checkout(python)
    elif not (stamp.exists() and stamp.read_text() == digest and works(python)):
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
