"""Faults of the pinned libraries: flags that are ignored, tokens read wrongly, their own warnings.

Every claim was checked against trl 1.14.2, transformers 5.17, peft 0.21.2, bitsandbytes 0.50.2.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sft_utils.masks.chat import Oracle
from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.record import Detector, Finding, RunRecord, Severity


def value_of(source: Any, name: str) -> Any:
    """A setting, from an object or a mapping; None if it is not there."""
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


class Known(NamedTuple):
    """What a library message means."""

    pattern: str
    id: str
    severity: Severity
    fix: str


KNOWN = (
    Known(
        "missing adapter keys", "S6", "FAIL",
        "the names in the adapter file do not fit this model; load it onto the base it was made on",
    ),
    Known("right-padding was detected", "E1", "FAIL", 'tokenizer.padding_side = "left"'),
    Known(
        r"[Mm]erge lora module to [48]-bit", "Q1", "WARN",
        "dequantise the base, then merge; compare the merged model with the trained one",
    ),
    Known(
        "does not include the assistant turn's end-of-turn token", "M7", "FAIL",
        "move the end-of-turn token in front of {% endgeneration %}",
    ),
    Known(
        "prompt is not a prefix of the tokenized prompt", "C7", "WARN",
        "use a template that renders a prompt alone like the start of the conversation",
    ),
    Known(
        r"quantization_config` will be ignored|quantization_config` to the trainer", "Q7", "FAIL",
        "hand the trainer a model name, or quantise in from_pretrained",
    ),
    Known("`?model_init_kwargs`? will be ignored", "T5", "FAIL", "put them into from_pretrained"),
    Known(
        "`formatting_func` will be ignored", "M13", "FAIL",
        "drop the tokenised columns, or the function",
    ),
    Known(
        "new PAD/BOS/EOS tokens that differ", "C6", "WARN",
        "compare tokenizer.eos_token with the token that ends the turns of the template",
    ),
    Known(
        r"tie_word_embeddings=True", "O12", "WARN",
        "LoraConfig(..., ensure_weight_tying=True), or leave embeddings and lm_head alone",
    ),
    Known(
        "'lm_head' is not in PEFT's", "O11", "WARN",
        'modules_to_save=["lm_head"] in the adapter configuration',
    ),
    Known(
        "cross-contamination|Padding-free training is enabled, but", "P5", "WARN",
        'run the stage "dryrun", which measures it: sdpa and eager keep documents apart',
    ),
    Known("with the 'wrapped' packing strategy", "P6", "WARN", 'packing_strategy="bfd"'),
    Known(
        "None of the inputs have requires_grad=True", "O4", "FAIL",
        "model.enable_input_require_grads() before training",
    ),
    Known(
        "Paged optimizers are not supported on CPU", "T5", "WARN", 'optim="adamw_torch_fused"'
    ),
    Known(
        "longer than the specified maximum sequence length", "P2", "WARN",
        "compare max_length with the longest rows",
    ),
)  # fmt: skip
"""Messages whose meaning is known; every other one becomes W1."""

HARMLESS = re.compile(
    r"use_cache=True` is incompatible with gradient checkpointing"
    r"|Failed to load CPU gemm_4bit|torch\.jit|pin_memory"
)
"""Messages that say nothing about the result of a run."""


def library_messages(record: RunRecord) -> Iterator[Finding]:
    """W1 or the id of a known fault: what the libraries said and nobody read."""
    for message in record.messages:
        text = " ".join(str(message).split())
        if not text or HARMLESS.search(text):
            continue
        known = next((k for k in KNOWN if re.search(k.pattern, text)), None)
        yield Finding(
            id=known.id if known else "W1",
            severity=known.severity if known else "WARN",
            what=text if len(text) <= 200 else f"{text[:200]}...",
            where="library warning",
            why="" if known else "a warning in a long log is easily missed",
            fix=known.fix if known else "read it, and decide whether it concerns this run",
        )


def _column_names(record: RunRecord) -> frozenset[str]:
    """Columns of the data set that the trainer got; empty if unknown."""
    if record.observed.get("columns") is not None:
        return frozenset(record.observed["columns"])
    return frozenset(record.raw[0]) if record.raw else frozenset()


def _mask_in_force(record: RunRecord) -> bool | None:
    """Whether the batches leave any real token out of the loss; None if there are none."""
    if not record.train_batches:
        return None
    for batch in [b for b in record.train_batches if b.keys() >= {"labels", "input_ids"}]:
        real = batch["attention_mask"] if "attention_mask" in batch else batch["input_ids"] >= 0
        if real.shape != batch["labels"].shape:
            continue  # ids and labels that do not line up are named by `batches`
        hidden = (batch["labels"] == IGNORE) & (real != 0)
        # Packing hides the first token of every document, whatever the flags say.
        if "position_ids" in batch and batch["position_ids"].shape == hidden.shape:
            hidden &= batch["position_ids"] != 0
        if bool(hidden.any()):
            return True
    return False


def ignored_masks(record: RunRecord) -> Iterator[Finding]:
    """T5: a loss on answers only was asked for in a way that TRL does not hear."""
    columns = _column_names(record)
    flags = ("completion_only_loss", "assistant_only_loss")
    if not any(value_of(record.arguments, name) is True for name in flags):
        return
    in_force = _mask_in_force(record)
    # A file with messages may have been turned into prompt and completion: look at the batches.
    if not columns or in_force or (in_force is None and "columns" not in record.observed):
        return
    paired = {"prompt", "completion"} <= columns
    masked = bool(columns & {"labels", "completion_mask", "assistant_masks"})
    if value_of(record.arguments, "completion_only_loss") is True and not paired and not masked:
        yield Finding(
            id="T5",
            severity="FAIL",
            what=f"completion_only_loss=True has no effect: the rows have columns "
            f"{sorted(columns)}, not prompt and completion",
            where="arguments.completion_only_loss",
            why="TRL trains on every token, the user's included, and says nothing",
            fix="give rows with prompt and completion, or use assistant_only_loss=True with a "
            "template that has {% generation %}",
        )
    chat = columns & {"messages", "conversations", "prompt"}
    if value_of(record.arguments, "assistant_only_loss") is True and not chat and not masked:
        yield Finding(
            id="T5",
            severity="FAIL",
            what=f"assistant_only_loss=True cannot work: the rows have columns {sorted(columns)} "
            "and no messages",
            where="arguments.assistant_only_loss",
            why="without roles nobody can tell which tokens are answers",
            fix="give rows with a messages column",
        )


def ignored_flags(record: RunRecord) -> Iterator[Finding]:
    """T5: packing that did not happen, fp16 on a CPU."""
    packing = value_of(record.arguments, "packing") is True
    wrapped = value_of(record.arguments, "packing_strategy") == "wrapped"
    batches = record.train_batches
    if packing and not wrapped and batches and not any("position_ids" in b for b in batches):
        rows = sum(len(b["input_ids"]) for b in batches)
        yield Finding(
            id="T5",
            severity="FAIL",
            what=f"packing=True has no effect: {rows} padded rows, none packed",
            where="arguments.packing",
            why="the run has many more updates than planned, each over fewer tokens",
            fix="packing=False on purpose, or find what turned it off (a CPU backend, a collator)",
        )
    on_cpu = value_of(record.arguments, "use_cpu") or record.observed.get("device") == "cpu"
    if value_of(record.arguments, "fp16") is True and on_cpu:
        yield Finding(
            id="T5",
            severity="WARN",
            what="fp16=True has no effect on a CPU: the run computes in the dtype of its weights",
            where="arguments.fp16",
            why="memory, time and rounding are not those of the run that was planned",
            fix="bf16=True, or fp16=False on purpose",
        )


def repacked_weights(record: RunRecord) -> Iterator[Finding]:
    """T1: 4-bit weights that the first evaluation will repack in place."""
    if record.model is None:
        return
    affected = record.observed.get("avx512_bf16")
    if affected is None:
        import torch

        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        affected = bool(probe and probe())
    exposed = [
        name
        for name, module in record.model.named_modules()
        if getattr(module, "support_avx512bf16_for_cpu", False)
        and getattr(getattr(module, "weight", None), "is_cpu", True)
    ]
    if affected and exposed:
        yield Finding(
            id="T1",
            severity="FAIL",
            what=f"{len(exposed)} 4-bit layers will be repacked at the first evaluation",
            where=exposed[0],
            why="bitsandbytes 0.50.2 then computes wrong gradients and wrong merges, without error",
            fix="modeling.guard_nf4(model) directly after loading",
        )


def end_token_starts_turns(record: RunRecord) -> Iterator[Finding]:
    """T2: tokenizer.eos_token is the token that opens turns, or the start of text."""
    tokenizer = record.tokenizer
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        return
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for row, truth in enumerate(record.oracles):
        if not isinstance(truth, Oracle):
            continue
        for turn in truth.turns:
            ends = {truth.ids[t.stop] for t in truth.turns if t.stop is not None}
            if not ends or eos in ends:
                return
            header = truth.ids[max(0, turn.start - 8) : turn.start] if turn.message else []
            closed = [k for k, i in enumerate(header) if i in ends]
            openers = {i for i in header[closed[-1] + 1 if closed else 0 :] if i in special}
            opens = eos in openers
            if not opens and (eos != tokenizer.bos_token_id or ends & record.stops):
                return
            names = tokenizer.convert_ids_to_tokens([eos, *sorted(ends)])
            known = opens or bool(record.stops)
            yield Finding(
                id="T2",
                severity="FAIL" if known else "WARN",
                what=f"tokenizer.eos_token is {names[0]!r}, the token that "
                f"{'opens turns' if opens else 'starts a text'}; answers end with {names[1]!r}",
                where="tokenizer.eos_token",
                row=row,
                turn=turn.message,
                why="the libraries copy it into the generation config: answers stop where the next "
                "turn opens, or never",
                fix=f'tokenizer.eos_token = "{names[1]}" (transformers 5.17 reads the wrong field '
                "of a GGUF file)",
            )
            return


DETECTORS: tuple[Detector, ...] = (
    library_messages,
    ignored_flags,
    ignored_masks,
    repacked_weights,
    end_token_starts_turns,
)
