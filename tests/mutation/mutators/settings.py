"""Faults of settings: adapter, rate, schedule, new tokens, flags that are not heard."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.record import RunRecord
from sft_utils.preflight.settings import module_kinds
from tests.mutation.frame import Mutator, collated, is_packed, labelled, rows_of
from tests.mutation.mutators import stack
from tests.mutation.mutators.models import (
    adapted,
    arguments,
    configured,
    facts,
    fresh,
    has,
    judged,
    mutator,
    short_first,
)

NEW = "<note>"


# Adapters, rates, schedules


def slow_lora(record: RunRecord) -> RunRecord:
    """LoRA at TRL's default rate."""
    named = facts(declared={"lora_r": 16, "lora_alpha": 32})(record)
    return named.change(arguments=arguments(record, learning_rate=2e-5))


def fast_full(record: RunRecord) -> RunRecord:
    """All weights at a rate for adapters."""
    model = fresh(record, targets=None)
    return record.change(model=model, arguments=arguments(record, learning_rate=2e-4))


def targets(*names: str) -> Callable[[RunRecord], RunRecord]:
    """Another list of target modules."""

    def apply(record: RunRecord) -> RunRecord:
        return short_first(record).change(model=fresh(record, targets=names))

    return apply


def uncovered(before: RunRecord, after: RunRecord) -> bool:
    """Is some linear layer of the blocks without an adapter?"""
    adapted_names = {n.split(".lora_A")[0] for n, _ in after.model.named_modules() if ".lora_A" in n}
    linears = {n for n, kind in module_kinds(after.model).items() if kind in ("attention", "mlp")}
    return len(adapted_names) < len(linears)


@functools.lru_cache(maxsize=2)
def with_token(tokenizer: Any) -> Any:
    """A copy of a tokenizer with one token more; kept, since large vocabularies copy slowly."""
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens([NEW])
    return longer


def with_new_token(*, declared: bool) -> Callable[[RunRecord], RunRecord]:
    """A token that the base has never seen occurs in every row; only LoRA is trained."""

    def apply(record: RunRecord) -> RunRecord:
        import torch

        tokenizer = with_token(record.tokenizer)
        chats = copy.deepcopy([list(c) for c in record.conversations])
        for chat in chats:
            user = next(m for m in chat if m["role"] == "user")
            user["content"] = f"{user['content']} {NEW} now"
        rows = [labelled(tokenizer, c) for c in chats]
        changed = record.change(
            tokenizer=tokenizer, conversations=chats, raw=(), stored=(), serve=None,
            batches=collated(rows, packed=is_packed(record)),
            declared={**record.declared, **({"added_tokens": [NEW]} if declared else {})},
        )  # fmt: skip
        number = tokenizer.convert_tokens_to_ids(NEW)
        model = fresh(changed, rows=number + 1)
        table = model.get_input_embeddings().weight
        with torch.no_grad():  # as transformers does when it makes the table longer
            table[number] = table[:number].mean(0)
        return short_first(changed.change(model=model))

    return apply


def new_token_is_frozen(before: RunRecord, after: RunRecord) -> bool:
    """Does the new token occur, in a table that is not trained?"""
    number = after.tokenizer.convert_tokens_to_ids(NEW)
    occurs = any(bool((b["input_ids"] == number).any()) for b in after.train_batches)
    table = after.model.get_input_embeddings().weight
    return occurs and not table.requires_grad and number not in before.tokenizer.get_vocab().values()


def quantised_in_words(record: RunRecord) -> RunRecord:
    """A configuration for 4 bit, next to a model object that exists already."""
    named = facts(declared={"quantization": "nf4"})(short_first(record))
    return named.change(model=adapted(record))


# Flags that are not heard


def all_trained(record: RunRecord) -> list[dict[str, Any]]:
    """The batches as TRL makes them when it does not hear the flag: every token is a label."""
    rows = [{**r, "labels": list(r["input_ids"])} for r in rows_of(record)]
    return collated(rows, packed=is_packed(record))


def deaf(flag: str, *columns: str) -> Callable[[RunRecord], RunRecord]:
    """A flag on rows with other columns than it needs."""

    def apply(record: RunRecord) -> RunRecord:
        off = {"assistant_only_loss": False, "completion_only_loss": None}
        return facts(observed={"columns": columns})(record).change(
            arguments=arguments(record, **{**off, flag: True}), batches=all_trained(record)
        )

    return apply


def every_token_is_trained(before: RunRecord, after: RunRecord) -> bool:
    """Is every label of the first row set, but the one that packing hides?"""
    batch = after.train_batches[0]
    real = batch["attention_mask"] != 0 if "attention_mask" in batch else batch["position_ids"] != 0
    return not bool(((batch["labels"] == IGNORE) & real).any())


def unpacked(record: RunRecord) -> RunRecord:
    """packing=True, and a backend that turns it off."""
    return record.change(
        arguments=arguments(record, packing=True),
        batches=collated(rows_of(record), packed=False),
    )


def silent_fp16(record: RunRecord) -> RunRecord:
    """fp16 on a CPU."""
    return record.change(arguments=arguments(record, fp16=True, bf16=False, use_cpu=True))


STEEP = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 20.0}}

MUTATORS: tuple[Mutator, ...] = (
    mutator("O6", "target-typo", targets("q_proj", "v_proj", "gate_prj"), uncovered, "model"),
    judged("O6", "attention-only", targets("q_proj", "k_proj", "v_proj", "o_proj"), uncovered,
           "model"),
    judged("O7", "lora-at-full-rate", slow_lora, has(learning_rate=2e-5)),
    judged("O7", "full-at-lora-rate", fast_full,
           lambda b, a: all(p.requires_grad for p in a.model.parameters()), "model"),
    judged("O8", "alpha-forgotten", facts(declared={"lora_r": 256, "lora_alpha": 16}),
           lambda b, a: a.declared["lora_alpha"] / a.declared["lora_r"] < 0.1),
    mutator("O11", "new-token-declared", with_new_token(declared=True), new_token_is_frozen, "model"),
    mutator("O11", "new-token-found", with_new_token(declared=False), new_token_is_frozen, "model"),
    mutator("O15", "warmup-longer-than-run", configured(warmup_steps=500, max_steps=100),
            lambda b, a: a.arguments.warmup_steps > a.arguments.max_steps),
    mutator("O15", "no-steps", configured(max_steps=0), has(max_steps=0)),
    mutator("O15", "rate-zero", configured(learning_rate=0.0), has(learning_rate=0.0)),
    mutator("O15", "resumed-at-the-end", facts(observed={"resume_step": 100_000}),
            lambda b, a: a.observed["resume_step"] > a.arguments.max_steps),
    judged("O15", "steep-schedule", configured(**STEEP), has(**STEEP)),
    mutator("Q7", "quantisation-ignored", quantised_in_words,
            lambda b, a: all(p.is_floating_point() for p in a.model.parameters()), "model"),
    mutator("T5", "completion-only-on-messages", deaf("completion_only_loss", "messages"),
            every_token_is_trained),
    mutator("T5", "assistant-only-on-text", deaf("assistant_only_loss", "text"),
            every_token_is_trained),
    mutator("T5", "packing-turned-off", unpacked,
            lambda b, a: a.arguments.packing and not is_packed(a), "stack"),
    judged("T5", "fp16-on-cpu", silent_fp16, has(fp16=True), "stack"),
    *stack.MUTATORS,
)  # fmt: skip
