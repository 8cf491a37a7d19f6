"""Experiment tracking behind one call: Weights & Biases, offline unless the user says otherwise."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from sft_utils.errors import ConfigError


@contextlib.contextmanager
def tracked(run: Any, report_to: str, config: dict[str, Any]) -> Iterator[Any]:
    """Open a tracking run for the body of the block.

    WANDB_MODE decides where it goes: unset means offline (files below run.dir, nothing leaves
    the machine, no login); a user who has logged in sets WANDB_MODE=online.

    Args:
        report_to: "wandb" or "none".
        config: Recorded with the run; the manifest belongs in it.
    Yields:
        The wandb run, or None.
    Raises:
        ConfigError: Another tracker was asked for.
    """
    if report_to == "none":
        yield None
        return
    if report_to != "wandb":
        raise ConfigError(f"report_to={report_to!r} is not one of 'none', 'wandb'")
    import wandb

    folder = run.dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    tracker = wandb.init(
        project="sft-notebooks",
        id=config.get("run_id"),  # a later block with the same id adds to the same run
        resume="allow",
        name=f"{run.notebook}-{run.profile.name}",
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=config,
        settings=wandb.Settings(
            silent=True, console="off", x_disable_meta=True, x_disable_stats=True
        ),
    )
    try:
        yield tracker
    finally:
        tracker.finish()


def log_summary(tracker: Any, metrics: dict[str, dict[str, Any]]) -> None:
    """Put final metrics, with n and interval, into the summary of an open run."""
    if tracker is None:
        return
    for name, entry in metrics.items():
        for part, value in entry.items():
            tracker.summary[f"{name}.{part}" if part != "value" else name] = value
