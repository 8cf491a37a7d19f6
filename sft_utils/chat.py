"""Chat rendering, and the sentinel oracle: what a conversation must be trained on.

The oracle renders a conversation again with one assistant turn replaced by a sentinel. What
stands before and after the sentinel gives the exact place of the answer in the real render. It
uses no generation marker, no response marker, no length of a prefix and no trainer code, so it
can judge all of those.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.artifacts import sha256_text
from sft_utils.errors import TemplateError

Message = dict[str, Any]

SENTINEL = "\ue000SFT\ue001"
"""Private-use characters: no tokenizer merges them with text, no data holds them."""

MAX_GAP = 2
"""Characters allowed between an answer and the token that ends the turn (a newline or two)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One assistant turn in a rendered conversation; positions are half-open."""

    message: int  # index in the message list
    start: int  # first token of the answer
    end: int  # one past the last token of the answer
    stop: int | None  # position of the token that ends the turn, None if there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """What must be trained in one conversation."""

    text: str
    ids: list[int]  # length T, the ids that would be served
    turns: list[Turn]

    @property
    def mask(self) -> list[int]:
        """1 for every token that must carry loss (answers and their stop tokens), length T."""
        mask = [0] * len(self.ids)
        for turn in self.turns:
            for position in range(turn.start, turn.end):
                mask[position] = 1
            if turn.stop is not None:
                mask[turn.stop] = 1
        return mask


def render(tokenizer: Any, messages: Sequence[Message], *, generation: bool = False) -> str:
    """Apply the chat template; `generation` appends the header of the next answer.

    Raises:
        TemplateError: The tokenizer has no template, or the template refuses the messages.
    """
    import jinja2

    if not tokenizer.chat_template:
        raise TemplateError("the tokenizer has no chat template; load one with the model")
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation
        )
    except (jinja2.TemplateError, KeyError, TypeError) as error:
        roles = [m.get("role") for m in messages]
        raise TemplateError(f"the chat template refuses roles {roles}: {error}") from error


def template_hash(tokenizer: Any) -> str:
    """Hash of the chat template text."""
    return sha256_text(tokenizer.chat_template or "")


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of the messages plus the header of the answer, as they are served."""
    text = render(tokenizer, messages, generation=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def oracle(tokenizer: Any, messages: Sequence[Message]) -> Oracle:
    """Find every assistant answer and its stop token in the served render.

    Args:
        tokenizer: A fast tokenizer with the chat template that will be served.
        messages: One conversation.
    Returns:
        Text, ids (length T) and the assistant turns as token ranges.
    Raises:
        TemplateError: The template drops or changes an answer, so its place cannot be found.
    """
    text = render(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    turns = []
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        start, end = _answer_span(tokenizer, messages, index, text)
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        first = inside[0] if inside else _first_from(offsets, end)
        last = inside[-1] + 1 if inside else first
        stop = last if last < len(ids) else None
        while stop is not None and ids[stop] not in special:
            stop = stop + 1 if stop + 1 < len(ids) else None
            if stop is not None and offsets[stop][0] - end > MAX_GAP:
                stop = None
        turns.append(Turn(message=index, start=first, end=last, stop=stop))
    return Oracle(text=text, ids=ids, turns=turns)


def _answer_span(
    tokenizer: Any, messages: Sequence[Message], index: int, text: str
) -> tuple[int, int]:
    """Character range of one answer, found by replacing it with the sentinel."""
    probe = copy.deepcopy(list(messages))
    probe[index]["content"] = SENTINEL
    parts = render(tokenizer, probe).split(SENTINEL)
    if len(parts) != 2:
        raise TemplateError(
            f"message {index}: the template writes its content {len(parts) - 1} times, expected 1"
        )
    before, after = parts
    if not text.startswith(before) or not text.endswith(after):
        raise TemplateError(
            f"message {index}: the rest of the render depends on its content, "
            "so the place of the answer cannot be told"
        )
    start, end = len(before), len(text) - len(after)
    content = str(messages[index].get("content") or "")
    if text[start:end] != content:
        raise TemplateError(
            f"message {index}: the template changes the answer, {content[:40]!r} becomes "
            f"{text[start:end][:40]!r}"
        )
    return start, end


def _first_from(offsets: Sequence[tuple[int, int]], position: int) -> int:
    """Index of the first token that begins at or after a character position."""
    return next((i for i, (a, _) in enumerate(offsets) if a >= position), len(offsets))
