"""Training that deserves promotion: the task gate, the choice of a checkpoint, and resuming."""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sft_utils.artifacts import COMPLETE, IDENTITY, display_path, storage_error, write_json
from sft_utils.errors import ConfigError, SFTError, StorageError
from sft_utils.model.generation import report_progress
from sft_utils.model.modeling import release
from sft_utils.train.checkpoints import (
    as_stored,
    clear,
    keep_dtypes,
    last_checkpoint,
    recipe,
    require_output,
)


class StoppedEarlyError(SFTError):
    """The checkpoint of a resumed run is its end: nothing is left to train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One evaluated state of the adapter."""

    step: int
    full: bool  # scored on the whole validation set, not on the quick part
    task: float  # task metric, higher is better
    forgetting: float  # nats per token lost on general answers, against the base model


def choose(candidates: Sequence[Candidate], *, budget: float) -> Candidate:
    """Pick the checkpoint to promote: best task metric within the forgetting budget, never "last".

    Only full evaluations compete (the quick ones are noisier); ties go to the earlier step.

    Args:
        candidates: Everything the gate saw, after `TaskGate.finish` with the same budget.
        budget: Largest accepted forgetting, in nats per token.
    Raises:
        ConfigError: No full evaluation lies within the budget.
    """
    full = [c for c in candidates if c.full]
    allowed = [c for c in full if c.forgetting <= budget]
    if not allowed:
        least = min(candidates, key=lambda c: c.forgetting, default=None)
        seen = f"least: {least.forgetting:.3f} at step {least.step}" if least else "none was scored"
        raise ConfigError(
            f"no checkpoint forgets less than the budget of {budget:g} nats per token "
            f"({seen}; {len(full)} scored fully, {len(candidates) - len(full)} quickly; only those "
            "scored fully can be promoted). "
            "Train less, mix in general data, or accept a larger budget knowingly."
        )
    return max(allowed, key=lambda c: (c.task, -c.step))


class Progress(TrainerCallback):
    """Tells the runner which step training has reached and how long the rest will take."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._ends: list[float] = []  # of the steps of this process, not of the run

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The pace is that of the steps after the first one, which also warms everything up."""
        self._ends.append(time.monotonic())
        if self.path:
            pace = (self._ends[-1] - self._ends[0]) / max(len(self._ends) - 1, 1)
            report_progress(self.path, "training step", state.global_step, state.max_steps, pace)

    def median_s(self) -> float:
        """Median seconds of a step, the first one left out; 0.0 before the second."""
        return statistics.median(b - a for a, b in pairwise(self._ends)) if self._ends[1:] else 0.0


class _NothingLeft(TrainerCallback):
    """Ends a run that was loaded from the checkpoint of its end before it makes a step.

    transformers 5.17.0 makes one more, with the next batch, if the end lies inside an epoch.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last callback to be asked: the others have taken up the run."""
        if state.global_step and state.global_step >= state.max_steps:
            kwargs["model"].train()  # as it is after training
            raise StoppedEarlyError(f"the run has ended at step {state.global_step}")


