"""Predict what training will need before the model is loaded; compare with what it took."""

import dataclasses
from typing import Any

from sft_utils.errors import ConfigError
from sft_utils.runtime import GIB


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


def linear_shapes(config: Any) -> list[tuple[int, int]]:
    """(out, in) of the seven projections of one decoder layer (Llama, Qwen2 and relatives)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    return [
        (q, hidden), (kv, hidden), (kv, hidden), (hidden, q),
        (inner, hidden), (inner, hidden), (hidden, inner),
    ]  # fmt: skip


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
    """Predict training memory from a model config alone.

    Weights: the projections at `bits` (NF4 adds 8-bit scales per 64 weights and their own scales,
    together 0.127 bits per weight), everything else at 16 bits. Activations: per token and layer
    the tensors that autograd keeps in 16 bits: inputs of the norms and projections, q, k, v, the
    attention output, gate, up and their product, and the rank-wide LoRA products. Eager attention
    also keeps the weights of every head, in float32 and in 16 bits, T x T each.

    Args:
        config: transformers config of the base model.
        rank: LoRA rank on all seven projections.
        batch_size: Rows per micro-batch.
        tokens: Tokens of the longest row.
        supervised: Largest number of supervised tokens in one row.
        bits: 4 for NF4, 16 for bf16 or fp16.
        adapter_bytes: 2 where TRL casts the adapter to bf16 (QLoRA), 4 for float32.
        checkpointing: Keep only layer inputs and recompute the rest.
        attention: `Profile.attention`.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    shapes = linear_shapes(config)
    linear = layers * sum(o * i for o, i in shapes)
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    norms = (2 * layers + 1) * hidden
    per_weight = 16 / 8 if bits == 16 else (bits + 8 / 64 + 32 / 64 / 256) / 8
    adapter = layers * sum(rank * (o + i) for o, i in shapes)
    q, kv, inner = shapes[0][0], shapes[1][0], shapes[4][0]
    kept = 6 * hidden + 3 * q + 2 * 2 * kv + 4 * inner + 7 * rank
    per_layer = 2 * kept
    if attention == "eager":
        per_layer += config.num_attention_heads * tokens * (4 + 2)
    per_token = layers * (2 * hidden if checkpointing else per_layer)
    if checkpointing:
        per_token += per_layer  # the one layer being recomputed
    chunk = min(batch_size * supervised, 256)  # TRL projects supervised tokens in chunks of 256
    return Budget(
        weights=int(linear * per_weight + 2 * (embeddings + norms)),
        adapter=adapter * adapter_bytes * 4,
        activations=batch_size * tokens * per_token,
        logits=3 * 4 * chunk * config.vocab_size,
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
