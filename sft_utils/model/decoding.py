"""Greedy decoding of many prompts that share a long beginning.

A few-shot prompt is more than a thousand tokens that are the same for every request. The stock path
copies their keys and values for each row of the batch and again at every step, which is nearly all
of the time of a small model on a CPU. Here they are kept once: attention scores against the shared
part come from one matrix product for the whole batch, scores against a row's own part are put
behind them, and one softmax runs over both. The arithmetic is that of the eager attention.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

SUPPORTED = ("llama", "qwen2", "mistral")
"""Model types whose attention is plain softmax over all earlier tokens."""

NAME = "sft_shared_prefix"

GREEDY = {
    "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0,
    "min_new_tokens": 0, "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (),
    "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": (),
}  # fmt: skip
"""Settings of a generation config, with the value at which the most likely token is taken."""


class Guide(Protocol):
    """What may limit the tokens of an answer; `constrain.Guide` follows a JSON Schema."""

    def restrict(self, logits: Any, rows: list[int]) -> Any:
        """Logits (B, V) in which forbidden tokens are -inf."""

    def advance(self, rows: list[int], tokens: list[int]) -> None:
        """Take note of the tokens that were chosen."""


def supports(model: Any) -> bool:
    """Whether the shared-prefix attention computes what the model's own attention computes.

    Unsloth replaces the forward of the attention modules. Its own never asks for
    `shared_attention`, so every answer would be written without the shared prefix.
    """
    attention = [type(m) for n, m in model.named_modules() if n.endswith("self_attn")]
    if not all(t.forward.__module__.startswith("transformers.") for t in attention):
        return False
    windows = getattr(model.config, "sliding_window", None)
    used = windows and getattr(model.config, "use_sliding_window", True)
    return model.config.model_type in SUPPORTED and not used


def shared_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Attention over the shared prefix (if one is set) and the row's own keys.

    Args:
        query: (B, heads, T, D); key, value: (B, kv heads, L, D), own tokens only.
        attention_mask: Additive, (B, 1, T, L), or None.
    Returns:
        (B, T, heads, D) and no weights.
    """
    import torch

    batch, heads, steps, width = query.shape
    kv = key.shape[1]
    group = heads // kv
    grouped = query.reshape(batch, kv, group * steps, width)
    nothing = (key[0, :, :0], value[0, :, :0])
    past_key, past_value = getattr(module, "shared_prefix", nothing)  # (kv, P, D)
    split = past_key.shape[1]
    if steps > 1:  # reading the rows: one fused kernel, the prefix repeated for this call only
        keys = torch.cat([past_key.expand(batch, -1, -1, -1), key], 2)
        values = torch.cat([past_value.expand(batch, -1, -1, -1), value], 2)
        mask = None
        if attention_mask is not None:
            visible = attention_mask.new_zeros(batch, 1, steps, split)
            mask = torch.cat([visible, attention_mask], -1).repeat(1, 1, group, 1)
        output = torch.nn.functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=scaling
        )
    else:  # writing token by token: the prefix is read once for the whole batch
        # Scores can pass 65,504, the most that fp16 holds; their NaN would become token 0.
        wide = torch.float32 if query.dtype == torch.float16 else query.dtype
        asked = grouped.to(wide)
        own = (asked @ key.to(wide).transpose(-1, -2)) * scaling  # (B, kv, group, L)
        if attention_mask is not None:
            own = own + attention_mask[..., : key.shape[2]]
        flat = asked.transpose(0, 1).reshape(kv, batch * group, width)
        past = flat @ past_key.to(wide).transpose(-1, -2)
        past = past.view(kv, batch, group, split) * scaling
        both = torch.cat([past.transpose(0, 1), own], -1)
        weights = both.softmax(-1, dtype=torch.float32).to(query.dtype)
        of_past = weights[..., :split].transpose(0, 1).reshape(kv, batch * group, split)
        output = (of_past @ past_value).view(kv, batch, group, width).transpose(0, 1)
        output = output + weights[..., split:] @ value
    return output.reshape(batch, heads, steps, width).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def shared_prefix(model: Any, prefix: list[int]) -> Iterator[None]:
    """Switch the model to the attention above, with the prefix's keys and values in place."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, shared_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    layers = [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "k_proj")]
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if prefix:
            cache = DynamicCache(config=model.config)
            with torch.inference_mode():
                ids = torch.tensor([prefix], device=model.device)
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            for layer in layers:
                state = cache.layers[layer.layer_idx]
                layer.shared_prefix = (state.keys[0], state.values[0])
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("shared_prefix", None)
        model.set_attn_implementation(before)


def greedy(
    model: Any,
    rows: list[list[int]],
    *,
    offset: int,
    stops: set[int],
    pad: int,
    limit: int,
    guide: Guide | None = None,
) -> list[list[int]]:
    """Greedy continuation of rows (their part after the prefix), inside `shared_prefix`.

    Rows that have stopped leave the batch, so that one long answer does not make all wait.

    Args:
        rows: Token ids after the prefix.
        offset: Length of the prefix: position of the first own token.
        stops: Ids that end an answer.
        limit: Most tokens per answer.
        guide: Limits the choice at every step.
    Returns:
        New tokens per row, stop token included if there is one.
    """
    import torch
    from transformers import DynamicCache

    width = max(map(len, rows))
    device = model.device
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    cache = DynamicCache(config=model.config)
    alive, new = list(range(len(rows))), [[] for _ in rows]
    with torch.inference_mode():
        for _ in range(limit):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :] + offset
            logits = model(
                input_ids=ids, attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
            if guide:
                logits = guide.restrict(logits, alive)
            token = logits.argmax(-1)
            if guide:
                guide.advance(alive, token.tolist())
            for row, value in zip(alive, token.tolist(), strict=True):
                new[row].append(value)
            keep = [i for i, row in enumerate(alive) if new[row][-1] not in stops]
            if not keep:
                break
            ids, mask = token[:, None], torch.cat([mask, mask.new_ones(len(alive), 1)], -1)
            if len(keep) < len(alive):
                index = torch.tensor(keep, device=device)
                alive = [alive[i] for i in keep]
                ids, mask = ids[index], mask[index]
                cache.batch_select_indices(index)
    return new
