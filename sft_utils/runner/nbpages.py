"""Reports that are read without a run: committed beside the result that they belong to."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft_utils.artifacts import sha256_path, storage_error
from sft_utils.notebook.nbsource import Layout

HANDED = "report"
"""The name under which a checkpoint hands on what readers open: a page, or a folder with figures
(`Checkpoint.save_file`). The value that a page was made of stays with the run."""
MAX_BYTES = 2**20
"""Of one such file or folder: every version stays in the repository's history."""
TEXTS = (".html", ".json", ".md")


def committed(layout: Layout, notebook: str, profile: str, handed: Mapping[str, Any]) -> Path:
    """Where a handed file lies among the references."""
    return layout.reference(notebook, profile).with_suffix("") / Path(handed["path"]).name


def unfit(layout: Layout, result: Mapping[str, Any], machine: re.Pattern[str]) -> Iterator[str]:
    """What keeps the reports of a run from being committed.

    Args:
        layout: Where things are.
        result: The run's result file.
        machine: Finds a path that exists on this machine only.
    """
    for handed in _pages(result):
        path = layout.root / handed["path"]
        if not path.exists() or sha256_path(path) != handed["sha256"]:
            yield f"{handed['path']} is not what the run handed on as {HANDED!r}; run it again"
            continue
        files = [p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        if size > MAX_BYTES:
            yield f"{handed['path']} has {size / 2**20:.1f} MiB; at most {MAX_BYTES / 2**20:g}"
        for file in files:
            found = file.suffix in TEXTS and machine.search(file.read_text(encoding="utf-8"))
            if found:
                yield f"{handed['path']} holds a path of this machine: {found[0]}"


def write(layout: Layout, notebook: str, result: Mapping[str, Any]) -> list[Path]:
    """Commit the reports of a run in place of earlier ones.

    Returns:
        The files and folders written.
    Raises:
        StorageError: The disk is full or read-only.
    """
    profile = result["profile"]
    folder = layout.reference(notebook, profile).with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    written = []
    for handed in _pages(result):
        target = committed(layout, notebook, profile, handed)
        source = layout.root / handed["path"]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        except OSError as error:
            raise storage_error(target, error) from error
        written.append(target)
    return written


def changed(layout: Layout, notebook: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Reports that are not those of the committed result."""
    for handed in _pages(result):
        target = committed(layout, notebook, result["profile"], handed)
        shown = target.relative_to(layout.root)
        if not target.exists():
            yield f"{shown} is missing"
        elif sha256_path(target) != handed["sha256"]:
            yield f"{shown} is not what the run of the committed result wrote"


def _pages(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    handed = result.get("files", {}).get(HANDED)
    if isinstance(handed, dict) and not Path(handed["path"]).is_absolute():
        yield handed
