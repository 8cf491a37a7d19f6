"""Experiment tracking behind one call: Weights & Biases, offline by default, or MLflow."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft_utils.errors import ConfigError

MLFLOW_INSTALL = 'pip install "mlflow-skinny==3.17.2" sqlalchemy alembic'
"""What report_to="mlflow" needs; no part of the locked environment. That version was tried."""


@contextlib.contextmanager
def tracked(run: Any, report_to: str, config: dict[str, Any]) -> Iterator[Any]:
    """Open a tracking run for the body of the block.

    WANDB_MODE decides where it goes: unset means offline (files below run.dir, nothing leaves
    the machine, no login); a user who has logged in sets WANDB_MODE=online.

    MLFLOW_TRACKING_URI does the same for MLflow: unset means an SQLite file below run.dir.

    Args:
        report_to: "wandb", "mlflow" or "none".
        config: Recorded with the run; the manifest belongs in it. Blocks of one "run_id" add to
            one run; with an "arm", those of the same arm do: each has settings and curves of
            its own.
    Yields:
        The wandb run, something with the same `log` and `summary` on MLflow, or None.
    Raises:
        ConfigError: Another tracker was asked for, or MLflow is not installed.
    """
    if report_to == "none":
        yield None
        return
    if report_to == "mlflow":
        with _mlflow(run, config) as tracker:
            yield tracker
        return
    if report_to != "wandb":
        raise ConfigError(f"report_to={report_to!r} is not one of 'none', 'wandb', 'mlflow'")
    import wandb

    folder = run.dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    tracker = wandb.init(
        project="sft-notebooks",
        id=_identity(config),  # a later block with the same id adds to the same run
        resume="allow",
        name=_title(run, config),
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


def _identity(config: Mapping[str, Any]) -> str | None:
    run_id, arm = config.get("run_id"), config.get("arm")
    return f"{run_id}-{arm}" if run_id and arm else run_id


def _title(run: Any, config: Mapping[str, Any]) -> str:
    arm = [str(config["arm"])] if config.get("arm") else []
    return "-".join([run.notebook, run.profile.name, *arm])


class _OnMlflow:
    """The part of a wandb run that notebooks use, on an open MLflow run."""

    def __init__(self, mlflow: Any) -> None:
        self.mlflow, self.summary = mlflow, self

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers as metrics at a step; everything else is not a curve and is left out."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        self.mlflow.log_metrics(numbers, step=step)

    def __setitem__(self, name: str, value: Any) -> None:
        """A final value; an interval becomes two metrics, a text becomes a tag."""
        if isinstance(value, list | tuple):
            for part, bound in zip(("low", "high"), value, strict=True):
                self.mlflow.log_metric(f"{name}.{part}", float(bound))
        elif isinstance(value, int | float):
            self.mlflow.log_metric(name, float(value))
        else:
            self.mlflow.set_tag(name, str(value))


@contextlib.contextmanager
def _mlflow(run: Any, config: dict[str, Any]) -> Iterator[_OnMlflow]:
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"report_to='mlflow' needs a package that is not installed ({error.name}): "
            f"{MLFLOW_INSTALL}"
        ) from error
    folder = Path(run.dir) / "tracking" / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(given or f"sqlite:///{folder / 'mlflow.db'}")
    try:
        with mlflow.start_run(**_chosen_run(mlflow, run, config, None if given else folder)):
            flat = {k: v for k, v in config.items() if not isinstance(v, dict | list)}
            mlflow.log_params(flat)
            mlflow.log_dict(json.loads(json.dumps(config, default=str)), "config.json")
            yield _OnMlflow(mlflow)
    finally:
        if given is None:  # mlflow sets it too; the next run has a folder of its own
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def _chosen_run(
    mlflow: Any, run: Any, config: dict[str, Any], folder: Path | None
) -> dict[str, Any]:
    """What to open: as with wandb, a later block with the same id adds to the same run."""
    name, ours = "sft-notebooks", _identity(config) or ""
    if mlflow.get_experiment_by_name(name) is None:
        files = (folder / "files").as_uri() if folder else None
        mlflow.create_experiment(name, artifact_location=files)
    mlflow.set_experiment(name)
    earlier = mlflow.search_runs(
        filter_string=f"tags.run_id = '{ours}'", output_format="list", max_results=1
    )
    if ours and earlier:
        return {"run_id": earlier[0].info.run_id}
    return {"run_name": _title(run, config), "tags": {"run_id": ours}}


def log_summary(tracker: Any, metrics: dict[str, dict[str, Any]]) -> None:
    """Put final metrics, with n and interval, into the summary of an open run."""
    if tracker is None:
        return
    for name, entry in metrics.items():
        for part, value in entry.items():
            tracker.summary[f"{name}.{part}" if part != "value" else name] = value
