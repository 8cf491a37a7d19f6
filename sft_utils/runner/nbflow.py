"""Run notebooks, skip the unchanged; a failure stops only what needs it."""

import contextlib
import datetime
import fcntl
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json, sha256_json, sha256_path, storage_error, write_json
from sft_utils.config import PROFILES, cpu_threads
from sft_utils.errors import ConfigError, DataError, RunnerError, SFTError
from sft_utils.formats import aligned, clock, interval, number
from sft_utils.notebook.nbdeps import data_hashes, state_hash
from sft_utils.notebook.nbparams import Scalar, convert, defaults, split
from sft_utils.notebook.nbsource import Layout, build, parse, read_source
from sft_utils.notebook.readme import checks_passed
from sft_utils.runner.leftovers import stored_work, taken_up
from sft_utils.runner.nbexec import OWN_FILE, execute, repeat_command
from sft_utils.runner.nbprogress import HEARTBEAT_S, say

SUFFIXES = (
    ".json",
    ".failed.json",
    ".state.json",
    ".progress.json",
    ".kernel.log",
)  # what an interrupted run must not leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One thing to do: a notebook at a profile with parameters."""

    layout: Layout
    notebook: str
    profile: str
    params: Mapping[str, Scalar]  # those that differ from the defaults; without profile
    threads: int | None = None  # on a CPU; None: those of this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    notebook: str
    status: str  # "ok", "unchanged", "failed", or "blocked": something it requires failed
    wall_s: float  # seconds spent now; 0 for an unchanged notebook
    result: Mapping[str, Any]  # the result JSON; empty after a failure
    why: str = ""  # message of a failure


def plan(layout: Layout, notebooks: Sequence[str], profile: str, given: Sequence[str]) -> list[Run]:
    """Check the parameters of all runs before the first one starts.

    Args:
        layout: Where things are.
        notebooks: Full names.
        profile: A known profile name.
        given: `name=value` items. With several notebooks a parameter goes to those that
            have it.
    Raises:
        ConfigError: A parameter that none of the notebooks has, one of a wrong type or out of
            bounds, one that says how to read a file where no file is given, or a folder for a file.
    """
    values = split(given)
    known = {nb: defaults(parse(read_source(layout, nb), nb)) for nb in notebooks}
    for notebook, params in known.items():
        if "profile" not in params:
            raise ConfigError(
                f"notebook {notebook} has no parameter `profile`, so it cannot be run at "
                f'{profile!r}. Add `profile: str = "cpu"` to its cell tagged `parameters`.'
            )
    orphans = [n for n in values if not any(n in params for params in known.values())]
    runs = []
    for notebook, params in known.items():
        names = values if len(notebooks) == 1 else [n for n in values if n in params]
        chosen = {name: values[name] for name in [*names, *orphans]}
        changed = convert(notebook, params, chosen)
        lost = [n for n in OWN_FILE if n in changed and "data" in params and "data" not in changed]
        if lost:
            raise ConfigError(
                f"parameter {lost[0]} of {notebook} says how to read a file of yours, and none is "
                f"given. Add DATA=file, or leave {lost[0].upper()}= out."
            )
        for name in {*OWN_FILE, "file"} & changed.keys():  # one of them would be read and hashed
            if os.path.isdir(layout.root / os.path.expanduser(place := str(changed[name]))):
                said = f"parameter {name} of {notebook}: {place} is a folder. Name a file."
                raise ConfigError(said)
        runs.append(Run(layout=layout, notebook=notebook, profile=profile, params=changed))
    return runs


def read_state(layout: Layout, notebook: str, profile: str) -> Mapping[str, Any]:
    """The state a successful run left; empty if there is none or a part of it is gone.

    The files it handed on are a part: the notebook that misses one names the command of this one.
    So is its result: a notebook run by hand writes into the same file, and is another run.
    """
    state, said, ran = (
        layout.run_file(notebook, profile, s) for s in (".state.json", ".json", ".ipynb")
    )
    if not (state.is_file() and said.is_file() and ran.is_file()):
        return {}
    try:
        recorded, result = read_json(state), read_json(said)
    except DataError:  # nothing that counts as finished; the next run writes both anew
        return {}
    if recorded.get("result_sha256", sha256_json(result)) != sha256_json(result):
        return {}  # states without the field are of runs from before it was recorded
    folder = layout.run_file(notebook, profile, "")
    for entry in result.get("files", {}).values():
        path = folder / Path(entry["path"]).name  # as artifacts.handed_file reads it
        if not path.exists() or sha256_path(path) != entry["sha256"]:
            return {}
    return recorded


