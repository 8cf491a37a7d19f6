"""Rewrite any chat template: other messages in front of it, replacements behind it.

No marker of any family is written here.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sft_utils.masks.masking import IGNORE, Row
from sft_utils.preflight.record import RunRecord
from tests.mutation.frame import with_rows
from tests.mutation.probes import MARK, encoded, rendered, turn

Chats = Sequence[Sequence[dict[str, Any]]]


def messages_as(each: str, *, keep: str = "true", first: str = "[]") -> str:
    """Jinja that exchanges the messages: `each` is the new form of message x, `keep` a condition.

    Variables: x, loop, and a namespace `told` whose list `m` becomes the messages.
    """
    return (
        "{%- set told = namespace(m=" + first + ") -%}{%- for x in messages -%}{%- if " + keep
        + " -%}{%- set told.m = told.m + [" + each + "] -%}{%- endif -%}{%- endfor -%}"
        "{%- set messages = told.m -%}"
    )  # fmt: skip


def text_with(template: str, *changes: tuple[str, str]) -> str:
    """A template whose finished text goes through replacements."""
    inner = template.removesuffix("\n")
    for change in changes:
        old, new = map(json.dumps, change)
        inner = f"{{% filter replace({old}, {new}) %}}{inner}{{% endfilter %}}"
    return inner


def with_template(tokenizer: Any, template: str) -> Any:
    """The same tokenizer with another template."""
    other = copy.copy(tokenizer)
    other.chat_template = template
    return other


def row_of(record: RunRecord, tokenizer: Any, messages: Sequence[dict], kwargs: Mapping) -> Row:
    """A row with loss on the answers (where their texts are found) and their stop tokens."""
    text = rendered(tokenizer, messages, **kwargs)
    both = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels, at = both["input_ids"], [IGNORE] * len(both["input_ids"]), 0
    answers = [m for m in messages if m["role"] == "assistant"]
    for message in answers:
        said = str(message.get("content") or "").strip()
        # What a template makes of an answer: as it is, without thoughts, in small letters, cut.
        forms = (said, said.split("</think>")[-1].strip(), said.lower(), said[:4])
        form = next((s for s in forms if s and text.find(s, at) >= 0), "")
        if not form:
            continue
        start = text.find(form, at)
        at = start + len(form)
        if record.turns == "last" and message is not answers[-1]:
            continue
        for i, (a, b) in enumerate(both["offset_mapping"]):
            if (a < at and b > start) or (at <= a <= at + 2 and ids[i] in record.stops):
                labels[i] = ids[i]
    return {"input_ids": ids, "labels": labels}


def trained(
    record: RunRecord, tokenizer: Any, *, kwargs: Mapping[str, Any] | None = None
) -> RunRecord:
    """The rows of a record, rendered by another tokenizer or with other variables."""
    kwargs = record.template_kwargs if kwargs is None else kwargs
    return with_rows(record, [row_of(record, tokenizer, c, kwargs) for c in record.conversations])


def everywhere(record: RunRecord, template: str, chats: Chats | None = None) -> RunRecord:
    """Train and serve with another template; `chats` are other rows."""
    tokenizer = with_template(record.tokenizer, template)
    kwargs = dict(record.template_kwargs)
    changed = record.change(
        tokenizer=tokenizer,
        serve=lambda messages: prompt(tokenizer, messages, kwargs),
        eval_conversations=(),
        eval_batches=None,
    )
    return trained(changed if chats is None else rows_are(changed, chats), tokenizer)


def rows_are(record: RunRecord, chats: Chats) -> RunRecord:
    """Other conversations; what was derived from the old ones is left out."""
    return record.change(conversations=copy.deepcopy(list(chats)), raw=(), stored=())


def in_training(record: RunRecord, template: str) -> RunRecord:
    """Train with another template, serve as before."""
    tokenizer = with_template(record.tokenizer, template)
    return trained(record, tokenizer).change(train_tokenizer=tokenizer)


def prompt(tokenizer: Any, messages: Sequence[dict], kwargs: Mapping[str, Any]) -> list[int]:
    """Ids that are served before an answer."""
    return encoded(tokenizer, rendered(tokenizer, messages, add_generation_prompt=True, **kwargs))


def texts(record: RunRecord) -> Iterator[tuple[Sequence[dict], str]]:
    """Every conversation with its served render."""
    for messages in record.conversations:
        yield messages, rendered(record.tokenizer, messages, **record.template_kwargs)


def around(record: RunRecord) -> tuple[str, str]:
    """What the template writes between question and answer, and behind a last answer."""
    messages = [turn("user", MARK), turn("assistant", MARK)]
    parts = rendered(record.tokenizer, messages, **record.template_kwargs).split(MARK)
    return parts[1], parts[2]


def stop_text(record: RunRecord) -> str:
    """The stop token as the template writes it behind an answer."""
    behind = around(record)[1]
    names = record.tokenizer.convert_ids_to_tokens(sorted(record.stops))
    return min((n for n in names if n in behind), key=behind.index)


def rewriting(
    each: str, chats: Callable[[RunRecord], Chats] | None = None, *, keep: str = "true",
    first: str = "[]", where: Callable[..., RunRecord] = everywhere,
) -> Callable[[RunRecord], RunRecord]:  # fmt: skip
    """A fault that hands the template other messages than it was given."""

    def apply(record: RunRecord) -> RunRecord:
        template = messages_as(each, keep=keep, first=first) + record.tokenizer.chat_template
        if chats is None:
            return where(record, template)
        return where(record, template, chats(record))

    return apply


def gone(pick: Callable[[dict], Any]) -> Callable[[RunRecord, RunRecord], bool]:
    """Alive when a text that `pick` finds in a message is not in the render of its row."""

    def alive(before: RunRecord, after: RunRecord) -> bool:
        return any(pick(m) and str(pick(m)) not in text for row, text in texts(after) for m in row)

    return alive
