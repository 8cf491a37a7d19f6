"""What the ranks of a run left behind: a result, or the reason why there is none."""

import contextlib
import json
import math
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path
from sft_utils.errors import LaunchError
from sft_utils.ranks import rankrun
from sft_utils.ranks.rankrun import RankRun

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
        later = [[e for e in part if e["step"] > self.began + 1] for part in self.steps]
        seconds = max(sum(e["seconds"] for e in part) for part in later)
        return sum(e["tokens"] for part in later for e in part) / seconds if seconds else 0.0

    @property
    def began(self) -> int:
        """Step of the checkpoint that was continued, or 0."""
        return self.facts[0]["began"]


def collect(run: RankRun, wall_s: float) -> Finished:
    """Read what the ranks of a finished run wrote; also for a run that a cluster started.

    Raises:
        LaunchError: A rank did not report, did not finish, the steps have gaps, or a loss is not
            finite.
    """
    facts = rankrun.reported(run.folder)
    ended = [r for r in facts if facts[r].get("finished")]
    steps = [[e for e in events(run, r) if "step" in e] for r in range(run.world_size)]
    wanted = list(range(1, total_steps(run) + 1))
    if len(ended) != run.world_size or any([e["step"] for e in s] != wanted for s in steps):
        raise LaunchError(
            f"run {run.name}: {len(ended)} of {run.world_size} ranks finished, with "
            f"{[len(s) for s in steps]} of {len(wanted)} steps each ({display_path(run.folder)})"
        )
    lost = [e["step"] for s in steps for e in s if not math.isfinite(e["loss"])]
    if lost:
        raise LaunchError(
            f"run {run.name}: the loss of step {min(lost)} is not finite. Lower the learning rate, "
            "or look at the rows of that step with preflight."
        )
    return Finished(
        run=run, losses=[e["loss"] for e in steps[0]], facts=facts, steps=steps, wall_s=wall_s,
        rows=[[n for e in s for n in e["rows"] if n != rankrun.EMPTY] for s in steps],
    )  # fmt: skip


def total_steps(run: RankRun) -> int:
    """Optimizer steps of a whole run."""
    with Path(run.rows).open(encoding="utf-8") as lines:
        return run.steps(sum(1 for _ in lines))


def events(run: RankRun, rank: int) -> list[Event]:
    """What a rank has written so far; a line cut off by a kill is left out."""
    path = rankrun.events_file(run.folder, rank)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _last_step(run: RankRun, rank: int) -> str:
    steps = [e["step"] for e in events(run, rank) if "step" in e]
    return f"after step {steps[-1]}" if steps else "before its first step"


def standstill(run: RankRun, facts: Facts, stall_s: float) -> str:
    """What to say when no rank reports anything any more."""
    missing = sorted(set(range(run.world_size)) - set(facts))
    where = ", ".join(f"rank {r} {_last_step(run, r)}" for r in sorted(facts)) or "no rank"
    gone = f"; never heard of: {missing}" if missing else ""
    return (
        f"run {run.name}: no rank has reported anything for {stall_s:g} s ({where}{gone}). All "
        f"processes were ended. Logs: {display_path(run.folder)}. Run it again: it continues "
        "from the last checkpoint."
    )


def obituary(run: RankRun, code: int, wall_s: float) -> str:
    """Which rank ended the run, how, when, and the last lines of its log.

    A rank that loses its partner fails as well, a moment later; torchrun may name either first.
    So a rank that was killed comes before one that raised an error, and errors go by their time. A
    rank that ended by SIGTERM was a survivor, which torchrun ends, unless no rank ended otherwise.
    """
    folder = Path(run.folder)
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    codes = {int(r): int(c) for r, c in FAILED.findall(text)}
    if not codes and run.world_size > 1:
        who, code_, said, where = "the launcher", code, text.splitlines(), ""
    else:
        codes = codes or {0: code}
        errors = {r: e for r in codes for e in events(run, r) if "error" in e}
        dead = [r for r, c in codes.items() if c != -signal.SIGTERM] or list(codes)
        killed = [r for r in dead if codes[r] < 0 and r not in errors]
        first = min(killed or dead, key=lambda r: errors.get(r, {}).get("time", float("inf")))
        said = [errors[first]["error"]] if first in errors else _log_tail(run, first)
        said = said or (text.splitlines() if run.world_size == 1 else [])
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
