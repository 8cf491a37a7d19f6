"""The weights that were trained: taken apart, summed, and written once.

What a 4-bit run trained is neither its original base nor its 4-bit bytes: it is the dequantised
base plus the adapter. `mergecheck` tells whether given weights are that.
"""

import copy
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import storage_error, write_json
from sft_utils.config import Profile
from sft_utils.errors import ModelError
from sft_utils.model.sums import adapters, dequantised, layers, require_sum

SHARD_BYTES = 4 * 2**30
"""Largest weight file; a merge never holds more than one of them in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """09: requests, each also a prompt."""

    export_rows: int  # put to every form of the exported model
    fault_rows: int  # score each wrong merge, and each mix of adapters


SIZES = {
    "smoke": Sizes(export_rows=4, fault_rows=2),
    "cpu": Sizes(export_rows=64, fault_rows=8),
    "gpu": Sizes(export_rows=128, fault_rows=48),
}


def sizes(profile: Profile) -> Sizes:
    """Sizes of 09; all GPU profiles share one set."""
    return SIZES[profile.track]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight under an adapter."""

    name: str  # as in the plain model, "model.layers.0.mlp.up_proj.weight"
    base: Any  # float32, dequantised: what the forward pass of training used; a buffer as it is
    delta: Any  # float32, scaled; None where no adapter is
    scaling: float = 1.0  # alpha / r, already in delta
    stored: Any = None  # the layer that holds the base, for its 4-bit format


def parts(model: Any) -> Iterator[Part]:
    """Every weight of a model with a LoRA adapter, one at a time, and every stored buffer.

    Args:
        model: PeftModel, its base in 4 bits or not. Tied weights come once. A buffer is part of a
            model as its weights are: without the bias of a router its experts are others.
    Raises:
        ModelError: An adapter whose delta is no plain product (DoRA, `sums.require_sum`).
    """
    base, seen = model.get_base_model(), set()
    require_sum(base)
    for path, module in layers(base):
        layer = getattr(module, "base_layer", module)
        for name, parameter in layer.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            delta, scaling = None, 1.0
            if name == "weight" and layer is not module:
                delta, scaling = _delta(path, module)
            value = dequantised(layer) if name == "weight" else parameter.detach().float()
            yield Part(
                name=f"{path}.{name}", base=value, delta=delta, scaling=scaling, stored=layer
            )
    for name, buffer in stored_buffers(base).items():
        yield Part(name=name, base=buffer.detach(), delta=None)


def stored_buffers(base: Any) -> dict[str, Any]:
    """Buffers that files of a model hold beside its weights, in the dtype that they have."""
    return {
        f"{path}.{name}".lstrip("."): buffer
        for path, module in layers(base)
        for layer in [getattr(module, "base_layer", module)]
        for name, buffer in layer.named_buffers(recurse=False)
        if name not in layer._non_persistent_buffers_set
    }


def _delta(path: str, module: Any) -> tuple[Any, float]:
    """Sum of the active adapters of a layer in float32, and the scaling of the last one."""
    total, scaling = None, 1.0
    for adapter in adapters(module):
        if getattr(module, "use_dora", {}).get(adapter):
            raise ModelError(f"{path}: DoRA is no sum; merge it with peft's merge_and_unload")
        scaling = module.scaling[adapter]
        up, down = module.lora_B[adapter].weight.detach(), module.lora_A[adapter].weight.detach()
        product = (up.float() @ down.float()) * scaling
        if getattr(module, "fan_in_fan_out", False):  # GPT-2 stores its weights transposed
            product = product.T
        total = product if total is None else total + product
    return total, scaling


Recipe = Callable[[Part], Any]
"""How a weight is made of its parts."""


def effective(part: Part) -> Any:
    """The recipe of a right merge: what training used plus what it learned, in float32."""
    return part.base if part.delta is None else part.base + part.delta


def made(model: Any, recipe: Recipe = effective) -> Iterator[tuple[str, Any]]:
    """Names and float32 weights of a plain model, made by a recipe."""
    for part in parts(model):
        yield part.name, recipe(part)


