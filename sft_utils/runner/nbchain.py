"""All notebooks: what may start, what goes first, and the record of how long the whole took."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_utils.artifacts import write_json
from sft_utils.config import PROFILES
from sft_utils.errors import ConfigError, RunnerError, SFTError
from sft_utils.notebook.nbdeps import dependencies, upstream_closure
from sft_utils.notebook.nbsource import Layout
from sft_utils.runner.nbflow import Outcome, Run, attempt, expected_s, is_fresh
from sft_utils.runner.nbjobs import Jobs, threads_beside
from sft_utils.runner.nbprogress import say


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A finished `run_all`."""

    outcomes: list[Outcome]  # in the order of the notebooks' numbers
    jobs: int
    elapsed_s: float  # seconds from the first start to the last end


def run_all(
    runs: Sequence[Run],
    models: dict[str, str],
    *,
    jobs: int = 1,
    force: bool = False,
    cell_timeout_s: int | None = None,
    show: Callable[[str], None] = say,
) -> Chain:
    """Run all; a failure blocks what requires it, and nothing else.

    One at a time they run in the order of their numbers. With several, each starts as soon as
    what it reads has ended, those first behind which most work waits. The same call afterwards
    runs what failed, was blocked or has changed.

    Args:
        runs: What to run, in the order of the numbers, all of one profile.
        models: Profile -> base model, for the cost tables.
        jobs: How many at a time; a process each, with its share of the cores.
        force: Run even what is unchanged.
        cell_timeout_s: Limit per cell in seconds.
        show: Receives each progress line.
    Returns:
        One outcome per notebook. The message of each failure has been shown when it came.
    Raises:
        ConfigError: Fewer than one at a time, or several on a GPU.
        RunnerError: Notebooks that wait for each other.
    """
    _check_jobs(jobs, [run.profile for run in runs])
    began = time.monotonic()
    if jobs > 1:
        runs = [dataclasses.replace(run, threads=threads_beside(jobs)) for run in runs]
    plan = _Plan(runs, jobs)
    settings = {"force": force, "cell_timeout_s": cell_timeout_s}
    with Jobs(jobs, models, settings) as side_by_side:
        while plan.waiting or side_by_side.running:
            run = plan.next() if side_by_side.free else None
            if run is None and side_by_side.running:
                for ended, outcome in side_by_side.ended():
                    plan.done(ended, outcome, show)
            elif run is None:
                raise RunnerError(plan.deadlock())
            elif run.notebook in plan.broken:
                plan.done(run, _not_run(run, "failed", plan.broken[run.notebook]), show)
            elif missing := plan.lost(run):
                needs = ", ".join(name.split("_")[0] for name in missing)
                show(f"{run.notebook} [{run.profile}] not run: it needs {needs}, which failed")
                plan.done(run, _not_run(run, "blocked"), show)
            elif jobs == 1 or (not force and _is_done(run)):
                plan.done(run, attempt(run, models, show=show, **settings), show)
            else:
                side_by_side.start(run)
    outcomes = [plan.outcomes[run.notebook] for run in runs]
    return Chain(outcomes=outcomes, jobs=jobs, elapsed_s=time.monotonic() - began)


def _is_done(run: Run) -> bool:
    """Whether a run can be skipped; what cannot even be asked fails alone, when it is started."""
    try:
        return is_fresh(run)
    except SFTError:
        return False


def _check_jobs(jobs: int, profiles: Sequence[str]) -> None:
    if jobs < 1:
        raise ConfigError(f"JOBS={jobs}: at least one notebook at a time")
    gpu = sorted({p for p in profiles if PROFILES[p].is_gpu})
    if jobs > 1 and gpu:
        raise ConfigError(
            f"JOBS={jobs} at profile {gpu[0]}: the notebooks would share the memory of one GPU, "
            "and their peaks and times would say nothing. Leave JOBS out."
        )


def _not_run(run: Run, status: str, why: str = "") -> Outcome:
    return Outcome(notebook=run.notebook, status=status, wall_s=0.0, result={}, why=why)


