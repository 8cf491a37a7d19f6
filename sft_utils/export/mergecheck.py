"""Say of any weights how they were made.

A merge can go wrong in ways that load, answer and look healthy. Weights are compared with what a
right merge and the usual wrong ones would hold, element by element, and the one that fits is named;
no text has to be generated for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft_utils.errors import ModelError
from sft_utils.export.merging import Part, Recipe, effective, parts

RIGHT = "dequantised training base + adapter"
"""What an export must hold."""

UNKNOWN = "of another base or adapter, or damaged"
"""No recipe that `explain` knows fits."""

FITS = 0.95
"""Share of the elements of every adapted weight from which a wrong merge is believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How weights were made, as far as the weights themselves tell."""

    name: str  # RIGHT, a wrong merge, or UNKNOWN
    share: float  # of elements that agree, in the worst weight; for UNKNOWN: with a right merge
    worst: str  # weight that fits a right merge least


def explain(tensors: Mapping[str, Any], model: Any, original: Mapping[str, Any]) -> Explanation:
    """Name the recipe by which weights were made.

    A right merge must agree in every element of every weight, up to one rounding step. A wrong one
    is named if its recipe fits every adapted weight.

    Args:
        tensors: Weights to judge, any dtype, by the names that a loaded model gives them. Files of
            mixtures of experts may have others: load them first, and give the state_dict().
        model: The PeftModel as it was trained.
        original: Weights of the base before quantisation, by name.
    Raises:
        ModelError: `original` lacks a weight under an adapter, or the model is no plain sum.
    """

    def first(part: Part) -> Any:
        """The weight before quantisation; nothing agrees with NaN (a resized vocabulary)."""
        found = original.get(part.name)
        if found is None:
            raise ModelError(
                f"the weights of the original base hold no {part.name}, which has an adapter. Give "
                "the state_dict() of the loaded base: names in its files may be others."
            )
        return found.to(part.base) if found.shape == part.base.shape else part.base * float("nan")

    recipes: dict[str, tuple[Recipe, float]] = {  # with the rounding that is granted
        "original base + adapter": (lambda p: first(p) + p.delta, 0.0),
        "adapter added twice": (lambda p: p.base + 2 * p.delta, 0.0),
        "scaling of the adapter lost": (lambda p: p.base + p.delta / p.scaling, 0.0),
        "no adapter": (lambda p: p.base, 0.0),
        "original base, no adapter": (first, 0.0),
        # Scales of blocks depend on the dtype in which the sum was made; its steps are far larger.
        "merged into 4-bit weights": (_rounded_again, 0.02),
    }
    others = dict(tensors)  # what no part of the model explains
    least = dict.fromkeys(recipes, 1.0)  # share of agreeing elements in the worst weight
    right = total = 0
    worst, lowest = "", 2.0
    adapted = 2.0  # the lowest share among weights under an adapter
    for part in parts(model):
        if part.name not in tensors:
            return Explanation(name=f"incomplete: {part.name} is missing", share=0.0, worst="")
        others.pop(part.name)
        tensor = tensors[part.name].detach().to(part.base.device)
        if tensor.shape != part.base.shape:
            return Explanation(name=f"other shape of {part.name}", share=0.0, worst=part.name)
        hits = _agree(tensor, effective(part))
        right, total = right + hits, total + tensor.numel()
        if hits / tensor.numel() < lowest:
            worst, lowest = part.name, hits / tensor.numel()
        if part.delta is None:
            continue
        adapted = min(adapted, hits / tensor.numel())
        for name in [n for n in least if least[n] >= FITS]:  # the others are out of the race
            recipe, granted = recipes[name]
            share = _agree(tensor, recipe(part), granted) / tensor.numel()
            least[name] = min(least[name], share)
    for name, tensor in others.items():
        if not _is_tied(tensor, model, tensors):
            return Explanation(name=f"more than the model: {name}", share=right / total, worst=name)
    if right == total:
        return Explanation(name=RIGHT, share=1.0, worst=worst)
    best = max(least, key=lambda n: least[n])
    # Where the adapted ones are right the rest is damage; a base never quantised is its original.
    if least[best] < FITS or adapted >= FITS:
        return Explanation(name=UNKNOWN, share=right / total, worst=worst)
    return Explanation(name=best, share=least[best], worst=worst)


def _is_tied(tensor: Any, model: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether a weight beyond those of the model is its embedding once more (tied)."""
    base = model.get_base_model()
    embedding = base.get_input_embeddings()
    name = next((n for n, m in base.named_modules() if m is embedding), "")
    known = tensors.get(f"{name}.weight")
    return known is not None and known.shape == tensor.shape and bool((known == tensor).all())


def _agree(tensor: Any, expected: Any, granted: float = 0.0) -> int:
    """Elements that are the expected ones, up to a rounding step of their dtype, or more."""
    import torch

    if not tensor.is_floating_point():  # a buffer of numbers that count something
        return int((tensor == expected).sum())
    kind = torch.finfo(tensor.dtype)
    allowed = (
        max(kind.eps, granted) * expected.abs() + kind.tiny * kind.eps
    )  # subnormal numbers too
    return int(((tensor.float() - expected).abs() <= allowed).sum())


def _rounded_again(part: Part) -> Any:
    """A right merge put through the 4-bit format of the base once more."""
    state = getattr(part.stored.weight, "quant_state", None)
    if state is None:
        return part.base  # the base was never in 4 bits: "no adapter" says it better
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    data, again = quantize_4bit(
        effective(part).to(state.dtype),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
    )
    return dequantize_4bit(data, again).float()


def require_right(found: Explanation) -> None:
    """Refuse weights that are not a right merge.

    Raises:
        ModelError: Names what they are.
    """
    if found.name != RIGHT:
        raise ModelError(
            f"these weights are: {found.name} ({found.share:.1%} of elements agree; first weight "
            f"to look at: {found.worst}). Wanted: {RIGHT}. Merge again with merging.export."
        )
