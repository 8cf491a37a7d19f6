"""Rows of somebody else's file as conversations; unknown shapes are named, never guessed."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.data import filters
from sft_utils.data.loading import Excluded, Loaded, LoadedRow, load, tally
from sft_utils.data.parsing import listed
from sft_utils.data.rows import Row
from sft_utils.errors import ConfigError, DataError
from sft_utils.masks.chat import Message

KEYS = "messages, prompt + completion, conversations (ShareGPT), instruction + output (Alpaca)"


def read(path: Path) -> list[Row]:
    """All rows of a file that must be whole, by `loading.load`: what it excludes is an error here.

    Raises:
        DataError: Missing, empty, of no known format or broken, or a column that is trained on
            holds what JSON cannot; names the first line or row.
    """
    loaded = load(path)
    if loaded.excluded:
        first, n = loaded.excluded[0], len(loaded.excluded)
        raise DataError(
            f"{loaded.source}, {loaded.unit} {first.number}: {first}. {n} of "
            f"{n + len(loaded.rows)} rows cannot be read; repair or remove them."
        )
    for one in loaded.rows:
        columns = _used(name, {}) if (name := _layout(one.row, {})) else []
        if why := _lost(one, [*columns, "tools", "chat_template_kwargs"]):
            raise DataError(f"{loaded.source}, {loaded.unit} {one.number}: {' '.join(why)}. "
                            "Repair or remove the row.")  # fmt: skip
    return [one.row for one in loaded.rows]


def conversation(row: Mapping[str, Any], number: int) -> list[Message]:
    """One row as messages. Roles stay as they are: foreign ones are a finding, not a repair.

    Args:
        row: A row of any known layout.
        number: Its 1-based number, for the message.
    Raises:
        DataError: An unknown layout, or a field of the wrong kind; names the row and the field.
    """
    if "messages" in row:
        return _turns(row, "messages", number)
    if "prompt" in row and "completion" in row:
        sides = (("prompt", "user"), ("completion", "assistant"))
        return [m for field, role in sides for m in _side(row, field, role, number)]
    if "conversations" in row:
        return _turns(row, "conversations", number)
    if "instruction" in row and "output" in row:
        fields = ["instruction", *["input"] * (row.get("input") is not None)]
        asked = [text for field in fields if (text := _text(row, field, number))]
        return [
            {"role": "user", "content": "\n\n".join(asked)},
            {"role": "assistant", "content": _text(row, "output", number)},
        ]
    seen = listed(sorted(row))
    raise DataError(f"row {number}: keys [{seen}] are no known layout. Known: {KEYS}")


def _turns(row: Mapping[str, Any], field: str, number: int) -> list[Message]:
    """A list of messages; ShareGPT's from/value become role/content.

    Of two names for one thing the one that is not null counts: Arrow gives every turn all keys.
    """
    turns = row[field]
    if not isinstance(turns, list):
        raise DataError(f"row {number}: {field!r} is {_kind(turns)}, a list of messages is needed")
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise DataError(f"row {number}: {field}[{index}] is {_kind(turn)}, an object is needed")
    renamed = {"from": "role", "value": "content"}
    return [
        {
            renamed.get(key, key): value
            for key, value in sorted(turn.items(), key=lambda item: item[1] is not None)
        }
        for turn in turns
    ]


def _side(row: Mapping[str, Any], field: str, role: str, number: int) -> list[Message]:
    """A prompt or completion: a text, or already messages."""
    if isinstance(row[field], list):
        return _turns(row, field, number)
    return [{"role": role, "content": _text(row, field, number)}]


def _text(row: Mapping[str, Any], field: str, number: int) -> str:
    """A field that must be a text."""
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: {field!r} is {_kind(row[field])}, a text is needed")
    return row[field]


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's own words."""
    names = {"str": "a string", "list": "a list", "dict": "an object", "bool": "a boolean"}
    return "null" if value is None else names.get(type(value).__name__, "a number")


# --- normalised conversations --------------------------------------------------------------------

LAYOUTS = {
    "messages": ("messages",),
    "prompt + completion": ("prompt", "completion"),
    "conversations (ShareGPT)": ("conversations",),
    "instruction + output (Alpaca)": ("instruction", "output"),
}
"""Layout -> the columns it is known by, in the order in which `conversation` tries them."""

MAPPED = "mapped columns"

SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
"""Roles of ShareGPT -> ours. Other foreign roles exclude their row."""

