"""Faults of the rows themselves: C18, C19 and D, planted where files and tables make them."""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from sft_utils.errors import SFTError
from sft_utils.masks.chat import Message
from sft_utils.preflight.record import EvalPlan, RunRecord
from tests.mutation.frame import Mutator, Subject, retrain

Chat = list[Message]

QUESTION = (
    "A baker in Lisbon sells round loaves and long loaves. On Monday she bakes twice as many round "
    "ones as long ones, gives the broken ones away and counts the rest before noon. Why does she "
    "count them before the shop opens again in the afternoon?"
)
ANSWER = "Because unsold loaves go to the shelter at one, and the driver asks for the number."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


def ask(question: str, *answers: Any) -> Chat:
    """A conversation every template can render."""
    return [
        {"role": "user", "content": question},
        *({"role": "assistant", "content": answer} for answer in answers),
    ]


def licence(record: RunRecord) -> dict[str, Any]:
    """What the lines of a healthy file say about their licence."""
    return {k: v for line in record.raw[:1] for k, v in line.items() if k in ("licence", "license")}


def with_chats(record: RunRecord, chats: Sequence[Chat], **fields: Any) -> RunRecord:
    """Other rows, trained as they are; a template that refuses them leaves the batches as before."""
    changed = record.change(
        conversations=list(chats),
        raw=[{**licence(record), "messages": chat} for chat in chats] if record.raw else (),
        stored=list(chats) if record.stored else (),
    )
    # Some faults are so bad that the template refuses them; then the rows are judged alone.
    with contextlib.suppress(SFTError, TypeError, ValueError, KeyError, AttributeError):
        changed = retrain(changed)
    return changed.change(**fields)


def planted(*chats: Chat, **fields: Any) -> Callable[[RunRecord], RunRecord]:
    """Replace the first rows."""

    def apply(record: RunRecord) -> RunRecord:
        rest = list(record.conversations)[len(chats) :]
        return with_chats(record, [*chats, *rest], **fields)

    return apply


def renamed(names: Callable[[str], str]) -> Callable[[RunRecord], RunRecord]:
    """Rename every role."""

    def apply(record: RunRecord) -> RunRecord:
        chats = [[{**m, "role": names(m["role"])} for m in c] for c in record.conversations]
        return with_chats(record, chats)

    return apply


def new_roles(before: RunRecord, after: RunRecord) -> bool:
    """Whether the rows have a role that was not there."""
    known = {m["role"] for c in before.conversations for m in c}
    return bool({m["role"] for c in after.conversations for m in c} - known)


def sharegpt_file(record: RunRecord) -> RunRecord:
    """A ShareGPT file, and what TRL makes of it: renamed keys, the same role names."""
    names = {"user": "human", "assistant": "gpt"}
    changed = renamed(lambda role: names.get(role, role))(record)
    lines = [
        {**licence(record), "conversations": [{"from": m["role"], "value": m.get("content")} for m in c]}
        for c in changed.conversations
    ]
    return changed.change(raw=lines)


# Control tokens


def token_text(record: RunRecord, id_: int) -> str:
    """The text of a special token that is read as its id when a user types it, "" otherwise."""
    token = record.tokenizer.added_tokens_decoder.get(id_)
    if token is None or not token.special:
        return ""
    ids = record.tokenizer(f"a {token.content} b", add_special_tokens=False)["input_ids"]
    return token.content if id_ in ids else ""


def stop_text(record: RunRecord) -> str:
    """The token that ends a turn."""
    for truth in record.oracles:
        for turn in getattr(truth, "turns", ()):
            if turn.stop is not None and (text := token_text(record, truth.ids[turn.stop])):
                return text
    return token_text(record, record.tokenizer.eos_token_id)


def header_text(record: RunRecord) -> str:
    """A special token of the template that does not end a turn."""
    stop = stop_text(record)
    for truth in record.oracles:
        for id_ in getattr(truth, "ids", ()):
            text = token_text(record, id_)
            if text and text != stop and not re.search(r"think|tool|reason", text, re.I):
                return text
    return ""


def smuggled(text: Callable[[RunRecord], str], role: str) -> Callable[[RunRecord], RunRecord]:
    """Put a token into the text of one role of the first row."""

    def apply(record: RunRecord) -> RunRecord:
        first, *rest = record.conversations
        inside = f"before {text(record)} after"
        changed = [{**m, "content": inside} if m["role"] == role else m for m in first]
        return with_chats(record, [changed, *rest])

    return apply


