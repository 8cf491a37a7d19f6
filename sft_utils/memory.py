"""Predict what training will need before the model is loaded; measure what it took."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sft_utils.errors import ConfigError
from sft_utils.masking import supervised as supervised_tokens
from sft_utils.runtime import GIB

LOSS_CHUNK = 256
"""Supervised tokens that TRL projects on the vocabulary at once (`training.fit_loss_chunks`)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Predicted bytes by purpose."""

    weights: int  # base model as stored
    adapter: int  # LoRA matrices, their gradients and both Adam moments
    activations: int  # kept for backward, longest batch
    logits: int  # vocabulary projection of the supervised tokens of one chunk, float32

    @property
    def total_gib(self) -> float:
        """Sum in GiB (2**30 bytes)."""
        return sum(dataclasses.astuple(self)) / GIB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The batch that decides about memory."""

    rows: int
    tokens: int  # of its longest row: the others are padded to it
    supervised: int  # tokens of the whole batch that carry loss


def longest_batch(rows: Sequence[dict[str, list[int]]], batch_size: int) -> Batch:
    """The most expensive batch a trainer can draw: the longest rows together.

    Grouping by length really builds it, random order may. Its supervised tokens are counted as if
    the rows with most of them came together too.

    Raises:
        ConfigError: There are no rows.
    Example:
        >>> row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
        >>> longest_batch([row, row, {"input_ids": [5], "labels": [5]}], 2)
        Batch(rows=2, tokens=3, supervised=4)
    """
    if not rows:
        raise ConfigError("no rows: the longest batch of nothing decides about no memory")
    most = sorted((supervised_tokens(row) for row in rows), reverse=True)[:batch_size]
    return Batch(
        rows=min(batch_size, len(rows)),
        tokens=max(len(row["input_ids"]) for row in rows),
        supervised=sum(most),
    )


def linear_shapes(config: Any) -> list[tuple[int, int]]:
    """(out, in) of the seven projections of one decoder layer (Llama, Qwen2 and relatives)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    return [
        (q, hidden), (kv, hidden), (kv, hidden), (hidden, q),
        (inner, hidden), (inner, hidden), (hidden, inner),
    ]  # fmt: skip


def nf4_bytes(out: int, inner: int) -> float:
    """Bytes of one projection in NF4 with quantised scales, as bitsandbytes stores it.

    Half a byte per weight, one byte of scale per 64 weights, a float32 scale per 256 of these, and
    two code tables (16 and 256 float32 values) with an offset.
    """
    return out * inner * (1 / 2 + 1 / 64 + 4 / 64 / 256) + 4 * (16 + 256 + 1)


def weight_bytes(config: Any, bits: int) -> int:
    """Bytes of the base as stored, buffers aside.

    With 4 bits the projections are NF4; everything else, biases included, stays in 16 bits.

    Args:
        config: transformers config of a Llama, Qwen2 or relative.
        bits: 4, 16 or 32 per weight of the projections.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    shapes = linear_shapes(config)
    projections = layers * sum(o * i for o, i in shapes)
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    rest = embeddings + (2 * layers + 1) * hidden + layers * _biases(config, shapes)
    if bits != 4:
        return (projections + rest) * bits // 8
    return int(layers * sum(nf4_bytes(o, i) for o, i in shapes)) + 2 * rest


def _biases(config: Any, shapes: Sequence[tuple[int, int]]) -> int:
    """Bias parameters of one layer: Qwen2 always has them on q, k, v; Llama where it says so."""
    outputs = [o for o, _ in shapes]
    if config.model_type == "qwen2":
        return sum(outputs[:3])
    attention = sum(outputs[:4]) if getattr(config, "attention_bias", False) else 0
    return attention + (sum(outputs[4:]) if getattr(config, "mlp_bias", False) else 0)


