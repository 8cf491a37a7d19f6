"""What to say of a file whose layout is unknown: the mapping that its columns ask for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_utils.data.parsing import listed
from sft_utils.data.rows import Row

_PROMPTS = ("prompt", "question", "query", "instruction", "input", "inputs", "problem", "user",
            "text", "source")  # fmt: skip
_COMPLETIONS = ("completion", "answer", "response", "output", "target", "label", "assistant",
                "reply", "summary", "targets", "solution", "chosen", "answers")  # fmt: skip
_CONTEXTS = ("context", "passage", "document")
_SYSTEMS = ("system", "system_prompt")
"""Usual names of columns in lower case, those that say most first."""

_DIALOGUE = re.compile(
    r"\s*(?:#+ ?)?(?:Human|User|Instruction|Question) ?:.*?(?:Assistant|Response|Answer) ?:"
    r"|\s*(?:<s>)?\s*\[INST\]|<\|im_start\|>|<\|start_header_id\|>",
    re.DOTALL,
)
"""How a text begins that is a whole dialogue, or one rendered by a chat template."""


def kind(value: Any) -> str:
    """What a JSON value is, in JSON's own words."""
    names = {"str": "a string", "list": "a list", "dict": "an object", "bool": "a boolean"}
    return "null" if value is None else names.get(type(value).__name__, "a number")


def turn_role(value: Any) -> str:
    """The role of the first message, if a value is a list of messages; else nothing."""
    if not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        return ""
    first = value[0]
    for role, content in (("role", "content"), ("from", "value")):
        if role in first and content in first:
            return str(first[role])
    return ""


def unknown(source: str, rows: Sequence[Row], known: str) -> str:
    """The message for a file whose rows have no known layout.

    Args:
        known: The layouts that are.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    values = {c: next((r[c] for r in rows if r.get(c) is not None), None) for c in columns}
    return (
        f"{source}: no row has a known layout ({known}); its columns are {listed(columns)}. "
        f"{_advice(values)}"
    )


def _advice(values: Mapping[str, Any]) -> str:
    """What a reader can do about these columns, each with its first value."""
    if {"message_id", "parent_id", "text", "role"} <= values.keys():
        return ("Each row is one message of a tree: join every answer with its parents first, into "
                "a row with messages.")  # fmt: skip
    chats = {c: role for c, value in values.items() if (role := turn_role(value))}
    whole = [c for c in chats if chats[c] not in ("assistant", "gpt") and c != "rejected"]
    best = next((c for c in ("chosen", *whole) if c in whole), "")
    if best and not (best == "prompt" and len(chats) > 1):
        return _say(f"messages={best}")
    texts = [c for c, value in values.items() if isinstance(value, str)]
    for column in texts:
        if _DIALOGUE.match(values[column]):
            return (f"Column {column!r} holds whole dialogues, each as one text: split them into "
                    "messages with a role and a content first.")  # fmt: skip
    usable = [*texts, *chats]
    prompt, completion = _named(usable, _PROMPTS), _named(usable, _COMPLETIONS)
    more = [*_CONTEXTS, *["input"] * ([c.lower() for c in prompt[:1]] == ["instruction"])]
    asked = [*(prompt or ["COLUMN"])[:1], *(c for c in texts if c.lower() in more)]
    system = "".join(f",system={c}" for c in _named(texts, _SYSTEMS)[:1])
    said = _say(f"prompt={'+'.join(asked)},completion={(completion or ['COLUMN'])[0]}{system}")
    named = _named([c for c in values if c not in usable], _COMPLETIONS)
    if named and not completion:
        said += (f" {named[0]!r} is {kind(values[named[0]])}, a text is needed: make it one in a "
                 "column of its own.")  # fmt: skip
    return said


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Columns with one of these names, in the order of the names."""
    return sorted((c for c in columns if c.lower() in names), key=lambda c: names.index(c.lower()))


def _say(mapping: str) -> str:
    return f'Say which is which: mapping="{mapping}".'
