"""Predict what training will need before the model is loaded; measure what it took."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sft_utils.errors import ConfigError
from sft_utils.runtime import GIB

LOSS_CHUNK = 256
"""Tokens that TRL projects on the vocabulary at once; `training.fit_loss_chunks` changes it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Predicted bytes by purpose."""

    weights: int  # base model as stored
    adapter: int  # LoRA matrices, their gradients and both Adam moments
    activations: int  # kept for backward, longest batch
    logits: int  # one chunk of tokens projected on the vocabulary, float32 copies in its loss

    @property
    def total_gib(self) -> float:
        """Sum in GiB (2**30 bytes)."""
        return sum(dataclasses.astuple(self)) / GIB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The batch that decides about memory."""

    rows: int
    tokens: int  # of its longest row: the others are padded to it
    padded: bool  # rows differ in length, so that attention needs a mask


def longest_batch(rows: Sequence[dict[str, list[int]]], batch_size: int) -> Batch:
    """The most expensive batch a trainer can draw from encoded rows: the longest row, padded ones
    beside it.

    Raises:
        ConfigError: There are no rows.
    Example:
        >>> rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [5]}, {"input_ids": [5, 6]}]
        >>> longest_batch(rows, 2)
        Batch(rows=2, tokens=3, padded=True)
    """
    if not rows:
        raise ConfigError("no rows: the longest batch of nothing decides about no memory")
    lengths = [len(row["input_ids"]) for row in rows]
    size = min(batch_size, len(rows))
    return Batch(rows=size, tokens=max(lengths), padded=size > 1 and min(lengths) < max(lengths))


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


def _kept(
    config: Any, *, rank: int, tokens: int, padded: bool, attention: str, wide: int, adapter: int
) -> int:
    """Bytes per token that autograd keeps of one decoder layer with an adapter on each projection.

    Args:
        wide: Bytes per number of the base's computations.
        adapter: Bytes per number of the adapter's; where they differ, peft casts each input.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    (q, _), (kv, _) = linear_shapes(config)[:2]
    cast = adapter > wide
    norms = 2 * (4 * hidden + 4)  # the float32 copy and its scale
    inputs = 5 * adapter * hidden if cast else 2 * wide * hidden  # of q, k, v, gate and up
    if attention == "eager":  # keys and values repeated to all heads; T x T weights of every head
        scores = heads * tokens * (4 if wide == 4 else 4 + 2)
        mixing = wide * 4 * q + scores
    else:  # a mask makes transformers repeat keys and values, and is kept once per layer
        mixing = wide * (2 * q + 2 * (q if padded else kv) + (tokens if padded else 0)) + 4 * heads
    mlp = wide * 3 * inner + adapter * inner  # gate, its activation, up; their product
    return norms + inputs + mixing + (adapter * q if cast else 0) + mlp + 7 * rank * adapter


def predict(
    config: Any,
    *,
    rank: int,
    batch_size: int,
    tokens: int,
    padded: bool = True,
    bits: int = 4,
    adapter_bytes: int = 2,
    autocast: bool = True,
    checkpointing: bool = False,
    attention: str = "sdpa",
    loss_chunk: int = LOSS_CHUNK,
) -> Budget:
    """Predict the peak of training from a model config alone.

    Three moments compete while all activations of the forward pass are there: the loss, which
    holds four float32 copies of a chunk of logits; the backward pass of the last layer; with
    checkpointing that of a layer computed again. The largest counts. Compared with measured peaks
    in tests/parity/test_memory_peak.py.

    Args:
        config: transformers config of the base model (Llama, Qwen2 and relatives).
        rank: LoRA rank on all seven projections.
        batch_size: Rows per micro-batch.
        tokens: Tokens of the longest row.
        padded: Rows of the batch differ in length (matters for sdpa).
        bits: 4 for NF4, 16 for bf16 or fp16, 32.
        adapter_bytes: 2 where TRL casts the adapter to bf16 (QLoRA), 4 for float32.
        autocast: The trainer computes in mixed precision (bf16=True or fp16=True on a GPU).
        checkpointing: Keep only layer inputs and recompute the rest.
        attention: `Profile.attention`.
        loss_chunk: What `training.fit_loss_chunks` was given.
    """
    layers, hidden, inner = (
        config.num_hidden_layers, config.hidden_size, config.intermediate_size
    )  # fmt: skip
    wide = 4 if bits == 32 else 2
    trained = layers * sum(rank * (o + i) for o, i in linear_shapes(config))
    kind = adapter_bytes if adapter_bytes > wide and not autocast else wide
    per_layer = _kept(
        config, rank=rank, tokens=tokens, padded=padded, attention=attention, wide=wide,
        adapter=kind,
    )  # fmt: skip
    n = batch_size * tokens
    outside = n * (4 + wide) * hidden  # the last norm, and its rows sorted for the loss
    kept = n * layers * (wide * hidden if checkpointing else per_layer) + outside
    if adapter_bytes > kind:
        kept += 2 * trained  # autocast keeps 16-bit copies of the adapter
    backward = n * (2 * kind * inner + kind * hidden) + (n * per_layer if checkpointing else 0)
    if bits == 4:
        backward += 2 * inner * hidden  # one projection, dequantised
    loss = 4 * 4 * min(loss_chunk, n) * config.vocab_size
    return Budget(
        weights=weight_bytes(config, bits),
        adapter=trained * adapter_bytes * 4,
        activations=kept + max(backward - loss, 0),
        logits=loss,
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
    return predict(
        config, batch_size=batch.rows, tokens=batch.tokens, padded=batch.padded, **options
    )


def require_fit(
    budget: Budget, available_gib: float, *, reserve: float = 0.1, where: str = "training"
) -> None:
    """Refuse a run that will not fit, before anything is loaded.

    Args:
        available_gib: Memory of the device.
        reserve: Share kept free for kernels and fragmentation.
        where: What the prediction is for.
    Raises:
        ConfigError: The prediction exceeds what is there; says by how much and what helps.
    """
    usable = available_gib * (1 - reserve)
    if budget.total_gib > usable:
        parts = {k: f"{v / GIB:.1f}" for k, v in dataclasses.asdict(budget).items()}
        raise ConfigError(
            f"predicted {budget.total_gib:.1f} GiB for {where} ({parts}) but only {usable:.1f} of "
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

    Source: torch 2.13, c10/core/CPUAllocator.cpp (ProfiledCPUMemoryReporter)

    Example:
        >>> import torch
        >>> peak_rise(lambda: [torch.empty(2**20, dtype=torch.uint8), torch.empty(4)][1]) >> 20
        1
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
