"""One function that loads a model for training, through plain transformers + PEFT or Unsloth.

Whichever is chosen: memory is predicted from the longest real batch before anything is loaded, the
adapter starts from the same numbers, and what was asked for is checked afterwards, because Unsloth
falls back in print only (16 bits where 4 do not work, another repository under the same name).
"""

import copy
import dataclasses
import hashlib
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils.basemodel import models_dir
from sft_utils.config import Profile
from sft_utils.errors import ConfigError, ModelError
from sft_utils.model import modeling
from sft_utils.runtime import GIB
from sft_utils.train import memory

BACKENDS = ("plain", "unsloth")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a decoder layer: what "all-linear" means for Llama, Qwen2 and relatives."""

PASSED = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora")
"""Options of a LoraConfig that are handed to Unsloth."""

_LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer in the path of a module."""

_REWRITTEN = ("transformers", "peft", "trl")


def prepare(backend: str, *, cpu: bool) -> None:
    """Import what a backend needs. Call it above every other import of a process.

    Unsloth rewrites classes of transformers, peft and trl while it is imported; names imported
    from them earlier stay the old ones, and half of a run is then another program than the rest.

    Args:
        backend: One of `BACKENDS`.
        cpu: Use Unsloth's CPU backend even where a GPU is present.
    Raises:
        ConfigError: Unknown backend, or Unsloth is missing or would be imported too late.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if backend == "plain" or "unsloth" in sys.modules:
        return
    early = [name for name in _REWRITTEN if name in sys.modules]
    if early:
        raise ConfigError(
            f"unsloth must be imported before {', '.join(_REWRITTEN)}, and {', '.join(early)} "
            "is imported already in this process. Start a fresh one with "
            'backends.prepare("unsloth", cpu=...) above all other imports.'
        )
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # else it reports to the hub
    # Its default is a folder beside whatever the working directory is.
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(models_dir() / "unsloth_compiled"))
    if cpu:
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
        os.environ.setdefault("UNSLOTH_SKIP_TORCHVISION_CHECK", "1")
    try:
        import unsloth  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"backend 'unsloth' cannot be imported here ({error}). Install it with its pins "
            '(environment.yml), or use backend="plain".'
        ) from error


def load_for_training(
    profile: Profile,
    rows: Sequence[dict[str, list[int]]],
    lora: Any,
    *,
    backend: str = "plain",
    seed: int = 17,
    dtype: Any = None,
    checkpointing: bool | None = None,
    available_gib: float | None = None,
) -> tuple[Any, memory.Budget]:
    """Load the base of a profile with a fresh adapter, ready for SFTTrainer.

    Args:
        profile: Model, revision, quantisation, attention, batch size.
        rows: The encoded training rows; the longest batch of them decides about memory.
        lora: A peft LoraConfig; "all-linear" and None mean the projections of `TARGETS`. Its
            start is drawn here (`same_start`), so `init_lora_weights` must be the default.
        backend: "plain" or "unsloth"; `prepare` must have been called for the latter.
        seed: Start of the adapter; equal seeds give equal adapters on every backend.
        dtype: Torch dtype of the base; default the profile's precision.
        checkpointing: Gradient checkpointing, which SFTConfig must repeat; default the profile's.
        available_gib: Memory to fit in; default what is free on the GPU, no limit on a CPU.
    Returns:
        The PeftModel, and the memory predicted for it.
    Raises:
        ConfigError: It will not fit or asks for what the backend cannot do (before anything is
            loaded), or the backend is not ready.
        ModelError: What was loaded is not what was asked for.
    """
    prepare(backend, cpu=not profile.is_gpu)
    from transformers import AutoConfig

    checkpointing = profile.gradient_checkpointing if checkpointing is None else checkpointing
    require_possible(lora, backend)
    if lora.target_modules is None and not lora.target_parameters:
        lora = copy.copy(lora)  # peft's own default is two of them, or an error
        lora.target_modules = set(TARGETS)
    targets = _targets(lora)
    source, revision = modeling.model_source(profile)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    wide = _bytes_of(dtype) == 4
    budget = memory.predict_rows(
        config, rows, rank=lora.r, batch_size=profile.batch_size, checkpointing=checkpointing,
        attention=profile.attention, bits=32 if wide else profile.bits,
        adapter_bytes=4 if wide or profile.precision == "fp16" else 2, autocast=profile.is_gpu,
    )  # fmt: skip
    if available_gib is None and profile.is_gpu:
        import torch

        available_gib = torch.cuda.mem_get_info()[0] / GIB
    if available_gib is not None:
        batch = memory.longest_batch(rows, profile.batch_size)
        where = f"profile {profile.name!r}, {batch.rows} x {batch.tokens} tokens"
        memory.require_fit(budget, available_gib, where=where)
    if backend == "unsloth":
        model = _unsloth(profile, source, revision, lora, targets, seed, dtype, checkpointing)
    else:
        model = _plain(profile, lora, dtype)
    same_start(model, seed)
    _require_as_asked(model, profile, lora, targets, config.num_hidden_layers)
    return model, budget


def require_possible(lora: Any, backend: str) -> None:
    """Refuse options of a LoraConfig that would be overwritten, or lost on the way to a backend.

    Raises:
        ConfigError: Names them.
    """
    if lora.init_lora_weights is not True or lora.kasa_config is not None:
        asked = "kasa_config" if lora.init_lora_weights is True else (
            f"init_lora_weights={lora.init_lora_weights!r}"
        )  # fmt: skip
        raise ConfigError(
            f"{asked}: every backend starts here from the same A and from B = 0 (same_start). A "
            "start that also takes its part out of the base, as pissa, olora, loftq, corda and "
            "KaSA do, would leave a damaged base. Leave the default, or build the model with "
            "peft.get_peft_model."
        )
    if backend == "plain":
        return
    usual = type(lora)()
    lost = [
        f"{field.name}={getattr(lora, field.name)!r}"
        for field in dataclasses.fields(lora)
        if field.name not in (*PASSED, "task_type")
        and getattr(lora, field.name) != getattr(usual, field.name)
    ]
    if isinstance(lora.target_modules, str) and lora.target_modules != "all-linear":
        lost.append(f"target_modules={lora.target_modules!r} as a pattern (a list is passed)")
    if lost:
        raise ConfigError(
            f"backend {backend!r} is handed {', '.join(PASSED)} and nothing else of a LoraConfig; "
            f"this one also asks for {', '.join(lost)}. Leave that out, or use "
            'backend="plain".'
        )


def _targets(lora: Any) -> list[str]:
    """Names of the adapted modules; none if the config holds a pattern or parameters alone."""
    if lora.target_modules == "all-linear":
        return list(TARGETS)
    return [] if isinstance(lora.target_modules, str) else sorted(lora.target_modules or [])


def nf4(profile: Profile) -> Any:
    """The quantisation of a profile: NF4 with quantised scales, computing in its precision."""
    import torch
    from transformers import BitsAndBytesConfig

    if profile.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16 if profile.precision == "fp16" else torch.bfloat16,
    )


def _bytes_of(dtype: Any) -> int:
    """Bytes per number of the base in `dtype`; the profiles' precisions have two."""
    return 2 if dtype is None else dtype.itemsize


