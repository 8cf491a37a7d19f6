"""Faults that need one forward and backward pass: the loss, the gradients, the update.

The pass is made once (`onestep.measure`) and read by all detectors here; packed documents and the
effect of an adapter have passes of their own (`effects`).
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from sft_utils.preflight import effects
from sft_utils.preflight.onestep import Step, measure, runner
from sft_utils.preflight.record import Detector, Finding, RunRecord
from sft_utils.preflight.stack import value_of

_LORA_OUT = re.compile(r"^(.*)\.lora_(?:embedding_)?B\b")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|embed_tokens|wte|output)$")
_GROUPS = {
    "adapter": re.compile(r"lora_|modules_to_save|trainable_tokens"),
    "norm": re.compile(r"norm|ln_\d|ln_f|layernorm", re.IGNORECASE),
    "embedding": re.compile(r"embed|wte|wpe|lm_head"),
    "attention": re.compile(r"attn|attention"),
    "mlp": re.compile(r"mlp|ffn|feed_forward|expert"),
}


def evaluation_mode(record: RunRecord) -> Iterator[Finding]:
    """O13: dropout is active where the model is judged."""
    if record.observed.get("training_at_eval") is True:
        drops = record.model is None or any(
            "Dropout" in type(m).__name__ and getattr(m, "p", 0) > 0 for m in record.model.modules()
        )
        yield _dropout("FAIL" if drops else "WARN", "the model was in train mode at evaluation")
    step = measure(record)
    if step and step.noise > (0.05 if step.half else 1e-3):
        yield _dropout(
            "FAIL",
            "two forward passes in eval mode give different logits "
            f"({step.noise:.1%} of their spread)",
        )


def _dropout(severity: Any, what: str) -> Finding:
    return Finding(
        id="O13",
        severity=severity,
        what=what,
        where="evaluation",
        why="answers and losses change from call to call and are worse than those of the model",
        fix="model.eval() before generating; in own layers dropout(x, training=self.training)",
    )


def aborted(record: RunRecord) -> Iterator[Finding]:
    """O3, O4 or W1: the pass could not be made."""
    step = measure(record)
    if step is None or not step.error:
        return
    if "does not require grad" not in step.error:
        yield Finding(
            id="W1",
            severity="WARN",
            what=f"the dry run ended with {step.error}",
            where="dry run",
            why="loss and gradients could not be checked; training may end the same way",
            fix="call the model on one batch by hand and repair what it says",
        )
        return
    cut = value_of(runner(record), "is_gradient_checkpointing") is True
    yield _cut(
        "O4" if cut else "O3",
        "the loss hangs on no trainable parameter"
        + (": checkpointing cut the graph" if cut else ""),
        "model",
    )


def _cut(code: str, what: str, where: str, count: int = 1) -> Finding:
    fixes = {
        "O3": "look for a detach() or no_grad() between the adapter and the loss",
        "O4": "model.enable_input_require_grads(), or use_reentrant=False in "
        "gradient_checkpointing_kwargs",
        "O5": "train without the fused or chunked loss, or leave the head out of target_modules",
    }
    return Finding(
        id=code,
        severity="FAIL",
        what=what,
        where=where,
        why="these weights are saved as they were initialised, however long the run is",
        fix=fixes[code],
        count=count,
    )


def finite(record: RunRecord) -> Iterator[Finding]:
    """O10: infinities or NaN in one forward pass."""
    step = measure(record)
    if step is None or step.error:
        return
    lost = [n for n, v in step.gradients.items() if not math.isfinite(v)]
    if not step.broken and not lost:
        return
    where = step.broken or lost[0]
    what = f"the {'output' if step.broken else 'gradient'} of {where} is not finite"
    yield Finding(
        id="O10",
        severity="FAIL",
        what=what,
        where=where,
        why="the loss becomes NaN, or the loss scaler skips steps without a word",
        fix="bf16=True instead of fp16 (float16 ends at 65504), or float32; look for NaN in the "
        "weight file",
    )


def loss_is_cross_entropy(record: RunRecord) -> Iterator[Finding]:
    """M14: the loss of the run is not the cross-entropy over its labels."""
    step = measure(record)
    if step is None or math.isnan(step.loss) or _other_loss_is_meant(record, step):
        return
    tolerance = 3e-2 if step.half else 1e-3
    if math.isclose(step.loss, step.plain, rel_tol=tolerance, abs_tol=1e-6):
        return
    unmasked = _drops_mask(step, tolerance)
    yield Finding(
        id="M14",
        severity="FAIL",
        what=f"the run computes loss {step.loss:.4f}, cross-entropy over the labels is "
        f"{step.plain:.4f}"
        + (", and over all tokens just what the run computes: the mask is dropped"
           if unmasked else ""),
        where="compute_loss" if hasattr(record.trainer, "compute_loss") else "model.forward",
        why="the model is trained on something else than the labels say",
        fix="use the plain loss (loss_type=\"nll\", no patched forward), then compare again",
    )  # fmt: skip


def _other_loss_is_meant(record: RunRecord, step: Step) -> bool:
    """Whether the run declares a loss that is not plain cross-entropy, and keeps the mask."""
    settings = [record.arguments, value_of(record.trainer, "args")]
    smoothed = any((value_of(s, "label_smoothing_factor") or 0) > 0 for s in settings)
    shaped = any(value_of(s, "loss_type") == "dft" for s in settings)
    config = getattr(runner(record), "config", None)
    balanced = value_of(config, "output_router_logits") is True
    own = value_of(record.trainer, "compute_loss_func") is not None
    prompted = any(
        value_of(c, "is_prompt_learning")
        for c in (getattr(runner(record), "peft_config", None) or {}).values()
    )
    dropped = _drops_mask(step, 1e-3)
    return smoothed or shaped or balanced or prompted or (own and not dropped)


def _drops_mask(step: Step, tolerance: float) -> bool:
    """Whether the loss is that of all tokens."""
    return any(math.isclose(step.loss, value, rel_tol=tolerance) for value in step.unmasked)


def accumulation(record: RunRecord) -> Iterator[Finding]:
    """O1: a batch at once and row by row do not give the same gradients."""
    step = measure(record)
    if step is None or math.isnan(step.split) or step.split <= (0.2 if step.half else 1e-2):
        return
    if value_of(getattr(runner(record), "config", None), "output_router_logits") is True:
        return  # the balancing loss of a mixture of experts is not a sum over rows
    arguments = record.arguments or value_of(record.trainer, "args")
    steps = value_of(arguments, "gradient_accumulation_steps") or 1
    yield Finding(
        id="O1",
        severity="FAIL" if steps > 1 else "WARN",
        what=f"the gradients of one batch and of its rows one by one differ by {step.split:.0%}",
        where="trainer.compute_loss",
        why=f"with gradient_accumulation_steps={steps} short rows weigh more, or every update is "
        "too large",
        fix="divide the summed loss by num_items_in_batch in compute_loss",
    )


def gradients(record: RunRecord) -> Iterator[Finding]:
    """O3, O4, O5: trainable tensors that get no gradient."""
    step = measure(record)
    if step is None or step.error or not step.gradients:
        return
    checkpointed = value_of(runner(record), "is_gradient_checkpointing") is True
    # A fresh adapter has B = 0, so A gets no gradient at first: B tells.
    outs = {n: m.group(1) for n in step.gradients if (m := _LORA_OUT.match(n))}
    dead = {m for n, m in outs.items() if step.gradients[n] == 0 and "expert" not in m}
    if not any(step.gradients.values()):
        code = "O4" if checkpointed and outs else "O3"
        what = f"all {len(step.gradients)} trainable tensors have a gradient of exactly zero"
        yield _cut(code, what, next(iter(step.gradients)), len(step.gradients))
        return
    heads = sorted(m for m in dead if _HEAD.search(m))
    # A module that never ran (a vision tower on text) has no gradient for a good reason.
    inner = sorted(m for m in dead if m in step.ran and not _HEAD.search(m))
    if heads:
        what = f"the adapter on {heads[0].split('.')[-1]} gets no gradient: the loss bypasses it"
        yield _cut("O5", what, heads[0], len(heads))
    if inner:
        what = f"{len(inner)} of {len(outs)} adapted layers ran but got no gradient"
        yield _cut("O4", what + (", with checkpointing on" if checkpointed else ""), inner[0],
                   len(inner))  # fmt: skip


def lost_updates(record: RunRecord) -> Iterator[Finding]:
    """O9: an optimizer step that rounding swallows."""
    step = measure(record)
    if step is None or not step.moved or _master_weights(record):
        return
    model = runner(record)
    dtypes = {n: str(p.dtype).removeprefix("torch.") for n, p in model.named_parameters()}
    arguments = record.arguments or value_of(record.trainer, "args")
    rate = value_of(arguments, "learning_rate")
    groups: dict[str, list[str]] = {}
    for name in step.moved:
        group = next((g for g, pattern in _GROUPS.items() if pattern.search(name)), "other")
        groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        changed, of = (sum(step.moved[n][k] for n in names) for k in (0, 1))
        dtype = dtypes[names[0]]
        if changed and (dtype == "float32" or changed / of > 0.5):
            continue
        yield Finding(
            id="O9",
            severity="WARN" if changed else "FAIL",
            what=f"one step at rate {rate:g} changes {changed / of:.0%} of the {group} weights "
            f"({len(names)} tensors, {dtype})",
            where=names[0],
            why="the step is smaller than the spacing of the numbers: it is rounded away, every "
            "time",
            fix="load the model with dtype=torch.float32 and set bf16=True, or train an adapter",
            count=len(names),
        )


def _master_weights(record: RunRecord) -> bool:
    """Whether an optimizer keeps its own float32 weights next to 16-bit ones."""
    arguments = record.arguments or value_of(record.trainer, "args")
    sharded = str(record.observed.get("strategy") or "").lower().startswith("zero")
    return sharded or bool(value_of(arguments, "deepspeed"))


DETECTORS: tuple[Detector, ...] = (
    evaluation_mode,
    aborted,
    finite,
    loss_is_cross_entropy,
    accumulation,
    gradients,
    lost_updates,
    *effects.DETECTORS,
)
