"""A training run of N ranks as data: its settings, its command, and what its ranks report."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sft_utils.artifacts import read_json, write_json
from sft_utils.config import Profile
from sft_utils.errors import ConfigError

Strategy = Literal["single", "ddp", "fsdp2", "zero3"]
MODULE = "sft_utils.ranks.ranktrain"
RUN_FILE = "run.json"
ZERO3 = "notebooks/cluster/zero3.json"
EMPTY = -1
"""Row number of a filler: a row without supervised token that makes the last batch even."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankRun:
    """What every rank reads before it starts."""

    folder: str  # receives everything the run writes; the same folder for all nodes
    rows: str  # JSONL with id, input_ids, labels in the order of training; one pass
    model: str  # local directory, or hub id with `revision`
    revision: str | None = None  # commit of a hub model
    strategy: Strategy = "single"  # how weights and gradients are spread over the ranks
    engine: Literal["trainer", "torch"] = "trainer"  # SFTTrainer, or the loop of `sharded`
    world_size: int = 1  # ranks of all nodes together
    global_batch: int = 4  # rows per optimizer step, all ranks together
    batch_size: int = 1  # rows per rank and micro-batch
    learning_rate: float = 1e-3  # peak
    schedule: str = "constant"  # of transformers: constant, cosine, linear
    lora_rank: int = 16  # alpha is twice the rank; no dropout, which would differ by rank
    seed: int = 17  # of the adapter's initial values, the same on every rank
    save_steps: int = 0  # optimizer steps between checkpoints; 0 writes none
    token_mean: Literal["global", "per rank"] = "global"  # "per rank" is a fault, kept to be shown
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of base, adapter and arithmetic
    attention: str = "eager"  # of transformers
    threads: int = 1  # per rank on a CPU
    timeout_s: int = 600  # a collective operation that waits longer ends the run

    def __post_init__(self) -> None:
        share = self.world_size * self.batch_size
        if min(share, self.global_batch, self.threads, self.timeout_s, self.lora_rank) < 1:
            raise ConfigError(f"run {self.name}: sizes must be at least 1, got {self}")
        if self.global_batch % share:
            raise ConfigError(
                f"run {self.name}: global_batch = {self.global_batch} is no multiple of "
                f"{self.world_size} ranks x batch_size {self.batch_size} = {share}. "
                "Change one of them: the rows per update must not depend on the machine."
            )
        if (self.strategy == "single") != (self.world_size == 1):
            raise ConfigError(
                f"run {self.name}: strategy {self.strategy!r} with world_size = "
                f"{self.world_size}. One process is 'single'; several are ddp, fsdp2 or zero3."
            )
        if self.engine == "torch" and self.strategy != "fsdp2":
            raise ConfigError(f"run {self.name}: engine 'torch' is for strategy 'fsdp2'")
        if self.token_mean != "global" and self.engine != "trainer":
            raise ConfigError(f"run {self.name}: only the trainer has a mean per rank")

    @property
    def name(self) -> str:
        """Last part of the folder."""
        return Path(self.folder).name

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on each rank."""
        return self.global_batch // (self.world_size * self.batch_size)

    def steps(self, n_rows: int) -> int:
        """Optimizer steps of one pass."""
        return -(-n_rows // self.global_batch)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued; the folder may have moved."""
        left_out = ("folder", "timeout_s")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in left_out}

    def write(self) -> Path:
        """Write run.json into the folder and return its path."""
        path = Path(self.folder) / RUN_FILE
        write_json(path, dataclasses.asdict(self))
        return path