def load_into(plain: Any, tensors: Iterable[tuple[str, Any]]) -> Any:
    """Overwrite the weights of a plain model, rounding once to its dtype.

    Raises:
        ModelError: Some of its weights were not given.
    """
    import torch

    left = {**dict(plain.named_parameters()), **stored_buffers(plain)}
    with torch.no_grad():
        for name, tensor in tensors:
            left.pop(name).copy_(tensor)
    if left:
        raise ModelError(f"{len(left)} weights were not given, first {next(iter(left))}")
    return plain.eval()


def export(model: Any, tokenizer: Any, folder: Path, *, dtype: Any, name: str) -> None:
    """Write a merged model that stands alone: weights, configs, stop list, tokenizer, template.

    Weights are summed in float32 and rounded once, one after the other, so that the peak of memory
    is one shard above the loaded model. The folder is complete or not there. Tensors have the names
    of the loaded model; where the hub's files have others (experts one by one), transformers reads
    both, other servers may not.

    Args:
        model: PeftModel, as it was trained.
        folder: Replaced if it exists.
        dtype: Torch dtype of the weights in the files; buffers keep theirs.
        name: Public name of the model, written into its config.
    Raises:
        StorageError: The disk is full; an older folder stays.
    """
    from safetensors import SafetensorError

    base = model.get_base_model()
    config, generation = copy.deepcopy(base.config), copy.deepcopy(base.generation_config)
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, leftover):
            delattr(config, leftover)
    config.dtype, config._name_or_path = dtype, name
    config.architectures = [type(base).__name__]
    for written in (config, generation):
        stops = getattr(written, "eos_token_id", None)
        written.eos_token_id = _stops(stops, tokenizer.eos_token_id)
    generation.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".part-{glob.escape(folder.name)}-{'[!-]' * 8}"):
        shutil.rmtree(left, ignore_errors=True)  # of an export that was killed
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".part-{folder.name}-"))
    try:
        kept = {name: buffer.dtype for name, buffer in stored_buffers(base).items()}
        rounded = ((n, t.to(kept.get(n, dtype)).cpu().contiguous()) for n, t in made(model))
        _write_shards(part, rounded)
        config.save_pretrained(part)
        generation.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except (OSError, SafetensorError) as error:
        raise storage_error(folder, _as_os_error(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _stops(base: int | list[int] | None, trained: int | None) -> int | list[int] | None:
    """The stops of a base and the one that was trained; a number if there is one.

    Chat models have stops that their tokenizer does not name as eos: Gemma ends turns with 106 and
    has eos 1. Without them a server talks on after the turn.
    """
    known = [base] if isinstance(base, int) else list(base or [])
    if trained is not None and trained not in known:
        known.append(trained)
    return known[0] if len(known) == 1 else known or None


def _as_os_error(error: Exception) -> OSError:
    """The writer of weights has errors of its own: "I/O error: File too large (os error 27)"."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Any]]) -> None:
    """Safetensors files, with an index if there is more than one."""
    from safetensors.torch import save_file

    files: list[list[str]] = []
    shard: dict[str, Any] = {}

    def flush() -> None:
        save_file(shard, folder / f"part-{len(files)}.safetensors", metadata={"format": "pt"})
        files.append(list(shard))
        shard.clear()

    total = size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    weight_map = {}
    for k, names in enumerate(files):
        final = f"model-{k + 1:05d}-of-{len(files):05d}.safetensors"
        final = final if len(files) > 1 else "model.safetensors"
        (folder / f"part-{k}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def stored_tensors(folder: Path) -> dict[str, Any]:
    """All weights of a folder by name, memory-mapped where the system allows it.

    Raises:
        ModelError: There are none, or a file of them is cut or no safetensors; names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            found |= load_file(path)
        except SafetensorError as error:
            raise ModelError(
                f"{Path(folder).name}/{path.name} cannot be read ({error}): it was cut or is no "
                "safetensors. Copy it again, or export again."
            ) from error
    if not found:
        raise ModelError(f"{Path(folder).name} holds no *.safetensors")
    return found


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes a key."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {k: v for k, v in value.items() if v is not None})