class _Plan:
    """What waits, what it waits for, and what goes first."""

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.waiting = list(runs)
        self.outcomes: dict[str, Outcome] = {}
        self.broken: dict[str, str] = {}  # what cannot even be read -> why
        names = {run.notebook for run in runs}
        self.needs: dict[str, set[str]] = {}  # in this chain; must have succeeded
        self.after: dict[str, set[str]] = {}  # in this chain; must have ended
        for run in runs:
            needed, read = self._reads(run)
            self.needs[run.notebook], self.after[run.notebook] = (
                needed & names,
                (needed | read) & names,
            )
        if jobs > 1:
            cost = {run.notebook: _cost(run) for run in runs}
            behind = {name: self._behind(name, cost, set()) for name in names}
            self.waiting.sort(key=lambda run: -behind[run.notebook])

    def _reads(self, run: Run) -> tuple[set[str], set[str]]:
        """What a notebook requires and what it reads if it is there; nothing if it is broken."""
        try:
            needed = set(upstream_closure(run.layout, run.notebook))
            return needed, set(dependencies(run.layout, run.notebook).optional)
        except RunnerError as error:
            self.broken[run.notebook] = str(error)
            return set(), set()

    def _behind(self, name: str, cost: Mapping[str, float], seen: set[str]) -> float:
        """Seconds of the longest way from the start of a notebook to the end of the chain."""
        later = [n for n, before in self.after.items() if name in before and n not in seen]
        return cost[name] + max((self._behind(n, cost, seen | {n}) for n in later), default=0.0)

    def next(self) -> Run | None:
        """The first of those that may start, taken from the list; None if all must wait."""
        for run in self.waiting:
            if self.after[run.notebook] <= set(self.outcomes):
                self.waiting.remove(run)
                return run
        return None

    def deadlock(self) -> str:
        """Why nothing runs although notebooks wait."""
        waits = {
            run.notebook: self.after[run.notebook] - set(self.outcomes) for run in self.waiting
        }
        lines = [f"{name} waits for {', '.join(sorted(on))}" for name, on in waits.items()]
        return "\n".join(
            ["not run, because these wait for each other. Remove a require(...) or recorded(...):",
             *lines]
        )  # fmt: skip

    def lost(self, run: Run) -> list[str]:
        """What this notebook requires and is not there, because it failed or was blocked."""
        bad = {n for n, o in self.outcomes.items() if o.status in ("failed", "blocked")}
        return sorted(bad & self.needs[run.notebook])

    def done(self, run: Run, outcome: Outcome, show: Callable[[str], None]) -> None:
        """Take an outcome down; a failure is shown now, not only at the end."""
        self.outcomes[run.notebook] = outcome
        if outcome.why:
            show(outcome.why)


def _cost(run: Run) -> float:
    """Seconds a notebook is expected to take; those of cpu order the other profiles too."""
    profiles = (run.profile, "cpu")
    known = (expected_s(run.layout, run.notebook, profile) for profile in profiles)
    return next((seconds for seconds in known if seconds is not None), 1.0)


def check_recordable(runs: Sequence[Run]) -> None:
    """Refuse, before anything runs, to record a chain that is not the one readers run.

    Raises:
        ConfigError: Parameters that differ from the defaults.
    """
    changed = [f"{run.notebook} {dict(run.params)}" for run in runs if run.params]
    if changed:
        raise ConfigError(f"RECORD=1 is for default parameters only: {', '.join(changed)}")


def record(layout: Layout, chain: Chain, profile: str) -> Path:
    """Write how long the whole chain took, for README's table. All notebooks must have run.

    Raises:
        RunnerError: One of them found work done, so the time is not that of the whole.
    """
    partly = [o.notebook for o in chain.outcomes if o.result.get("continued")]
    if partly:
        raise RunnerError(
            f"not recorded: {', '.join(partly)} went on from what an earlier run had stored. "
            f"Remove outputs/runs/{profile}/NOTEBOOK/trials (if it is there), then run all again"
        )
    path = layout.chains / f"{profile}-{chain.jobs}.json"
    first = chain.outcomes[0].result
    facts = {
        "profile": profile,
        "hardware": first.get("hardware", "unknown"),
        "at_once": chain.jobs,
        "threads": first.get("threads"),
        "wall_s": round(chain.elapsed_s, 1),
        "notebooks_s": {o.notebook: round(o.wall_s, 1) for o in chain.outcomes},
        "peak_rss_gib": {o.notebook: o.result.get("peak_rss_gib") for o in chain.outcomes},
        "measured_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(path, facts)
    return path
