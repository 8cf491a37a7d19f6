"""The sentinel oracle: what a conversation must be trained on, whatever a trainer says.

The oracle renders a conversation again with its assistant answers replaced by a sentinel. What
stands before and after the sentinels gives the exact place of every answer in the real render. For
that it uses no generation marker, no response marker, no length of a prefix and no trainer code, so
it can judge all of those. Only a tool call that no sentinel can stand for is placed by the length
of its served prompt (`calls`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.calls import called, refuse_results
from sft_utils.masks.rendering import (
    SENTINEL,
    Message,
    Served,
    checked,
    content_text,
    context_only,
    is_conversation,
    prompt_ids,
    reasoning_text,
    render,
    renders,
    shape,
    template_hash,
    thought_length,
    turn_begin,
    with_content,
)

__all__ = ["SENTINEL", "Message", "Oracle", "Turn", "context_only", "oracle", "oracles",
           "prompt_ids", "render", "template_hash"]  # fmt: skip

MAX_GAP = 2
"""Characters allowed between an answer and the token that ends the turn (a newline or two)."""

CHUNK = 1000
"""Conversations rendered and tokenised in one call; bounds the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One assistant turn in a rendered conversation; positions are half-open."""

    message: int  # index in the message list
    start: int  # first token of the answer
    end: int  # one past the last token of the answer
    stop: int | None  # position of the token that ends the turn, None if there is none
    head: int | None = None  # first token after the header that serving writes, None: start
    tail: int | None = None  # one past the space (last message: all text) after the stop token
    lead: str = ""  # of an answer with thoughts or calls: the text that they must stand in

    @property
    def close(self) -> int:
        """One past the last token that must carry loss: with all that stands before the stop."""
        return self.end if self.stop is None else self.stop + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """What must be trained in one conversation."""

    text: str
    ids: list[int]  # length T, the ids that would be served
    turns: list[Turn]

    @property
    def mask(self) -> list[int]:
        """1 for every token that must carry loss (answers up to their stop tokens), length T."""
        mask = [0] * len(self.ids)
        for turn in self.turns:
            for position in range(turn.start, turn.close):
                mask[position] = 1
        return mask

    @property
    def free(self) -> list[int]:
        """1 for tokens that may carry loss or not without harm, length T.

        Constant text between the served header and the answer (an empty thought, a channel name),
        and what follows the stop token, which no served model ever reaches.
        """
        free = [0] * len(self.ids)
        for turn in self.turns:
            first = turn.start if turn.head is None else turn.head
            for position in (*range(first, turn.start), *range(turn.close, turn.tail or 0)):
                free[position] = 1
        return free


def oracle(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    stops: Iterable[int] = (),
) -> Oracle:
    """Find every assistant answer and its stop token in the served render.

    Args:
        tokenizer: A fast tokenizer with the chat template that will be served.
        messages: One conversation.
        template_kwargs: Variables of the template, as served.
        stops: Ids at which serving stops; they tell the stop token when a turn ends with several.
    Returns:
        Text, ids (length T) and the assistant turns as token ranges.
    Raises:
        TemplateError: The template drops or changes an answer, so its place cannot be found.
    """
    return checked(oracles(tokenizer, [messages], template_kwargs=template_kwargs, stops=stops)[0])


def oracles(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    stops: Iterable[int] = (),
) -> list[Oracle | TemplateError]:
    """The oracle of many conversations; one that has none gives its error instead."""
    kwargs = dict(template_kwargs or {})
    found: list[Oracle | TemplateError] = []
    try:
        if not getattr(tokenizer, "is_fast", False):
            raise TemplateError("only a fast tokenizer tells which characters a token stands for")
        rows = [c if is_conversation(c) else [] for c in conversations]
        around = shape(tokenizer, next(filter(None, rows), []), kwargs)
        served = Served(tokenizer, kwargs, around, frozenset(stops))
        for i in range(0, len(rows), CHUNK):
            found += _oracles(served, rows[i : i + CHUNK])
    except TemplateError as error:  # nothing can be rendered at all
        return [error] * len(conversations)
    return found


@dataclass(frozen=True, slots=True)
class _Span:
    """One answer in characters."""

    message: int
    head: int
    start: int
    end: int
    lead: str


def _oracles(
    served: Served, conversations: Sequence[Sequence[Message]]
) -> list[Oracle | TemplateError]:
    """The oracle of one chunk: two renders for plain rows, one call of the tokenizer for all."""
    blank = [
        [_blank(m) if m.get("role") == "assistant" else m for m in messages]
        for messages in conversations
    ]
    texts, probes = (
        renders(served.tokenizer, chats, served.kwargs) for chats in (conversations, blank)
    )
    found: list[Any] = []
    for messages, text, probe in zip(conversations, texts, probes, strict=True):
        try:
            found.append(_spans(served, messages, checked(text), probe))
        except TemplateError as error:
            found.append(error)
    good = [i for i, spans in enumerate(found) if not isinstance(spans, TemplateError)]
    encoded: Any = good and served.tokenizer(
        [texts[i] for i in good],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    for n, i in enumerate(good):
        ids, offsets = encoded["input_ids"][n], encoded.encodings[n].offsets
        last = len(conversations[i]) - 1
        turns = [_turn(served, s, texts[i], ids, offsets, s.message == last) for s in found[i]]
        found[i] = Oracle(text=texts[i], ids=ids, turns=turns)
    return found


def _blank(message: Message) -> Message:
    """An answer that says the sentinel; thoughts at its head stay, templates take them apart."""
    said = content_text(message)
    return with_content(message, said[: thought_length(said)] + SENTINEL)


def _spans(
    served: Served, messages: Sequence[Message], text: str, probe: str | TemplateError
) -> list[_Span]:
    """Where the answers are: all at once if the render says them word by word, or one by one."""
    answers = [k for k, m in enumerate(messages) if m.get("role") == "assistant"]
    pieces = probe.split(SENTINEL) if isinstance(probe, str) else []
    spans: list[_Span] = []
    if len(pieces) == len(answers) + 1 and not any(messages[k].get("tool_calls") for k in answers):
        end = 0
        for k, piece in zip(answers, pieces, strict=False):
            said = content_text(messages[k])
            said = said[thought_length(said) :]
            floor, start = end, end + len(piece)
            if not text.startswith(piece, floor) or not text.startswith(said, start):
                break
            end = start + len(said)
            spans.append(_thoughtful(served, messages, k, text, floor, start, end))
        if len(spans) == len(answers) and text[end:] == pieces[-1]:
            return spans
        spans = []
    for k in answers:
        floor = spans[-1].end if spans else 0
        spans.append(_span(served, messages, k, text, floor))
    return spans


def _span(served: Served, messages: Sequence[Message], k: int, text: str, floor: int) -> _Span:
    """Where one answer is, with its thoughts and tool calls; `floor` is where the last one ended.

    The whole message is exchanged for a sentinel. If its content begins with thoughts, they may
    have to stay, since templates take them apart.
    """
    message, said = messages[k], content_text(messages[k])
    calls = message.get("tool_calls")
    bare = {name: value for name, value in message.items() if name != "tool_calls"}
    problem = None
    for cut in sorted({0, thought_length(said)}):
        other = with_content(bare, said[:cut] + SENTINEL)
        try:
            start, end = _place(served, messages, k, other, text)
        except TemplateError as error:
            problem = problem or error
            continue
        seen = text[start:end]
        if seen == said[cut:] or (calls and said[cut:] in seen):
            break
        problem = problem or TemplateError(
            f"message {k}: the template changes the answer, {said[:40]!r} becomes {seen[:40]!r}"
        )
    else:
        if problem and not calls:
            raise problem
        start, end = called(served, messages, k, text, floor)
    if calls:
        refuse_results(served, messages, k, text, start, end)
    return _thoughtful(served, messages, k, text, floor, start, end)


def _thoughtful(
    served: Served, messages: Sequence[Message], k: int, text: str, floor: int, start: int,
    end: int,
) -> _Span:  # fmt: skip
    """The span of an answer with the thoughts before it, if they are written; they are trained.

    A header may reach into the thoughts: some generation prompts open them.
    """
    message, calls = messages[k], messages[k].get("tool_calls")
    thoughts, said = reasoning_text(message), content_text(message)
    inline = said[: thought_length(said)]
    first = body = start
    begin = start
    if thoughts or calls:
        begin = turn_begin(served.shape, messages[:k], text, floor, start)
    if inline and text.endswith(inline, floor, start):
        first = start - len(inline)
    elif inline and text.startswith(inline, start):
        body = start + len(inline)
    elif thoughts:
        at = text.rfind(thoughts, begin, start)
        first = start if at < 0 else at
    head = served.shape.header_end(text, floor, first, body)
    if first < start or (head or 0) > start:
        start = first if head is None else head
    # A tool call and the thoughts before it have one span.
    lead = text[begin : end if calls else body] if thoughts or calls else ""
    return _Span(k, start if head is None else head, start, end, lead)


def _place(
    served: Served, messages: Sequence[Message], k: int, other: Message, text: str
) -> tuple[int, int]:
    """Characters that stand where the sentinel stands when message k is another one."""
    parts = served([*messages[:k], other, *messages[k + 1 :]]).split(SENTINEL)
    if len(parts) != 2:
        raise TemplateError(
            f"message {k}: the template writes its content {len(parts) - 1} times, expected 1"
        )
    before, after = parts
    start, end = len(before), len(text) - len(after)
    if start > end or not text.startswith(before) or not text.endswith(after):
        raise TemplateError(
            f"message {k}: the rest of the render depends on its content, "
            "so the place of the answer cannot be told"
        )
    return start, end


def _turn(
    served: Served, span: _Span, text: str, ids: list[int], offsets: Any, final: bool
) -> Turn:
    """Characters to tokens (offsets: length T), and the search for the stop token."""
    shape, n = served.shape, len(ids)
    first = bisect_right(offsets, span.start, key=itemgetter(1))
    last = bisect_left(offsets, span.end, key=itemgetter(0))
    # Tokens of pure space may have lost their width: they stand where their space ended.
    while span.start < span.end and last < n and offsets[last] == (span.end, span.end):
        last += 1
    first = min(first, last)
    closing, edge, position = [], span.end, last
    while position < n and offsets[position][0] - edge <= MAX_GAP:
        if ids[position] in shape.openers:
            break
        if ids[position] in shape.special:
            closing.append(position)
            edge = offsets[position][1]
        position += 1
    best = [p for p in closing if ids[p] in served.stops][:1]
    best = best or [p for p in closing if ids[p] in shape.closers][-1:] or closing[:1]
    stop = best[0] if best else None
    before = [p for p in closing if p < stop] if stop is not None else []
    end = before[-1] + 1 if before else last  # tokens that close the text before the turn's end
    tail = end if stop is None else stop + 1
    while tail < n and (final or text[slice(*offsets[tail])].isspace()):
        tail += 1
    head = min(bisect_left(offsets, span.head, key=itemgetter(0)), first)
    return Turn(
        message=span.message, start=first, end=end, stop=stop, head=head, tail=tail, lead=span.lead
    )
