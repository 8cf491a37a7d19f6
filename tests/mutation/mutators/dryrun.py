"""Faults that only a forward and backward pass shows: loss, gradients, updates."""

import functools
from typing import Any

from sft_utils.masks import masking
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator
from tests.mutation.mutators import effects
from tests.mutation.mutators.models import (
    Stub,
    adapted,
    arguments,
    fresh,
    loss_of,
    planted,
    sharpen,
    short_first,
    spoiled,
)


def norms(model: Any) -> dict[str, float]:
    """Gradient norm of every trainable tensor after one backward pass of its own."""
    return {n: 0.0 if p.grad is None else float(p.grad.norm())
            for n, p in model.named_parameters() if p.requires_grad}  # fmt: skip


def backward(record: RunRecord) -> dict[str, float]:
    """Gradient norms on the first batch; gradients are removed again."""
    import torch

    was_training = record.model.training
    record.model.train()
    with torch.random.fork_rng(devices=[]):
        record.model(**record.train_batches[0], use_cache=False).loss.backward()
    found = norms(record.model)
    record.model.zero_grad(set_to_none=True)
    record.model.train(was_training)
    return found


def some_adapters_get_nothing(before: RunRecord, after: RunRecord) -> bool:
    """Is the gradient of some lora_B exactly zero, while another tensor has one?"""
    found = backward(after)
    return any(v == 0 for n, v in found.items() if ".lora_B." in n) and any(found.values())


# Loss


def miscounted(record: RunRecord) -> RunRecord:
    """An override of compute_loss that ignores num_items_in_batch."""
    ready = short_first(record).change(arguments=arguments(record, gradient_accumulation_steps=4))
    model = adapted(record)
    return ready.change(model=model, trainer=Stub(model, ready, counted=False))


def ignores_count(before: RunRecord, after: RunRecord) -> bool:
    """Is the loss the same whatever the number of labels?"""
    import torch

    batch = after.train_batches[0]
    with torch.no_grad():
        losses = [float(after.trainer.compute_loss(after.model, dict(batch), num_items_in_batch=n))
                  for n in (10, 20)]  # fmt: skip
    return losses[0] == losses[1]


def maskless_trainer(record: RunRecord) -> RunRecord:
    """An override of compute_loss with labels = input_ids."""
    ready = short_first(record).change(arguments=arguments(record))
    model = sharpen(adapted(record))
    return ready.change(model=model, trainer=Stub(model, ready, masked=False))


def trainer_loss_differs(before: RunRecord, after: RunRecord) -> bool:
    """Is the trainer's loss another than the model's?"""
    import torch

    batch = after.train_batches[0]
    with torch.no_grad():
        loss = float(after.trainer.compute_loss(after.model, dict(batch)))
    return abs(loss - loss_of(after.model, after)) > 1e-3


def fused_without_mask(model: Any) -> None:
    """A patched forward, as fused losses use, that drops the mask."""
    inner = sharpen(model).get_base_model()
    original = inner.forward

    @functools.wraps(original)
    def forward(*args: Any, labels: Any = None, **kwargs: Any) -> Any:
        if labels is not None:
            labels = kwargs["input_ids"]
        return original(*args, labels=labels, **kwargs)

    inner.forward = forward


def model_loss_differs(before: RunRecord, after: RunRecord) -> bool:
    """Does the loss stay the same when every label is ignored but one?"""
    batch = {k: v.clone() for k, v in after.train_batches[0].items()}
    learned = (batch["labels"] != masking.IGNORE).nonzero()
    batch["labels"][learned[1:, 0], learned[1:, 1]] = masking.IGNORE
    return loss_of(after.model, after) == loss_of(after.model, after.change(batches=[batch]))


# Gradients


def frozen(model: Any) -> None:
    """As after PeftModel.from_pretrained without is_trainable."""
    model.requires_grad_(False)


def cut_graph(model: Any) -> None:
    """A detach between the blocks and the loss."""
    model.get_base_model().model.norm.register_forward_hook(lambda m, i, out: out.detach())


def loss_has_no_graph(before: RunRecord, after: RunRecord) -> bool:
    """Is there something trainable, but does the loss not depend on it?"""
    loss = after.model(**after.train_batches[0], use_cache=False).loss
    return any(p.requires_grad for p in after.model.parameters()) and not loss.requires_grad