TARGETS = ("prompt", "completion", "system", "messages")
"""What a mapping can fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """Conversations `system? (user assistant)+`, with the place of each in the file."""

    conversations: list[list[Message]]
    numbers: list[int]  # line or row of each conversation
    excluded: list[Excluded]  # the loader's and the layout's, by number
    layout: str
    ignored: Counter[str]  # key that is not used -> rows of conversations that have it
    unit: str  # what the numbers count

    def summary(self) -> str:
        """Kept and excluded conversations, with the first numbers of each reason."""
        n = len(self.conversations)
        text = f"{n} conversation{'s' * (n != 1)} ({self.layout})"
        if self.excluded:
            text += f", {len(self.excluded)} excluded: {tally(self.excluded, self.unit)}"
        if self.ignored:
            text += "\nnot used: " + ", ".join(f"{k} ({n})" for k, n in self.ignored.most_common())
        return text


def conversations(loaded: Loaded, *, mapping: str = "", system: str = "") -> Normalised:
    """The rows of a file as conversations; a row that is none is excluded with its number.

    The layout of most rows is the file's; other rows are excluded, a trainer would read one only.
    A text in a column `system` opens its conversation, whatever the layout; a row whose first turn
    is another system prompt is excluded, as is one that lost a value of a column that is read.

    Args:
        loaded: What `loading.load` gave.
        mapping: Columns of a table as "prompt=title+body,completion=answer"; several columns are
            joined by an empty line. Targets: prompt and completion, or messages; and system.
        system: System prompt of the conversations that have none of their own.
    Returns:
        Conversations in file order, messages with role and content only.
    Raises:
        ConfigError: The mapping is malformed or names a column that no row has.
        DataError: No row has a known layout, or none gives a conversation.
    Example:
        >>> from sft_utils.data.loading import LoadedRow
        >>> rows = [LoadedRow(2, {"title": "Hi", "body": "2+2?", "answer": "4"})]
        >>> table = Loaded(source="x.csv", kind="CSV", encoding="UTF-8", unit="line", rows=rows)
        >>> conversations(table, mapping="prompt=title+body,completion=answer").conversations
        [[{'role': 'user', 'content': 'Hi\\n\\n2+2?'}, {'role': 'assistant', 'content': '4'}]]
    """
    columns = list(dict.fromkeys(key for one in loaded.rows for key in one.row))
    plan = _plan(mapping, columns) if mapping else {}
    found = [_layout(one.row, plan) for one in loaded.rows]
    counts = Counter(name for name in found if name)
    if not counts:
        raise DataError(_unknown(loaded.source, columns))
    layout = counts.most_common(1)[0][0]
    used = _used(layout, plan)
    chats, numbers, excluded, ignored = [], [], list(loaded.excluded), Counter()
    for one, name in zip(loaded.rows, found, strict=True):
        try:
            if why := _lost(one, used):
                raise _Unfit(*why)
            if name != layout:
                reason, seen = "another layout" if name else "no layout", listed(sorted(one.row))
                raise _Unfit(reason, f"{name or f'[{seen}]'}, the file is {layout}")
            row = _mapped(one.row, plan) if plan else {k: one.row[k] for k in used if k in one.row}
            chat, unused = _chat(row, layout, system)
        except _Unfit as error:
            excluded.append(Excluded(one.number, *error.args))
            continue
        chats.append(chat)
        numbers.append(one.number)
        left = (key for key, value in one.row.items() if value is not None and key not in used)
        ignored.update({*unused, *left})
    excluded.sort(key=lambda one: one.number)
    if not chats:
        raise DataError(
            f"{loaded.source} ({layout}): no row gives a conversation, {len(excluded)} excluded: "
            f"{tally(excluded, loaded.unit)}; the first: {excluded[0]}. Repair the rows."
        )
    return Normalised(
        conversations=chats, numbers=numbers, excluded=excluded, layout=layout, ignored=ignored,
        unit=loaded.unit,
    )  # fmt: skip


class _Unfit(DataError):
    """One row is no conversation; arguments are reason and detail."""


def _used(layout: str, plan: Mapping[str, list[str]]) -> list[str]:
    """The columns that a conversation of a layout is made of."""
    if plan:
        return [name for names in plan.values() for name in names]
    return [*LAYOUTS[layout], "system", *["input"] * ("Alpaca" in layout)]


def _lost(one: LoadedRow, used: list[str]) -> tuple[str, str] | None:
    """(reason, detail) if a column that is read held what JSON cannot."""
    return next(((why, f"in column {c!r}") for c, why in one.lost if c in used), None)


def _layout(row: Row, plan: Mapping[str, list[str]]) -> str:
    """The first layout whose columns a row has; a null column (Arrow adds them) counts last."""
    if plan:
        return MAPPED
    for present in ({key for key, value in row.items() if value is not None}, row.keys()):
        for name, keys in LAYOUTS.items():
            if present >= set(keys):
                return name
    return ""


def _parts(mapping: str, columns: list[str]) -> list[str]:
    """The target=column parts of a mapping; a column's own name may have commas."""
    parts: list[str] = []
    for part in re.split(rf",(?=\s*(?:{'|'.join(TARGETS)})\s*=)", mapping):
        whole = part.partition("=")[2].strip() in columns
        parts += [part] if whole else part.split(",")
    return parts


