"""How alike two models are, and what identifies their weights. Small parts for a merge notebook.

rows = probes(record)
likeness(answer_logits(adapted, rows), answer_logits(merged, rows)).kl
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import sha256_files
from sft_utils.masks.chat import Oracle
from sft_utils.preflight.record import RunRecord

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")
"""Files that hold weights."""

Probe = tuple[list[int], list[int]]
"""Token ids (length T), and the positions whose logits are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How close two models are at the same positions."""

    kl: float  # mean KL(reference || other), nats per position
    top1: float  # share of positions with the same most likely token
    n: int  # positions


def likeness(reference: Sequence[Any], other: Sequence[Any]) -> Likeness:
    """Compare logits of two models; rows that one of them has more (padding) are left out.

    Where one of the two computes NaN and the other does not (fp16 that overflows), they are
    infinitely far apart: a distance of NaN would be below every bound.

    Args:
        reference: Per probe a float tensor (positions, V).
        other: The same positions of the other model.
    Example:
        >>> import torch
        >>> same = [torch.tensor([[2.0, 0.0], [0.0, 1.0]])]
        >>> likeness(same, same)
        Likeness(kl=0.0, top1=1.0, n=2)
    """
    import torch

    total, agree, n = 0.0, 0, 0
    for a, b in zip(reference, other, strict=True):
        width = min(a.shape[-1], b.shape[-1])
        p, q = (x[:, :width].float().log_softmax(-1) for x in (a, b))
        broken = p.isnan().any(-1) ^ q.isnan().any(-1)  # (positions,)
        away = math.inf if bool(broken.any()) else torch.where(p > -30, p.exp() * (p - q), 0).sum()
        total += float(away)
        agree += int(((p.argmax(-1) == q.argmax(-1)) & ~broken).sum())
        n += len(p)
    return Likeness(kl=total / max(n, 1), top1=agree / max(n, 1), n=n)


def probes(
    record: RunRecord, *, rows: int = 4, length: int = 128, positions: int = 24
) -> list[Probe]:
    """Short conversations of a record, with the positions that predict their answers.

    Args:
        record: Holds the conversations.
        rows: Conversations at most, the shortest ones.
        length: Tokens of each: its beginning if an answer is there, else the stretch that ends in
            its first answer. Without what stands before it both models are asked the same, too.
        positions: Positions of each at most.
    """
    truths = [o for o in record.oracles if isinstance(o, Oracle) and len(o.ids) > 1]
    chosen: list[Probe] = []
    for truth in sorted(truths, key=lambda o: len(o.ids))[:rows]:
        first = next((k for k, m in enumerate(truth.mask) if m and k), 0)
        end = length if first < length else min(first + positions, len(truth.ids))
        start = max(0, end - length)
        mask = truth.mask[start + 1 : end]
        asked = [k for k, m in enumerate(mask) if m] or list(range(len(mask)))
        chosen.append((truth.ids[start:end], asked[:positions]))
    return chosen


@contextlib.contextmanager
def untouched(*models: Any) -> Iterator[None]:
    """Evaluate models and leave no trace: modes, gradients flags, 4-bit bytes, random state.

    bitsandbytes repacks 4-bit weights in place at a forward pass in eval mode (on CPUs with
    AVX512-BF16); the switch for that is off inside.
    """
    import torch

    modules = [m for model in models for m in model.modules()]
    modes = [m.training for m in modules]
    flags = [(p, p.requires_grad) for model in models for p in model.parameters()]
    repacking = [m for m in modules if getattr(m, "support_avx512bf16_for_cpu", False)]
    try:
        for module in repacking:
            module.support_avx512bf16_for_cpu = False
        for model in models:
            model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module in repacking:
            module.support_avx512bf16_for_cpu = True
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def answer_logits(model: Any, rows: Sequence[Probe]) -> list[Any]:
    """Logits at the positions of the probes.

    Args:
        model: A causal language model, with or without adapter.
        rows: Result of `probes`.
    Returns:
        Per probe a float32 tensor (positions, V) on the CPU; empty if the model has no row for
        one of the tokens or cannot compute them.
    """
    import torch

    table = model.get_input_embeddings()
    device, n = table.weight.device, table.weight.shape[0]
    if any(max(ids) >= n for ids, _ in rows):
        return []
    found = []
    with untouched(model):
        for ids, positions in rows:
            try:
                output = model(input_ids=torch.tensor([ids], device=device))  # (1, T, V)
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                return []
            found.append(output.logits[0, positions].float().cpu())
    return found


def base_logits(record: RunRecord, rows: Sequence[Probe]) -> list[Any]:
    """Logits of the model before training: the adapter switched off, or the base itself."""
    model = record.model
    if hasattr(model, "disable_adapter") and not any(
        getattr(m, "merged", False) for m in model.modules()
    ):
        with untouched(model), model.disable_adapter():
            return answer_logits(model, rows)
    # A base that adapters were injected into is no longer the base.
    if record.base_model is None or any("lora_" in n for n, _ in record.base_model.named_modules()):
        return []
    return answer_logits(record.base_model, rows)


def tensor_hash(tensors: Mapping[str, Any]) -> str:
    """Hex sha256 over names, types, shapes and bytes, whatever the order of the tensors."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_hash(model: Any) -> str:
    """Identity of base weights, the same with or without adapter and 4-bit layers.

    64 rows of the embedding and all norms, rounded to bf16: adapters and quantisation leave them
    alone, and a base loaded as float32 or bf16 gives the same value. float16 may not.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    table = original(base.get_input_embeddings()).weight
    rows = torch.arange(0, min(len(table), 4096), max(min(len(table), 4096) // 64, 1))
    parts = {"embedding": table.detach()[rows.to(table.device)].to(torch.bfloat16)}
    for name, parameter in base.named_parameters():
        if parameter.ndim == 1 and "norm" in name and "lora_" not in name:
            clean = name.replace("original_module.", "").replace("base_layer.", "")
            if "modules_to_save" not in name:
                parts[clean] = parameter.detach().to(torch.bfloat16)
    return tensor_hash(parts)


def original(module: Any) -> Any:
    """The module that peft wrapped, as it was before training."""
    for name in ("original_module", "base_layer"):
        module = getattr(module, name, module)
    return module


def trained(module: Any) -> Any:
    """The module that is in force: peft's trained copy if there is one."""
    copies = getattr(module, "modules_to_save", None)
    active = getattr(module, "active_adapters", None) or ["default"]
    if copies is not None and active[0] in copies:
        return copies[active[0]]
    return original(module)


def count_4bit(model: Any) -> int:
    """Number of layers whose weights are stored in 4 bit by bitsandbytes."""
    return sum(type(getattr(m, "weight", None)).__name__ == "Params4bit" for m in model.modules())


def artefact_hash(folder: Path) -> str:
    """Identity of what is handed over: all weight files of a folder, by name and content."""
    return sha256_files([p for pattern in WEIGHTS for p in Path(folder).glob(pattern)])
