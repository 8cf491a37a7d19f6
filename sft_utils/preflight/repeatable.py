"""Does generation give the same answer again, whatever it is batched with?

| id | fault | FAIL | WARN |
|---|---|---|---|
| E1 | answers depend on padding | right padding; batched logits differ | few answers differ |
| E2 | sampling | greedy is claimed, served config samples | sampled, nothing claimed |
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Message, prompt_ids
from sft_utils.preflight.compare import likeness, untouched
from sft_utils.preflight.record import Detector, Finding, RunRecord

fail = partial(Finding, severity="FAIL")
warn = partial(Finding, severity="WARN")

SMALL = 50_000_000
"""Parameters up to which a forward pass costs nothing."""

APART = 0.01
"""KL in nats between a prompt alone and in a batch that is more than rounding."""


def padding(record: RunRecord) -> Iterator[Finding]:
    """E1: an answer must not depend on what it is batched with.

    `declared["generation_batch_size"]` says that prompts are padded, `observed["padding_side"]` by
    whom (else the tokenizer's side counts). A tiny model is asked for its logits both ways.
    """
    side = record.observed.get("padding_side", getattr(record.tokenizer, "padding_side", None))
    config = getattr(record.model, "config", None)
    if (record.declared.get("generation_batch_size") or 1) < 2 or side not in ("left", "right"):
        return
    if getattr(config, "is_encoder_decoder", False):
        return
    gap = _padding_gap(record, side)
    if side == "right" or (gap or 0) > APART:
        measured = f"; KL of the next token against the same prompt alone: {gap:.2g}" if gap else ""
        yield fail(
            id="E1",
            what=f"prompts of a batch are padded on the {side}{measured}",
            where="tokenizer.padding_side" if side == "right" else "attention mask of the batch",
            why="short prompts are continued from padding: their answers are noise",
            fix='tokenizer.padding_side = "left"'
            if side == "right"
            else "pass attention_mask to generate, or score prompts one by one",
        )


def _padding_gap(record: RunRecord, side: str) -> float | None:
    """Largest KL between the next token of a prompt alone and in a padded batch."""
    model = record.model
    if model is None or sum(p.numel() for p in model.parameters()) > SMALL:
        return None
    prompts = []
    for messages in record.conversations[:16]:
        try:
            question = _question(messages)
            ids = prompt_ids(record.tokenizer, question, template_kwargs=record.template_kwargs)
            prompts.append(ids)
        except TemplateError:
            continue
    prompts = sorted((p for p in prompts if p), key=len)
    prompts = [prompts[0], prompts[len(prompts) // 2], prompts[-1]] if prompts else []
    rows = len(model.get_input_embeddings().weight)
    if not prompts or len(prompts[0]) == len(prompts[-1]) or max(map(max, prompts)) >= rows:
        return None
    pad = record.tokenizer.pad_token_id or 0
    with untouched(model):
        try:
            together = _next(model, prompts, side, pad)
            alone = [_next(model, [p], side, pad) for p in prompts]
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None
    pairs = zip(alone, together, strict=True)
    return max(likeness([a], [b[None]]).kl for a, b in pairs)


def _question(messages: Sequence[Message]) -> list[Message]:
    """The messages before the first answer."""
    return list(itertools.takewhile(lambda m: m.get("role") != "assistant", messages))


def _next(model: Any, prompts: list[list[int]], side: str, pad: int) -> Any:
    """Logits from which `generate` would take the first token; float32 (B, V)."""
    import torch

    width = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        fill, ones = [0] * (width - len(prompt)), [1] * len(prompt)
        mask.append(fill + ones if side == "left" else ones + fill)
        blank = [pad] * len(fill)
        ids.append(blank + prompt if side == "left" else prompt + blank)
    device = model.get_input_embeddings().weight.device
    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" in inspect.signature(base.forward).parameters:
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    output = model(**{k: v.to(device) for k, v in batch.items()})
    return output.logits[:, -1].float().cpu()


def batch_answers(record: RunRecord) -> Iterator[Finding]:
    """E1 in answers: `observed["answers_single"]` against `observed["answers_batched"]`."""
    single = list(record.observed.get("answers_single") or ())
    batched = list(record.observed.get("answers_batched") or ())
    differ = [k for k, (a, b) in enumerate(zip(single, batched, strict=False)) if a != b]
    if differ:
        # Rounding in bf16 turns a rare token; half of the answers is more than rounding.
        make = fail if len(differ) > len(single) / 2 else warn
        yield make(
            id="E1",
            what=f"{len(differ)} of {len(single)} answers differ between batch and single prompt, "
            f"first {str(batched[differ[0]])[:40]!r} against {str(single[differ[0]])[:40]!r}",
            where=f"answer {differ[0]}",
            why="the score depends on which prompts share a batch",
            fix='tokenizer.padding_side = "left", and pass attention_mask to generate',
        )


def decoding(record: RunRecord) -> Iterator[Finding]:
    """E2: what is scored greedily must be served greedily, and come out the same twice.

    `declared["greedy"]` is the claim; `observed["answers_first"]` and `["answers_second"]` are two
    runs over the same prompts.
    """
    claimed = bool(record.declared.get("greedy"))
    if record.evaluation is None and not claimed:
        return
    make = fail if claimed else warn
    sampled = _sampling(record)
    if sampled:
        yield make(
            id="E2",
            what=f"the served generation config samples ({sampled})"
            + (", the evaluation claims greedy decoding" if claimed else ""),
            where="generation_config.do_sample",
            why="answers change from run to run, and users get others than were scored",
            fix="generation_config.do_sample = False, temperature = top_p = top_k = None",
        )
    first = list(record.observed.get("answers_first") or ())
    second = list(record.observed.get("answers_second") or ())
    differ = sum(a != b for a, b in zip(first, second, strict=False))
    if differ:
        yield make(
            id="E2",
            what=f"{differ} of {len(first)} answers differ between two runs",
            where="generate",
            why="a difference between arms can be luck of the draw",
            fix="do_sample=False and model.eval(), or fix the seed and report the spread",
        )


def _sampling(record: RunRecord) -> str:
    """The settings that make generation random; empty if it is greedy."""
    config = record.generation
    if config is None:
        served = getattr(record.model, "generation_config", None)
        names = ("do_sample", "temperature", "top_k", "top_p")
        config = {n: getattr(served, n, None) for n in names}
    if not config.get("do_sample") or config.get("top_k") == 1 or config.get("temperature") == 0:
        return ""  # without do_sample a temperature is ignored
    names = ("do_sample", "temperature", "top_p", "top_k")
    return ", ".join(f"{n}={config[n]}" for n in names if config.get(n) is not None)


DETECTORS: tuple[Detector, ...] = (decoding, batch_answers, padding)