def _plan(mapping: str, columns: list[str]) -> dict[str, list[str]]:
    """A mapping as target -> columns of the file."""
    example = "for example mapping='prompt=question,completion=answer'"
    plan: dict[str, list[str]] = {}
    for part in _parts(mapping, columns):
        target, equals, right = (side.strip() for side in part.partition("="))
        if not equals or not right or target not in TARGETS or target in plan:
            fault = "comes twice" if target in plan else "is no target=column"
            raise ConfigError(
                f"mapping {mapping!r}: {part.strip()!r} {fault}; targets are {', '.join(TARGETS)}, "
                f"{example}."
            )
        # A column whose own name has a plus goes first.
        plan[target] = [right] if right in columns else [n.strip() for n in right.split("+")]
        for name in plan[target]:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, 1, 0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"There are {listed(columns)}."
                raise ConfigError(f"mapping {mapping!r}: no row has a column {name!r}. {hint}")
    if plan.keys() - {"system"} not in ({"prompt", "completion"}, {"messages"}):
        raise ConfigError(
            f"mapping {mapping!r} fills {listed(list(plan))}: prompt and completion (or messages "
            f"alone) are needed, {example}."
        )
    return plan


def _mapped(row: Row, plan: Mapping[str, list[str]]) -> Row:
    """A row under the names of a mapping; columns of one target are joined by an empty line."""
    new: Row = {}
    for target, names in plan.items():
        if missing := [name for name in names if name not in row and target != "system"]:
            raise _Unfit("column missing", repr(missing[0]))
        values = [row.get(name) for name in names]
        if len(names) > 1:
            texts = ["" if value is None else value for value in values]
            bad = next(
                (n for n, text in zip(names, texts, strict=True) if type(text) is not str), ""
            )
            if bad:
                raise _Unfit("non-text content", f"{bad!r} is {_kind(row[bad])}")
            values = ["\n\n".join(text for text in texts if filters.visible(text))]
        new[target] = values[0]
    return new


def _chat(row: Row, layout: str, system: str) -> tuple[list[Message], set[str]]:
    """One row as a valid conversation, and the keys of its messages that are not used."""
    try:
        turns = conversation(row, 0)
    except DataError as error:
        raise _Unfit("non-text content", str(error).removeprefix("row 0: ")) from error
    if not turns:
        raise _Unfit("no messages", "the list is empty")
    if "ShareGPT" in layout or layout == MAPPED:
        turns = [{**t, "role": SHAREGPT.get(str(t.get("role")), t.get("role"))} for t in turns]
    for place, turn in enumerate(turns, 1):
        if calls := [key for key in ("tool_calls", "function_call") if turn.get(key)]:
            raise _Unfit("tool calls", f"message {place} has {calls[0]!r}")
        if not isinstance(content := turn.get("content"), str):
            what = _kind(content) if "content" in turn else "missing"
            raise _Unfit("non-text content", f"message {place} ({turn.get('role')}) is {what}")
    own = row.get("system")
    if own is not None and not isinstance(own, str):
        raise _Unfit("non-text content", f"'system' is {_kind(own)}")
    roles = [str(turn.get("role")) for turn in turns]
    if set(roles) <= {"system", "user", "assistant"} and roles[-1] != "assistant":
        raise _Unfit("no assistant turn at the end", f"the last one is {roles[-1]}")
    if fault := filters.roles({"messages": turns}):
        raise _Unfit("wrong roles", fault.removeprefix("roles "))
    for place, (role, turn) in enumerate(zip(roles, turns, strict=True), 1):
        if role != "system" and not filters.visible(turn["content"]):
            side = "prompt" if role == "user" else "completion"
            raise _Unfit(f"empty {side}", f"message {place} is {turn['content'][:20]!r}")
    unused = {f"messages[].{key}" for turn in turns for key, value in turn.items()
              if key not in ("role", "content") and value is not None}  # fmt: skip
    chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    own, first = own or "", chat[0]["content"] if roles[0] == "system" else ""
    if filters.visible(own) and filters.visible(first) not in ("", filters.visible(own)):
        raise _Unfit("two system prompts", "the column 'system' and the first turn differ")
    if (head := own if filters.visible(own) else system) and roles[0] != "system":
        chat = [{"role": "system", "content": head}, *chat]
    elif filters.visible(own) and not filters.visible(first):
        chat[0] = {"role": "system", "content": own}
    return chat, unused


_PROMPTS = ("prompt", "question", "query", "input", "text", "instruction", "user", "source")
_COMPLETIONS = ("completion", "answer", "response", "output", "target", "label", "assistant",
                "reply", "summary")  # fmt: skip
_CONTEXTS = ("context", "passage", "document")


def _unknown(source: str, columns: list[str]) -> str:
    """The message for a file whose rows have no known layout."""
    guess = [next((c for c in columns if c.lower() in names), "COLUMN")
             for names in (_PROMPTS, _COMPLETIONS)]  # fmt: skip
    guess[0] = "+".join([guess[0], *(c for c in columns if c.lower() in _CONTEXTS)])
    return (
        f"{source}: no row has a known layout ({KEYS}); its columns are {listed(columns)}. "
        f'Say which is which: mapping="prompt={guess[0]},completion={guess[1]}".'
    )
