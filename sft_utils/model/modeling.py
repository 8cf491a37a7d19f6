"""Load, quantise and guard models; the copy that generates; what identifies weights."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_utils import heap
from sft_utils.artifacts import display_path, sha256_file, sha256_json, write_json
from sft_utils.basemodel import STAMP
from sft_utils.config import Profile
from sft_utils.errors import MaskError, ModelError
from sft_utils.model.decoding import GREEDY
from sft_utils.model.sources import model_source, named, shown
from sft_utils.model.sums import adapters, dequantised, require_scaling, require_sum


def load_tokenizer(profile: Profile) -> Any:
    """The served tokenizer; refuses one whose padding would hide the stop token.

    Raises:
        ModelError: It cannot be read or fetched, has no chat template, no stop token, or a pad
            token that cannot be told from it.
    """
    from transformers import AutoTokenizer

    source, revision = model_source(profile)
    with named(source):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise ModelError(f"{profile.model}: tokenizer without chat template or eos token")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError(
            f"{profile.model}: pad token {tokenizer.pad_token!r} must exist and differ from eos "
            f"{tokenizer.eos_token!r}; set tokenizer.pad_token to an unused special token"
        )
    return tokenizer


def load_model(
    profile: Profile, *, quantization: Any = None, dtype: Any = None, guard: bool = True
) -> Any:
    """Load the base model of a profile, safetensors only, never remote code.

    Args:
        quantization: A BitsAndBytesConfig for 4-bit weights, or None.
        dtype: Torch dtype; default the profile's precision.
        guard: Apply `guard_nf4` to all of a quantised model; 03 turns it off to show why it exists.
    Raises:
        ModelError: A weight file is corrupt or does not belong to the config, or the model cannot
            be fetched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    heap.give_back_freed_memory()
    source, revision = model_source(profile)
    if dtype is None:
        dtype = torch.float16 if profile.precision == "fp16" else torch.bfloat16
    options: dict[str, Any] = {"device_map": {"": 0 if profile.is_gpu else "cpu"}}
    if quantization is not None:
        options["quantization_config"] = quantization
    with named(source):
        model, found = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=profile.attention,
            output_loading_info=True,
            **options,
        )
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{shown(source)}: {len(missing)} weights of its config are in none of its files, the "
            f"first is {missing[0]}; they would be random. Fetch it again, or repair config.json."
        )
    # Many instruct models ship sampling defaults; evaluation here is greedy and repeatable.
    off = {name for name in GREEDY if getattr(model.generation_config, name, None)}
    off = {name: GREEDY[name] or None for name in off | {"repetition_penalty"}}
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, **off)
    if quantization is not None:
        guard_nf4(model, biased=not guard)
    return model


def guard_nf4(model: Any, *, biased: bool = False) -> int:
    """Keep bitsandbytes from repacking 4-bit weights in place on AVX512-BF16 CPUs.

    bitsandbytes 0.50.2 repacks a layer at its first forward in eval mode and then computes wrong
    gradients from the repacked bytes, without an error: after one evaluation, training goes on
    with noise. Harmless to call elsewhere.

    Args:
        biased: Guard layers with a bias alone (Qwen2's q, k, v). Unguarded they raise in training,
            where the others compute noise: 03 shows the latter.
    Returns:
        Number of layers guarded.
    Source: bitsandbytes 0.50.2, nn/modules.py (Linear4bit.forward)
    """
    guarded = 0
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu") and (
            not biased or module.bias is not None
        ):
            module.support_avx512bf16_for_cpu = False
            guarded += 1
    return guarded


def weights_hash(profile: Profile) -> str:
    """Identity of the base weights: over the files for a directory, id and revision for a hub.

    The JSON files of a directory count (the same weights compute something else with another
    rope_theta); those of a model with our stamp are made by one recipe, and its weights say all.
    """
    source, revision = model_source(profile)
    path = Path(source)
    if not path.is_dir():
        return sha256_json([source, revision])
    if (path / STAMP).exists():
        files = json.loads((path / STAMP).read_text(encoding="utf-8"))["files"]
        return sha256_json(sorted((k, v) for k, v in files.items() if k.endswith(".safetensors")))
    files = [*path.glob("*.safetensors"), *path.glob("*.json")]
    return sha256_json(sorted((p.name, sha256_file(p)) for p in files))


