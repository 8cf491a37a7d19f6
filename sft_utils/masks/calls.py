"""Where a tool call stands that no plain answer can stand for.

A template may write another header or another end for a call than for an answer, or something else
behind it. Such a call begins where the prompt ends that is served for it, and reaches up to what
closes its turn. The result of a tool is never a part of it.
"""

from collections.abc import Sequence

from sft_utils.errors import TemplateError
from sft_utils.masks.rendering import SENTINEL, Message, Served, with_content

SPEAKERS = ("system", "developer", "user", "assistant")
"""Roles that are no tool; data names tools in many ways."""


def called(
    served: Served, messages: Sequence[Message], k: int, text: str, floor: int
) -> tuple[int, int]:
    """Characters of the tool call of message k: from its header to its end.

    Args:
        text: The render of all messages.
        floor: Where the answer before it ended.
    Raises:
        TemplateError: The place cannot be told.
    """
    turn = served(messages[: k + 1])
    body = turn.rstrip()
    mark = max((t for t in served.shape.special.values() if body.endswith(t)), key=len, default="")
    end = len(body) - len(mark)
    start = _begin(served, messages[:k], text, floor, end)
    if start > end or not text.startswith(turn):
        raise TemplateError(
            f"message {k}: the place of its tool call cannot be told, the render around it "
            "depends on what comes later"
        )
    return start, end


def _begin(served: Served, context: Sequence[Message], text: str, floor: int, end: int) -> int:
    """The end of the served prompt; of the first header, where the prompt is no beginning."""
    headers = served.shape.headers
    try:
        prompt = served(context, generation=True)
    except TemplateError:  # some templates refuse a context without its answer
        prompt = ""
    if prompt and floor <= len(prompt) <= end and text.startswith(prompt):
        # A template that writes no header for serving may write one in a conversation.
        header = next((h for h in headers if text.startswith(h, len(prompt))), "")
        return len(prompt) + len(header)
    found = ((text.find(header, floor), len(header)) for header in headers)
    return next((at + n for at, n in found if at >= 0), len(text))


def refuse_results(
    served: Served, messages: Sequence[Message], k: int, text: str, start: int, end: int
) -> None:
    """The results around the call of message k must stand outside of its characters.

    Some templates write results into the turn of the model. Then the place of what the model
    says is not told, which is better than a demand to train what a program says.

    Raises:
        TemplateError: A result stands inside.
    """
    first = last = k
    while first > 0 and messages[first - 1].get("role") not in SPEAKERS:
        first -= 1
    while last + 1 < len(messages) and messages[last + 1].get("role") not in SPEAKERS:
        last += 1
    for group in (range(first, k), range(k + 1, last + 1)):
        if not group:
            continue
        other = [with_content(m, SENTINEL) if j in group else m for j, m in enumerate(messages)]
        try:
            before, *_, after = served(other).split(SENTINEL)
        except (TemplateError, ValueError):  # refused, or it writes no results
            continue
        # What is outside the group is as long as it was: `after` tells where earlier results
        # end, `before` where later ones begin.
        earlier, begin, over = group[0] < k, len(before), len(text) - len(after)
        if start < over <= end if earlier else start <= begin < end:
            raise TemplateError(
                f"message {k}: the result of a tool (message {group[0]}) stands inside this "
                "answer, so the place of what the model says cannot be told"
            )
