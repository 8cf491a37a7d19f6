"""What one rank says about itself: who it is, what is really in force, what each step did."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_utils.artifacts import write_json
from sft_utils.errors import LaunchError
from sft_utils.ranks.rankrun import RankRun, events_file, facts_file, mismatch

SHOWN = ("embed_tokens.weight", "layers.0.mlp.down_proj.base_layer.weight",
         "layers.0.mlp.down_proj.lora_A.default.weight",
         "layers.0.mlp.down_proj.lora_B.default.weight")  # fmt: skip
"""Parameters whose shapes are reported; the others are counted."""


class Report:
    """Facts (a JSON file, replaced as a whole) and events (JSON lines) of one rank.

    It also watches which files this process opens for writing below the run's folder, by Python's
    audit events: that only one rank saves is observed, not believed.
    """

    def __init__(self, run: RankRun, rank: int, world_size: int) -> None:
        self.run, self.rank = run, rank
        self.facts: dict[str, Any] = {
            "rank": rank, "pid": os.getpid(), "world_size": world_size,
            "node": int(os.environ.get("GROUP_RANK", "0")),  # given by torchrun
        }  # fmt: skip
        self._pending: dict[str, Any] = self._empty()
        self._since = time.monotonic()
        self._wrote: set[str] = set()
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        self.update()

    @staticmethod
    def _empty() -> dict[str, Any]:
        return {"rows": [], "tokens": 0, "supervised": 0}

    def update(self, **facts: Any) -> None:
        """Add facts; a rank on which something else is in force than was asked for ends here.

        Raises:
            LaunchError: See `rankrun.mismatch`.
        """
        self.facts |= facts
        write_json(facts_file(self.run.folder, self.rank), self.facts)
        if why := mismatch(self.run, self.facts):
            raise LaunchError(why)

    def resume(self, step: int) -> None:
        """Forget events after `step`: those steps are trained again."""
        path = events_file(self.run.folder, self.rank)
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed rank
                    kept += [line] if json.loads(line).get("step", step + 1) <= step else []
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._since = time.monotonic()
        self.update(began=step)

    def watch_writes(self) -> None:
        """From now on note files opened for writing; for the rest of this process."""
        sys.addaudithook(self._audit)

    def trained(self, rows: list[int], tokens: int, supervised: int) -> None:
        """One micro-batch went through forward and backward."""
        self._pending["rows"] += rows
        self._pending["tokens"] += tokens
        self._pending["supervised"] += supervised

    def step(self, step: int, loss: float) -> None:
        """One optimizer step is over; `loss` is that of the global batch."""
        now = time.monotonic()
        event = {
            "step": step,
            "loss": loss,
            **self._pending,
            "seconds": round(now - self._since, 4),
        }
        self.event(event)
        self._pending, self._since = self._empty(), now

    def event(self, event: dict[str, Any]) -> None:
        """Append one line."""
        with events_file(self.run.folder, self.rank).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name != "open" or not isinstance(arguments[0], str | os.PathLike):
            return
        mode, flags = arguments[1] or "", arguments[2] or 0
        if not (set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR)):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        folder = os.path.abspath(self.run.folder) + os.sep
        own = os.path.basename(path).startswith((".part-", "rank-"))
        if path.startswith(folder) and not own:
            self._wrote.add(path.removeprefix(folder))

    def finish(self) -> None:
        """Last facts of a rank that came to its end."""
        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        self.update(peak_rss_bytes=peak, wrote=sorted(self._wrote), finished=True)


@contextlib.contextmanager
def failures(report: Report) -> Iterator[None]:
    """Note an error of this rank with its time, then let it pass on to the log."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit):
            text = f"{type(error).__name__}: {error}"
            report.event({"error": text[:2000], "time": time.time()})
        raise


def in_force(module: Any) -> dict[str, Any]:
    """Strategy, evidence and sizes of a module as it is trained: looked at, not asked for.

    Args:
        module: The outermost module, as it is called in a training step.
    Returns:
        `strategy`, `evidence`, `held_share` (parameter values on this rank / in the model),
        `held_bytes`, `trainable`, and [global, local] shapes of a few parameters.
    """
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    named = dict(module.named_parameters())
    full = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in named.items()}
    local = {n: local_part(p) for n, p in named.items()}
    n_sharded = sum(isinstance(p, DTensor) for p in named.values())
    if n_sharded:
        strategy, evidence = "fsdp2", f"{n_sharded} of {len(named)} parameters are DTensors"
    elif any(hasattr(p, "ds_id") for p in named.values()):
        strategy, evidence = "zero3", "parameters carry DeepSpeed's ds_id"
    elif isinstance(module, DistributedDataParallel):
        strategy, evidence = "ddp", "the model is in DistributedDataParallel, parameters are whole"
    elif isinstance(module, DataParallel):
        strategy, evidence = "dp", "the model is in DataParallel, one process over several GPUs"
    else:
        strategy, evidence = "single", f"a plain {type(module).__name__}, parameters are whole"
    total = sum(_product(shape) for shape in full.values())
    return {
        "strategy": strategy,
        "evidence": evidence,
        "held_share": sum(t.numel() for t in local.values()) / max(total, 1),
        "held_bytes": sum(t.numel() * t.element_size() for t in local.values()),
        "trainable": sum(_product(full[n]) for n, p in named.items() if p.requires_grad),
        "shapes": {s: [list(full[n]), list(local[n].shape)]
                   for s in SHOWN for n in named if n.endswith(s)},
    }  # fmt: skip


def local_part(tensor: Any) -> Any:
    """The part of a (possibly sharded) tensor that this rank holds."""
    part = getattr(tensor, "ds_tensor", tensor)
    return part.to_local() if hasattr(part, "to_local") else part.detach()


def _product(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def gradient_bytes(module: Any) -> int:
    """Bytes of the gradients that this rank holds."""
    grads = [local_part(p.grad) for p in module.parameters() if p.grad is not None]
    return sum(g.numel() * g.element_size() for g in grads)


def optimizer_bytes(optimizer: Any) -> int:
    """Bytes of the optimizer state that this rank holds."""
    parts = [local_part(v) for state in optimizer.state.values() for v in state.values()
             if hasattr(v, "numel") and v.numel() > 1]  # fmt: skip
    return sum(t.numel() * t.element_size() for t in parts)
