"""Two sides of one template: what trained the rows, and what will serve them."""

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import Message
from sft_utils.masks.rendering import (
    content_text,
    is_conversation,
    reasoning_text,
    renders,
    with_content,
)
from sft_utils.preflight.record import Detector, Finding, RunRecord

Prompt = tuple[str, list[int]]
"""Text and token ids of what is served before an answer."""

SAMPLE = 64
"""Rows that are rendered twice: some of every kind, and some from all over the data."""

KINDS = {
    "C8": (
        "training shows another default system prompt than serving",
        "train with the template that will be served; if a default system prompt is to go, take "
        "it out of the saved template too",
        "every served chat begins with a text that the model was never trained with",
    ),
    "C10": (
        "training differs from serving in white space",
        "train with the template that will be served, character by character",
        "' A' and 'A' are different tokens: at every answer the model stands in a context it does "
        "not know",
    ),
    "C13": (
        "training was rendered by another template than serving",
        "train and serve with one template: save the training template with the tokenizer, or pass "
        "the served one to the trainer",
        "the model learns a format that it is never shown again",
    ),
}
"""Id -> what, fix and why of two templates that differ."""


def sample(record: RunRecord, limit: int = SAMPLE) -> list[tuple[int, Sequence[Message]]]:
    """Rows of every kind (roles, tools, thoughts), filled up with rows from all over the data."""
    seen: dict[Any, int] = {}
    chosen: dict[int, Sequence[Message]] = {}
    rows = [(i, m) for i, m in enumerate(record.conversations) if m and is_conversation(m)]
    for i, messages in rows:
        kind = tuple((str(m.get("role")), bool(m.get("tool_calls")), bool(content_text(m).strip()),
                      bool(reasoning_text(m))) for m in messages)  # fmt: skip
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= 2 and len(chosen) < limit:
            chosen[i] = messages
    for i, messages in rows[:: max(len(rows) // limit, 1)]:
        if len(chosen) < limit:
            chosen[i] = messages
    return sorted(chosen.items())


def prompts(
    tokenizer: Any, contexts: Sequence[Sequence[Message]], kwargs: Mapping[str, Any]
) -> list[Prompt | None]:
    """Text and ids that are served after each context, None where the template refuses it."""
    try:
        texts = renders(tokenizer, contexts, kwargs, generation=True)
    except TemplateError:
        return [None] * len(contexts)
    good = [text for text in texts if isinstance(text, str)]
    ids = iter(tokenizer(good, add_special_tokens=False)["input_ids"] if good else ())
    return [(text, next(ids)) if isinstance(text, str) else None for text in texts]


def row_variables(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Finding | None]:
    """Template variables that the rows bring themselves, as TRL hands them to the template.

    Args:
        rows: Lines of a file, with or without the columns tools and chat_template_kwargs.
    Returns:
        The variables that all rows share; or none, and C0, if rows differ in them.
    """
    found = []
    for row in rows:
        tools = row.get("tools")
        if isinstance(tools, str):
            with contextlib.suppress(ValueError):  # not JSON: TRL refuses it, and is quoted
                tools = json.loads(tools)
        own = row.get("chat_template_kwargs")
        found.append(
            ({"tools": tools} if tools else {}) | dict(own if isinstance(own, Mapping) else {})
        )
    other = next((i for i, own in enumerate(found) if own != found[0]), None)
    if other is None:
        return (found[0] if found else {}), None
    names = sorted({key for own in found for key in own if own.get(key) != found[0].get(key)})
    return {}, Finding(
        id="C0",
        severity="WARN",
        what=f"rows bring different template variables ({', '.join(names)} of row {other} and row "
        "0): their tokens cannot be compared",
        where="columns tools, chat_template_kwargs",
        fix="split the file by these columns and check every part alone",
        why="the served text is known for one set of variables at a time; what is trained on "
        "these rows was not looked at",
        count=len(rows),
    )


def trl_templates() -> Path | None:
    """The folder of chat templates inside the installed trl; trl itself is not imported."""
    spec = importlib.util.find_spec("trl")
    places = (spec.submodule_search_locations if spec else None) or []
    return next((Path(place) / "chat_templates" for place in places), None)


def trl_twin(template: Any) -> str | None:
    """The training template by which TRL replaces this one, None if it knows none."""
    folder = trl_templates()
    for path in sorted(folder.glob("*_training.jinja")) if folder else ():
        original = path.with_name(path.name.replace("_training", ""))
        if original.exists() and original.read_text(encoding="utf-8") == template:
            return path.read_text(encoding="utf-8")
    return None


def trained_template(record: RunRecord) -> Any:
    """The template that renders the training rows, None if it is the served one."""
    own = getattr(record.trainer, "chat_template", None)
    if isinstance(own, str):
        return own  # TRL keeps the one it trains with on the trainer
    return getattr(record.train_tokenizer, "chat_template", None)


def doubled_bos(record: RunRecord) -> Iterator[Finding]:
    """C3: the server puts a second BOS token in front of the prompt."""
    bos = record.tokenizer.bos_token_id
    if record.serve is None or bos is None:
        return
    contexts = [
        (i, m[: max(k for k, x in enumerate(m) if x.get("role") == "assistant")])
        for i, m in sample(record, 4)
        if any(x.get("role") == "assistant" for x in m[1:])
    ]
    expected = prompts(record.tokenizer, [m for _, m in contexts], record.template_kwargs)
    for (row, messages), prompt in zip(contexts, expected, strict=True):
        if not messages or prompt is None:
            continue
        served = list(record.serve(messages))
        if served[:2] == [bos, bos] and prompt[1][:2] != [bos, bos]:
            yield Finding(
                id="C3",
                severity="FAIL",
                what=f"the server sends {record.tokenizer.bos_token!r} twice, training once",
                where=f"row {row}, first tokens {served[:4]} instead of {prompt[1][:4]}",
                fix="tokenise a rendered prompt with add_special_tokens=False",
                why="all positions shift, and the model sees a beginning it was never trained with",
                row=row,
            )
            return


def other_kwargs(record: RunRecord) -> Iterator[Finding]:
    """C20: variables of the template differ between training and serving, and change the text."""
    trained, served = record.train_template_kwargs, record.template_kwargs
    if trained is None or dict(trained) == dict(served):
        return
    rows = sample(record)
    chats = [m for _, m in rows]
    try:
        here, there = (renders(record.tokenizer, chats, kwargs) for kwargs in (served, trained))
    except TemplateError:
        return
    differ = [(rows[n][0], a, b) for n, (a, b) in enumerate(zip(here, there, strict=True))
              if isinstance(a, str) and isinstance(b, str) and a != b]  # fmt: skip
    asked = [m[:-1] for m in chats if len(m) > 1 and m[-1].get("role") == "assistant"]
    whole = [(i, t) for (i, m), t in zip(rows, there, strict=True)
             if len(m) > 1 and m[-1].get("role") == "assistant"]  # fmt: skip
    prompt_here, prompt_there = (prompts(record.tokenizer, asked, k) for k in (served, trained))
    headers = [
        (i, a[0], b[0], isinstance(text, str) and text.startswith(a[0]))
        for (i, text), a, b in zip(whole, prompt_here, prompt_there, strict=True)
        if a and b and a[0] != b[0]
    ]
    if not differ and not headers:
        return
    row, a, b = differ[0] if differ else headers[0][:3]
    names = sorted(k for k in {*trained, *served}
                   if trained.get(k, Ellipsis) != served.get(k, Ellipsis))  # fmt: skip
    # A served prompt that stands in the trained text word by word is at least no strange context.
    fatal = bool(differ) or not all(fits for *_, fits in headers)
    yield Finding(
        id="C20",
        severity="FAIL" if fatal else "WARN",
        what=f"template variables differ: trained {_show(trained, names)}, served "
        f"{_show(served, names)}; the text changes: {_contrast(b, a)}",
        where=f"template_kwargs, row {row}",
        fix=f"use the same {', '.join(names)} for training and serving, and save it with the model",
        why="the model is served prompts of a kind that it was not trained on",
        row=row,
        count=len(differ) or len(headers),
    )


def other_template(record: RunRecord) -> Iterator[Finding]:
    """C8, C10, C13: rows look different under the training template and the served one."""
    template = trained_template(record)
    if (
        template is None
        and record.batches is None
        and (getattr(record.arguments, "assistant_only_loss", False))
    ):
        template = trl_twin(getattr(record.tokenizer, "chat_template", None))
    tokenizer = record.train_tokenizer or record.tokenizer
    if not template or not record.tokenizer.chat_template:
        return
    rows = sample(record)
    both = _both(record, tokenizer, template, [m for _, m in rows])
    merged: dict[str, Finding] = {}
    for (row, messages), (trained, served) in zip(rows, both, strict=True):
        if trained is None or served is None or trained == served:
            continue
        kind = "C10"
        if "".join(trained.split()) != "".join(served.split()):
            kind = "C8" if _default(record, tokenizer, template, messages) else "C13"
        what, fix, why = KINDS[kind]
        if kind in merged:
            merged[kind] = replace(merged[kind], count=merged[kind].count + 1)
            continue
        merged[kind] = Finding(
            id=kind,
            severity="FAIL",
            what=f"{what}: {_contrast(trained, served)}",
            where=f"chat template, row {row}",
            fix=fix,
            why=why,
            row=row,
        )
    yield from merged.values()


def _both(
    record: RunRecord, tokenizer: Any, template: str, chats: Sequence[Sequence[Message]]
) -> list[tuple[str | None, str | None]]:
    """Each chat as trained and as served; what follows the last text is of no consequence."""
    sides = (
        renders(tokenizer, chats, {**record.template_kwargs, "chat_template": template}),
        renders(record.tokenizer, chats, record.template_kwargs),
    )
    trained, served = ([t.rstrip() if isinstance(t, str) else None for t in s] for s in sides)
    return list(zip(trained, served, strict=True))


def _default(record: RunRecord, tokenizer: Any, template: str, messages: Sequence[Message]) -> bool:
    """Whether two templates differ in nothing but the system prompt they add themselves."""
    if messages[0].get("role") == "system":
        return False
    told = with_content({**messages[0], "role": "system"}, "Answer in one word.")
    ((trained, served),) = _both(record, tokenizer, template, [[told, *messages]])
    if trained is None or served is None:  # no system role: compare what follows the first text
        first = content_text(messages[0])
        ((trained, served),) = _both(record, tokenizer, template, [messages])
        trained, served = ((t or "").partition(first)[2] for t in (trained, served))
        return bool(first and trained) and trained == served
    return trained == served


def _contrast(trained: str, served: str) -> str:
    """Where two texts part, in a few words."""
    pairs = enumerate(zip(trained, served, strict=False))
    k = next((k for k, (a, b) in pairs if a != b), min(len(trained), len(served)))
    a, b = (text[max(k - 20, 0) : k + 30] for text in (trained, served))
    return f"trained {a!r}, served {b!r}"


def _show(kwargs: Mapping[str, Any], names: Sequence[str]) -> str:
    return str({k: kwargs[k] for k in names if k in kwargs})[:120]


DETECTORS: tuple[Detector, ...] = (doubled_bos, other_kwargs, other_template)
