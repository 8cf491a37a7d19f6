"""Execute one notebook in a fresh kernel of this interpreter, and explain a failure."""

import logging
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
from nbformat import NotebookNode

from sft_utils.artifacts import storage_error
from sft_utils.config import OFFLINE
from sft_utils.errors import RunnerError
from sft_utils.formats import clock
from sft_utils.notebook.nbsource import Layout
from sft_utils.runner.nbprogress import GIB, HEARTBEAT_S, Monitor, say

if TYPE_CHECKING:  # papermill and its clients take a second: only an execution pays for them
    from jupyter_client import AsyncKernelManager

CPU_PROFILES = ("smoke", "cpu")  # these need no network, so a missing file must not wait for one
QUIET = {"WANDB_MODE": "dryrun", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FRAME = re.compile(r"^(Cell In\[\d+\], line \d+|File .+:\d+, in .+)", re.MULTILINE)
OWN_FILE = ("data", "schema", "mapping")  # parameters with a variable of their own in make
MESSAGE_CHARS = 2000  # of the exception's text; a schema error can hold a whole document


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an execution cost."""

    wall_s: float  # seconds from kernel start to kernel end
    peak_rss_gib: float  # sum over the kernel's process tree, sampled each second


def kernel_env(layout: Layout, profile: str) -> dict[str, str]:
    """The environment of the kernel; what the user has set stays.

    GPU profiles may load from the hub, so they are not forced offline.
    """
    preset = QUIET | (OFFLINE if profile in CPU_PROFILES else {})
    paths = [str(layout.root), os.environ.get("PYTHONPATH", "")]
    return {
        **preset,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "SFT_RUNS": str(layout.runs_root),
    }


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A short-lived folder for sockets, whose whole path has at most 107 characters (macOS: 103).

    Batch systems and CI set a TMPDIR that is too long for that; /tmp is there on every Unix.
    """
    return tempfile.TemporaryDirectory(dir="/tmp" if len(tempfile.gettempdir()) > 70 else None)


def kernel_manager(
    sockets: Path, env: dict[str, str], log: IO[bytes]
) -> "type[AsyncKernelManager]":
    """A kernel manager class that starts this interpreter with `env`.

    A kernelspec in the user's home may name another Python; the notebook must see the same
    packages as the runner. What the kernel process itself says goes to `log`.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class OwnKernelManager(AsyncKernelManager):
        # Unix sockets: works with the network off (even loopback), and nobody can listen in.
        transport = "ipc"
        ip = str(sockets / "kernel")

        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )

        async def start_kernel(self, **kwargs: Any) -> None:
            await super().start_kernel(**(kwargs | {"env": env, "stdout": log, "stderr": log}))

    return OwnKernelManager


def execute(
    layout: Layout,
    notebook: str,
    profile: str,
    nb: NotebookNode,
    params: Mapping[str, Any],
    *,
    expected_s: float | None = None,
    cell_timeout_s: int | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    show: Callable[[str], None] = say,
) -> Measured:
    """Run every cell; the executed notebook is saved after each, complete or not.

    Args:
        layout: Where things are; the kernel works in its root.
        notebook: Full name.
        profile: Profile name, for paths and for the environment.
        nb: The built notebook.
        params: Values to inject; empty injects no cell.
        expected_s: Wall time of the last run, for the time left.
        cell_timeout_s: Limit per cell in seconds; None means none.
        heartbeat_s: Seconds between progress lines.
        show: Receives each progress line.
    Raises:
        RunnerError: A cell failed, took too long, or the kernel died. The message says
            where, why and how to repeat it.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output = layout.run_file(notebook, profile, ".ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    log_file = layout.run_file(notebook, profile, ".kernel.log")
    # papermill reads parameters by a pattern that a comment can break, and then calls a known one
    # unknown. `nbparams` reads the tree, and has refused what is unknown before this.
    logging.getLogger("papermill.translators").setLevel(logging.ERROR)
    logging.getLogger("papermill").addFilter(_is_news)
    # Tasks that an interrupt leaves behind report the end of their kernel, with a traceback.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # parameterised first, so that cell numbers in hooks and in `nb` agree
    ready = papermill.execute_notebook(
        nb, None, parameters=dict(params), prepare_only=True, kernel_name="python3"
    )
    monitor = Monitor(
        ready.cells,
        expected_s=expected_s,
        progress_file=layout.run_file(notebook, profile, ".progress.json"),
        heartbeat_s=heartbeat_s,
        show=show,
    )
    try:
        with monitor, log_file.open("wb") as log, socket_folder() as sockets:
            # Start-up files of the user's IPython would run before the first cell, and its
            # history is a database that can hang where the home is on a network.
            env = {"IPYTHONDIR": sockets, **kernel_env(layout, profile)}
            papermill.execute_notebook(
                ready,
                str(output),
                cwd=str(layout.root),
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=cell_timeout_s,
                kernel_manager_class=kernel_manager(Path(sockets), env, log),
                on_cell_execute=monitor.cell_start,
                on_cell_executed=monitor.cell_end,
            )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"[:MESSAGE_CHARS]
        reason += _last_frame(error.traceback, layout.root)
    except CellTimeoutError:
        reason = f"CellTimeoutError: the cell ran longer than {cell_timeout_s} s (--cell-timeout)"
    except RuntimeError as error:  # a kernel that dies before its first cell is no DeadKernelError
        if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):
            raise
        reason = _death(monitor, log_file)
    except OSError as error:  # papermill cannot save the notebook
        raise storage_error(output, error) from error
    else:
        return Measured(wall_s=monitor.elapsed_s, peak_rss_gib=monitor.peak_bytes / GIB)
    raise RunnerError(_failure(notebook, profile, params, monitor, reason, _shown(layout, output)))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether papermill says something that `nbparams` does not know better."""
    return not record.getMessage().startswith("Passed unknown parameter")


def _shown(layout: Layout, path: Path) -> str:
    return str(path.relative_to(layout.root) if path.is_relative_to(layout.root) else path)


def _death(monitor: Monitor, log_file: Path) -> str:
    said = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in said if "[IPKernelApp]" not in line][-5:]
    peak, machine = monitor.peak_bytes / GIB, psutil.virtual_memory().total / GIB
    reason = (
        "DeadKernelError: the kernel was killed, probably out of memory "
        f"(last measured {peak:.1f} GiB of {machine:.1f} GiB). Close other programs, run one "
        "notebook at a time (no JOBS), or use a smaller profile, batch or model."
    )
    if monitor.current is None:
        reason = (
            "DeadKernelError: the kernel ended before the first cell. What it said follows, if "
            "anything; without that, free memory or repair the environment: make setup"
        )
    return "\n".join([reason, *said])


def _last_frame(traceback: list[str], root: Path) -> str:
    """The innermost frame in the notebook or in this repository, as one more line."""
    frames = FRAME.findall(ANSI.sub("", "\n".join(traceback)))
    own = [f for f in frames if f.startswith("Cell In") or _is_own_file(f, root)]
    return f"\nat {own[-1].replace(str(root) + os.sep, '')}" if own else ""


def _is_own_file(frame: str, root: Path) -> bool:
    path = os.path.expanduser(frame.removeprefix("File ").split(":")[0])
    return path.startswith(str(root)) and "site-packages" not in path


def _failure(
    notebook: str,
    profile: str,
    params: Mapping[str, Any],
    monitor: Monitor,
    reason: str,
    output: str,
) -> str:
    lines = [f"{notebook} failed at profile {profile} after {clock(monitor.elapsed_s)}"]
    if monitor.current is not None:
        lines.append(f"in {monitor.place(monitor.current)}:")
        source = monitor.cells[monitor.current].source.strip().splitlines()
        lines += [f"    {line}" for line in source[:5]] + ["    ..."] * (len(source) > 5)
    lines += reason.splitlines()
    lines.append(f"notebook so far: {output}")
    lines.append(f"repeat just this one: {repeat_command(notebook, profile, params)}")
    return "\n".join(lines)


def repeat_command(notebook: str, profile: str, params: Mapping[str, Any]) -> str:
    """The make command that runs one notebook again with the same parameters.

    Each value comes back from the shell, make and `nbparams.split` as it is here.

    Example:
        >>> repeat_command("03_x", "smoke", {"profile": "smoke", "data": "my file.csv", "rank": 8})
        "make nb NB=03 PROFILE=smoke PARAMS=rank=8 DATA='my file.csv'"
    """
    command = f"make nb NB={notebook[:2]} PROFILE={profile}"
    own = {name: value for name, value in params.items() if name in OWN_FILE}
    rest = [f"{k}={shlex.quote(str(v))}" for k, v in params.items() if k not in (*own, "profile")]
    given = {"PARAMS": " ".join(rest)} if rest else {}
    given |= {name.upper(): value for name, value in own.items()}
    return " ".join([command, *(f"{name}={shlex.quote(text)}" for name, text in given.items())])