def predict(
    config: Any,
    *,
    rank: int,
    batch_size: int,
    tokens: int,
    supervised: int,
    bits: int = 4,
    adapter_bytes: int = 2,
    checkpointing: bool = False,
    attention: str = "sdpa",
) -> Budget:
    """Predict training memory from a model config alone."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    shapes = linear_shapes(config)
    adapter = layers * sum(rank * (o + i) for o, i in shapes)
    q, kv, inner = shapes[0][0], shapes[1][0], shapes[4][0]
    kept = 6 * hidden + 3 * q + 2 * 2 * kv + 4 * inner + 7 * rank
    per_layer = 2 * kept
    if attention == "eager":
        per_layer += config.num_attention_heads * tokens * (4 + 2)
    per_token = layers * (2 * hidden if checkpointing else per_layer)
    if checkpointing:
        per_token += per_layer  # the one layer being recomputed
    chunk = min(batch_size * supervised, LOSS_CHUNK)
    return Budget(
        weights=weight_bytes(config, bits),
        adapter=adapter * adapter_bytes * 4,
        activations=batch_size * tokens * per_token,
        logits=3 * 4 * chunk * config.vocab_size,
    )


def predict_rows(
    config: Any, rows: Sequence[dict[str, list[int]]], *, batch_size: int, **options: Any
) -> Budget:
    """`predict` for the longest batch that these encoded rows can make.

    Args:
        config: transformers config of the base model.
        rows: Encoded training rows.
        batch_size: Rows per micro-batch.
        options: What `predict` takes besides.
    """
    batch = longest_batch(rows, batch_size)
    per_row = -(-batch.supervised // batch.rows)
    return predict(
        config, batch_size=batch.rows, tokens=batch.tokens, supervised=per_row, **options
    )


def require_fit(budget: Budget, available_gib: float, *, reserve: float = 0.1) -> None:
    """Refuse a run that will not fit, before anything is loaded.

    Args:
        available_gib: Memory of the device.
        reserve: Share kept free for kernels and fragmentation.
    Raises:
        ConfigError: The prediction exceeds what is there; says by how much and what helps.
    """
    usable = available_gib * (1 - reserve)
    if budget.total_gib > usable:
        parts = {k: f"{v / GIB:.1f}" for k, v in dataclasses.asdict(budget).items()}
        raise ConfigError(
            f"predicted {budget.total_gib:.1f} GiB ({parts}) but only {usable:.1f} of "
            f"{available_gib:.1f} GiB are usable. Lower batch_size or max_length, raise "
            "grad_accumulation, turn on gradient checkpointing, or choose a smaller model."
        )


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind tensors, what quantised ones carry included."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        state = getattr(tensor, "quant_state", None)
        inner = getattr(state, "state2", None)
        parts = [tensor]
        for part in (state, inner):
            if part is not None:
                parts += [part.absmax, part.code, getattr(part, "offset", None)]
        for part in parts:
            if part is not None and hasattr(part, "untyped_storage"):
                storage = part.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def peak_rise(work: Callable[[], Any]) -> int:
    """Bytes that `work()` had allocated on the CPU at its highest, beyond those at its start.

    Counted by torch's CPU allocator through the profiler: every tensor and every buffer inside a
    kernel, at the moment it is made and freed. Resident memory would tell something else: what
    libraries and the allocator keep.

    Example:
        >>> import torch
        >>> peak_rise(lambda: [torch.empty(2**20, dtype=torch.uint8), torch.empty(4)][1]) >> 20
        1
    Source: torch 2.13, c10/core/CPUAllocator.cpp (ProfiledCPUMemoryReporter)
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def watch(trainer: Any, *, at: int = 2) -> dict[str, int]:
    """Measure the peak of a trainer's `at`-th micro-batch while it trains.

    Not the first one: Adam's moments exist only after a step. On a GPU the allocator's own peak is
    read; on a CPU it is what lives before (weights, adapter, moments) plus `peak_rise`.

    Returns:
        A dict that will hold "peak_bytes" once that micro-batch has run.
    """
    import torch

    step, seen, result = trainer.training_step, [0], {}

    def measured(model: Any, *arguments: Any, **options: Any) -> Any:
        seen[0] += 1
        if seen[0] != at:
            return step(model, *arguments, **options)
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            loss = step(model, *arguments, **options)
            result["peak_bytes"] = torch.cuda.max_memory_allocated(device)
            return loss
        moments = [v for s in trainer.optimizer.state.values() for v in s.values()]
        lives = storage_bytes([*model.parameters(), *model.buffers(), *moments])
        out = []
        rise = peak_rise(lambda: out.append(step(model, *arguments, **options)))
        result["peak_bytes"] = lives + rise
        return out[0]

    trainer.training_step = measured
    return result
