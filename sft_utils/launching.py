"""Start the ranks of a run, check what is really in force, watch them, leave none behind."""

import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sft_utils import rankrun
from sft_utils.artifacts import display_path
from sft_utils.errors import LaunchError
from sft_utils.generation import report_progress
from sft_utils.rankrun import MODULE, RankRun

LOG = "launcher.log"
FAILED = re.compile(r"rank\s*: (\d+) .*\n\s*exitcode\s*: (-?\d+)")
"""One entry of torchrun's closing report."""

Event = dict[str, Any]
Facts = dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a run that came to its end reported."""

    run: RankRun
    losses: list[float]  # of the global batch, one per optimizer step
    rows: list[list[int]]  # by rank: numbers of the rows in the order of training
    facts: Facts  # by rank
    steps: list[list[Event]]  # by rank
    wall_s: float  # from start to end of the command, imports included

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return Path(self.run.folder) / "adapter"

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all ranks per second of training, padding and the first step left out."""
        later = [[e for e in events if e["step"] > self.began + 1] for events in self.steps]
        seconds = max(sum(e["seconds"] for e in events) for events in later)
        return sum(e["tokens"] for events in later for e in events) / seconds if seconds else 0.0

    @property
    def began(self) -> int:
        """Step of the checkpoint that was continued, or 0."""
        return self.facts[0]["began"]


def launch(
    run: RankRun, *, command: Sequence[str] = (), progress: Path | None = None,
    watch: Callable[[Event, Facts], None] | None = None, start_s: float = 900.0,
    stall_s: float = 300.0, say: Callable[[str], None] | None = None,
) -> Finished:  # fmt: skip
    """Run all ranks on this machine to their end; repeated after a failure, it continues.

    Args:
        run: What to run; written to run.json in its folder.
        command: Replaces torchrun; it must start `python -m sft_utils.ranktrain run.json`.
        progress: File in which the notebook runner looks for progress.
        watch: Called with every step of rank 0 and the facts of all ranks.
        start_s: Seconds without any news from any rank after which the run is ended, before its
            first step: models are loaded then.
        stall_s: The same, later.
        say: Receives one line per step of rank 0.
    Returns:
        Losses, rows, memory and speed.
    Raises:
        LaunchError: Another number of processes or another strategy is in force, a rank died, or
            all stand still. No process of the run is left then.
    """
    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("rank-*.json"):
        old.unlink()
    file = str(run.write())
    default = rankrun.single(file) if run.world_size == 1 else rankrun.torchrun(
        file, processes=run.world_size, logs=str(folder / "logs")
    )  # fmt: skip
    began = time.monotonic()
    with (folder / LOG).open("w", encoding="utf-8") as log:
        process = _start([*(command or default)], run, log)
    family: dict[int, psutil.Process] = {}
    try:
        _follow(process, run, family, progress, watch, (start_s, stall_s), say)
    finally:
        _end(process, family, folder)
    if process.returncode:
        raise LaunchError(_obituary(run, process.returncode, time.monotonic() - began))
    return collect(run, time.monotonic() - began)


def _start(command: list[str], run: RankRun, log: Any) -> Any:
    """The command in a process group of its own; on Linux it ends when this process is killed."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_parent() -> None:  # in the child: PR_SET_PDEATHSIG
        if libc is not None:
            libc.prctl(1, signal.SIGKILL)

    loopback = "lo" if sys.platform == "linux" else "lo0"
    environment = {
        "GLOO_SOCKET_IFNAME": loopback,  # one machine: no name must be resolved, no network is up
        **os.environ,
        "OMP_NUM_THREADS": str(run.threads), "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1", "DS_ACCELERATOR": run.device,
    }  # fmt: skip
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    if Path(run.model).is_dir():
        environment |= {"HF_HUB_OFFLINE": "1"}
    try:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip
    except OSError as error:
        raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from error


def _follow(
    process: Any, run: RankRun, family: dict[int, psutil.Process], progress: Path | None,
    watch: Callable[[Event, Facts], None] | None, patience_s: tuple[float, float],
    say: Callable[[str], None] | None,
) -> None:  # fmt: skip
    """Until the command ends: refuse a wrong start, pass on steps, end what stands still."""
    path, read, total = rankrun.events_file(run.folder, 0), 0, 0
    news, seen, over = time.monotonic(), 0.0, False
    while not over:
        over = process.poll() is not None  # what it reported last is judged as well
        time.sleep(0 if over else 0.2)
        _remember(process, family)
        facts = rankrun.reported(run.folder)
        _judge(run, facts)
        if "began" not in facts.get(0, {}) or not path.exists():
            lines = []
        else:
            text = path.read_text(encoding="utf-8")
            lines = [json.loads(x) for x in text.splitlines(keepends=True) if x.endswith("\n")]
        total = total or _total(run)
        for event in lines[read:]:
            if "loss" in event and event["step"] > facts[0]["began"]:
                if progress:
                    report_progress(progress, f"step, {run.name}", event["step"], total,
                                    event["seconds"])  # fmt: skip
                if say:
                    say(f"{run.name}: step {event['step']}/{total} loss {event['loss']:.4f}")
                if watch and not over:
                    watch(event, facts)
        read = max(read, len(lines))
        latest = max(
            (p.stat().st_mtime for p in Path(run.folder).glob("rank-*.json*")), default=0.0
        )
        if latest != seen:
            news, seen = time.monotonic(), latest
        limit = patience_s[1 if read else 0]
        if time.monotonic() - news > limit:
            raise LaunchError(_standstill(run, facts, limit))


def _judge(run: RankRun, facts: Facts) -> None:
    """Refuse a run in which something else is in force than was asked for."""
    for found in facts.values():
        if why := rankrun.mismatch(run, found):
            raise LaunchError(f"run {run.name}: {why}")
    if len({f["values"] for f in facts.values() if "values" in f}) > 1:
        raise LaunchError(
            f"run {run.name}: the ranks start from different adapter values. Seed every rank "
            "alike before the adapter is made: fully_shard copies nothing."
        )


def _total(run: RankRun) -> int:
    with Path(run.rows).open(encoding="utf-8") as lines:
        return run.steps(sum(1 for _ in lines))


def _remember(process: Any, family: dict[int, psutil.Process]) -> None:
    """Note all descendants while they can be found: torchrun gives each rank its own session."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            family.setdefault(child.pid, child)


