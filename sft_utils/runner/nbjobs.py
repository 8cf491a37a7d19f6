"""Several notebooks at a time: one per worker process, each with its share of the cores.

Small work does not keep two cores busy, so two notebooks side by side, with one thread each, end
sooner than one after the other. How much: sft_utils/README.md, Decisions.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sft_utils.config import cpu_threads
from sft_utils.runner.nbflow import Outcome, Run, attempt, set_aside
from sft_utils.runner.nbprogress import say

THREAD_SETTINGS = ("SFT_THREADS", "OMP_NUM_THREADS")
END_S = 20.0  # seconds a notebook has to end its kernel after an interrupt


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(jobs: int) -> int:
    """Threads of one of `jobs` notebooks: as alone, but never more in all than there are cores."""
    return max(1, min(cpu_threads(), cores() // jobs))


def threads_beside(jobs: int) -> int:
    """Threads that one of `jobs` notebooks really has: what the user has set, else its share."""
    return cpu_threads() if "SFT_THREADS" in os.environ else threads_each(jobs)


@dataclass(slots=True)
class _Worker:
    """A process that runs one notebook after the other: starting it takes seconds of imports."""

    process: SpawnProcess
    pipe: Connection
    run: Run | None = None  # what it works on
    began: float = 0.0  # monotonic seconds


class Jobs:
    """Starts notebooks beside each other and hands their outcomes back as they end.

    As a context manager it ends what still runs when the block is left by an error or an
    interrupt; each notebook is interrupted once and ends its kernel itself.

    Args:
        jobs: How many run at a time.
        models: Profile -> base model, for the cost tables.
        settings: Keyword arguments of `nbflow.run_one`.
    """

    def __init__(self, jobs: int, models: dict[str, str], settings: Mapping[str, Any]) -> None:
        self.jobs = jobs
        self.models = models
        self.settings = dict(settings)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # one that waits for work ends with it
            if worker.run is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGINT)
        for worker in self._workers:
            worker.process.join(END_S)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()

    @property
    def running(self) -> list[str]:
        """Notebooks started and not yet handed back."""
        return [worker.run.notebook for worker in self._workers if worker.run is not None]

    @property
    def free(self) -> bool:
        """Whether another notebook may start."""
        return len(self.running) < self.jobs

    def start(self, run: Run) -> None:
        """Start one notebook, in a process that waits for work or in a new one."""
        idle = (w for w in self._workers if w.run is None and w.process.is_alive())
        worker = next(idle, None) or self._new()
        worker.run, worker.began = run, time.monotonic()
        with contextlib.suppress(OSError):  # it is gone already: `ended` says so
            worker.pipe.send(run)

    def ended(self) -> list[tuple[Run, Outcome]]:
        """Wait until at least one notebook has ended; what became of it."""
        # A pipe is ready when it holds an outcome, and when the process at its other end is gone.
        busy = [worker for worker in self._workers if worker.run is not None]
        ready = wait([worker.pipe for worker in busy])
        return [self._outcome(worker) for worker in busy if worker.pipe in ready]

    def _new(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self.models, self.settings, self.jobs, theirs, os.getpid())
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _outcome(self, worker: _Worker) -> tuple[Run, Outcome]:
        run, worker.run = worker.run, None
        with contextlib.suppress(EOFError, OSError):
            return run, worker.pipe.recv()
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        set_aside(run)
        why = (
            f"{run.notebook} failed at profile {run.profile}: the process that ran it ended with "
            f"status {worker.process.exitcode} and said nothing."
        )
        if worker.process.exitcode == -signal.SIGKILL:
            why += " It was killed, mostly because memory ran out: repeat without JOBS."
        spent = time.monotonic() - worker.began
        return run, Outcome(
            notebook=run.notebook, status="failed", wall_s=spent, result={}, why=why
        )


def _work(
    models: dict[str, str],
    settings: Mapping[str, Any],
    jobs: int,
    pipe: Connection,
    parent: int,
) -> None:
    """Run the notebooks that come through the pipe, until it is closed."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches the parent, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for name in THREAD_SETTINGS:
        os.environ.setdefault(name, str(threads_each(jobs)))
    with pipe, contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        while True:
            run = pipe.recv()
            pipe.send(attempt(run, models, show=prefixed(run.notebook), at_once=jobs, **settings))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone; the kernel then ends by itself."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def prefixed(notebook: str) -> Callable[[str], None]:
    """A `show` that says of each line which notebook it is about."""
    number = notebook.split("_")[0]
    return lambda line: say(f"{number} | {line}")
