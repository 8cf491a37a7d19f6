"""Greedy batched generation with a shared prompt prefix, progress, and answers kept on disk."""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft_utils.artifacts import read_json, sha256_json, write_json
from sft_utils.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generated answer."""

    text: str  # decoded new tokens, without the stop token
    n_prompt: int  # prompt tokens
    n_new: int  # generated tokens, stop token included
    stopped: bool  # ended by a stop token, not by the length limit


def check_decoding(model: Any) -> None:
    """Refuse what would make two greedy runs differ.

    Raises:
        ConfigError: The model is in training mode, or its generation config samples.
    """
    if model.training:
        raise ConfigError("model.train() is on: dropout would change answers. Call model.eval().")
    if model.generation_config.do_sample:
        raise ConfigError("generation_config.do_sample is true; evaluation here is greedy")


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    cache: Path | None = None,
    key: str = "",
    progress: Path | None = None,
    what: str = "generating",
) -> list[Answer]:
    """Greedy answers to prompts that may share a prefix.

    The longest common prefix of all prompts (system prompt, few-shot examples) is run once and
    its keys and values are reused by every batch: for an eight-shot prompt that is most of the
    work. Prompts are grouped by length, so that padding stays small.

    Args:
        model: In eval mode.
        prompts: Token ids, template and answer header included.
        max_new_tokens: Limit per answer.
        batch_size: Prompts decoded together.
        cache: File that receives each finished batch; the same call after a kill continues there.
        key: Identity of the model; a cache written under another key, prompts or limits is ignored.
        progress: File for the runner: what, done, total, eta_s.
    Returns:
        One answer per prompt, in the order given.
    Raises:
        ConfigError: The model would not decode greedily.
    """
    check_decoding(model)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    identity = sha256_json([key, prompts, max_new_tokens, batch_size])
    done: dict[int, dict[str, Any]] = {}
    if cache and cache.exists():
        saved = read_json(cache)
        if saved["identity"] == identity:
            done = {int(i): answer for i, answer in saved["answers"].items()}
    prefix, state = None, None
    started, worked = time.monotonic(), 0
    for number, batch in enumerate(batches):
        if all(i in done for i in batch):
            continue
        if state is None:
            prefix = common_prefix(prompts)
            state = _prefix_state(model, prefix)
        for i, answer in zip(
            batch,
            _decode(model, tokenizer, [prompts[i] for i in batch], prefix, state, max_new_tokens),
            strict=True,
        ):
            done[i] = asdict(answer)
        worked += 1
        if cache:
            write_json(cache, {"identity": identity, "answers": done})
        if progress:
            pace = (time.monotonic() - started) / worked
            report_progress(progress, what, number + 1, len(batches), pace)
    return [Answer(**done[i]) for i in range(len(prompts))]


def report_progress(path: Path, what: str, done: int, total: int, pace_s: float) -> None:
    """Tell the runner how far a long piece of work is; `pace_s` is seconds per unit."""
    eta = (total - done) * pace_s
    write_json(path, {"what": what, "done": done, "total": total, "eta_s": round(eta, 1)})


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Longest shared beginning of all prompts, always leaving one token of each outside.

    Example:
        >>> common_prefix([[1, 2, 3], [1, 2, 4]])
        [1, 2]
        >>> common_prefix([[1, 2]])
        [1]
    """
    shortest = min(len(p) for p in prompts)
    length = 0
    while length < shortest - 1 and len({p[length] for p in prompts}) == 1:
        length += 1
    return list(prompts[0][:length])


def _prefix_state(model: Any, prefix: list[int]) -> Any:
    """Keys and values of the prefix for a batch of one, or None if there is no prefix."""
    import torch
    from transformers import DynamicCache

    if not prefix:
        return None
    with torch.inference_mode():
        ids = torch.tensor([prefix], device=model.device)
        state = DynamicCache(config=model.config)
        return model(input_ids=ids, past_key_values=state, use_cache=True).past_key_values


def _decode(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    prefix: list[int],
    state: Any,
    max_new_tokens: int,
) -> list[Answer]:
    """One batch: shared prefix, then padding, then each prompt's own part, right-aligned."""
    import torch

    own = [p[len(prefix) :] for p in prompts]
    width = max(map(len, own))
    pad = tokenizer.pad_token_id
    rows = [prefix + [pad] * (width - len(o)) + o for o in own]
    mask = [[1] * len(prefix) + [0] * (width - len(o)) + [1] * len(o) for o in own]
    options: dict[str, Any] = {}
    if state is not None:
        shared = copy.deepcopy(state)
        shared.batch_repeat_interleave(len(prompts))
        options["past_key_values"] = shared
    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            **options,
        )
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or [])
    answers = []
    for prompt, row in zip(prompts, output[:, len(prefix) + width :].tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if token in stops), None)
        new = row if end is None else row[:end]
        answers.append(
            Answer(
                text=tokenizer.decode(new),
                n_prompt=len(prompt),
                n_new=len(new) + (end is not None),
                stopped=end is not None,
            )
        )
    return answers


def dump_answers(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object per line (answers beside their gold), atomically."""
    from sft_utils.artifacts import write_text

    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
