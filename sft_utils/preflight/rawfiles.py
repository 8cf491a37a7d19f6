"""What happened to the rows in files and tables: mixed layouts, Arrow's nulls, licences."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import render
from sft_utils.preflight.record import Detector, Finding, RunRecord, Severity


def mixed_layouts(record: RunRecord) -> Iterator[Finding]:
    """D15: lines of several layouts in one file; trainers decide by the first one."""
    kinds = [_layouts(line) for line in record.raw]
    if len(set(kinds)) < 2 or frozenset.intersection(*kinds):
        return
    counts = Counter(name for kind in kinds for name in kind)
    main = max(sorted(counts), key=lambda name: counts[name])
    aligned = len(record.raw) == len(record.conversations)
    for i, kind in enumerate(kinds):
        if main in kind:
            continue
        keys = sorted(map(str, record.raw[i])) if isinstance(record.raw[i], Mapping) else []
        seen = " and ".join(sorted(kind)) or f"no known layout, keys {keys[:6]}"
        yield Finding(
            id="D15",
            severity="FAIL",
            what=f"this line has {seen}, {counts[main]} of {len(kinds)} lines have {main}",
            where=f"raw row {i}",
            fix=f"convert every line to one layout before loading: {main}",
            why="a trainer decides from the first row how all are read; lines of another layout "
            "are lost, trained on every token, or stop the run hours later",
            row=i if aligned else None,
        )


def _layouts(line: Any) -> frozenset[str]:
    """The layouts under which a line could be read; None counts as absent (Arrow fills it in)."""
    found = set()
    row = {k: v for k, v in line.items() if v is not None} if isinstance(line, Mapping) else {}
    for name in ("messages", "conversations"):
        if isinstance(row.get(name), list | tuple):
            first = next(iter(row[name]), None)
            old = isinstance(first, Mapping) and "from" in first
            found.add(f"{name} (from/value)" if old else name)
    if "prompt" in row and "completion" in row:
        text = isinstance(row["completion"], str)
        found.add(f"prompt + completion ({'texts' if text else 'messages'})")
    if "instruction" in row and "output" in row:
        found.add("instruction + output")
    return frozenset(found | ({"text", "input_ids"} & row.keys()))


def stored_rows(record: RunRecord) -> Iterator[Finding]:
    """D13: conversations that changed when stored: Arrow gives all structs one set of keys."""
    originals = [m.get("messages") if isinstance(m, Mapping) else None for m in record.raw]
    said: set[int] = set()
    harmless: dict[str, bool] = {}  # shape of a change -> same render
    for before, after, name in (
        (record.conversations, record.stored, "stored row"),
        (originals, record.conversations, "row"),  # the conversations may come from a dataset
    ):
        if len(before) != len(after):
            continue
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            if i in said or old is None or old == new:
                continue
            change = _change(record, old, new, harmless, only_nulls=name == "row")
            if change:
                said.add(i)
                turn, what = change
                yield _arrow_finding("FAIL", what, name, i, turn)
    for i, (turn, function, argument) in _unified(record.conversations).items():
        if i not in said:
            what = f"the call of {function!r} has {argument!r} = null, as all its calls have"
            yield _arrow_finding("WARN", what, "row", i, turn)


def _arrow_finding(severity: Severity, what: str, name: str, row: int, turn: int | None) -> Finding:
    return Finding(
        id="D13",
        severity=severity,
        what=what,
        where=f"{name} {row}" + ("" if turn is None else f", message {turn}"),
        fix="store tool calls as JSON text (json.dumps) and parse them after loading, or "
        'keep them as such: Dataset.from_list(rows, on_mixed_types="use_json")',
        why="Arrow keeps one set of keys for all rows and fills the rest with null; the model is "
        "trained to write arguments that no example has",
        row=row,
        turn=turn,
    )


def _unified(rows: Sequence[Any]) -> dict[int, tuple[int, str, str]]:
    """Rows whose calls look unified by Arrow: all functions share one set of argument names.

    Returns:
        Row -> (turn, function, argument that is null in all calls of this function, though
        another function uses it).
    """
    calls = [
        (i, k, str(function.get("name")), function["arguments"])
        for i, row in enumerate(rows)
        for k, m in enumerate(row if isinstance(row, list | tuple) else ())
        if isinstance(m, Mapping) and isinstance(m.get("tool_calls"), list | tuple)
        for call in m["tool_calls"]
        if isinstance(call, Mapping) and isinstance(function := call.get("function"), Mapping)
        if isinstance(function.get("arguments"), Mapping)
    ]
    if len({frozenset(arguments) for *_, arguments in calls}) != 1:
        return {}
    used: dict[str, set[str]] = {}
    for _, _, name, arguments in calls:
        used.setdefault(name, set()).update(a for a, v in arguments.items() if v is not None)
    everywhere = set().union(*used.values())
    found: dict[int, tuple[int, str, str]] = {}
    for i, k, name, _ in calls:
        if len(used) > 1 and (foreign := sorted(everywhere - used[name])):
            found.setdefault(i, (k, name, foreign[0]))
    return found


def _change(
    record: RunRecord, old: Any, new: Any, harmless: dict[str, bool], *, only_nulls: bool
) -> tuple[int | None, str] | None:
    """(turn, description) of a change that matters, None if there is none."""
    if not (isinstance(old, list | tuple) and isinstance(new, list | tuple)):
        return None
    if len(old) != len(new):
        return None if only_nulls else (None, f"{len(old)} messages became {len(new)}")
    soft: list[str] = []
    for k, (a, b) in enumerate(zip(old, new, strict=True)):
        added: list[str] = []
        cleaned = _without_nulls(_parsed(b), _parsed(a), "", added)
        inside = [path for path in added if "arguments." in path]
        if inside:
            name = inside[0].rpartition("arguments.")[2]
            return k, f"the tool call got {name!r} = null, which the row does not have"
        if only_nulls:
            continue
        known = _without_nulls(_parsed(a), cleaned, "", added)
        if cleaned != known:
            return k, f"the message changed: {str(a)[:60]!r} became {str(b)[:60]!r}"
        soft += added
    if not soft:
        return None
    shape = str([sorted(map(str, m)) for m in new if isinstance(m, Mapping)])
    if shape not in harmless:
        try:
            harmless[shape] = render(record.tokenizer, old) == render(record.tokenizer, new)
        except (TemplateError, TypeError, ValueError, AttributeError):
            harmless[shape] = True
    if harmless[shape]:
        return None
    return None, f"added null keys change the training text: {soft[0]}"


def _parsed(message: Any) -> Any:
    """A message with the arguments of its tool calls parsed: JSON text and object mean the same."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if isinstance(calls, str):
        try:
            calls = json.loads(calls)
        except ValueError:
            return message
    if not isinstance(calls, list | tuple):
        return message
    plain = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
                call = {**call, "function": {**function, "arguments": arguments}}
            except ValueError:
                pass  # broken arguments are D9
        plain.append(call)
    return {**message, "tool_calls": plain}


