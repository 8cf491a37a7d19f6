"""Arms of a long check in processes of their own: time limits, deaths, one row for every arm.

An arm is a name that a worker process knows. Workers tell on stdout, in lines that begin with
`MARK`, that an arm begins and what came of it. Standard library only, so that the process that
watches holds no device and no library state.
"""

import contextlib
import ctypes
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT, write_json

MARK = "@@arm "
"""Begins the lines of a worker that are meant for `run`; libraries print on stdout as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One named piece of work, one row of the result."""

    name: str
    worker: str  # plain | ours | unsloth: the process it runs in
    limit_s: float  # killed after this


def tell(kind: str, **facts: object) -> None:
    """One line from inside a worker: "begin" with arm, "row" with arm and row, "unavailable"."""
    print(MARK + json.dumps({"kind": kind, **facts}), flush=True)


def run(
    todo: Sequence[Arm], job: dict[str, Any], command: Sequence[str], deadline: float,
    keep: Callable[[str, dict[str, Any]], None],
) -> None:  # fmt: skip
    """Run arms in worker processes; every arm gets exactly one row, whatever happens.

    Consecutive arms of one worker share a process. If it dies or hangs, the arm it was at gets the
    reason and the next one a new process.

    Args:
        todo: Arms that have no final row yet.
        job: What every worker is told; "work" is a folder.
        command: How to start a worker; the path of its job file is appended.
        deadline: `time.monotonic()` at which nothing may run any more.
        keep: Called with an arm's name and row as soon as there is one.
    """
    waiting = list(todo)
    while waiting:
        if time.monotonic() >= deadline:
            for arm in waiting:
                keep(arm.name, {"status": "no time left", "why": "the same command continues"})
            return
        worker = waiting[0].worker
        group = list(itertools.takewhile(lambda a, w=worker: a.worker == w, waiting))
        waiting = waiting[_worker(group, job | {"worker": worker}, command, deadline, keep) :]


def end_with_parent() -> Callable[[], None]:
    """A `preexec_fn` for Popen: on Linux the child is killed when this process is, in any way."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before the fork

    def in_child() -> None:
        if libc is not None:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    return in_child


def _worker(
    group: Sequence[Arm], job: dict[str, Any], command: Sequence[str], deadline: float,
    keep: Callable[[str, dict[str, Any]], None],
) -> int:  # fmt: skip
    """One process; returns how many arms of the group have their row, at least one."""
    file = Path(job["work"]) / "job.json"
    write_json(file, job | {"arms": [a.name for a in group]})
    process = subprocess.Popen(
        [*command, str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, cwd=ROOT, errors="replace",
    )  # fmt: skip
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    patience = 5.0  # seconds that a worker with nothing to do gets to end by itself
    try:
        for done, arm in enumerate(group):
            row, begun = _next_row(lines, arm.limit_s, deadline)
            if row is None and done and not begun:
                return done  # it ended between two arms, as it does after running out of memory
            died = row is None
            if row is None:
                row = _death(process, begun)
            if row["status"] == "unavailable" or not begun:  # so would be all its other arms
                for other in group[done:]:
                    keep(other.name, row)
                return len(group)
            keep(arm.name, row)
            if died:
                return done + 1
            if row["status"] in ("timed out", "no time left"):
                patience = 0.0
                return done + 1
        return len(group)
    finally:
        _end(process, patience)


def _read(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    for text in process.stdout or ():
        lines.put(text)
    lines.put(None)


def _next_row(
    lines: "queue.Queue[str | None]", limit_s: float, deadline: float
) -> tuple[dict[str, Any] | None, str]:
    """The next row a worker tells (None: it ended without one), and the last line of its arm.

    That line is empty as long as the arm has not begun.
    """
    until, last = min(time.monotonic() + limit_s, deadline), ""
    while True:
        try:
            text = lines.get(timeout=max(until - time.monotonic(), 0.01))
        except queue.Empty:
            if until == deadline:
                why = "stopped when the time was up; the same command continues"
                return {"status": "no time left", "why": why}, last or "did not begin"
            why = f"stopped after {limit_s:.0f} s; last line: {last[:200]}"
            return {"status": "timed out", "why": why}, last or "did not begin"
        if text is None:
            return None, last
        if not text.startswith(MARK):
            last = text.strip() or last if last else ""
            continue
        said = json.loads(text.removeprefix(MARK))
        if said["kind"] == "unavailable":
            return {"status": "unavailable", "why": said["why"]}, last
        if said["kind"] == "row":
            return said["row"], last
        last = f"began {said['arm']}"


def _death(process: subprocess.Popen[str], last: str) -> dict[str, Any]:
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    where = f"last line: {last[:300]}" if last else "before its first arm began"
    return {"status": "failed", "why": f"the process ended ({how}); {where}"}


def _end(process: subprocess.Popen[str], patience_s: float) -> None:
    """End a worker and whatever it has started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=patience_s)
    with contextlib.suppress(ProcessLookupError):  # nobody of its group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