def smuggled_is_there(text: Callable[[RunRecord], str]) -> Callable[[RunRecord, RunRecord], bool]:
    def alive(before: RunRecord, after: RunRecord) -> bool:
        token = text(before)
        return any(token in str(m.get("content")) for c in after.conversations for m in c) and all(
            token not in str(m.get("content")) for c in before.conversations for m in c
        )

    return alive


def in_rows(text: str) -> Callable[[RunRecord, RunRecord], bool]:
    """The text stands in the rows after, not before."""

    def alive(before: RunRecord, after: RunRecord) -> bool:
        return text in str(after.conversations) and text not in str(before.conversations)

    return alive


# Damaged text

ACCENTS = "Die Größe für Zürich kostet 5 € – naïve Gäste zahlen weniger."
TWICE = ACCENTS.encode("utf-8").decode("cp1252")
LATIN = "Überweisung für 日本 ist da".encode().decode("latin-1")
LOST = ACCENTS.replace("€", "").replace("–", "").encode("latin-1").decode("utf-8", "replace")


# Order of turns


def reordered(change: Callable[[Chat], Chat]) -> Callable[[RunRecord], RunRecord]:
    """Change the turns of every second row."""

    def apply(record: RunRecord) -> RunRecord:
        rows = [list(c) for c in record.conversations]
        return with_chats(record, [change(c) if i % 2 == 0 else c for i, c in enumerate(rows)])

    return apply


def doubled(role: str) -> Callable[[Chat], Chat]:
    def change(chat: Chat) -> Chat:
        k = next(i for i, m in enumerate(chat) if m["role"] == role)
        return [*chat[: k + 1], dict(chat[k]), *chat[k + 1 :]]

    return change


def order_changed(before: RunRecord, after: RunRecord) -> bool:
    def order(record: RunRecord) -> list[list[str]]:
        return [[m["role"] for m in c] for c in record.conversations]

    return order(before) != order(after)


# Many rows


def few_long(record: RunRecord) -> RunRecord:
    """Sixty short answers and two of four thousand words."""
    short = [ask(f"Question number {i}?", f"Answer number {i}.") for i in range(60)]
    long = [ask(f"Tell story {i}.", f"{i} word " * 2000) for i in range(2)]
    return with_chats(record, [*record.conversations, *short, *long])


def longest_answers(before: RunRecord, after: RunRecord) -> bool:
    def longest(record: RunRecord) -> int:
        chats = record.conversations
        return max(len(str(m["content"])) for c in chats for m in c if m["role"] == "assistant")

    return longest(after) > 10 * longest(before)


def flipped(record: RunRecord) -> RunRecord:
    """The first row again, with another answer."""
    first = list(record.conversations[0])
    other = [*first[:-1], {**first[-1], "content": "No, quite the other way round."}]
    return with_chats(record, [*record.conversations, other])


def held_out(question: str, **fields: Any) -> dict[str, Any]:
    return {"eval_conversations": [ask(question, ANSWER)], **fields}


def shared_words(before: RunRecord, after: RunRecord) -> bool:
    """Words of an evaluation text stand in a row, in the same order."""

    def flat(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    texts = [m["content"] for c in after.eval_conversations for m in c if m["role"] == "user"]
    texts += after.evaluation.eval_texts if after.evaluation else ()
    pieces = [" ".join(flat(text).split()[-12:]) for text in texts]
    rows = flat(str(after.conversations))
    return any(piece in rows for piece in pieces) and not any(
        piece in flat(str(before.conversations)) for piece in pieces
    )


# Structured answers, arithmetic


def call(name: str, arguments: Any) -> Chat:
    """A question, a tool call, its result, an answer."""
    function = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "user", "content": f"Please use {name}."},
        {"role": "assistant", "content": "", "tool_calls": [function]},
        {"role": "tool", "content": "done", "name": name},
        {"role": "assistant", "content": "It is done."},
    ]


def structured(answer: str) -> Callable[[RunRecord], RunRecord]:
    """All rows answer with JSON by the schema, one is broken."""

    def apply(record: RunRecord) -> RunRecord:
        good = [
            ask(f"Which city is number {i}?", json.dumps({"city": f"C{i}", "people": i}))
            for i in range(5)
        ]
        return with_chats(record, [*good, ask("Which city is the last?", answer)], schema=SCHEMA)

    return apply


