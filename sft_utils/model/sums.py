"""Is a trained weight its base plus a product? Only then can it be written down as their sum."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path, read_json
from sft_utils.errors import ModelError

PEFT_CAN = "peft's merge_and_unload can"

PRODUCTS = ("DoraLinearVariant", "MiCALinearVariant", "VeloraLinearVariant")
"""Variants of LoRA that compute with B times A like the plain one; DoRA then scales the rows."""

UNREAD = (
    "whose scales are not read here. Load the base in 16 bits, or its linear layers in 4 bits by "
    "bitsandbytes"
)


SCALING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
"""Settings of an adapter that decide what its weights compute, and stand in none of them."""


def require_scaling(model: Any, folder: Path) -> None:
    """Refuse a saved adapter whose weights would be scaled otherwise than where it was trained.

    Raises:
        ModelError: Its config and that of the model's adapter "default" differ; names the setting.
    """
    path = Path(folder) / "adapter_config.json"
    saved = read_json(path) if path.is_file() else {}
    config = model.peft_config["default"]
    for name in SCALING:
        own = getattr(config, name, None)
        if name in saved and (saved[name] or own) and saved[name] != own:
            raise ModelError(
                f"{display_path(folder)} was trained with {name} = {saved[name]!r}, this model has "
                f"{own!r}: the same weights would compute something else. Build the model with the "
                "adapter's own config."
            )


def layers(base: Any) -> Iterator[tuple[str, Any]]:
    """Modules of a model under adapters, by their paths in the plain model."""
    for path, module in base.named_modules():
        if not any(part.startswith("lora_") or part == "base_layer" for part in path.split(".")):
            yield path, module


def require_sum(base: Any) -> None:
    """Refuse a model whose effective weights are not those of its base plus A and B of adapters.

    What is left out of a sum is left out of every comparison with it, too, so it must be named.

    Args:
        base: The model under the adapters, `PeftModel.get_base_model()`.
    Raises:
        ModelError: A trained copy of a module or of tokens; a layer that is merged already; an
            adapter of an embedding, of a parameter, of a weight that two layers share, or with a
            bias; another kind of adapter than LoRA, or a variant that computes otherwise; weights
            in a form that cannot be read here.
    """
    holders: dict[int, list[tuple[str, Any]]] = {}
    for path, module in layers(base):
        if why := _no_sum(module):
            raise ModelError(f"{path}: {why}.")
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if weight is not None:
            holders.setdefault(id(weight), []).append((path, module))
    for sharing in holders.values():
        adapted = [path for path, module in sharing if adapters(module)]
        if adapted and len(sharing) > 1:
            other = next(path for path, _ in sharing if path != adapted[0])
            raise ModelError(
                f"{adapted[0]}: its weight is also that of {other} (tied), which a sum would "
                f"change as well. Leave {adapted[0].rpartition('.')[2]} out of target_modules."
            )


def adapters(module: Any) -> list[str]:
    """Names of the adapters that are in force in a layer."""
    if not hasattr(module, "lora_A"):
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _no_sum(module: Any) -> str:
    """Why the weight of a layer is no such sum; empty if it is."""
    layer = getattr(module, "base_layer", module)
    weight = getattr(layer, "weight", None)
    if hasattr(module, "modules_to_save") or hasattr(module, "token_adapter"):
        return f"a trained copy of a module or of its tokens is no adapter to be added. {PEFT_CAN}"
    if hasattr(module, "parameter_name"):
        return (f"an adapter of the parameter {module.parameter_name!r} (target_parameters) is not "
                f"added by this function. {PEFT_CAN}")  # fmt: skip
    for key, parameter in layer.named_parameters(recurse=False):
        if coded(parameter) or (key != "weight" and hasattr(parameter, "quant_state")):
            return f"its {key} holds {parameter.dtype} codes, {UNREAD}"
    if not hasattr(module, "lora_B"):
        other = layer is not module
        return f"{type(module).__name__} is no adapter of LoRA. {PEFT_CAN}" if other else ""
    if module.merged:
        return "it is merged already and would be added twice. Call unmerge_adapter() first"
    if any(name in module.lora_embedding_A for name in module.active_adapters):
        return f"an adapter of an embedding is not added by this function. {PEFT_CAN}"
    for name in adapters(module):
        kind = type(getattr(module, "lora_variant", {}).get(name)).__name__
        if kind not in ("NoneType", *PRODUCTS):
            return (f"{kind} computes something else than base plus B times A. Serve the adapter "
                    "unmerged, or train plain LoRA")  # fmt: skip
        if weight is None or module.lora_B[name].weight.ndim != 2:
            return f"an adapter of {type(layer).__name__} is not added here. {PEFT_CAN}"
        if module.lora_B[name].bias is not None:
            return "the bias of its adapter has no place in a weight. Train without lora_bias"
    return ""


def coded(weight: Any) -> bool:
    """Whether a weight holds codes of 8 bits or less that need scales kept elsewhere."""
    if weight is None or getattr(weight, "quant_state", None) is not None:
        return False
    return not weight.is_floating_point() or weight.dtype.itemsize < 2


def dequantised(layer: Any) -> Any:
    """Weights of a layer as float32, stored in 4 bits by bitsandbytes or in 16 or 32 bits.

    Raises:
        ModelError: They are stored in another form.
    """
    state = getattr(layer.weight, "quant_state", None)
    if coded(layer.weight):
        raise ModelError(
            f"a weight of {type(layer).__name__} holds {layer.weight.dtype} codes, {UNREAD}."
        )
    if state is None:
        return layer.weight.detach().float()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, state).float()
