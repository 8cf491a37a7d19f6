"""The learning rates of a run, simulated before it starts."""

import math
from collections.abc import Iterator
from typing import Any

from sft_utils.preflight.record import Detector, Finding, RunRecord
from sft_utils.preflight.stack import value_of

SIMULATED = 1000
"""Steps of a schedule that are simulated; longer ones are shrunk."""


def total_steps(record: RunRecord) -> int | None:
    """Optimizer steps of the run, None if they cannot be told.

    `observed["batches_per_epoch"]` counts where `batches` are a sample of the run's.
    """
    arguments = record.arguments
    limit = value_of(arguments, "max_steps")
    if isinstance(limit, int) and limit >= 0:
        return limit
    epochs = value_of(arguments, "num_train_epochs")
    batches = record.observed.get("batches_per_epoch") or len(record.train_batches)
    if epochs is None or not batches:
        return None
    updates = math.ceil(batches / max(value_of(arguments, "gradient_accumulation_steps") or 1, 1))
    return math.ceil(epochs * updates)


def rates(arguments: Any, total: int) -> list[float]:
    """The learning rates of a run, at most SIMULATED of them; empty for unknown schedulers."""
    import torch
    from transformers import get_scheduler

    warmup = _warmup(arguments, total)
    shrink = max(total / SIMULATED, 1.0)
    steps = math.ceil(total / shrink)
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=value_of(arguments, "learning_rate")
    )
    try:
        scheduler = get_scheduler(
            value_of(arguments, "lr_scheduler_type") or "linear",
            optimizer,
            num_warmup_steps=round(warmup / shrink),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(value_of(arguments, "lr_scheduler_kwargs") or {}),
        )
    except (TypeError, ValueError):
        return []
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        try:
            scheduler.step()
        except TypeError:  # a scheduler that follows a metric: nothing to simulate
            return []
    return found


def _warmup(arguments: Any, total: int) -> int:
    """Warmup steps; a number below one is a share of the run."""
    warmup = value_of(arguments, "warmup_steps") or value_of(arguments, "warmup_ratio") or 0
    return int(warmup) if warmup >= 1 else math.ceil(total * warmup)


def schedule(record: RunRecord) -> Iterator[Finding]:
    """O15: a run without steps, or one whose rate never gets where it should."""
    rate, total = value_of(record.arguments, "learning_rate"), total_steps(record)
    if not isinstance(rate, int | float) or total is None:
        return
    done = record.observed.get("resume_step")
    if total <= 0 or (isinstance(done, int) and done >= total):
        what = f"the run has {total} optimizer steps" + (f", {done} are done" if done else "")
        yield _schedule("FAIL", f"{what}: nothing is trained", "raise max_steps or epochs")
        return
    warmup = _warmup(record.arguments, total)
    if warmup >= total:
        what = (
            f"warmup lasts {warmup} steps, the whole run {total}: the rate never gets to {rate:g}"
        )
        yield _schedule("FAIL", what, f"warmup_steps={max(total // 20, 0)}, at most a tenth")
        return
    if not 0 < rate < math.inf:
        what = f"the learning rate is {rate:g} in every step"
        yield _schedule("FAIL", what, "learning_rate > 0, such as 2e-4 for an adapter")
        return
    found = rates(record.arguments, total)
    if found and max(found) <= 0:
        yield _schedule("FAIL", "the learning rate is 0 in every step", "learning_rate > 0")
    elif found and sum(r > 0.1 * rate for r in found) < 0.5 * len(found):
        share = sum(r > 0.1 * rate for r in found) / len(found)
        what = f"only {share:.0%} of the steps have more than a tenth of learning_rate {rate:g}"
        yield _schedule("WARN", what, "a shorter warmup or a gentler lr_scheduler_type")


def _schedule(severity: Any, what: str, fix: str) -> Finding:
    return Finding(
        id="O15",
        severity=severity,
        what=what,
        where="arguments: warmup_steps, max_steps, lr_scheduler_type",
        why="steps at rate 0 cost the same and change nothing",
        fix=fix,
    )


DETECTORS: tuple[Detector, ...] = (schedule,)
