"""Healthy runs of every family: what mutators plant their faults into."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from sft_utils.masks import masking
from sft_utils.preflight.record import EvalPlan, RunRecord
from tests.mutation.conversations import Conversation, held_out, ordinary, tools
from tests.mutation.families import Family
from tests.mutation.frame import Layout, Subject, collated, labelled
from tests.mutation.probes import encoded, rendered, words

LAYOUTS: tuple[Layout, ...] = ("messages", "prompt_completion", "tokenised")
LICENCE = "CC-BY-4.0"


def last_turn(row: masking.Row) -> masking.Row:
    """The same row with loss on its last answer only."""
    labels = list(row["labels"])
    end = max(i for i, label in enumerate(labels) if label != masking.IGNORE) + 1
    start = end
    while start and labels[start - 1] != masking.IGNORE:
        start -= 1
    kept = [masking.IGNORE] * start + labels[start:]
    return {"input_ids": row["input_ids"], "labels": kept}


def raw_rows(
    layout: Layout, chats: Sequence[Conversation], rows: Sequence[masking.Row]
) -> list[dict[str, Any]]:
    """The lines of the file these conversations would come from."""
    lines = []
    for i, (messages, row) in enumerate(zip(chats, rows, strict=True)):
        line: dict[str, Any] = {"id": f"row-{i}", "source": "own", "licence": LICENCE}
        if layout == "messages":
            line["messages"] = copy.deepcopy(list(messages))
        elif layout == "prompt_completion":
            line["prompt"] = copy.deepcopy(list(messages[:-1]))
            line["completion"] = copy.deepcopy(list(messages[-1:]))
        else:
            line |= {key: list(value) for key, value in row.items()}
        lines.append(line)
    return lines


def arguments(layout: Layout, *, packed: bool, max_length: int, held: bool) -> SimpleNamespace:
    """Training arguments, with the names of SFTConfig, that nobody would object to."""
    return SimpleNamespace(
        learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=10, warmup_ratio=0.0,
        optim="adamw_torch", weight_decay=0.0, max_grad_norm=1.0, adam_beta1=0.9, adam_beta2=0.999,
        per_device_train_batch_size=4, per_device_eval_batch_size=4, gradient_accumulation_steps=2,
        num_train_epochs=3.0, max_steps=100, logging_steps=10, save_strategy="no",
        eval_strategy="steps" if held else "no", eval_steps=20, load_best_model_at_end=False,
        metric_for_best_model=None, greater_is_better=None, seed=17, data_seed=None,
        bf16=False, fp16=False, tf32=None, use_cpu=True, gradient_checkpointing=False,
        average_tokens_across_devices=True, dataloader_drop_last=False, world_size=1, n_gpu=0,
        remove_unused_columns=True, label_smoothing_factor=0.0, neftune_noise_alpha=None,
        max_length=max_length, truncation_mode="keep_start", packing=packed,
        packing_strategy="bfd", eval_packing=None, padding_free=False, loss_type="nll",
        assistant_only_loss=layout == "messages", completion_only_loss=None, eos_token=None,
        pad_token=None, chat_template_path=None, dataset_text_field="text", dataset_kwargs=None,
        model_init_kwargs=None, report_to="none", resume_from_checkpoint=None,
    )  # fmt: skip


def plan(chats: Sequence[Conversation]) -> EvalPlan:
    """A comparison that can be believed: baselines, intervals, separate test rows, a wide suite."""
    n = 300
    things = ("kettle", "sofa", "drill", "tent", "radio", "stove", "piano", "ladder", "scarf", "oar")
    places = ("attic", "harbour", "office", "meadow", "cellar", "library", "station", "bakery",
              "museum", "garage")  # fmt: skip
    moods = ("before winter", "after lunch", "at night")
    texts = [f"Where in the {place} should the {thing} stand {mood}?"
             for thing in things for place in places for mood in moods]  # fmt: skip
    prompted = ("base zero-shot", "base few-shot", "tuned")
    return EvalPlan(
        arms=("majority baseline", *prompted),
        n=n,
        interval=True,
        metric="exact_match",
        selection_ids=frozenset(f"selection-{i}" for i in range(50)),
        test_ids=frozenset(f"test-{i}" for i in range(n)),
        train_texts=tuple(words(m) for c in chats for m in c if m["role"] == "user"),
        eval_texts=tuple(texts),
        templated=dict.fromkeys(prompted, True),
        max_new_tokens=256,
        answers=tuple((f"Near shelf {i}.", True) for i in range(n)),
        general_suite=True,
    )


def server(family: Family) -> Any:
    """Prompt ids as a correct server computes them."""

    def serve(messages: Sequence[Mapping[str, Any]]) -> list[int]:
        text = rendered(family.tokenizer, messages, add_generation_prompt=True, **family.kwargs)
        return encoded(family.tokenizer, text)

    return serve


def healthy(
    family: Family, chats: Sequence[Conversation], rows: Sequence[masking.Row], *,
    layout: Layout, packed: bool, batches: Sequence[dict[str, Any]] | None = None,
    held_rows: Sequence[masking.Row] = (), max_length: int = 2048, **facts: Any,
) -> RunRecord:  # fmt: skip
    """A record in which nothing is wrong.

    Args:
        chats: The conversations as declared.
        rows: The correctly labelled row of each of them.
        batches: Collated already; default: `rows`, four to a batch.
        held_rows: Correct rows of `held_out()`, in its order; empty: no evaluation set.
        facts: Other fields of RunRecord.
    """
    held = held_out() if held_rows else []
    kwargs = dict(family.kwargs)
    return RunRecord(
        tokenizer=family.tokenizer,
        conversations=copy.deepcopy(list(chats)),
        batches=collated(rows, packed=packed) if batches is None else list(batches),
        turns="last" if layout == "prompt_completion" else "all",
        template_kwargs=kwargs,
        train_template_kwargs=dict(kwargs),
        raw=raw_rows(layout, chats, rows),
        stored=copy.deepcopy(list(chats)) if layout == "messages" else (),
        licences=frozenset({LICENCE, "Apache-2.0"}),
        eval_conversations=held,
        eval_batches=collated(held_rows, packed=packed) if held_rows else None,
        evaluation=plan(chats),
        generation={
            "eos_token_id": list(family.stops),
            "pad_token_id": family.tokenizer.pad_token_id,
            "do_sample": False,
        },
        arguments=arguments(layout, packed=packed, max_length=max_length, held=bool(held)),
        serve=server(family),
    ).change(**facts)


def tiny_llama(family: Family) -> Any:
    """A random one-layer Llama with the family's vocabulary; the same one every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = family.tokenizer
    config = LlamaConfig(
        vocab_size=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=8192,
        eos_token_id=list(family.stops), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model


def tiny_model(family: Family) -> Any:
    """The tiny model with LoRA on all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        return get_peft_model(tiny_llama(family), lora)


def subjects(
    families: Sequence[Family], *, with_model: bool = False, with_tools: bool = False
) -> Iterator[Subject]:
    """Every family in every layout, packed and not; six subjects per family, in a fixed order.

    Args:
        with_model: Attach a new tiny model to each subject.
        with_tools: Add conversations with tool calls where the template renders them.
    """
    for family in families:
        tokenizer = family.tokenizer
        chats = ordinary("system" in family.traits)
        if with_tools and "tools" in family.traits:
            chats += tools("tool_text" in family.traits)
        every = [labelled(tokenizer, c) for c in chats]
        held_rows = [labelled(tokenizer, c) for c in held_out()]
        for layout in LAYOUTS:
            rows = [last_turn(r) for r in every] if layout == "prompt_completion" else every
            for packed in (False, True):
                record = healthy(
                    family, chats, rows, layout=layout, packed=packed, held_rows=held_rows
                )
                if with_model:
                    record = record.change(model=tiny_model(family))
                yield Subject(family=family.name, real=family.real, layout=layout, packed=packed,
                              record=record, traits=family.traits)  # fmt: skip
