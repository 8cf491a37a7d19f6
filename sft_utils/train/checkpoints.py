"""The folder of a training run: whose it is, and how far it came."""

import json
import shutil
from pathlib import Path

from sft_utils.errors import ConfigError

IDENTITY = "identity.json"
"""What must be equal for a checkpoint to be continued; it also marks a folder as ours."""

COMPLETE = "complete.json"
"""Written when a training run has ended; a folder without it is resumed."""


def last_checkpoint(folder: Path) -> Path | None:
    """Newest complete Trainer checkpoint; half-written ones (killed, disk full) are removed.

    The trainer writes trainer_state.json last, so a folder without it is not complete.
    """
    named = (p for p in Path(folder).glob("checkpoint-*") if p.name.split("-", 1)[1].isdecimal())
    for path in sorted(named, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return None


def clear(folder: Path) -> None:
    """Empty a folder that a run of ours has marked, the marks last: it may be killed here, too.

    Raises:
        ConfigError: Something is there, and no mark says that it is ours.
    """
    marks = (COMPLETE, IDENTITY)
    inside = [p for p in folder.glob("*") if not p.name.startswith(".part-")]
    if inside and not (folder / IDENTITY).exists():
        raise ConfigError(
            f"{folder} holds {inside[0].name!r} and no {IDENTITY}, so it is no training run of "
            "ours and is left alone. Name a new or empty folder, or empty it yourself."
        )
    for path in sorted(inside, key=lambda p: marks.index(p.name) if p.name in marks else -1):
        whole = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path, ignore_errors=True) if whole else path.unlink(missing_ok=True)