def _end(process: Any, family: dict[int, psutil.Process], folder: Path) -> None:
    """End the command and every process it ever had: asked first, killed after 15 seconds."""
    _remember(process, family)
    for facts in rankrun.reported(folder).values():  # a rank whose parent has died meanwhile
        with contextlib.suppress(psutil.Error):
            rank = psutil.Process(facts["pid"])
            if MODULE in rank.cmdline() and str(folder / rankrun.RUN_FILE) in rank.cmdline():
                family.setdefault(rank.pid, rank)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15.0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in family.values():  # psutil compares start times: a reused id is left alone
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
    psutil.wait_procs(list(family.values()), timeout=10)


def _events(run: RankRun, rank: int) -> list[Event]:
    path = rankrun.events_file(run.folder, rank)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _last_step(run: RankRun, rank: int) -> str:
    steps = [e["step"] for e in _events(run, rank) if "step" in e]
    return f"after step {steps[-1]}" if steps else "before its first step"


def _standstill(run: RankRun, facts: Facts, stall_s: float) -> str:
    missing = sorted(set(range(run.world_size)) - set(facts))
    where = ", ".join(f"rank {r} {_last_step(run, r)}" for r in sorted(facts)) or "no rank"
    gone = f"; never heard of: {missing}" if missing else ""
    return (
        f"run {run.name}: no rank has reported anything for {stall_s:g} s ({where}{gone}). All "
        f"processes were ended. Logs: {display_path(run.folder)}. Run it again: it continues "
        "from the last checkpoint."
    )


def _obituary(run: RankRun, code: int, wall_s: float) -> str:
    """Which rank ended the run, how, when, and the last lines of its log.

    A rank that loses its partner fails as well, a moment later; torchrun may name either first.
    So a rank that was killed comes before one that raised an error, and errors go by their time.
    """
    folder = Path(run.folder)
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    codes = {int(r): int(c) for r, c in FAILED.findall(text)}
    if not codes and run.world_size > 1:
        who, code_, said, where = "the launcher", code, text.splitlines(), ""
    else:
        codes = codes or {0: code}
        errors = {r: e for r in codes for e in _events(run, r) if "error" in e}
        killed = [r for r, c in codes.items() if c < 0 and r not in errors]
        first = min(killed or codes, key=lambda r: errors.get(r, {}).get("time", float("inf")))
        said = [errors[first]["error"]] if first in errors else _log_tail(run, first)
        who, code_ = f"rank {first} of {run.world_size}", codes[first]
        where = f" {_last_step(run, first)}"
    how = (
        f"was ended by {signal.Signals(-code_).name}" if code_ < 0 else f"failed, exit code {code_}"
    )
    return (
        f"run {run.name}: {who} {how}{where}, {wall_s:.0f} s after the start; all others were "
        f"ended. Last lines of its log: {' | '.join(said[-4:]) or '(empty)'}. All of it: "
        f"{display_path(folder)}. Run it again: it continues from the last checkpoint."
    )


def _log_tail(run: RankRun, rank: int) -> list[str]:
    """Last lines that a rank printed, from the newest of torchrun's log folders."""
    files = sorted((Path(run.folder) / "logs").glob(f"*/attempt_0/{rank}/stderr.log"),
                   key=lambda p: p.stat().st_mtime)  # fmt: skip
    lines = files[-1].read_text(encoding="utf-8", errors="replace").splitlines() if files else []
    return [line.strip() for line in lines if line.strip()][-4:]


def collect(run: RankRun, wall_s: float) -> Finished:
    """Read what the ranks of a finished run wrote; also for a run that a cluster started.

    Raises:
        LaunchError: A rank did not report, did not finish, or the steps have gaps.
    """
    facts = rankrun.reported(run.folder)
    ended = [r for r in facts if facts[r].get("finished")]
    steps = [[e for e in _events(run, r) if "step" in e] for r in range(run.world_size)]
    wanted = list(range(1, _total(run) + 1))
    if len(ended) != run.world_size or any([e["step"] for e in s] != wanted for s in steps):
        raise LaunchError(
            f"run {run.name}: {len(ended)} of {run.world_size} ranks finished, with "
            f"{[len(s) for s in steps]} of {len(wanted)} steps each ({display_path(run.folder)})"
        )
    return Finished(
        run=run, losses=[e["loss"] for e in steps[0]], facts=facts, steps=steps, wall_s=wall_s,
        rows=[[n for e in s for n in e["rows"] if n != rankrun.EMPTY] for s in steps],
    )  # fmt: skip


def shown(command: Sequence[str]) -> str:
    """A command as it is typed, without the path of this machine's interpreter."""
    return shlex.join(["python" if part == sys.executable else part for part in command])
