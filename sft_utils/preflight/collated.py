"""A collated batch, cut back into the rows it was made of."""

import itertools
from collections.abc import Iterator
from typing import Any

from sft_utils.preflight.record import Batch


def batch_rows(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a collated batch back into (ids, labels) rows; packed rows are split at restarts.

    Args:
        batch: Tensors or lists of shape (B, T): input_ids, labels, and attention_mask (padding on
            either side) or position_ids that restart at every packed row.
    Yields:
        Nothing for a batch whose parts do not line up; `padding` names it.
    """
    if ragged(batch):
        return
    ids, labels = as_lists(batch["input_ids"]), as_lists(batch["labels"])
    masks = as_lists(batch["attention_mask"]) if "attention_mask" in batch else None
    starts = as_lists(batch["position_ids"]) if "position_ids" in batch else None
    for i in range(len(ids)):
        keep = range(len(ids[i]))
        if masks is not None:
            keep = [k for k, m in enumerate(masks[i]) if m]
        cuts = [0, len(keep)]
        if starts is not None:
            cuts = [n for n, k in enumerate(keep) if starts[i][k] == 0] + [len(keep)]
        for a, b in itertools.pairwise(cuts):
            part = keep[a:b]
            yield [ids[i][k] for k in part], [labels[i][k] for k in part]


def as_lists(values: Any) -> list[list[int]]:
    """Tensors as lists; a single row as a batch of one."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return values if values and isinstance(values[0], list) else [values]


def ragged(batch: Batch) -> dict[str, list[int]]:
    """Lengths of the rows of each part, if the parts of a batch do not line up; else empty."""
    names = ("input_ids", "labels", "attention_mask", "position_ids")
    lengths = {n: [len(row) for row in as_lists(batch[n])] for n in names if n in batch}
    return lengths if len({tuple(v) for v in lengths.values()}) > 1 else {}


def is_packed(batch: Batch) -> bool:
    """Whether one row of a batch holds several documents, told apart by restarting positions."""
    if "position_ids" not in batch:
        return False
    return any(row.count(0) > 1 for row in as_lists(batch["position_ids"]))