def unlawful(before: RunRecord, after: RunRecord) -> bool:
    """The last answer is no JSON, or has other types than the schema asks for."""
    try:
        value = json.loads(after.conversations[-1][-1]["content"])
    except ValueError:
        return True
    return not isinstance(value.get("people"), int)


def broken_call(before: RunRecord, after: RunRecord) -> bool:
    arguments = after.conversations[0][1]["tool_calls"][0]["function"]["arguments"]
    return arguments.count("{") != arguments.count("}")


STEPS = (
    "In April she sold 48 clips. In May she sold 48/2 = <<48/2={half}>>{half} clips.\n"
    "Together she sold 48+24 = <<48+24=72>>72 clips in April and May.\n#### {final}"
)


def unequal(before: RunRecord, after: RunRecord) -> bool:
    text = after.conversations[0][-1]["content"]
    return "<<48/2=24>>" not in text or not text.endswith("#### 72")


# Files and tables


def licensed(line: dict[str, Any]) -> Callable[[RunRecord], RunRecord]:
    """Rows with licences, of which one has `line` instead."""

    def apply(record: RunRecord) -> RunRecord:
        lines = [{"messages": c, "licence": "CC-BY-4.0"} for c in record.conversations]
        lines[-1] = {"messages": lines[-1]["messages"], **line}
        return record.change(raw=lines, licences=frozenset({"CC-BY-4.0", "MIT"}))

    return apply


def through_arrow(record: RunRecord) -> RunRecord:
    """Two tool calls with different arguments, stored in a table and read back."""
    from datasets import Dataset

    chats = [call("weather", {"city": "Paris"}), call("add", {"x": 1, "y": 2})]
    chats += [list(c) for c in record.conversations if {m["role"] for m in c} <= {"user", "assistant"}]
    table = Dataset.from_list([{"messages": c} for c in chats])
    stored = [row["messages"] for row in table]
    trained = with_chats(record, stored)  # what was read back is what is trained
    return trained.change(conversations=chats, stored=stored, raw=())


def null_arguments(before: RunRecord, after: RunRecord) -> bool:
    def nulls(rows: Any) -> int:
        calls = [call for c in rows for m in c for call in m.get("tool_calls") or ()]
        return sum(v is None for call in calls for v in call["function"]["arguments"].values())

    return nulls(after.stored) > nulls(after.conversations)


def mixed(record: RunRecord) -> RunRecord:
    """Every line has messages, the last one prompt and completion."""
    lines = [{**licence(record), "messages": c} for c in record.conversations]
    first, *_, last = (str(m.get("content")) for m in lines.pop()["messages"])
    return record.change(raw=[*lines, {**licence(record), "prompt": first, "completion": last}])


def system_column(record: RunRecord) -> RunRecord:
    """The system prompts stand beside the messages, where many files of the hub have them."""
    chats = [[m for m in c if m["role"] != "system"] for c in record.conversations]
    lines = [{**licence(record), "system": "Answer as a lighthouse keeper.", "messages": c}
             for c in chats]  # fmt: skip
    return with_chats(record, chats).change(raw=lines)


def unread(before: RunRecord, after: RunRecord) -> bool:
    return all(line["system"] not in str(c) for line, c in zip(after.raw, after.conversations, strict=True))


def several(subject: Subject) -> bool:
    return len(subject.record.conversations) > 1


def data(code: str, name: str, apply: Any, alive: Any, **fields: Any) -> Mutator:
    return Mutator(id=code, name=name, layer="data", apply=apply, alive=alive, **fields)


def has(text: Callable[[RunRecord], str]) -> Callable[[Subject], bool]:
    return lambda subject: bool(text(subject.record))


LEAK = held_out(QUESTION)
NOISE = QUESTION.upper().replace(".", " !!").replace(",", " , ")
REWORDED = QUESTION.replace("counts the rest", "tallies the rest").replace("again in", "later in")
EXERCISE = f"Here is one for your class. {QUESTION} Let the pupils discuss it for ten minutes."