def _without_nulls(new: Any, old: Any, path: str, added: list[str]) -> Any:
    """`new` without the keys that are null and that `old` does not have; their paths are added."""
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        result = {}
        for key, value in new.items():
            here = f"{path}.{key}" if path else str(key)
            if value is None and key not in old:
                added.append(here)
            else:
                result[key] = _without_nulls(value, old.get(key), here, added)
        return result
    if isinstance(new, list | tuple) and isinstance(old, list | tuple) and len(new) == len(old):
        return [_without_nulls(a, b, path, added) for a, b in zip(new, old, strict=True)]
    return list(new) if isinstance(new, tuple) else new


def licences(record: RunRecord) -> Iterator[Finding]:
    """D12: rows whose licence is not on the declared list, or that name none."""
    if not record.licences:
        return
    allowed = {_flat(name) for name in record.licences}
    for i, line in enumerate(record.raw):
        named = _licence(line)
        foreign = [name for name in named if _flat(name) not in allowed]
        if named and not foreign:
            continue
        yield Finding(
            id="D12",
            severity="FAIL",
            what=f"licence {foreign[0]!r} is not allowed" if named else "the row names no licence",
            where=f"raw row {i}",
            fix="drop the row" if named else "add the licence of its source, or drop the row",
            why=f"declared as allowed: {', '.join(sorted(record.licences))}; a model trained on "
            "other rows may not be passed on",
            row=i if len(record.raw) == len(record.conversations) else None,
        )


def _flat(licence: str) -> str:
    return re.sub(r"[\s_]+", "-", licence.strip().casefold())


def _licence(line: Any) -> list[str]:
    """Licences a line names, at its top or in its metadata."""
    for place in (
        (line, *(line.get(k) for k in ("metadata", "meta"))) if isinstance(line, Mapping) else ()
    ):
        for key in ("licence", "license") if isinstance(place, Mapping) else ():
            value = place.get(key)
            names = value if isinstance(value, list | tuple) else [value]
            if found := [n for n in names if isinstance(n, str) and n.strip()]:
                return found
    return []


DETECTORS: tuple[Detector, ...] = (mixed_layouts, licences, stored_rows)
