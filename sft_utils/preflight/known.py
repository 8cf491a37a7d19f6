"""The served conversations of a record, to be found by their tokens: whole, cut or joined."""

from collections import defaultdict
from collections.abc import Sequence

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Oracle
from sft_utils.masks.rendering import is_conversation, renders
from sft_utils.preflight.record import RunRecord


class Known:
    """Looks up trained rows among the conversations, as they are served."""

    def __init__(self, record: RunRecord) -> None:
        self.truths: dict[int, Oracle] = {
            i: truth
            for i, truth in enumerate(record.oracles)
            if not isinstance(truth, TemplateError)
        }
        self.unplaced = _unplaced(record)
        self.truths |= self.unplaced
        self.rows: dict[tuple[int, ...], int] = {}
        self.heads: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self.tails: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self.ends: dict[tuple[int, ...], int] = {}  # up to the last stop token
        self.stops: set[int] = set()  # ids of these tokens
        for i, truth in self.truths.items():
            self.rows.setdefault(tuple(truth.ids), i)
            self.heads[tuple(truth.ids[:8])].append(i)
            self.tails[tuple(truth.ids[-8:])].append(i)
            last = truth.turns[-1] if truth.turns else None
            if last and last.stop is not None and last.tail == len(truth.ids):
                self.ends.setdefault(tuple(truth.ids[: last.stop + 1]), i)
                self.stops.add(truth.ids[last.stop])

    def closed(self, ids: Sequence[int]) -> int | None:
        """A conversation that begins with these tokens and has only text of the template behind.

        Some trainers end a row with the stop token, without the line break that is served behind.
        """
        for k in reversed(range(len(ids))):
            row = self.ends.get(tuple(ids[: k + 1])) if ids[k] in self.stops else None
            if row is not None:
                return row if self.truths[row].ids[: len(ids)] == list(ids) else None
        return None

    def longer(self, ids: Sequence[int]) -> int | None:
        """A conversation that begins with these tokens and goes on."""
        near = self.heads.get(tuple(ids[:8]), ()) if len(ids) >= 8 else self.truths
        return next((i for i in near if self.truths[i].ids[: len(ids)] == list(ids)), None)

    def shorter(self, ids: Sequence[int]) -> int | None:
        """The longest conversation that these tokens begin with."""
        near = self.heads.get(tuple(ids[:8]), ())
        fits = [i for i in near if list(ids[: len(self.truths[i].ids)]) == self.truths[i].ids]
        return max(fits, key=lambda i: len(self.truths[i].ids), default=None)

    def ending(self, ids: Sequence[int]) -> int | None:
        """A conversation that ends with these tokens and began earlier."""
        near = self.tails.get(tuple(ids[-8:]), ()) if len(ids) >= 8 else self.truths
        return next((i for i in near if self.truths[i].ids[-len(ids) :] == list(ids)), None)

    def inside(self, ids: Sequence[int]) -> int | None:
        """A conversation that holds these tokens and more on both sides."""
        part = "".join(map(chr, ids))
        texts = ((i, "".join(map(chr, truth.ids))) for i, truth in self.truths.items())
        return next((i for i, text in texts if part in text), None) if len(ids) >= 8 else None

    def joined(self, ids: Sequence[int]) -> list[bool]:
        """Whether each conversation of a row is cut; empty if the row is not made of several."""
        cut: list[bool] = []
        at = 0
        while at < len(ids):
            row = self.shorter(ids[at:])
            if row is not None:
                at += len(self.truths[row].ids)
            elif self.longer(ids[at:]) is not None:
                at = len(ids)
            elif at or not (at := self._border(ids)):
                return []
            cut.append(row is None)
        return cut if len(cut) > 1 else []

    def _border(self, ids: Sequence[int]) -> int:
        """Where the end of a conversation stops and another one begins; 0 if nowhere."""
        for k in range(1, len(ids)):
            if k >= 8 and tuple(ids[k - 8 : k]) not in self.tails:
                continue
            rest = ids[k:]
            begins = self.shorter(rest) is not None or self.longer(rest) is not None
            if begins and self.ending(ids[:k]) is not None:
                return k
        return 0

    def nearest(self, ids: Sequence[int]) -> int:
        """The conversation that shares most tokens."""
        bag = set(ids)
        likeness = {
            i: len(bag & set(t.ids)) / len(bag | set(t.ids)) for i, t in self.truths.items()
        }
        return max(likeness, key=likeness.__getitem__)


def _unplaced(record: RunRecord) -> dict[int, Oracle]:
    """Text and ids of rows that can be rendered, and whose answers cannot be placed."""
    odd = [
        i
        for i, (row, truth) in enumerate(zip(record.conversations, record.oracles, strict=True))
        if isinstance(truth, TemplateError) and row and is_conversation(row)
    ]
    try:
        chats = [record.conversations[i] for i in odd]
        texts = renders(record.tokenizer, chats, record.template_kwargs) if odd else []
    except TemplateError:  # no template at all
        return {}
    return {
        i: Oracle(
            text=text, ids=record.tokenizer(text, add_special_tokens=False)["input_ids"], turns=[]
        )
        for i, text in zip(odd, texts, strict=True)
        if isinstance(text, str)
    }