def is_fresh(run: Run) -> bool:
    """Whether the last run succeeded and nothing it depends on has changed since."""
    state = read_state(run.layout, run.notebook, run.profile)
    return bool(state) and state["state_hash"] == _hash(run)


def _hash(run: Run) -> str:
    return state_hash(run.layout, run.notebook, run.profile, run.params, run.threads)


def run_one(
    run: Run,
    models: dict[str, str],
    *,
    force: bool = False,
    cell_timeout_s: int | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    at_once: int = 1,
    show: Callable[[str], None] = say,
) -> Outcome:
    """Run one notebook unless it is unchanged, and record what it cost.

    Wall time and peak memory are written into the notebook's result file, which must exist
    when it ends; leftovers of an earlier run are removed first, and what a failed run had saved
    is set aside (`set_aside`), so that it can never be mistaken for a finished one. A run that
    went on from stored work of an earlier one says so ("continued"): its time is not the work's.

    Args:
        run: What to run.
        models: Profile -> base model, for the cost table.
        force: Run even if unchanged.
        cell_timeout_s: Limit per cell in seconds.
        heartbeat_s: Seconds between progress lines.
        at_once: How many notebooks share the cores while it runs; recorded beside its time.
        show: Receives each progress line.
    Raises:
        RunnerError: It failed, or it wrote no result file.
    """
    result_file = run.layout.run_file(run.notebook, run.profile, ".json")
    if not force and is_fresh(run):
        show(f"{run.notebook} [{run.profile}] unchanged, skipped (0 s)")
        result = read_json(result_file)
        return Outcome(notebook=run.notebook, status="unchanged", wall_s=0.0, result=result)
    expected = expected_s(run.layout, run.notebook, run.profile)
    takes = "unknown" if expected is None else f"about {clock(expected)}"
    show(f"{run.notebook} [{run.profile}] expected time: {takes}")
    before, data = _hash(run), data_hashes(run.layout, run.notebook)
    folder = run.layout.run_file(run.notebook, run.profile, "")
    stored = stored_work(folder)
    for suffix in SUFFIXES:
        run.layout.run_file(run.notebook, run.profile, suffix).unlink(missing_ok=True)
    nb = build(run.layout, run.notebook, models)
    profile = {} if defaults(nb)["profile"] == run.profile else {"profile": run.profile}
    try:
        cost = execute(
            run.layout,
            run.notebook,
            run.profile,
            nb,
            profile | dict(run.params),
            expected_s=expected,
            cell_timeout_s=cell_timeout_s,
            heartbeat_s=heartbeat_s,
            show=show,
        )
    except BaseException:  # an interrupt too
        set_aside(run)
        raise
    if not result_file.is_file():
        repeat = repeat_command(run.notebook, run.profile, run.params)
        raise RunnerError(
            f"{run.notebook} ran to its end but wrote no {result_file.name}. Its checkpoint cell "
            f"must save the result (artifacts.result_path). Repeat: {repeat}"
        )
    continued = taken_up(folder, stored)
    result = read_json(result_file) | {
        "wall_s": round(cost.wall_s, 1),
        "peak_rss_gib": round(cost.peak_rss_gib, 3),
        "at_once": at_once,
        **({} if PROFILES[run.profile].is_gpu else {"threads": cpu_threads()}),
        **({"continued": True} if continued else {}),
        "measured_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(result_file, result)
    # What took its share of a machine, or found work done, says little about the next run alone.
    if at_once == 1 and not continued:
        _record_time(run, cost.wall_s)
    _record_state(run, before, cost.wall_s, result, data)
    show(f"{run.notebook} [{run.profile}] done in {clock(cost.wall_s)}")
    return Outcome(notebook=run.notebook, status="ok", wall_s=cost.wall_s, result=result)


def set_aside(run: Run) -> None:
    """Rename what a run saved before it failed to NN_slug.failed.json: nothing reads that.

    A result that says itself that a check failed stays: the report shows it, `require` names it.
    """
    result_file = run.layout.run_file(run.notebook, run.profile, ".json")
    if result_file.is_file() and _readable(result_file).get("passed", True):
        result_file.replace(run.layout.run_file(run.notebook, run.profile, ".failed.json"))


def _record_time(run: Run, wall_s: float) -> None:
    times_file = run.layout.runs_root / run.profile / "times.json"
    write_json(times_file, _readable(times_file) | {run.notebook: round(wall_s, 1)})


def _record_state(
    run: Run, state: str, wall_s: float, result: Mapping[str, Any], data: Mapping[str, str]
) -> None:
    """Written last of all: it makes the run count as finished."""
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(
        run.layout.run_file(run.notebook, run.profile, ".state.json"),
        {
            "state_hash": state,
            "finished": finished,
            "wall_s": round(wall_s, 1),
            "result_sha256": sha256_json(result),
            "data": dict(data),  # alone, for those who ask what of it has changed
        },
    )


def expected_s(layout: Layout, notebook: str, profile: str) -> float | None:
    """Wall time to expect: of the last own run, else what is committed, else unknown.

    Committed are the times of published notebooks, and those of chains (`make run-all RECORD=1`),
    in which other notebooks may have run beside it.
    """
    chains = sorted(layout.chains.glob(f"{profile}-*.json"))
    known = (
        (layout.runs_root / profile / "times.json", lambda times: times.get(notebook)),
        (layout.reference(notebook, profile), lambda result: result.get("wall_s")),
        *((path, lambda chain: chain.get("notebooks_s", {}).get(notebook)) for path in chains),
    )
    found = (seconds(_readable(path)) for path, seconds in known)
    return next((seconds for seconds in found if seconds is not None), None)


def _readable(path: Path) -> dict[str, Any]:
    """What a file holds; nothing, where it is absent or broken and nothing depends on it."""
    try:
        return read_json(path) if path.is_file() else {}
    except DataError:
        return {}


def attempt(run: Run, models: dict[str, str], **settings: Any) -> Outcome:
    """`run_one`, with a failure as an outcome instead of an error. Arguments as there.

    Unforeseen errors too, with their place: else one notebook would end the chain of all others.
    """
    began = time.monotonic()
    try:
        return run_one(run, models, **settings)
    except SFTError as error:
        spent, why = time.monotonic() - began, str(error)
    except Exception as error:
        spent = time.monotonic() - began
        frame = traceback.extract_tb(error.__traceback__)[-1]
        why = (
            f"{run.notebook} failed at profile {run.profile}: {type(error).__name__}: {error}\n"
            f"at {frame.filename}:{frame.lineno}, in {frame.name}"
        )
    return Outcome(notebook=run.notebook, status="failed", wall_s=spent, result={}, why=why)


@contextlib.contextmanager
def lock(layout: Layout, profile: str) -> Iterator[None]:
    """Hold the profile's run folder, so that two runs do not overwrite each other.

    Raises:
        RunnerError: Another process holds it; the message names the process.
    """
    path = layout.runs_root / profile / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise storage_error(path, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise RunnerError(
                f"another run at profile {profile} is active ({handle.read().strip()}). "
                "Wait for it or stop it, then run the same command again."
            ) from error
        except OSError as error:
            say(
                f"note: this file system has no locks ({error.strerror}), so nothing would stop a "
                f"second run at profile {profile} from overwriting this one"
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()}")
        handle.flush()
        yield


def summary(outcomes: Sequence[Outcome], elapsed_s: float, jobs: int = 1) -> str:
    """The closing table of a run as aligned text, with the total time.

    Args:
        outcomes: One per notebook.
        elapsed_s: Seconds from the first start to the last end.
        jobs: How many notebooks ran at a time.
    """
    rows = [["notebook", "status", "time", "peak GiB", "checks", "headline", "n", "95 % interval"]]
    for outcome in outcomes:
        result = outcome.result
        metrics = result.get("metrics", {})
        name = result.get("headline", next(iter(metrics), ""))
        metric = metrics.get(name)
        peak = f"{result['peak_rss_gib']:.2f}" if "peak_rss_gib" in result else "-"
        tail = ["-", "-", "-"]
        if metric:
            value = f"{name} {number(metric['value'])}"
            tail = [value, str(metric.get("n", "-")), interval(metric)]
        row = [outcome.notebook, outcome.status, clock(outcome.wall_s), peak]
        rows.append([*row, checks_passed(result) if result else "-", *tail])
    total = f"total: {clock(elapsed_s)}"
    if jobs > 1:
        work = clock(sum(o.wall_s for o in outcomes))
        total += f", {jobs} notebooks at a time (sum of the notebooks: {work})"
    return f"{aligned(rows)}\n{total}"
