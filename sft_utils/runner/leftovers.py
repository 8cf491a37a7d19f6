"""Stored work that a run may find and go on from: its time is then not that of the work.

Nothing here removes anything: what a killed run has stored is what its repetition saves.
"""

from collections.abc import Mapping
from pathlib import Path

from sft_utils.artifacts import COMPLETE, IDENTITY, sha256_file


def stored_work(folder: Path) -> dict[Path, tuple[str, int]]:
    """What lies in the folder of a notebook and can be gone on from, before it runs.

    Finished trials (`ablate.trialstore`), cached answers (`model.generation`), and trainings with a
    checkpoint, ended or not, of a notebook that has not.

    Returns:
        File -> hash of its content, and when it was last written, in ns.
    """
    marks = [
        mark
        for mark in (folder / "train").rglob(IDENTITY)
        if not (mark.parent / COMPLETE).exists()
        and any(mark.parent.glob("checkpoint-*/trainer_state.json"))
    ]
    files = [*folder.glob("trials/*.json"), *folder.glob("answers-*.json"), *marks]
    return {path: (sha256_file(path), path.stat().st_mtime_ns) for path in files}


def taken_up(folder: Path, stored: Mapping[Path, tuple[str, int]]) -> bool:
    """Whether a run that has ended used any of the `stored_work` that was there before it.

    A trial that is read is touched, one of other code stays as it was. A training of another
    identity leaves another mark. Answers are gone with the success of the run: those that were
    there count as used.
    """
    for path, (content, written) in stored.items():
        if path.parent == folder:
            return True
        same = path.exists() and sha256_file(path) == content
        touched = same and path.stat().st_mtime_ns != written
        if touched if path.parent.name == "trials" else same:
            return True
    return False
