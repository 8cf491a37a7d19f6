"""Faults of the pinned libraries, of several processes, and of the files they leave behind."""

import atexit
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_utils.masks.chat import Oracle
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import Mutator, Subject
from tests.mutation.mutators.models import (
    adapted,
    arguments,
    differ,
    facts,
    has,
    judged,
    mutator,
    short_first,
)


def unguarded(record: RunRecord) -> RunRecord:
    """4-bit layers as bitsandbytes makes them on a CPU with AVX512-BF16."""
    model = adapted(record)
    for name, module in model.named_modules():
        if name.endswith("base_layer"):
            module.support_avx512bf16_for_cpu = True
    return facts(observed={"avx512_bf16": True})(short_first(record)).change(model=model)


def is_unguarded(before: RunRecord, after: RunRecord) -> bool:
    """Is the switch on anywhere?"""
    return any(getattr(m, "support_avx512bf16_for_cpu", False) for m in after.model.modules())


def opener(record: RunRecord) -> int | None:
    """The special token that opens the second turn, by looking at the render."""
    special = set(record.tokenizer.all_special_ids) | set(record.tokenizer.added_tokens_decoder)
    for truth in record.oracles:
        if isinstance(truth, Oracle) and truth.turns and truth.turns[0].message:
            turn = truth.turns[0]
            head = truth.ids[max(0, turn.start - 8) : turn.start]
            ends = {truth.ids[t.stop] for t in truth.turns if t.stop is not None}
            found = [i for i in head if i in special and i not in ends]
            return found[-1] if found and ends else None
    return None


@functools.lru_cache(maxsize=4)
def with_eos(tokenizer: Any, number: int) -> Any:
    """A copy of a tokenizer with another eos; kept, since large vocabularies copy slowly."""
    changed = copy.deepcopy(tokenizer)
    changed.eos_token = changed.convert_ids_to_tokens(number)
    return changed


def misread(which: str) -> Callable[[RunRecord], RunRecord]:
    """eos read from a wrong field: the opener of turns, or bos."""

    def apply(record: RunRecord) -> RunRecord:
        number = opener(record) if which == "opener" else record.tokenizer.bos_token_id
        tokenizer = with_eos(record.tokenizer, number)
        generation = {**(record.generation or {}), "eos_token_id": [number]}
        return record.change(tokenizer=tokenizer, generation=generation, serve=None)

    return apply


def eos_ends_nothing(before: RunRecord, after: RunRecord) -> bool:
    """Do the turns still end with another token than the new eos?"""
    eos = after.tokenizer.eos_token_id
    ends = {t.ids[turn.stop] for t in after.oracles if isinstance(t, Oracle)
            for turn in t.turns if turn.stop is not None}  # fmt: skip
    return eos != before.tokenizer.eos_token_id and bool(ends) and eos not in ends


def misreadable(which: str) -> Callable[[Subject], bool]:
    """Is there such a token, and does the template not write eos itself?"""

    def applies(subject: Subject) -> bool:
        record = subject.record
        number = opener(record) if which == "opener" else record.tokenizer.bos_token_id
        stops = {t.ids[turn.stop] for t in record.oracles if isinstance(t, Oracle)
                 for turn in t.turns if turn.stop is not None}  # fmt: skip
        free = "eos_token" not in record.tokenizer.chat_template
        return number is not None and free and bool(stops) and number not in stops

    return applies


# Several processes


def deaf_ranks(record: RunRecord) -> RunRecord:
    """Two ranks that each divide by their own tokens."""
    return facts(observed={"world_size": 2}, declared={"world_size": 2})(record).change(
        arguments=arguments(record, average_tokens_across_devices=False, world_size=2)
    )


def bigger_batch(record: RunRecord) -> RunRecord:
    """The batch that was planned for one process, on four."""
    changed = arguments(record, world_size=4)
    rows = changed.per_device_train_batch_size * changed.gradient_accumulation_steps
    named = facts(declared={"effective_batch_size": rows, "world_size": 4},
                  observed={"world_size": 4})(record)  # fmt: skip
    return named.change(arguments=changed)


def batch_grew(before: RunRecord, after: RunRecord) -> bool:
    """Are more rows in an update than declared?"""
    a = after.arguments
    rows = a.per_device_train_batch_size * a.gradient_accumulation_steps * a.world_size
    return rows > after.declared["effective_batch_size"]


def same_shard(record: RunRecord) -> RunRecord:
    """An iterable data set that nobody sharded."""
    rows = [f"row-{i}" for i in range(len(record.conversations))]
    return facts(observed={"rank_rows": [rows, list(rows)]})(record)


def filled_up(record: RunRecord) -> RunRecord:
    """Nine examples on two ranks: one is scored twice."""
    ids = [f"test-{i}" for i in range(9)]
    return facts(declared={"eval_n": 9}, observed={"eval_ids": [ids[::2], [*ids[1::2], ids[0]]]})(
        record
    )


