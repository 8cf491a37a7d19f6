"""One forward and backward pass on the real first batch, with nothing left of it afterwards.

The loss is computed twice: as the run computes it (the trainer's `compute_loss`, or the model's
own) and as plain cross-entropy over the labels. The gradients are looked at tensor by tensor.
Weights, gradients, modes and the random state are put back.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.compare import untouched
from sft_utils.preflight.record import Batch, RunRecord
from sft_utils.preflight.smallbatch import cross_entropy, logits_at, row_of, small_batch
from sft_utils.preflight.stack import value_of

_SAMPLE = 1 << 16
_CHOSEN = 1 << 22
_FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)


@dataclass(slots=True, kw_only=True)
class Step:
    """What one step would do. NaN and empty fields were not measured."""

    half: bool = False  # 16-bit weights: comparisons are loose
    error: str = ""  # why the measurement ended early
    broken: str = ""  # first module with a non-finite output
    noise: float = 0.0  # two forwards in eval mode, difference over the spread of the logits
    loss: float = math.nan  # as the run computes it
    plain: float = math.nan  # cross-entropy over the labels
    unmasked: tuple[float, ...] = ()  # over all tokens, without and with padding, if they differ
    gradients: dict[str, float] = field(default_factory=dict)  # trainable tensor -> norm
    ran: set[str] = field(default_factory=set)  # adapter modules that were called
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)  # tensor -> (changed, of)
    split: float = math.nan  # gradients of one batch against row by row, relative difference


def runner(record: RunRecord) -> Any:
    """The model that is trained."""
    return getattr(record.trainer, "model", None) or record.model


def _arguments(record: RunRecord) -> Any:
    """The training arguments, wherever they are."""
    return record.arguments if record.arguments is not None else value_of(record.trainer, "args")


def measure(record: RunRecord) -> Step | None:
    """The step of a record, measured once; None without a model or a batch with labels."""
    # Kept like RunRecord's own cached properties: a changed record is measured again.
    kept = vars(record)
    if "_step" not in kept:
        kept["_step"] = _measured(record)
    return kept["_step"]


def _measured(record: RunRecord) -> Step | None:
    model = runner(record)
    if not hasattr(model, "parameters") or _is_sharded(model):
        return None
    batch = small_batch(record, model)
    if batch is None:
        return None
    step = Step(half=min(p.element_size() for p in model.parameters()) < 4)
    with untouched(model), _clean(record, model):
        try:
            _look(model, batch, step, fp16=value_of(_arguments(record), "fp16") is True)
            if not step.broken:
                _backward(record, model, batch, step)
        except _FAILURES as error:
            step.error = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    return step


def _is_sharded(model: Any) -> bool:
    """Weights of which this process holds a part: a pass of one process alone would hang."""
    return any(
        hasattr(p, "ds_id") or type(p).__name__ == "DTensor" or p.is_meta
        for p in model.parameters()
    )


@contextlib.contextmanager
def _clean(record: RunRecord, model: Any) -> Iterator[None]:
    """Give gradients and the trainer's own counters back."""
    gradients = [(p, p.grad) for p in model.parameters()]
    counters = {
        name: copy.deepcopy(getattr(record.trainer, name))
        for name in ("_metrics", "_total_train_tokens")
        if hasattr(record.trainer, name)
    }
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for name, value in counters.items():
            setattr(record.trainer, name, value)


def _look(model: Any, batch: Batch, step: Step, *, fp16: bool) -> None:
    """Forward passes in eval mode: finite everywhere, repeatable, and the true loss."""
    import torch

    device = batch["input_ids"].device.type
    # A CPU ignores fp16=True, and only float16 overflows.
    narrow = torch.autocast(device, torch.float16) if fp16 and device != "cpu" else None

    def watch(name: str) -> Any:
        def hook(module: Any, _: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) and output else output
            if step.broken or not torch.is_tensor(values) or not values.is_floating_point():
                return
            real = batch.get("attention_mask")
            if real is not None and values.shape[:2] == real[:1].shape:
                values = values[0][real[0] != 0]
            if not bool(torch.isfinite(values).all()):
                step.broken = name

        return hook

    inputs, labels = row_of(batch, 0)
    hooks = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n]
    last = (labels[1:] != IGNORE).nonzero()[-8:, 0]
    try:
        with narrow or contextlib.nullcontext():
            checked = logits_at(model, inputs, last)
    finally:
        for hook in hooks:
            hook.remove()
    if not step.broken and not bool(torch.isfinite(checked).all()):
        step.broken = "the logits"
    if step.broken:
        return
    first, again = (logits_at(model, inputs, last) for _ in range(2))
    step.noise = float((first - again).abs().max() / first.std().clamp(min=1e-9))
    step.plain = cross_entropy(model, batch, "labels")