def tokenizer_hash(tokenizer: Any) -> str:
    """Identity of vocabulary, merges and special tokens."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token, tokenizer.pad_token]
    return sha256_json(parts)


def plain_copy(profile: Profile) -> Any:
    """An unquantised bf16 model of the same shape, the target of `merge_into`."""
    import torch

    model = load_model(profile, dtype=torch.bfloat16)
    model.eval()
    return model


def merge_into(copy: Any, model: Any) -> Any:
    """Write the effective weights of a (quantised) base plus LoRA into a plain model.

    Generating with 4-bit weights and unmerged adapters costs two to three times as much on a
    CPU. The copy holds what training really used: the *dequantised* 4-bit base (not the original
    weights), plus the adapter, and trained biases. The product of an adapter is peft's, rounded to
    the dtype of the adapter; the sum is made in float32 and rounded to that of the copy.
    `merging.export` writes the sum of an unrounded product.

    Args:
        copy: Result of `plain_copy`; overwritten.
        model: PeftModel with LoRA adapters, quantised or not.
    Returns:
        `copy`, in eval mode.
    Raises:
        ModelError: Something was trained that is no product of two matrices (`require_sum`).
    """
    import torch

    base = model.get_base_model()
    require_sum(base)
    with torch.no_grad():
        for name, target in copy.named_modules():
            for key, parameter in target.named_parameters(recurse=False):
                module = base.get_submodule(name)
                layer = getattr(module, "base_layer", module)
                if key == "weight":
                    parameter.copy_(_effective(module, layer))
                else:
                    parameter.copy_(getattr(layer, key))
    copy.eval()
    return copy


def _effective(module: Any, layer: Any) -> Any:
    """The weight with which a layer computes, in float32."""
    weight = dequantised(layer)
    for adapter in adapters(module):
        weight = weight + module.get_delta_weight(adapter).float()
        lengths = getattr(module, "lora_magnitude_vector", None) or {}
        if adapter in lengths:  # DoRA is no sum: it also trains the length of each row
            rows = 0 if getattr(module, "fan_in_fan_out", False) else 1  # GPT-2 stores them turned
            length = lengths[adapter].weight.float() / weight.norm(dim=rows)
            weight = weight * length.unsqueeze(rows)
    return weight


def adapter_state(model: Any) -> dict[str, Any]:
    """Copies of all trainable tensors, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def restore_adapter(model: Any, state: dict[str, Any]) -> None:
    """Put tensors of `adapter_state` back.

    Raises:
        ModelError: The state does not belong to this model.
    """
    import torch

    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if named.keys() != state.keys():
        raise ModelError(f"adapter state has {len(state)} tensors, the model {len(named)}")
    with torch.no_grad():
        for name, tensor in state.items():
            named[name].copy_(tensor)


def to_bf16_adapter(model: Any) -> None:
    """Cast adapter weights to bf16, as SFTTrainer does on 4-bit bases.

    A reloaded adapter comes back in float32 and computes other logits than the one that was
    trained; cast it as well. On an fp16 base it stays float32: `training.fit_adapter_precision`.
    """
    import torch

    half = model.get_input_embeddings().weight.dtype == torch.float16
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float32 if half else torch.bfloat16)


def load_adapter_into(model: Any, folder: Path) -> None:
    """Put the weights of a saved adapter into a model that already has one of the same shape.

    Raises:
        ModelError: Names, shapes or the scaling do not match.
    """
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    require_scaling(model, folder)
    weights = load_peft_weights(str(folder), device="cpu")
    try:
        result = set_peft_model_state_dict(model, weights)
    except (KeyError, RuntimeError) as error:  # no copy of a module (modules_to_save); other shapes
        raise ModelError(f"{display_path(folder)} does not fit this model: {error}") from error
    missing = [k for k in result.missing_keys if "lora_" in k]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{display_path(folder)} does not fit this model: {len(missing)} adapter tensors "
            f"missing, {len(result.unexpected_keys)} unknown"
        )


