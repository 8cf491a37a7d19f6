"""What the terminal shows while a notebook runs, and how much memory its processes take."""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from nbformat import NotebookNode

from sft_utils.formats import clock
from sft_utils.notebook.nbsource import code_cells

GIB = 2**30
SAMPLE_S = 1.0
HEARTBEAT_S = 30.0
SLOW_CELL_S = 5.0


def say(line: str) -> None:
    """Print one line at once; logs and terminals get the same plain text.

    A locale of before Unicode has no arrows and middle dots: that is no reason to end a run.
    """
    try:
        print(line, flush=True)
    except UnicodeEncodeError as error:
        print(line.encode(error.encoding, "replace").decode(error.encoding), flush=True)


def nobody_reads() -> int:
    """The exit status after a BrokenPipeError: `make list | head` wants no more, and no traceback.

    What is still buffered would raise a second time when the interpreter ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def heading(cells: list[NotebookNode], index: int) -> str:
    """The markdown heading that a cell stands under, without the #; "" if there is none."""
    for cell in reversed(cells[: index + 1]):
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+)$", cell.source, flags=re.MULTILINE)
            if found:
                return found[-1].strip()
    return ""


def training_progress(path: Path) -> str:
    """What a training step wrote about itself, as one phrase; "" if there is nothing to read.

    The file may be gone or half-written while it is read: it is decoration, never a fact.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        done = f"{state['what']} {state['done']}/{state['total']}"
        return f"{done}, {clock(float(state['eta_s']))} left"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Monitor:
    """Follows one notebook from a thread: heartbeats, slow cells, peak memory.

    Memory is the sum of the resident sets of all processes started since `__enter__`
    (the kernel and what it launches), sampled each second and after each cell; pages shared
    between processes count once per process.

    Args:
        cells: The notebook's cells as executed (papermill's own included).
        expected_s: Wall time of the last run in seconds, if known.
        progress_file: File that training writes its state to.
        heartbeat_s: Seconds between heartbeats.
        show: Receives each line.
    """

    def __init__(
        self,
        cells: list[NotebookNode],
        *,
        expected_s: float | None,
        progress_file: Path,
        heartbeat_s: float = HEARTBEAT_S,
        show: Callable[[str], None] = say,
    ) -> None:
        self.cells = cells
        self.expected_s = expected_s
        self.progress_file = progress_file
        self.heartbeat_s = heartbeat_s
        self.show = show
        self.n_code = len(code_cells(NotebookNode(cells=cells)))
        self.current: int | None = None  # index of the cell that runs or ran last
        self.peak_bytes = 0
        self.started = self.cell_started = time.monotonic()
        self._others: set[int] = set()
        self._seen: dict[int, psutil.Process] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._others = {p.pid for p in psutil.Process().children(recursive=True)}
        self.started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sample()
        self._stop.set()
        self._thread.join()
        self._end_leftovers()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def cell_start(self, cell: NotebookNode, cell_index: int) -> None:
        """nbclient hook: a code cell starts."""
        self.current, self.cell_started = cell_index, time.monotonic()

    def cell_end(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        """nbclient hook: a code cell ended."""
        self.sample()
        took = time.monotonic() - self.cell_started
        if took > SLOW_CELL_S:
            self.show(f"  {clock(took):>12}  {self.place(cell_index)}")

    def place(self, index: int) -> str:
        """Which cell, under which heading: `cell 4/17, Which tokens carry loss?`."""
        number = len(code_cells(NotebookNode(cells=self.cells[: index + 1])))
        title = heading(self.cells, index)
        return f"cell {number}/{self.n_code}" + (f", {title}" if title else "")

    def sample(self) -> None:
        """Measure the memory of the kernel and everything below it now."""
        total = 0
        for process in psutil.Process().children(recursive=True):
            if process.pid in self._others:
                continue
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
                self._seen[process.pid] = process
        with self._lock:
            self.peak_bytes = max(self.peak_bytes, total)

    def heartbeat(self) -> str:
        """The line that says where the run is."""
        line = f"  {clock(self.elapsed_s):>12}  {self._left()}"
        if self.current is not None:
            line += f" | {self.place(self.current)}"
        training = training_progress(self.progress_file)
        return f"{line} | {training}" if training else line

    def _left(self) -> str:
        if self.expected_s is None:
            return "time left unknown"
        left = self.expected_s - self.elapsed_s
        return f"about {clock(left)} left" if left > 0 else "longer than the last run"

    def _follow(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(SAMPLE_S):
            self.sample()
            if time.monotonic() - last >= self.heartbeat_s:
                last = time.monotonic()
                self.show(self.heartbeat())

    def _end_leftovers(self) -> None:
        """End what the notebook started and left behind; a failed launch would hold memory."""
        alive = [p for p in self._seen.values() if p.is_running()]
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(alive, timeout=3)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()
