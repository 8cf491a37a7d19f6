"""Several arms, each in a process of its own, that work in turns: A B C, B C A, C A B …

Why processes: an arm that patches a library or fragments the heap must not change the next one, and
the peak memory of a process belongs to one arm only. Why turns of one step: whatever else runs on
the machine slows neighbours in the table alike, so ratios stay right when times do not. Processes
are forked after the libraries are imported, which takes ten seconds each otherwise.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sft_utils.errors import ServeError
from sft_utils.formats import clock
from sft_utils.runner.nbprogress import say
from sft_utils.runtime import GIB, peak_rss_gib

REST_S = 0.25
"""Pause between turns: threads of the last worker spin for a while before they sleep."""

Report = dict[str, Any]
Target = Callable[[Any, Callable[[Report], None], Callable[[], None]], None]
"""What a process runs: (spec, answer, wait). It answers once when ready and once per turn; `wait`
returns when its turn has come, and ends the process when there will be none."""


class Worker:
    """One arm's process."""

    def __init__(self, name: str, target: Target, spec: Any, folder: Path) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        linux = sys.platform == "linux"
        context = multiprocessing.get_context("fork" if linux else "spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=_run, args=(target, spec, other, self.log), daemon=True
        )
        self.process.start()
        other.close()

    def go(self) -> Report:
        """Let it take one turn; returns its report.

        Raises:
            ServeError: The process ended instead; the message holds the end of its log.
        """
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send("go")
        return self.report()

    def report(self) -> Report:
        """Its next report."""
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        killed = self.process.exitcode == -signal.SIGKILL
        hint = " (killed, most likely out of memory: take fewer with --arms)" if killed else ""
        raise ServeError(
            f"bench arm {self.name!r} ended with status {self.process.exitcode}{hint}:\n"
            + "\n".join(said)
        )

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _run(target: Target, spec: Any, pipe: Connection, log: Path) -> None:
    """The inside of a worker: what libraries print goes to the log; it dies with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    sys.stdout = sys.stderr = file = log.open("w", encoding="utf-8", buffering=1)
    os.dup2(file.fileno(), 1)  # what libraries in C say
    os.dup2(file.fileno(), 2)

    def wait() -> None:
        try:
            pipe.recv()
        except EOFError:
            sys.exit(0)

    target(spec, pipe.send, wait)


def own_peak_gib() -> float:
    """Largest resident memory of this process alone; what a parent had before the fork is in it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_rss_gib()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


@contextmanager
def workers(target: Target, specs: Mapping[str, Any]) -> Iterator[list[Worker]]:
    """One process per arm, ready for its first turn; all are ended on the way out."""
    started: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            for name, spec in specs.items():
                started.append(Worker(name, target, spec, Path(folder)))
                started[-1].report()  # one at a time: loading is work too
            yield started
        finally:
            for worker in started:
                worker.end()


def in_turns(
    arms: Sequence[Worker], rounds: int, *, show: Callable[[str], None] = say
) -> dict[str, list[Report]]:
    """`rounds` turns of every arm, each round begun by another arm; reports by arm.

    Args:
        arms: Ready workers.
        rounds: Turns per arm.
        show: Receives one line per round: seconds of each arm and the time left.
    """
    reports: dict[str, list[Report]] = {arm.name: [] for arm in arms}
    began = time.monotonic()
    for number in range(rounds):
        first = number % len(arms)
        for arm in [*arms[first:], *arms[:first]]:
            time.sleep(REST_S)
            reports[arm.name].append(arm.go())
        left = (time.monotonic() - began) / (number + 1) * (rounds - number - 1)
        took = ", ".join(f"{name} {r[-1]['seconds']:.2f}" for name, r in reports.items())
        show(f"  round {number + 1}/{rounds}, about {clock(left)} left; seconds: {took}")
    return reports
