"""The same training arithmetic with less traffic: LoRA layers and attention on a CPU.

A step of a small model on a CPU is not bound by its large matrix products but by what lies between
them: PEFT computes base and adapter apart, scales, adds and casts in passes of their own, and eager
attention repeats keys and values for every query head, scales and masks scores in new copies and
runs the softmax through float32 copies. Here the adapter's part is added inside one matrix product,
and scores are written once. The mathematics is the same; only roundings are fewer.
`make bench` measures the gain, tests/parity/test_lean.py the equality.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

from sft_utils import decoding
from sft_utils.errors import ModelError

NAME = "sft_lean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What `install` replaced."""

    layers: int  # LoRA layers
    attention: bool
    left: tuple[str, ...]  # LoRA layers that stay as they are, each with its reason


def install(model: Any) -> Installed:
    """Give a LoRA model the layers and the attention of this module, for training.

    Only what computes the same is replaced: LoRA on plain linear layers, one adapter, no dropout,
    no DoRA; attention of the families in `decoding.SUPPORTED`. In evaluation, under autocast, with
    merged, disabled or foreign adapters each layer does what it did before. On a 4-bit base the
    layers stay and the attention is replaced.

    Args:
        model: A PEFT model (or a plain one: then the attention alone) before its trainer is
            built; changed in place. Twice is once.
    Raises:
        ModelError: Nothing could be replaced; names the first reason.
    """
    left: list[str] = []
    count = 0
    for name, layer in model.named_modules():
        if not (hasattr(layer, "lora_A") and hasattr(layer, "base_layer")):
            continue
        if reason := _unfit(layer):
            left.append(f"{name}: {reason}")
            continue
        if "forward" not in layer.__dict__:
            adapter = next(iter(layer.lora_A))
            layer.forward = MethodType(_layer_forward(layer.forward, adapter), layer)
        count += 1
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    dropout = getattr(inner.config, "attention_dropout", 0.0)
    fits = decoding.supports(inner) and not dropout
    if not (count or fits):
        raise ModelError(
            f"lean.install: nothing of this {inner.config.model_type} model can be replaced "
            f"({(left or ['it has no LoRA layer'])[0]}). Train it without."
        )
    if fits:
        _register()
        inner.set_attn_implementation(NAME)
    return Installed(layers=count, attention=fits, left=tuple(left))


def _unfit(layer: Any) -> str:
    """Why a LoRA layer cannot be replaced; "" if it can."""
    import torch

    if len(layer.lora_A) != 1:
        return f"{len(layer.lora_A)} adapters, one is expected"
    name = next(iter(layer.lora_A))
    if type(layer.base_layer) is not torch.nn.Linear:
        return f"the base is {type(layer.base_layer).__name__}, no plain Linear"
    if name in layer.lora_variant:
        return f"variant {type(layer.lora_variant[name]).__name__}"
    if not isinstance(layer.lora_dropout[name], torch.nn.Identity):
        return "dropout"
    if layer.lora_B[name].bias is not None:
        return "a bias in lora_B"
    if layer.base_layer.weight.requires_grad:
        return "the base trains too"
    return ""


def _layer_forward(before: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`forward` of a LoRA layer: lean where that is the same, else what it was.

    Args:
        before: The layer's own.
        name: The adapter that was found fit; any other one goes the old way.
    """
    import torch

    adapter = _adapter()

    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        weight = self.base_layer.weight
        if (
            not torch.is_grad_enabled()
            or self.disable_adapters
            or self.merged
            or kwargs
            or list(self.active_adapters) != [name]
            or torch.is_autocast_enabled(x.device.type)
        ):
            return before(x, *args, **kwargs)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        if not x.dtype == weight.dtype == a.dtype == b.dtype:
            return before(x, *args, **kwargs)
        return adapter.apply(x, a, b, weight, self.base_layer.bias, self.scaling[name])

    return forward


@cache
def _adapter() -> Any:
    """The autograd function of a frozen linear layer with a low-rank adapter."""
    import torch

    class Adapter(torch.autograd.Function):
        """y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, with W and bias frozen."""

        @staticmethod
        def forward(ctx: Any, x: Any, a: Any, b: Any, weight: Any, bias: Any, scale: float) -> Any:
            rows = x.reshape(-1, x.shape[-1])  # (N, in)
            low = rows @ a.t()  # (N, R)
            y = torch.nn.functional.linear(rows, weight, bias)
            y.addmm_(low, b.t(), alpha=scale)
            ctx.save_for_backward(rows, low, a, b, weight)
            ctx.scale, ctx.shape = scale, x.shape
            return y.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, dy: Any) -> tuple[Any, ...]:
            rows, low, a, b, weight = ctx.saved_tensors
            d = dy.reshape(-1, dy.shape[-1])  # (N, out)
            dlow = (d @ b).mul_(ctx.scale)  # (N, R)
            db = (d.t() @ low).mul_(ctx.scale)
            da = dlow.t() @ rows
            dx = None
            if ctx.needs_input_grad[0]:
                dx = (d @ weight).addmm_(dlow, a).view(ctx.shape)
            return dx, da, db, None, None, None

    return Adapter


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Eager attention without its copies; query heads of one group share their keys.

    Args:
        query: (B, heads, T, D); key, value: (B, kv heads, L, D).
        attention_mask: Additive, (B, 1, T, L), or None.
    Returns:
        (B, T, heads, D) and no weights.
    """
    batch, heads, steps, width = query.shape
    kv, length = key.shape[1], key.shape[2]
    grouped = (query * scaling).reshape(batch, kv, heads // kv * steps, width)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, steps, length)
    if attention_mask is not None:
        scores.add_(attention_mask[..., :length])
    # bf16 in and out: the kernel computes in float32 inside, without copies of the scores
    weights = scores.softmax(-1).view(batch, kv, heads // kv * steps, length)
    output = (weights @ value).view(batch, heads, steps, width)
    return output.transpose(1, 2).contiguous(), None


def _register() -> None:
    """Make the attention known to transformers, with the masks of the eager one."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
