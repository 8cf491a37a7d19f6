"""Whose text a token is: the slow half of the comparison, for rows that are suspected."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Message, Oracle, Turn, context_only, render
from sft_utils.masks.rendering import SENTINEL, content_text, with_content

SLOW = 300
"""Rows of one record that are tokenised or rendered again to explain a finding."""


class Characters:
    """Rows as text; remembers what tokens say, and how often it looked closely."""

    def __init__(
        self,
        tokenizer: Any,
        conversations: Sequence[Sequence[Message]],
        oracles: Sequence[Oracle | TemplateError],
        *,
        turns: Literal["all", "last"] = "all",
        template_kwargs: Any = None,
        pads: Iterable[int] = (),
        before: Callable[[], tuple[bool, set[int]] | None] = lambda: None,
    ) -> None:
        """
        Args:
            pads: Ids that stand for padding in this run.
            before: Says whether rows were masked before the collator, and which ids carried loss.
        """
        self.tokenizer, self.conversations, self.oracles = tokenizer, conversations, oracles
        self.turns, self.template_kwargs = turns, template_kwargs
        self.pads, self.before = frozenset(pads), before
        self.special = frozenset(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self.roles: dict[int, set[str]] = {}  # row -> roles whose text carries loss
        self._texts: dict[int, str] = {}
        self.slow = 0

    def text(self, token: int) -> str:
        """A token as text."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token])
        return self._texts[token]

    def quote(self, ids: Iterable[int], n: int = 8) -> str:
        """The first tokens as quoted text."""
        return repr(self.tokenizer.decode([int(i) for i in ids][:n]))

    def wanted(self, row: int) -> list[Turn]:
        """The turns of a row that are meant to be trained."""
        turns = self.oracles[row].turns
        chosen = turns if self.turns == "all" else turns[-1:]
        return [t for t in chosen if not context_only(self.conversations[row][t.message])]

    def owners(self, row: int) -> np.ndarray:
        """The message whose content each token belongs to, -1 for text of the template."""
        truth, messages = self.oracles[row], self.conversations[row]
        owners = np.full(len(truth.ids), -1)
        if self.slow < SLOW:
            self.slow += 1
            offsets = self._offsets(row)
            for k, message in enumerate(messages):
                span = None if message.get("role") == "assistant" else self._span(row, k)
                for i, (a, b) in enumerate(offsets if span else ()):
                    if a < span[1] and b > span[0]:
                        owners[i] = k
        else:  # the text before an answer, without its header, is that of the message before it
            last = 0
            for t in truth.turns:
                owners[last : t.start if t.head is None else t.head] = max(t.message - 1, 0)
                last = t.end if t.tail is None else t.tail
        for t in truth.turns:
            owners[t.start : t.end] = t.message
        return owners

    def _offsets(self, row: int) -> list[tuple[int, int]]:
        """Characters of every token of a row."""
        encoded = self.tokenizer(
            self.oracles[row].text, add_special_tokens=False, return_offsets_mapping=True
        )
        return encoded["offset_mapping"]

    def _span(self, row: int, k: int) -> tuple[int, int] | None:
        """Characters of a message in the render of its row."""
        messages, text = self.conversations[row], self.oracles[row].text
        probe = [*messages[:k], with_content(messages[k], SENTINEL), *messages[k + 1 :]]
        try:
            rendered = render(self.tokenizer, probe, template_kwargs=self.template_kwargs)
        except TemplateError:
            return None
        before, found, after = rendered.partition(SENTINEL)
        fits = found and text.startswith(before) and text.endswith(after)
        return (len(before), len(text) - len(after)) if fits else None

    @cached_property
    def spaced(self) -> bool:
        """Whether the served header ends in space, which an answer may merge with."""
        for messages in self.conversations[:1]:
            heads = [k for k, m in enumerate(messages) if m.get("role") == "assistant"]
            return self._header(messages[: heads[0]])[-1:].isspace() if heads else False
        return False

    def _header(self, messages: Sequence[Message]) -> str:
        """The served prompt as text; empty if the template refuses."""
        try:
            return render(
                self.tokenizer, messages, generation=True, template_kwargs=self.template_kwargs
            )
        except TemplateError:
            return ""

    def foreign(self, row: int, turn: Turn, said: str) -> tuple[str, str]:
        """Characters of the template inside the first and last token of an answer."""
        text, offsets = self.oracles[row].text, self._offsets(row)
        head = self._header(self.conversations[row][: turn.message])
        a, b = offsets[turn.start]
        edge = len(head) if head and text.startswith(head) else a
        before = text[a:edge] if a < edge < b else ""
        at = text.find(said, a)
        end = at + len(said)
        x, y = offsets[turn.end - 1]
        after = text[end:y] if at >= 0 and at <= b and x < end < y else ""
        return before, after

    def is_shared(self, row: int, hole: set[int]) -> bool:
        """Whether the missing tokens are those that an answer shares with its header."""
        for t in self.wanted(row):
            said = content_text(self.conversations[row][t.message])
            if t.start in hole and (self.slow >= SLOW or not self.foreign(row, t, said)[0]):
                return False
        self.slow += 1
        return hole <= {t.start for t in self.wanted(row)}