def reentrant(model: Any) -> None:
    """Reentrant checkpointing without gradients at the inputs; a norm keeps the graph alive."""
    from torch.utils.checkpoint import checkpoint

    inner = model.get_base_model()
    inner._set_gradient_checkpointing(
        enable=True, gradient_checkpointing_func=functools.partial(checkpoint, use_reentrant=True)
    )
    inner.model.norm.weight.requires_grad_(True)


def cut_between_layers(model: Any) -> None:
    """The second block gets detached inputs: the adapters of the first learn nothing."""
    def detach(module: Any, args: Any, kwargs: Any) -> Any:
        return tuple(a.detach() for a in args), kwargs

    model.get_base_model().model.layers[1].register_forward_pre_hook(detach, with_kwargs=True)


def head_bypassed(model: Any) -> None:
    """A fused loss that reads the weight of the head and not its adapter."""
    import torch

    inner = model.get_base_model()
    original = inner.forward

    @functools.wraps(original)
    def forward(*args: Any, labels: Any = None, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        if labels is not None:
            kwargs.pop("logits_to_keep", None)
            hidden = inner.model(**kwargs).last_hidden_state[:, :-1]  # (B, T-1, H)
            logits = hidden @ inner.lm_head.base_layer.weight.T
            output.loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        return output

    inner.forward = forward


# Numbers


def pure_bf16(record: RunRecord) -> RunRecord:
    """Full fine-tuning with 16-bit weights and no copy in float32."""
    import torch

    model = fresh(record, targets=None).to(torch.bfloat16)
    changed = arguments(record, learning_rate=2e-5)
    return short_first(record).change(model=model, arguments=changed)


def norms_cannot_move(before: RunRecord, after: RunRecord) -> bool:
    """Is one plus the learning rate still one?"""
    import torch

    weight = after.model.model.norm.weight
    step = torch.tensor(after.arguments.learning_rate, dtype=weight.dtype)
    return weight.dtype == torch.bfloat16 and bool((weight - step == weight).all())


def overflowing(model: Any) -> None:
    """float16 weights, and one norm that leaves its range."""
    import torch

    model.to(torch.float16)
    with torch.no_grad():
        model.get_base_model().model.layers[0].input_layernorm.weight.fill_(6e4)


def broken_weight(model: Any) -> None:
    """One NaN in one matrix."""
    import torch

    with torch.no_grad():
        model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight[0, 0] = torch.nan


def logits_are_not_finite(before: RunRecord, after: RunRecord) -> bool:
    """Does a plain forward give infinities or NaN?"""
    import torch

    with torch.no_grad():
        ids = after.train_batches[0]["input_ids"][:1]
        hidden = after.model.get_base_model().model(input_ids=ids).last_hidden_state
    return not bool(torch.isfinite(hidden).all())


MUTATORS: tuple[Mutator, ...] = (
    planted("O1", "count-ignored", miscounted, ignores_count),
    planted("M14", "trainer-drops-mask", maskless_trainer, trainer_loss_differs),
    planted("M14", "fused-loss-drops-mask", spoiled(fused_without_mask), model_loss_differs),
    planted("O3", "nothing-trainable", spoiled(frozen),
            lambda b, a: not any(p.requires_grad for p in a.model.parameters())),
    planted("O3", "graph-cut", spoiled(cut_graph), loss_has_no_graph),
    planted("O4", "reentrant-checkpointing", spoiled(reentrant), some_adapters_get_nothing),
    planted("O4", "cut-between-layers", spoiled(cut_between_layers, layers=2),
            some_adapters_get_nothing),
    planted("O5", "head-adapter-bypassed",
            spoiled(head_bypassed, targets=("q_proj", "v_proj", "down_proj", "lm_head")),
            some_adapters_get_nothing),
    planted("O9", "pure-bf16", pure_bf16, norms_cannot_move),
    planted("O10", "fp16-overflow", spoiled(overflowing), logits_are_not_finite),
    planted("O10", "nan-weight", spoiled(broken_weight), logits_are_not_finite),
    *effects.MUTATORS,
)  # fmt: skip