def clean_adapter_config(folder: Path, profile: Profile) -> None:
    """Replace the local path that peft records as base model by the model's public name."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = profile.model
    config["revision"] = profile.revision
    write_json(path, config)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template card, mostly "more needed"


@contextlib.contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """Inside, a model that a trainer holds computes in the dtypes of its weights, as it does alone.

    In mixed precision accelerate puts autocast around `model.forward` and leaves it there: answers
    of the gate would have another arithmetic than those of the saved adapter, and what is computed
    in float32 on purpose (`decoding`) would be rounded to fp16 again.

    Source: accelerate 1.15.0, accelerator.py (prepare_model)
    """
    own = getattr(model, "__dict__", {})  # not getattr: a PeftModel would answer for its base
    before, wrapped = own.get("_original_forward"), own.get("forward")
    if before is not None:
        model.forward = before
    try:
        yield
    finally:
        if before is not None:
            model.forward = wrapped


def release(model: Any) -> None:
    """Take off what a trainer put around the forward pass; the next trainer puts on its own."""
    before = getattr(model, "__dict__", {}).pop("_original_forward", None)
    if before is None:
        return
    vars(model).pop("_is_accelerate_prepared", None)  # else the next one would have no autocast
    if getattr(before, "__func__", None) is type(model).forward:
        del model.forward
    else:
        model.forward = before


def answer_nll(
    model: Any, rows: Sequence[dict[str, list[int]]], pad_id: int, *, batch_size: int = 16
) -> list[float]:
    """Mean negative log-likelihood of the supervised tokens of each row, in nats.

    Only hidden states of supervised positions reach the vocabulary projection, which is most of
    the cost of a small model. What some models do to their logits after it is done here, too.

    Args:
        model: With an adapter or without; in eval mode afterwards.
        rows: input_ids and labels, as `masking.assistant_labels` makes them.
        pad_id: Id that fills rows up; masked, so any will do.
    Raises:
        MaskError: A row has no supervised token behind its first one: its mean is of nothing.
    """
    import torch

    from sft_utils.masks.masking import IGNORE, collate

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = next(inner.parameters()).device
    losses: list[float] = []
    for i, row in enumerate(rows):
        if all(label == IGNORE for label in row["labels"][1:]):
            raise MaskError(f"row {i}: no supervised token behind its first one. Drop the row.")
    model.eval()
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            batch = {k: v.to(device) for k, v in collate(rows[i : i + batch_size], pad_id).items()}
            labels = batch.pop("labels")[:, 1:]  # (B, T-1)
            hidden = inner.base_model(**batch).last_hidden_state[:, :-1]  # (B, T-1, H)
            for states, target in zip(hidden, labels, strict=True):
                keep = target != IGNORE
                logits = inner.get_output_embeddings()(states[keep]).float()  # (supervised, V)
                logits = _as_the_model_ends(logits, inner.config)
                losses.append(torch.nn.functional.cross_entropy(logits, target[keep]).item())
    return losses


def _as_the_model_ends(logits: Any, config: Any) -> Any:
    """Scale and cap float32 logits as the forward pass of a model does after its projection.

    Source: transformers 5.17.0, modeling_{cohere,granite,hyperclovax,falcon_h1,gemma2,...}.py.
        TRL's chunked loss leaves `logits_scaling` and `lm_head_multiplier` out (trl 1.14.2,
        trainer/sft_trainer.py, _patch_chunked_ce_lm_head).
    """
    text = config.get_text_config()
    factor = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"):
        value = getattr(text, name, None)
        if isinstance(value, int | float):
            divides = name == "logits_scaling" and text.model_type != "hyperclovax"
            factor *= 1 / value if divides else value
    if factor != 1.0:
        logits = logits * factor
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()
