"""Rows of somebody else's file as conversations; unknown shapes are named, never guessed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_utils.data import filters, hints, mappings
from sft_utils.data.hints import kind
from sft_utils.data.loading import Excluded, Loaded, LoadedRow, load, tally
from sft_utils.data.mappings import Unfit
from sft_utils.data.parsing import listed
from sft_utils.data.rows import Row
from sft_utils.errors import DataError
from sft_utils.masks.chat import Message, context_only

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
        raise DataError(f"row {number}: {field!r} is {kind(turns)}, a list of messages is needed")
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise DataError(f"row {number}: {field}[{index}] is {kind(turn)}, an object is needed")
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
        raise DataError(f"row {number}: {field!r} is {kind(row[field])}, a text is needed")
    return row[field]


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
    A text in a column `system` opens its conversation, whatever the layout (a mapping reads what it
    names and no more); a row whose first turn is another system prompt is excluded, as is one that
    lost a value of a column that is read, or that says of an answer that it is not to be trained.

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
    plan = mappings.plan(mapping, columns) if mapping else {}
    found = [_layout(one.row, plan) for one in loaded.rows]
    counts = Counter(name for name in found if name)
    if not counts:
        raise DataError(hints.unknown(loaded.source, [one.row for one in loaded.rows], KEYS))
    layout = counts.most_common(1)[0][0]
    used = _used(layout, plan)
    chats, numbers, excluded, ignored = [], [], list(loaded.excluded), Counter()
    for one, name in zip(loaded.rows, found, strict=True):
        try:
            if why := _lost(one, used):
                raise Unfit(*why)
            if name != layout:
                reason, seen = "another layout" if name else "no layout", listed(sorted(one.row))
                raise Unfit(reason, f"{name or f'[{seen}]'}, the file is {layout}")
            if why := None if plan else _unread(one.row, layout):
                raise Unfit(*why)
            row = (
                mappings.apply(one.row, plan)
                if plan
                else {k: one.row[k] for k in used if k in one.row}
            )
            chat, unused = _chat(row, layout, system)
        except Unfit as error:
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


def _used(layout: str, plan: Mapping[str, list[str]]) -> list[str]:
    """The columns that a conversation of a layout is made of."""
    if plan:
        return [name for names in plan.values() for name in names]
    return [*LAYOUTS[layout], "system", *["input"] * ("Alpaca" in layout)]


def _lost(one: LoadedRow, used: list[str]) -> tuple[str, str] | None:
    """(reason, detail) if a column that is read held what JSON cannot."""
    return next(((why, f"in column {c!r}") for c, why in one.lost if c in used), None)


def _unread(row: Row, layout: str) -> tuple[str, str] | None:
    """(reason, detail) if a column beside those of a layout says that they are not the whole."""
    if "Alpaca" in layout and row.get("history"):
        return (
            "earlier turns in column 'history'",
            "write the row as messages; a mapping does without them",
        )
    if layout == "prompt + completion" and row.get("label") is False:
        # prompt, completion, label is TRL's form of preferences that are no pairs
        return "label is false", "such an answer was refused; a mapping trains it all the same"
    return None


def _layout(row: Row, plan: Mapping[str, list[str]]) -> str:
    """The first layout whose columns a row has; a null column (Arrow adds them) counts last."""
    if plan:
        return MAPPED
    for present in ({key for key, value in row.items() if value is not None}, row.keys()):
        for name, keys in LAYOUTS.items():
            if present >= set(keys):
                return name
    return ""


def _chat(row: Row, layout: str, system: str) -> tuple[list[Message], set[str]]:
    """One row as a valid conversation, and the keys of its messages that are not used."""
    try:
        turns = conversation(row, 0)
    except DataError as error:
        raise Unfit("non-text content", str(error).removeprefix("row 0: ")) from error
    if not turns:
        raise Unfit("no messages", "the list is empty")
    if "ShareGPT" in layout or layout == MAPPED:
        turns = [{**t, "role": SHAREGPT.get(str(t.get("role")), t.get("role"))} for t in turns]
    for place, turn in enumerate(turns, 1):
        if calls := [key for key in ("tool_calls", "function_call") if turn.get(key)]:
            raise Unfit("tool calls", f"message {place} has {calls[0]!r}")
        if turn.get("role") == "assistant" and context_only(turn):
            raise Unfit(
                "answer that is not to be trained",
                f"message {place} has weight 0 or train false; every assistant turn is trained",
            )
        if not isinstance(content := turn.get("content"), str):
            what = kind(content) if "content" in turn else "missing"
            raise Unfit("non-text content", f"message {place} ({turn.get('role')}) is {what}")
    own = row.get("system")
    if own is not None and not isinstance(own, str):
        raise Unfit("non-text content", f"'system' is {kind(own)}")
    roles = [str(turn.get("role")) for turn in turns]
    if set(roles) <= {"system", "user", "assistant"} and roles[-1] != "assistant":
        raise Unfit("no assistant turn at the end", f"the last one is {roles[-1]}")
    if fault := filters.roles({"messages": turns}):
        raise Unfit("wrong roles", fault.removeprefix("roles "))
    for place, (role, turn) in enumerate(zip(roles, turns, strict=True), 1):
        if role != "system" and not filters.visible(turn["content"]):
            side = "prompt" if role == "user" else "completion"
            raise Unfit(f"empty {side}", f"message {place} is {turn['content'][:20]!r}")
    unused = {f"messages[].{key}" for turn in turns for key, value in turn.items()
              if key not in ("role", "content") and value is not None}  # fmt: skip
    chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    own, first = own or "", chat[0]["content"] if roles[0] == "system" else ""
    if filters.visible(own) and filters.visible(first) not in ("", filters.visible(own)):
        raise Unfit("two system prompts", "the column 'system' and the first turn differ")
    if (head := own if filters.visible(own) else system) and roles[0] != "system":
        chat = [{"role": "system", "content": head}, *chat]
    elif filters.visible(own) and not filters.visible(first):
        chat[0] = {"role": "system", "content": own}
    return chat, unused
