"""The run manifest: everything that decides a number, hashed into one run id."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, sha256_files, sha256_json
from sft_utils.errors import ConfigError

LOCK = ROOT / "requirements" / "cpu.lock"
GPU_PINS = ROOT / "environment.yml"

PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "evaluate", "jsonschema", "numpy", "peft", "rensa",
    "tokenizers", "torch", "transformers", "trl", "unsloth", "wandb",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of the packages whose names a result shows; absent ones left out."""
    return _installed(PACKAGES)


@functools.cache
def locked_versions() -> dict[str, str]:
    """Installed versions of every package that we pin: any of them can change a number.

    Those of the lock, and those that only the GPU environment has: absent on a CPU, they change
    no hash there. Read once per process (0.1 s). What is installed later is seen by the next one.
    """
    pins = [pin.partition("==")[0] for pin in _pins()]
    more = re.findall(r"^ +- ([\w.-]+)==", GPU_PINS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return _installed(dict.fromkeys([*pins, *more]))


def _installed(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _pins() -> list[str]:
    """`name==version` of every line of the lock, without its comments.

    Not those of `bootstrap`: each notebook would depend on that module, and be run again after it.
    """
    return re.findall(r"^[\w.-]+==[^\s#]+", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)


def lock_hash() -> str:
    """Hash of what the lock pins and of what is really installed: a GPU machine has another set.

    Comments do not count; in results from before 2026-11-24 they do.
    """
    return sha256_json([sorted(_pins()), locked_versions()])


def code_hash(notebook: str) -> str:
    """Hash of the notebook source and the package; what git says comes separately."""
    files = sorted((ROOT / "sft_utils").rglob("*.py"))
    source = ROOT / "notebooks" / "src" / f"{notebook}.py"
    return sha256_files([*files, source] if source.exists() else files)


def git_state() -> dict[str, Any]:
    """Commit and whether tracked files differ from it; empty outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "dirty": dirty}


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def build(run: Any) -> dict[str, Any]:
    """The manifest of a run: hashes of all inputs, the seed, versions, code state.

    `run.fingerprints` holds the parts that only the notebook knows (data, template, tokenizer,
    base_weights), and any other that a script of yours adds: its own hash, since code_hash
    knows notebooks/src and the package alone. The git commit is recorded but does not enter the run
    id: two commits with the same code and data are the same run.

    Args:
        run: A `runtime.Run`.
    Returns:
        The manifest; `run_id` is its first 12 hex digits.
    Raises:
        ConfigError: A fingerprint has the name of a part that is computed here.
    """
    config = {**dataclasses.asdict(run.profile), **run.parameters}
    parts: dict[str, Any] = {
        "notebook": run.notebook,
        "config": sha256_json(config),
        **dict.fromkeys(("data", "template", "tokenizer", "base_weights"), ""),
        "lock": lock_hash(),
        "code": code_hash(run.notebook),
        "seed": run.seed,
    }
    if taken := run.fingerprints.keys() & {"notebook", "config", "lock", "code", "seed"}:
        raise ConfigError(
            f"fingerprint {min(taken)!r} is computed by the manifest; take another name"
        )
    parts |= run.fingerprints
    run_id = sha256_json(parts)[:12]
    state = {
        "git": git_state(),
        "python": platform.python_version(),
        "versions": versions(),
        "packages": locked_versions(),  # all: `make regress` names those that changed
        "suppressed": dict(run.suppressed),
    }
    return {"run_id": run_id, **parts, **state}


def write_beside(path: Path, manifest: dict[str, Any]) -> None:
    """Put the manifest next to an adapter or model."""
    from sft_utils.artifacts import write_json

    write_json(path / "manifest.json", manifest)