def _plain(profile: Profile, lora: Any, dtype: Any) -> Any:
    from peft import get_peft_model

    base = modeling.load_model(profile, quantization=nf4(profile), dtype=dtype)
    model = get_peft_model(base, lora)
    if _bytes_of(dtype) == 2:
        modeling.to_bf16_adapter(model)
    return model


def _unsloth(
    profile: Profile, source: str, revision: str | None, lora: Any, targets: list[str], seed: int,
    dtype: Any, checkpointing: bool,
) -> Any:  # fmt: skip
    import torch
    from unsloth import FastLanguageModel

    if dtype is None:
        dtype = torch.float16 if profile.precision == "fp16" else torch.bfloat16
    four = profile.quantization == "nf4"
    model, _ = FastLanguageModel.from_pretrained(
        source,
        revision=revision,
        max_seq_length=profile.max_length,
        dtype=dtype,
        load_in_4bit=four,
        load_in_16bit=not four,
        use_exact_model_name=True,  # its default swaps a hub id for a quantised copy of its own
        use_gradient_checkpointing="unsloth" if checkpointing else False,
        random_state=seed,
        local_files_only=Path(source).is_dir(),
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_gradient_checkpointing="unsloth" if checkpointing else False,
        random_state=seed,
    )
    if dtype.itemsize == 2:
        modeling.to_bf16_adapter(model)
    modeling.guard_nf4(model)
    return model


def same_start(model: Any, seed: int) -> None:
    """Draw every LoRA A matrix from a generator of its own, named by layer; B stays zero.

    Backends build their layers in different orders, so one seed for all gives each of them
    another start. Same distribution as peft's default (uniform, bound 1 / sqrt(fan in)), drawn on
    the CPU, so that a GPU gets the same numbers.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                place = name.split("layers.", 1)[-1]  # what stands before depends on the wrapping
                digest = hashlib.sha256(f"{seed}:{place}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
                bound = 1 / math.sqrt(parameter.shape[1])
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)
            elif "lora_B" in name:
                parameter.zero_()


def _require_as_asked(
    model: Any, profile: Profile, lora: Any, targets: list[str], layers: int
) -> None:
    """Compare what is there with what was asked for.

    Raises:
        ModelError: Names what differs.
    """
    quantised = layers * len(TARGETS)
    # peft's wrapper around such a layer has the same name.
    kinds = [f"{type(m).__module__}.{type(m).__name__}" for m in model.modules()]
    four = sum(k.startswith("bitsandbytes.") and k.endswith(".Linear4bit") for k in kinds)
    if four != (quantised if profile.quantization == "nf4" else 0):
        raise ModelError(
            f"profile {profile.name!r} asks for quantization {profile.quantization!r}, but "
            f"{four} of {quantised} projections are in 4 bits. The backend fell back and printed "
            "why; check bitsandbytes on this machine or choose another quantization."
        )
    adapted = [n.split(".lora_A", 1)[0] for n, _ in model.named_parameters() if ".lora_A" in n]
    if not adapted:
        raise ModelError(f"{profile.model}: no adapter is there, the backend attached none.")
    chosen = lora.layers_to_transform
    chosen = [chosen] if isinstance(chosen, int) else chosen or range(layers)
    for target in targets:
        here = [n for n in adapted if n.endswith(f".{target}")]
        numbers = {int(found[1]) for n in here if (found := _LAYER.search(n))}
        # A path that names its layer, or a module outside all layers, is no claim about the others.
        some = _LAYER.search(f".{target}") or lora.exclude_modules or (here and not numbers)
        lacking = sorted(set(chosen) - numbers)
        if not here or (lacking and not some):
            raise ModelError(
                f"{profile.model}: {target} has an adapter in {len(numbers)} of {len(chosen)} "
                f"layers, not in layer {lacking[0]}. State the names its projections have there "
                "in target_modules; where only some layers have one, name these in "
                "layers_to_transform."
            )