MUTATORS: tuple[Mutator, ...] = (
    data("C15", "system-prompt-in-a-column", system_column, unread),
    data("C18", "roles-of-sharegpt",
         renamed(lambda r: {"user": "human", "assistant": "gpt"}.get(r, r)), new_roles),
    data("C18", "roles-capitalised", renamed(str.capitalize), new_roles),
    data("C18", "roles-of-a-call-centre",
         renamed(lambda r: {"user": "customer", "assistant": "agent"}.get(r, r)), new_roles),
    data("C18", "file-of-sharegpt", sharegpt_file,
         lambda b, a: "'from': 'human'" in str(a.raw) and new_roles(b, a)),
    data("C19", "stop-token-in-question", smuggled(stop_text, "user"),
         smuggled_is_there(stop_text), applies=has(stop_text)),
    data("C19", "header-token-in-answer", smuggled(header_text, "assistant"),
         smuggled_is_there(header_text), applies=has(header_text)),
    data("D1", "test-row-copied", planted(ask(NOISE, ANSWER), **LEAK), in_rows(NOISE)),
    data("D1", "test-row-reworded", planted(ask(REWORDED, ANSWER), **LEAK), in_rows(REWORDED),
         severity="WARN"),
    data("D2", "test-text-in-answer",
         planted(ask("Write an exercise.", EXERCISE),
                 evaluation=EvalPlan(eval_texts=(QUESTION,))), shared_words),
    data("D2", "test-row-in-question",
         planted(ask(f"{'Think about what follows, slowly. ' * 9}{EXERCISE}", ANSWER), **LEAK),
         shared_words),
    data("D3", "answer-blank", planted(ask("How far is it?", "")),
         lambda b, a: a.conversations[0][-1]["content"] == ""),
    data("D3", "answer-white", planted(ask("How far is it?", " \n\t\u200b ")),
         in_rows("\\t\\u200b")),
    data("D3", "answer-nan", planted(ask("How far is it?", "nan")), in_rows("'nan'"),
         severity="WARN"),
    data("D3", "answer-not-available", planted(ask("How far is it?", "N/A")), in_rows("'N/A'"),
         severity="WARN"),
    data("D4", "refusal-left-in",
         planted(ask("How far is it?", "As an AI language model, I cannot look outside.")),
         in_rows("As an AI language model"), severity="WARN"),
    data("D5", "decoded-twice", planted(ask("Wie viel?", TWICE)), in_rows("GrÃ¶ÃŸe")),
    data("D5", "decoded-as-latin-1", planted(ask(LATIN, "Danke.")), in_rows("fÃ¼r")),
    data("D5", "bytes-lost", planted(ask("Wie viel?", LOST)), in_rows("\ufffd")),
    data("D6", "label-in-prompt",
         planted(ask("Which department? My lamp is broken.\nLabel: repairs", "repairs")),
         in_rows("Label: repairs"), severity="WARN"),
    data("D7", "answer-doubled", reordered(doubled("assistant")), order_changed),
    data("D7", "question-doubled", reordered(doubled("user")), order_changed),
    data("D7", "last-answer-lost", reordered(lambda c: c[:-1]), order_changed),
    data("D8", "few-long-answers", few_long, longest_answers, severity="WARN"),
    data("D9", "brace-lost", structured('{"city": "Lima", "people": 7'), unlawful),
    data("D9", "number-as-text", structured('{"city": "Lima", "people": "seven"}'), unlawful),
    data("D9", "arguments-cut", planted(call("weather", '{"city": "Par')), broken_call,
         applies=lambda s: s.record.turns == "all"),  # the call is context where only the last is trained
    data("D10", "note-wrong", planted(ask("How many clips?", STEPS.format(half=25, final=72))),
         unequal),
    data("D10", "final-number-changed",
         planted(ask("How many clips?", STEPS.format(half=24, final=76))), unequal),
    data("D11", "answer-flipped", flipped,
         lambda b, a: len(a.conversations) > len(b.conversations), severity="WARN"),
    data("D12", "licence-not-allowed", licensed({"licence": "CC-BY-NC-4.0"}),
         lambda b, a: "NC" in str(a.raw[-1])),
    data("D12", "licence-missing", licensed({}), lambda b, a: "licence" not in a.raw[-1]),
    data("D13", "arrow-fills-arguments", through_arrow, null_arguments),
    data("D15", "layouts-mixed", mixed,
         lambda b, a: len({frozenset(line) for line in a.raw}) == 2, applies=several),
)  # fmt: skip