def read(path: str | Path) -> RankRun:
    """Read a run that `RankRun.write` wrote.

    Raises:
        ConfigError: A field that does not exist, or a value that cannot work.
    """
    try:
        return RankRun(**read_json(Path(path)))
    except (TypeError, ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{Path(path).name} is no run of ranks: {error}") from error


def torchrun(
    run_file: str, *, processes: int | str, logs: str, nodes: int | str = 1,
    node_rank: int | str = 0, head: str = "", port: int | str = 29400, python: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The command that starts the ranks of one node; on several nodes each runs its own.

    One node finds a free port by itself. Several meet at the first node's address, which says who
    is first without resolving any name (torchrun's c10d rendezvous has to guess whether the first
    node is this one). Every rank's output goes to a file of its own below `logs`. A rank that dies
    ends the others: nothing is restarted, because a restart is the same command once more.

    Args:
        run_file: Path of run.json, readable on every node.
        processes: Ranks on this node. Text where a script fills a variable in.
        logs: Folder.
        nodes: Nodes; training starts when all have come.
        node_rank: Number of this node, from 0.
        head: Address of node 0; empty for one node alone.
        port: A free port of node 0.
        python: Replaces this interpreter: ("python",) in a script for another machine.
    """
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    if head:
        meet = ["--node-rank", str(node_rank), "--master-addr", head, "--master-port", str(port)]
    return [
        *(python or [sys.executable]), "-m", "torch.distributed.run",
        "--nnodes", str(nodes), "--nproc-per-node", str(processes), *meet,
        "--max-restarts", "0", "--shutdown-timeout", "10", "--redirects", "3", "--log-dir", logs,
        "-m", MODULE, run_file,
    ]  # fmt: skip


def single(run_file: str) -> list[str]:
    """The command of a run in one process, without torchrun."""
    return [sys.executable, "-m", MODULE, run_file]


def mismatch(run: RankRun, facts: dict[str, Any]) -> str:
    """How what is in force on one rank differs from what was asked for; empty if it does not.

    Args:
        run: What was asked for.
        facts: What the rank reported; what it has not reported yet is not judged.
    Example:
        >>> asked = RankRun(folder="x/ddp", rows="r", model="m", strategy="ddp", world_size=2)
        >>> mismatch(asked, {"rank": 0, "world_size": 1})[:47]
        '2 processes were asked for, 1 runs: the launche'
        >>> mismatch(asked, {"rank": 0, "world_size": 2, "strategy": "ddp"})
        ''
    """
    size, strategy = facts.get("world_size", run.world_size), facts.get("strategy", run.strategy)
    if size != run.world_size:
        count = f"{size} runs" if size == 1 else f"{size} run"
        return (
            f"{run.world_size} processes were asked for, {count}: the launcher started another "
            f"number without a word. Use torchrun --nproc-per-node {run.world_size}."
        )
    if strategy != run.strategy:
        return (
            f"strategy {run.strategy!r} was asked for, {strategy!r} is in force on rank "
            f"{facts.get('rank')}: {facts.get('evidence', '')}. accelerate shards on accelerators "
            "only; on CPUs use engine 'torch' (fully_shard)."
        )
    if run.strategy in ("fsdp2", "zero3") and facts.get("held_share", 0) > 0.9:
        return (
            f"strategy {strategy!r} is in force, but rank {facts.get('rank')} holds "
            f"{facts['held_share']:.0%} of all parameter values: nothing is sharded"
        )
    return ""


def reported(folder: str | Path) -> dict[int, dict[str, Any]]:
    """Facts of every rank that has reported, by rank. Ranks replace these files as a whole."""
    found = [read_json(p) for p in Path(folder).glob("rank-*.json")]
    return {facts["rank"]: facts for facts in sorted(found, key=lambda f: f["rank"])}


def facts_file(folder: str | Path, rank: int) -> Path:
    """What a rank says about itself."""
    return Path(folder) / f"rank-{rank}.json"


def events_file(folder: str | Path, rank: int) -> Path:
    """What a rank did, one JSON line per optimizer step."""
    return Path(folder) / f"rank-{rank}.jsonl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """04: rows unless a unit is given. Odd, so that the last batch is not even.

    A rank reports a step before it saves it. So the kill comes at least one step after a
    checkpoint, which is then complete on the slowest disk, and two before the end.
    """

    rows: int  # trained by every arm
    wrong_rows: int  # trained with the wrong mean
    save_steps: int  # optimizer steps between checkpoints of the run that is killed
    kill_step: int  # step after which a rank is killed


SIZES = {
    "smoke": Sizes(rows=13, wrong_rows=4, save_steps=1, kill_step=2),
    "cpu": Sizes(rows=45, wrong_rows=12, save_steps=4, kill_step=6),
    "gpu": Sizes(rows=311, wrong_rows=64, save_steps=6, kill_step=8),
}
MOST_ROWS = 312
"""Half of the rows are problems of one step, of which 156 are there to train."""


def sizes(profile: Profile, rows: int = 0) -> Sizes:
    """Sizes of 04: those for GPUs where there are several; one GPU is none, the CPU proves there.

    Args:
        profile: All GPU profiles share one set.
        rows: What the reader wants to train; 0 for the profile's.
    Raises:
        ConfigError: Too few rows for a kill between a checkpoint and the end, or more than exist.
    """
    gpus = 0
    if profile.is_gpu:
        import torch

        gpus = torch.cuda.device_count()
    size = SIZES["gpu" if gpus > 1 else "cpu" if profile.is_gpu else profile.track]
    size = dataclasses.replace(size, rows=rows or size.rows)
    update = 2 * max(gpus, 2)  # rows, as 04 sets them
    least = update * (size.kill_step + 1) + 1
    if not least <= size.rows <= MOST_ROWS:
        raise ConfigError(
            f"rows = {size.rows}: 04 needs {least} to {MOST_ROWS} at profile {profile.name!r}. It "
            f"kills a rank after update {size.kill_step}, two before the end at the latest, and an "
            f"update has {update} rows; half of the rows are short problems, of which there are "
            f"{MOST_ROWS // 2}. Set rows to 0 or in between, or use fewer GPUs."
        )
    return size