def dropped_tail(record: RunRecord) -> RunRecord:
    """Nine examples on two ranks: one is dropped."""
    ids = [f"test-{i}" for i in range(8)]
    return facts(declared={"eval_n": 9}, observed={"eval_ids": [ids[::2], ids[1::2]]})(record)


def not_each_once(before: RunRecord, after: RunRecord) -> bool:
    """Is some example scored twice, or none at all?"""
    ids = [i for part in after.observed["eval_ids"] for i in part]
    return len(ids) != len(set(ids)) or len(set(ids)) != after.declared["eval_n"]


# Files


def folder(kind: str) -> Path:
    """A new export directory with a broken adapter; removed when the process ends."""
    import torch
    from safetensors.torch import save_file

    path = Path(tempfile.mkdtemp(prefix="preflight-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(8, 16), name.format("B"): torch.ones(16, 8)}
    if kind == "empty":
        tensors = {n: torch.zeros(0) for n in tensors}
    elif kind == "none":
        tensors = {}
    elif kind == "shard":
        tensors[name.format("A")] = torch.ones(4, 16)
    save_file(tensors, path / "adapter_model.safetensors")
    if kind == "cut":
        whole = (path / "adapter_model.safetensors").read_bytes()
        (path / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def exported(kind: str) -> Callable[[RunRecord], RunRecord]:
    """An export directory with a broken adapter."""
    return lambda record: record.change(export=folder(kind))


def is_not_whole(before: RunRecord, after: RunRecord) -> bool:
    """Is the file unreadable, or are its tensors not those of rank 8?"""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(after.export / "adapter_model.safetensors")
    except SafetensorError:
        return True
    return sorted(tuple(t.shape) for t in tensors.values()) != [(8, 16), (16, 8)]


def said(text: str) -> Callable[[RunRecord], RunRecord]:
    """A library warning in the log."""
    return lambda record: record.change(messages=[*record.messages, text])


def was_said(before: RunRecord, after: RunRecord) -> bool:
    """Is there one message more?"""
    return len(after.messages) == len(before.messages) + 1


MUTATORS: tuple[Mutator, ...] = (
    mutator("T1", "nf4-unguarded", unguarded, is_unguarded, "model"),
    mutator("T2", "eos-opens-turns", misread("opener"), eos_ends_nothing, "tokenizer",
            applies=misreadable("opener")),
    mutator("T2", "eos-is-bos", misread("bos"), eos_ends_nothing, "tokenizer",
            applies=misreadable("bos")),
    mutator("T3", "one-process", facts(declared={"world_size": 2}, observed={"world_size": 1}),
            differ("world_size"), "stack"),
    mutator("T4", "fsdp-is-ddp", facts(declared={"strategy": "fsdp"}, observed={"strategy": "ddp"}),
            differ("strategy"), "stack"),
    mutator("O2", "mean-per-rank", deaf_ranks, has(average_tokens_across_devices=False)),
    mutator("X1", "unsharded", same_shard,
            lambda b, a: a.observed["rank_rows"][0] == a.observed["rank_rows"][1], "stack"),
    mutator("X2", "scored-twice", filled_up, not_each_once, "evaluation"),
    mutator("X2", "tail-dropped", dropped_tail, not_each_once, "evaluation"),
    judged("X4", "same-seed", facts(observed={"rank_draws": [[0.25, 0.5], [0.25, 0.5]]}),
           lambda b, a: a.observed["rank_draws"][0] == a.observed["rank_draws"][1], "stack"),
    mutator("X5", "adapter-empty-tensors", exported("empty"), is_not_whole, "export"),
    mutator("X5", "adapter-no-tensors", exported("none"), is_not_whole, "export"),
    mutator("X5", "adapter-one-shard", exported("shard"), is_not_whole, "export"),
    mutator("X5", "adapter-cut-off", exported("cut"), is_not_whole, "export"),
    mutator("X6", "batch-times-world", bigger_batch, batch_grew),
    judged("W1", "warning-unread", said("trl: something about this run is deprecated"), was_said,
           "stack"),
    mutator("S6", "adapter-keys-missing",
            said("UserWarning: Found missing adapter keys while loading the checkpoint: ['a']."),
            was_said, "stack"),
    mutator("E1", "right-padding-warned",
            said("transformers: A decoder-only architecture is being used, but right-padding was "
                 "detected! For correct generation results, please set `padding_side='left'`"),
            was_said, "stack"),
    mutator("M7", "stop-outside-mask-warned",
            said("trl: The chat template does not include the assistant turn's end-of-turn token in "
                 "the loss mask; the model may not learn to stop."), was_said, "stack"),
)  # fmt: skip