def _backward(record: RunRecord, model: Any, batch: Batch, step: Step) -> None:
    """Loss and gradients as in training, with dropout off so that they can be compared."""
    import torch

    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return
    _train_without_dropout(model)
    called = [
        module.register_forward_hook(lambda *_, name=name: step.ran.add(name))
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") or hasattr(module, "lora_embedding_A")
    ]
    total = (batch["labels"][:, 1:] != IGNORE).sum()
    try:
        with torch.enable_grad():
            loss = _loss(record, model, batch, total)
            step.loss = float(loss.detach()) / _processes(record)
            loss.backward()
    finally:
        for hook in called:
            hook.remove()
    step.gradients = {
        n: 0.0 if p.grad is None else float(p.grad.norm()) for n, p in trained.items()
    }
    step.moved = _moves(record, trained)
    step.split = _split(record, model, batch, total, trained, step.loss)
    if not math.isclose(step.loss, step.plain, rel_tol=1e-3, abs_tol=1e-6):
        model.eval()
        step.unmasked = (cross_entropy(model, batch, "real"), cross_entropy(model, batch, "all"))


def _train_without_dropout(model: Any) -> None:
    """Train mode, as checkpointing and fused losses need it, but nothing is dropped."""
    config = getattr(model, "config", None)
    rates = [v for k, v in getattr(config, "__dict__", {}).items() if "drop" in k]
    model.train(not any(isinstance(v, float) and v > 0 for v in rates))
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.eval()


def hears_count(trainer: Any) -> bool:
    """Whether the trainer hands the number of labels to its loss."""
    return bool(getattr(trainer, "model_accepts_loss_kwargs", True)) or (
        getattr(trainer, "compute_loss_func", None) is not None
    )


def _loss(record: RunRecord, model: Any, batch: Batch, total: Any) -> Any:
    """The loss of a batch as the run computes it; `total` counts the labels of the whole update."""
    if hasattr(record.trainer, "compute_loss"):
        count = total if hears_count(record.trainer) else None
        return record.trainer.compute_loss(model, dict(batch), num_items_in_batch=count)
    return model(**batch, use_cache=False).loss


def _processes(record: RunRecord) -> int:
    """Factor by which transformers scales the loss, since it averages gradients over ranks."""
    arguments = value_of(record.trainer, "args")
    if not value_of(arguments, "average_tokens_across_devices") or not hears_count(record.trainer):
        return 1
    return getattr(getattr(record.trainer, "accelerator", None), "num_processes", 1)


def _sampled(trained: dict[str, Any]) -> Any:
    """A part of every gradient, in one vector on the CPU."""
    import torch

    parts = [
        torch.zeros(min(p.numel(), _SAMPLE)) if p.grad is None
        else p.grad.flatten()[:_SAMPLE].float().cpu()
        for p in list(trained.values())[:256]
    ]  # fmt: skip
    return torch.cat(parts)


def _split(
    record: RunRecord, model: Any, batch: Batch, total: Any, trained: dict[str, Any], loss: float
) -> float:
    """Relative difference between the gradients of a batch and of its rows one after another.

    A packed batch is one row; there the loss for twice the number of labels must be half as large.
    """
    import torch

    rows = len(batch["labels"])
    if not hasattr(record.trainer, "compute_loss"):
        return math.nan
    if rows == 1:
        if not hears_count(record.trainer):
            return math.nan
        halved = float(_loss(record, model, batch, total * 2)) / _processes(record)
        return abs(2 * halved - loss) / max(abs(loss), 1e-12)
    whole = _sampled(trained)
    for parameter in trained.values():
        parameter.grad = None
    with torch.enable_grad():
        for i in range(rows):
            part = {k: v[i : i + 1] for k, v in batch.items()}
            share = _loss(record, model, part, total)
            (share if hears_count(record.trainer) else share / rows).backward()
    return float((_sampled(trained) - whole).norm() / whole.norm().clamp(min=1e-12))


def _moves(record: RunRecord, trained: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Of the elements with a gradient: how many does one AdamW step change? On copies."""
    import torch

    arguments = _arguments(record)
    rate = value_of(arguments, "learning_rate")
    name = str(
        getattr(value_of(arguments, "optim"), "value", value_of(arguments, "optim") or "adamw")
    )
    if not isinstance(rate, float) or rate <= 0 or not name.startswith("adamw"):
        return {}
    found = {}
    for key, parameter in trained.items():
        if parameter.grad is None:
            continue
        gradient = parameter.grad.flatten()[:_CHOSEN]
        chosen = gradient.nonzero()[:, 0]
        if not len(chosen):
            continue
        old = parameter.detach().flatten()[:_CHOSEN][chosen]
        new = torch.nn.Parameter(old.clone())
        new.grad = gradient[chosen].to(new.dtype)
        decay = value_of(arguments, "weight_decay") or 0.0
        torch.optim.AdamW([new], lr=rate, weight_decay=decay).step()
        found[key] = (int((new.detach() != old).sum()), len(chosen))
    return found
