"""A small part of the real batch, and the logits of its rows one by one."""

import inspect
import math
from typing import Any, Literal

from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.record import Batch, RunRecord

TOKENS = 256
"""Tokens per row, and two rows: with a real vocabulary more of a batch is expensive."""


def small_batch(record: RunRecord, model: Any) -> Batch | None:
    """Two rows and TOKENS tokens of the first batch that has labels to learn from."""
    parameter = next(iter(model.parameters()))
    table = getattr(model, "get_input_embeddings", lambda: None)()
    size = len(table.weight) if hasattr(table, "weight") else math.inf
    for batch in record.train_batches:
        if not batch.keys() >= {"labels", "input_ids"} or int(batch["input_ids"].max()) >= size:
            continue
        learned = (batch["labels"][:, 1:] != IGNORE).any(0).nonzero()
        if not len(learned):
            continue
        chosen = dict(batch)
        if is_plain(batch):
            end = int(learned[-1]) + 2
            window = slice(max(0, end - TOKENS), end)
            chosen = {k: v[:, window] for k, v in batch.items()}
            counts = (chosen["labels"][:, 1:] != IGNORE).sum(1)
            # The most unequal rows: what a wrong normalisation treats most differently.
            order = counts.masked_fill(counts == 0, 1 << 30).argsort()
            rows = sorted({int(order[0]), int(counts.argmax())})
            chosen = {k: v[rows] for k, v in chosen.items()}
        elif len(batch["labels"]) > 1:
            continue  # pictures, or lengths of documents: such rows cannot be told apart
        return on_device(chosen, parameter.device)
    return None


def is_plain(batch: Batch) -> bool:
    """Whether everything in a batch has one value per token, so that it can be cut."""
    shape = batch["input_ids"].shape
    return all(getattr(v, "shape", ()) == shape for v in batch.values())


def on_device(batch: Batch, device: Any) -> Batch:
    """The batch where the model is."""
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}


def takes_positions(model: Any) -> bool:
    """Whether logits of chosen positions can be asked for."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def logits_at(model: Any, inputs: Batch, positions: Any) -> Any:
    """Float logits (n, V) of one row at some positions.

    The trainer's options are used (no cache), since a cache changes how packed rows are masked.
    """
    if takes_positions(model):
        output = model(**inputs, use_cache=False, logits_to_keep=positions)
        return output.logits[0].float()
    return model(**inputs, use_cache=False).logits[0, positions].float()


def row_of(batch: Batch, i: int) -> tuple[Batch, Any]:
    """Inputs of one row, and its labels."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    if len(batch["labels"]) > 1:
        inputs = {k: v[i : i + 1] for k, v in inputs.items()}
    return inputs, batch["labels"][i]


def cross_entropy(model: Any, batch: Batch, over: Literal["labels", "real", "all"]) -> float:
    """Mean cross-entropy over the labels, every real token, or padding too."""
    import torch

    total, count = 0.0, 0
    for i in range(len(batch["labels"])):
        inputs, labels = row_of(batch, i)
        ids, real = inputs["input_ids"][0], inputs.get("attention_mask")
        wanted = labels[1:] != IGNORE
        if over != "labels":
            everything = real is None or over == "all"
            wanted = torch.ones_like(wanted) if everything else real[0, 1:] != 0
        positions = wanted.nonzero()[:, 0]
        if len(positions):
            target = (labels if over == "labels" else ids)[1:][positions]
            logits = logits_at(model, inputs, positions)
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
            total, count = total + float(loss), count + len(positions)
    return total / max(count, 1)
