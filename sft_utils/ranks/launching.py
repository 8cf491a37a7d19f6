"""Start the ranks of a run, check what is really in force, watch them, leave none behind."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from sft_utils import heap
from sft_utils.errors import LaunchError
from sft_utils.model.generation import report_progress
from sft_utils.ranks import rankresult, rankrun
from sft_utils.ranks.rankresult import Event, Facts, Finished
from sft_utils.ranks.rankrun import MODULE, RankRun
from sft_utils.workers import end_with_parent


def launch(
    run: RankRun, *, command: Sequence[str] = (), progress: Path | None = None,
    watch: Callable[[Event, Facts], None] | None = None, start_s: float = 900.0,
    stall_s: float = 300.0,
) -> Finished:  # fmt: skip
    """Run all ranks on this machine to their end; repeated after a failure, it continues.

    Args:
        run: What to run; written to run.json in its folder.
        command: Replaces torchrun; it must start `python -m sft_utils.ranks.ranktrain run.json`.
        progress: File in which the notebook runner looks for progress.
        watch: Called with every step of rank 0 and the facts of all ranks.
        start_s: Seconds without any news from any rank after which the run is ended, before its
            first step: models are loaded then.
        stall_s: The same, later.
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
    with (folder / rankresult.LOG).open("w", encoding="utf-8") as log:
        process = _start([*(command or default)], run, log)
    family: dict[int, psutil.Process] = {}
    try:
        _follow(process, run, family, progress, watch, (start_s, stall_s))
    finally:
        _end(process, family, folder)
    if process.returncode:
        raise LaunchError(rankresult.obituary(run, process.returncode, time.monotonic() - began))
    return rankresult.collect(run, time.monotonic() - began)


def _start(command: list[str], run: RankRun, log: Any) -> Any:
    """The command in a process group of its own; on Linux it ends when this process is killed."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    environment = {
        "GLOO_SOCKET_IFNAME": loopback,  # one machine: no name must be resolved, no network is up
        **os.environ,
        "OMP_NUM_THREADS": str(run.threads), "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1", "DS_ACCELERATOR": run.device,
    }  # fmt: skip
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    if run.world_size == 1 and run.device == "cuda":
        # One process that sees two GPUs would train with nn.DataParallel, which is no single rank.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    if run.device == "cpu":
        # Beside one GPU the proof runs on the CPU. The trainer saves the random state of every GPU
        # it sees, which takes memory there for each rank.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if Path(run.model).is_dir():
        environment |= {"HF_HUB_OFFLINE": "1"}
    heap.give_back_freed_memory()
    try:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent(),
        )  # fmt: skip
    except OSError as error:
        raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from error


def _follow(
    process: Any, run: RankRun, family: dict[int, psutil.Process], progress: Path | None,
    watch: Callable[[Event, Facts], None] | None, patience_s: tuple[float, float],
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
        total = total or rankresult.total_steps(run)
        for event in lines[read:]:
            if "loss" in event and event["step"] > facts[0]["began"]:
                if progress:
                    report_progress(progress, f"step, {run.name}", event["step"], total,
                                    event["seconds"])  # fmt: skip
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
            raise LaunchError(rankresult.standstill(run, facts, limit))


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


def shown(command: Sequence[str]) -> str:
    """A command as it is typed, without the path of this machine's interpreter."""
    return shlex.join(["python" if part == sys.executable else part for part in command])
