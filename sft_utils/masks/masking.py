"""Labels, collation and the coloured token view."""

import html
from collections.abc import Sequence
from typing import Any

from sft_utils.errors import MaskError
from sft_utils.masks.chat import Message, render
from sft_utils.masks.rendering import content_text, thought_length

IGNORE = -100
"""Label that cross-entropy skips (torch.nn.CrossEntropyLoss, ignore_index)."""

Row = dict[str, list[int]]


def assistant_labels(tokenizer: Any, messages: Sequence[Message], *, max_length: int) -> Row:
    """Token ids and labels of one conversation: loss on answers and their stop tokens only.

    The conversation is rendered up to each answer (with the answer's header) and up to its end;
    what the second render adds is supervised, up to and including the first stop token. Without
    that token a model never learns to stop.

    Args:
        tokenizer: Fast tokenizer with the template that will be served.
        messages: One conversation, at least one assistant turn.
        max_length: Tokens kept, counted from the left.
    Returns:
        {"input_ids": length T, "labels": length T, IGNORE where no loss}.
    Raises:
        MaskError: The template is not incremental or does not write an answer as it is, no token is
            supervised, or truncation would cut an answer (silently shortened answers teach a model
            to stop early).
    Introduced in: notebooks/02_template_masking
    """
    full = render(tokenizer, messages)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = [IGNORE] * len(ids)
    eos = tokenizer.eos_token_id
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        head = render(tokenizer, messages[:index], generation=True)
        turn = render(tokenizer, messages[: index + 1])
        if not (turn.startswith(head) and full.startswith(turn)):
            raise MaskError(
                f"message {index}: the render up to this answer is not a prefix of the whole "
                "conversation, so training and serving see different text. Use another template."
            )
        _check_written(message, index, turn[len(head) :])
        for position, (start, _) in enumerate(offsets):
            if len(head) <= start < len(turn):
                labels[position] = ids[position]
                # A stop token that the author wrote inside an answer is caught by the preflight.
                if ids[position] == eos:
                    break
    if all(label == IGNORE for label in labels[:max_length]):
        raise MaskError(
            f"no supervised token within max_length={max_length} (T={len(ids)}). "
            "Raise max_length or drop the row."
        )
    if any(label != IGNORE for label in labels[max_length:]):
        raise MaskError(
            f"max_length={max_length} cuts an answer (T={len(ids)}). "
            "Raise max_length or drop the row."
        )
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def _check_written(message: Message, index: int, added: str) -> None:
    """What an answer says must stand in its turn; templates drop contents that they cannot read.

    Thoughts and space at the ends are left out, since templates take them away on purpose.
    """
    content = message.get("content")
    listed = isinstance(content, list | tuple)
    said = content_text(message)
    texts = [content_text({"content": [part]}) for part in content] if listed else [said]
    lost = [t for t in texts if t[thought_length(t) :].strip() not in added]
    raw = listed and str(content) in added  # Python's own notation of the list
    if lost or raw:
        seen = "is written as Python prints a list" if raw else f"becomes {added[:40]!r}"
        fix = "Give the content as one string" if listed else "Use another template"
        raise MaskError(
            f"message {index}: the template does not write this answer as it is, "
            f"{(lost or texts)[0][:40]!r} {seen}. {fix}."
        )


def supervised(row: Row) -> int:
    """Number of tokens of a row that carry loss."""
    return sum(label != IGNORE for label in row["labels"])


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Pad rows on the right.

    Returns:
        input_ids, attention_mask, labels: int64 tensors of shape (B, T).
    """
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), width), pad_id),
        "attention_mask": torch.zeros((len(rows), width), dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORE),
    }
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        batch["input_ids"][i, :n] = torch.tensor(row["input_ids"])
        batch["attention_mask"][i, :n] = 1
        batch["labels"][i, :n] = torch.tensor(row["labels"])
    return batch


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Put several rows into one without letting one see another.

    Position ids restart at every row and there is no attention mask: transformers derives the
    block-diagonal mask from the restarts, but only of a call without cache: pass `use_cache=False`
    where no Trainer has switched it off, or rows see each other. The first label of each row is
    ignored, since its predecessor belongs to another document.

    Returns:
        input_ids, position_ids, labels: int64 tensors of shape (1, sum of T).
    Source: transformers 5.17.0, masking_utils.py (_preprocess_mask_arguments)
    """
    import torch

    ids, positions, labels = [], [], []
    for row in rows:
        ids += row["input_ids"]
        positions += range(len(row["input_ids"]))
        labels += [IGNORE, *row["labels"][1:]]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
    }


def token_text(tokenizer: Any, row: Row) -> str:
    """One line per run of equal supervision: `train | …` or `  .   | …`; safe for any terminal."""
    lines, position = [], 0
    ids, labels = row["input_ids"], row["labels"]
    while position < len(ids):
        trained = labels[position] != IGNORE
        end = position
        while end < len(ids) and (labels[end] != IGNORE) == trained:
            end += 1
        text = tokenizer.decode(ids[position:end]).replace("\n", "\\n")
        lines.append(f"{'train' if trained else '  .  '} | {text}")
        position = end
    return "\n".join(lines)


def token_html(tokenizer: Any, row: Row) -> str:
    """The row token by token as HTML: supervised ones blue and underlined, the rest grey."""
    parts = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        text = html.escape(tokenizer.decode([token])).replace("\n", "⏎<br>").replace(" ", "&nbsp;")
        style = (
            "background:#cfe3f7;border-bottom:2px solid #1f6fb4;color:#08306b"
            if label != IGNORE
            else "background:#f1f1f1;color:#555"
        )
        parts.append(f'<span style="{style};margin:1px;padding:0 1px">{text}</span>')
    return f'<div style="font-family:monospace;line-height:1.9">{"".join(parts)}</div>'