class TaskGate(TrainerCallback):
    """Scores the adapter on the task while it trains, and keeps every state it scored.

    Every `every` steps the quick set is generated and scored, at the end of each epoch the full
    one. Training stops early when the quick score has not improved `patience` times in a row.

    Args:
        evaluate: (model, full) -> {"task": ..., "forgetting": ...}, two numbers; must not draw
            random numbers.
        folder: Receives history.json and one adapter folder per scored step.
        every: Optimizer steps between quick evaluations.
        patience: Quick evaluations without improvement before stopping; 0 never stops.
        progress: File for the runner.
    """

    def __init__(
        self,
        evaluate: Callable[[Any, bool], dict[str, float]],
        folder: Path,
        *,
        every: int,
        patience: int = 0,
        progress: Path | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"TaskGate: every = {every}, must be a number of steps >= 1")
        self.evaluate, self.folder = evaluate, Path(folder)
        self.every, self.patience, self.progress = every, patience, Progress(progress)
        self.history: list[Candidate] = []

    @property
    def history_file(self) -> Path:
        """One JSON object per evaluation."""
        return self.folder / "history.json"

    def adapter_dir(self, step: int) -> Path:
        """Folder of the adapter as it was after `step`."""
        return self.folder / f"step-{step:05d}"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the history of an interrupted run; forget what lies after its checkpoint.

        What `finish` added (an earlier state after a later one) is forgotten too: it adds it again,
        and would otherwise take the next best state besides.

        Raises:
            StoppedEarlyError: The history ends with an early stop: no step may follow.
        """
        if state.global_step and self.history_file.exists():
            saved = json.loads(self.history_file.read_text(encoding="utf-8"))
            latest = accumulate((c["step"] for c in saved), max)
            self.history = [
                Candidate(**c)
                for c, seen in zip(saved, latest, strict=True)
                if c["step"] == seen <= state.global_step
            ]
            if self._stalled():
                self.on_epoch_end(args, state, control, **kwargs)
                raise StoppedEarlyError(
                    f"training had stopped early at step {state.global_step}, nothing is left to "
                    "train. Call training.train_resumable, which ends there."
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Quick evaluation, early stop, progress."""
        self.progress.on_step_end(args, state, control)
        last = state.global_step >= state.max_steps
        if state.global_step % self.every == 0 and not last:
            self._score(kwargs["model"], state.global_step, full=False)
            if self._stalled():
                print(f"stopped early at step {state.global_step}: no gain in {self.patience}")
                control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Full evaluation."""
        if not any(c.step == state.global_step and c.full for c in self.history):
            self._score(kwargs["model"], state.global_step, full=True)

    def finish(
        self, model: Any, last_step: int, load: Callable[[Any, Path], None], *,
        budget: float = math.inf,
    ) -> None:  # fmt: skip
        """Full evaluations that promotion needs: of the end, and of the best quick state.

        A run killed during its last evaluation resumes behind the end of the epoch, where the
        trainer has nothing left to announce; so the end is scored here if it was not.

        Args:
            model: What trained.
            last_step: Optimizer steps done.
            load: (model, adapter folder) -> the adapter in the model.
            budget: As `choose` takes it. Forgetting is measured alike in quick and full
                evaluations, so a quick state beyond it cannot be promoted, and the best one inside
                gets the full evaluation even if another one scored higher.
        """
        if not any(c.step == last_step and c.full for c in self.history):
            self._score(model, last_step, full=True)
        scored = {c.step for c in self.history if c.full}
        quick = [c for c in self.history if not c.full and c.forgetting <= budget]
        best = sorted(quick, key=lambda c: -c.task)
        for candidate in [c for c in best if c.step not in scored][:1]:
            load(model, self.adapter_dir(candidate.step))
            self._score(model, candidate.step, full=True, save=False)

    def _score(self, model: Any, step: int, *, full: bool, save: bool = True) -> None:
        was_training = model.training
        model.eval()
        values = _scores(self.evaluate(model, full))
        model.train(was_training)
        if not all(math.isfinite(v) for v in values.values()):
            raise ConfigError(
                f"training diverged: at step {step} the evaluation gave {values}. "
                "Lower the learning rate."
            )
        candidate = Candidate(step=step, full=full, **values)
        self.history.append(candidate)
        if save:
            model.save_pretrained(self.adapter_dir(step))
        write_json(self.history_file, [asdict(c) for c in self.history])
        kind = "full " if full else "quick"
        print(
            f"step {step:4d} · {kind} · task {candidate.task:.3f} · "
            f"forgetting {candidate.forgetting:+.3f} nats"
        )

    def _stalled(self) -> bool:
        quick = [c.task for c in self.history if not c.full]
        if not self.patience or len(quick) <= self.patience:
            return False
        return max(quick[-self.patience :]) <= max(quick[: -self.patience])


def _scores(found: Any) -> dict[str, float]:
    """What an evaluation returned, as numbers that can be stored."""
    if set(found) != {"task", "forgetting"}:
        raise ConfigError(
            f"evaluate of a TaskGate returned {sorted(found)}, expected 'task' and 'forgetting'"
        )
    return {name: float(value) for name, value in found.items()}  # of numpy and torch, too


def fit_adapter_precision(trainer: Any) -> int:
    """Give an fp16 run a float32 adapter, whatever TRL made of it.

    TRL 1.14.2 casts adapters on 4-bit bases to bf16, also where `fp16=True`. The gradient scaler of
    fp16 has no CUDA kernel for bf16 gradients, so on a GPU without bf16 (T4) the first step
    raises NotImplementedError ("_amp_foreach_non_finite_check_and_unscale_cuda"), and it refuses
    fp16 gradients. Call it before `train()`; nothing changes in other precisions.

    Returns:
        Number of tensors that were cast.
    Source: trl 1.14.2, trainer/sft_trainer.py; github.com/huggingface/trl/issues/4901
    """
    import torch

    if not getattr(getattr(trainer, "args", None), "fp16", False):
        return 0
    cast = 0
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
            cast += 1
    return cast


def fit_loss_chunks(tokens: int) -> int:
    """Make TRL's chunked loss work in chunks of `tokens` supervised tokens instead of 256.

    TRL 1.14.2 pads the supervised tokens of a batch to a multiple of its chunk before it projects
    them on the vocabulary. Two ticket rows hold about 120 of them, so more than half of that work
    is padding: with chunks of 64 a step of two rows took 0.76-0.90 s instead of 0.99-1.43 s (2 CPU
    cores, medians of 10 steps, alternating). The loss is the same (tests/parity/test_trl.py).

    Args:
        tokens: Chunk size; call it before the trainer is built.
    Returns:
        The chunk size that was in force.
    Raises:
        ConfigError: This release of TRL has no such chunk size any more.
    Source: trl 1.14.2, trainer/sft_trainer.py (_chunked_cross_entropy_loss)
    """
    from trl.trainer import sft_trainer

    before = getattr(sft_trainer, "_CHUNKED_LM_HEAD_CHUNK_SIZE", None)
    if before is None:
        raise ConfigError("TRL has no _CHUNKED_LM_HEAD_CHUNK_SIZE: remove fit_loss_chunks")
    sft_trainer._CHUNKED_LM_HEAD_CHUNK_SIZE = tokens
    return before


_ENDED_HERE: set[Path] = set()
"""Folders of the trainings that ended in this process."""


def train_resumable(trainer: Any, folder: Path, identity: dict[str, Any]) -> int:
    """Run a trainer to its end, continuing an interrupted run in the same folder.

    A run that has ended is loaded from its last checkpoint as long as the notebook around it has
    not (`report.checkpoint` marks it): a kill while the third arm trains costs neither the first
    two nor their scores. Remains of a run with another identity, of a finished notebook, or of a
    training that this very process has ended are cleared first: who trains again wants to see it.

    Args:
        trainer: Built with output_dir=folder and regular checkpoints.
        identity: What must be equal for a checkpoint to be continued (run id, rate, steps), beside
            the trainer's own settings, adapter and rows (`checkpoints.recipe`): the base model
            too. Values that JSON can hold.
    Returns:
        The step at which training began (0, or that of the checkpoint resumed from).
    Raises:
        ConfigError: The folder holds something else than a run of ours, or is not the trainer's.
        StorageError: The disk filled up; the last complete checkpoint is kept.
    """
    folder = Path(folder)
    mark = folder / IDENTITY
    require_output(trainer, folder)
    identity = as_stored({**identity, "recipe": recipe(trainer)})
    same = mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == identity
    if (folder / COMPLETE).exists() or not same or folder.resolve() in _ENDED_HERE:
        clear(folder)
    write_json(mark, identity)
    checkpoint = last_checkpoint(folder)
    began = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if checkpoint:
        print(f"resuming from {display_path(checkpoint)}")
    fit_adapter_precision(trainer)
    keep_dtypes(trainer)
    if checkpoint and hasattr(trainer, "add_callback"):
        trainer.add_callback(_NothingLeft())
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except StoppedEarlyError:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(folder, error) from error
    except Exception as error:
        # safetensors and torch.save report a full disk with errors of their own.
        text = str(error)
        if "No space left" in text or "File too large" in text or "failed writing" in text:
            raise StorageError(
                f"cannot write a checkpoint in {display_path(folder)}: {text.splitlines()[0]}. "
                "Free some space and run the same command again; it continues from the last "
                "complete checkpoint."
            ) from error
        raise
    release(getattr(trainer, "model", None))
    _ENDED_HERE.add(folder.resolve())
    return began
