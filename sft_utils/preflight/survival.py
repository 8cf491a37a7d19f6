"""What of the rows is left after the served template: answers, thoughts, tool calls, rules.

Everything a row says must stand in its render. A text that does not is exchanged for a sentinel:
if the render holds the sentinel, the template changes texts; if not, it drops them.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.errors import TemplateError
from sft_utils.masks.chat import SENTINEL, Message, Oracle, render
from sft_utils.masks.rendering import content_text, is_conversation, reasoning_text, with_content
from sft_utils.preflight.record import Finding, RunRecord, Severity, spot

FIXES = {
    "C0": "print(chat.render(tokenizer, row)) and compare it with the row",
    "C11": "use a template that writes every message word by word: look for |trim, .strip() and "
    "replace in it, and clean the rows yourself if you want them trimmed",
    "C12": "use a template that keeps thoughts of earlier turns (some have a variable for it, such "
    "as preserve_thinking), or cut the rows so that each one ends with its thought",
    "C14": "use a template that renders tool_calls, the role 'tool' and tools=, or drop these rows",
    "quoted": "give `arguments` as an object: json.loads them in every row before training",
    "C15": "use a template that renders the system role, or put the system text in front of the "
    "first user message, in training and in serving",
}

WHY = {
    "C0": "what cannot be checked may be wrong without anybody noticing",
    "C11": "the model learns another text than the one in the file: indentation, last lines or "
    "whole answers are gone, and no loss shows it",
    "C12": "thoughts that are not rendered are not trained, and the answer seems to come from "
    "nowhere",
    "C14": "the model never sees the call or its result, and learns to answer as if it knew",
    "quoted": "the model learns to answer a text where whoever reads its calls expects an object",
    "C15": "rules of the system prompt are neither trained nor served",
}

PROBLEM = re.compile(r"message (\d+): the template (changes|writes its content 0 times)")
"""What the oracle says about a template that does not write an answer word by word."""

PARTS = "; this template reads lists: content=[{'type': 'text', 'text': ...}]"


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of one row that its render does not show."""

    id: str
    severity: Severity
    what: str
    turn: int | None = None
    fix: str = ""
    why: str = ""


def survival(record: RunRecord) -> Iterator[Finding]:
    """C11, C12, C14, C15 and C0: content of the rows that the served template drops or changes."""
    if not record.tokenizer.chat_template:
        return
    first: dict[tuple[str, str], tuple[int, Loss]] = {}
    rows: dict[tuple[str, str], int] = {}
    judge = _Judge(record)
    for i, messages in enumerate(record.conversations):
        if not is_conversation(messages):
            continue
        losses = {(loss.id, loss.severity): loss for loss in reversed([*judge(i, messages)])}
        for key, loss in losses.items():
            first.setdefault(key, (i, loss))
            rows[key] = rows.get(key, 0) + 1
    for key, (i, loss) in sorted(first.items(), key=lambda item: item[0][1]):
        yield _finding(loss, row=i, count=rows[key])


def schemas(record: RunRecord) -> Iterator[Finding]:
    """C14: tool schemas are handed to the template, and it does not print them."""
    tools = record.template_kwargs.get("tools")
    if not isinstance(tools, list | tuple):
        return
    text = next((t.text for t in record.oracles if isinstance(t, Oracle)), None)
    names = [name for name in map(_tool_name, tools) if name]
    gone = [name for name in names if text is not None and name not in text]
    if gone:
        what = f"the template does not print the tools it is given: {', '.join(gone[:3])}"
        yield _finding(Loss("C14", "FAIL", what), where="template_kwargs['tools']")


class _Judge:
    """Looks at one row after the other, and remembers what is the same in all of them."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.fates: dict[Any, str] = {}

    def __call__(self, i: int, messages: Sequence[Message]) -> Iterator[Loss]:
        """What is lost of one row."""
        truth = self.record.oracles[i]
        if isinstance(truth, Oracle):
            text = truth.text
        else:
            try:
                text = self._render(messages)
            except TemplateError as error:
                yield Loss("C0", "WARN", f"cannot be checked: {error}")
                return
        squeezed = _Lazy(lambda: _squeeze(text))
        explained = False
        for k in range(len(messages)):
            for loss in self._message(messages, k, text, squeezed, truth):
                explained = True
                yield loss
        if isinstance(truth, TemplateError):
            answer = self._answer(messages, str(truth))
            if answer or not explained:
                yield answer or Loss("C0", "WARN", f"cannot be checked: {truth}")

    def _message(
        self,
        messages: Sequence[Message],
        k: int,
        text: str,
        squeezed: "_Lazy",
        truth: Oracle | TemplateError,
    ) -> Iterator[Loss]:
        """What is lost of one message, the text of answers excepted."""
        message = messages[k]
        role, said = message.get("role"), content_text(message)
        if role == "assistant":
            thoughts = reasoning_text(message)
            lead, words = text, squeezed
            if isinstance(truth, Oracle):  # its own place: a question or a schema may say the same
                lead = next((t.lead for t in truth.turns if t.message == k), "")
                words = _Lazy(lambda: _squeeze(lead))
            if thoughts and not _survives(thoughts, lead, words):
                yield self._thoughts(messages, k, thoughts)
            gone = [p for p in call_parts(message) if not _survives(p, lead, words)]
            if gone:
                yield Loss("C14", "FAIL", f"the tool call loses {gone[0][:40]!r}", k)
            elif quoted := next((q for q in _quoted(message) if q in text), None):
                what = f"the arguments of a tool call are written as a quoted text: {quoted[:40]}"
                yield Loss("C14", "FAIL", what, k, FIXES["quoted"], WHY["quoted"])
        elif role == "tool":
            if not all(_survives(p, text, squeezed) for p in _texts(message)):
                fate = self._fate(messages, k) or "dropped"
                severity = "FAIL" if fate == "dropped" else "WARN"
                yield Loss("C14", severity, f"the tool result {said[:40]!r} is {fate}", k)
        elif role in ("system", "developer", "user") and not all(
            p in text or not p.strip() for p in _texts(message)
        ):
            code = "C11" if role == "user" else "C15"
            fate = "changed" if said.strip() in text else self._fate(messages, k)
            if fate == "dropped":
                yield Loss(code, "FAIL", f"the {role} message {said[:40]!r} is not rendered", k,
                           self._hint(messages, k))  # fmt: skip
            else:
                yield Loss("C11", "WARN", f"the {role} message {said[:40]!r} is changed", k)

    def _thoughts(self, messages: Sequence[Message], k: int, thoughts: str) -> Loss:
        """C12: the thoughts of one answer are not rendered."""
        earlier = any(m.get("role") == "user" for m in messages[k + 1 :])
        # With loss on the last answer only, a context without thoughts is what serving shows; and
        # a template without thoughts may be wanted when the last one is dropped as well.
        severity: Severity = "FAIL" if earlier and self.record.turns == "all" else "WARN"
        turn = "an earlier turn" if earlier else "the last turn"
        return Loss(
            "C12", severity, f"the template drops the thoughts of {turn}: {thoughts[:40]!r}", k
        )

    def _answer(self, messages: Sequence[Message], problem: str) -> Loss | None:
        """C11: what the oracle found wrong with the text of an answer; None if it is not that."""
        found = PROBLEM.match(problem)
        if not found:
            return None
        k = int(found[1])
        if messages[k].get("tool_calls") and not content_text(messages[k]):
            return None
        if found[2] == "changes":
            return Loss("C11", "FAIL", problem.partition(": ")[2], k)
        what = f"the answer {content_text(messages[k])[:40]!r} is not rendered"
        return Loss("C11", "FAIL", what, k, self._hint(messages, k))

    def _fate(self, messages: Sequence[Message], k: int) -> str:
        """ "dropped", "changed", or "" if the template refuses the question."""
        kind = (k, *((str(m.get("role")), bool(m.get("tool_calls"))) for m in messages))
        if kind not in self.fates:
            probe = [*messages[:k], with_content(messages[k], SENTINEL), *messages[k + 1 :]]
            try:
                self.fates[kind] = "changed" if SENTINEL in self._render(probe) else "dropped"
            except TemplateError:
                self.fates[kind] = ""
        return self.fates[kind]

    def _hint(self, messages: Sequence[Message], k: int) -> str:
        """More to do when the template would read the same text as a list of parts."""
        if not isinstance(messages[k].get("content"), str):
            return ""
        parts = [with_content({**m, "content": []}, content_text(m)) for m in messages]
        try:
            return FIXES["C11"] + PARTS if content_text(messages[k]) in self._render(parts) else ""
        except TemplateError:
            return ""

    def _render(self, messages: Sequence[Message]) -> str:
        kwargs = self.record.template_kwargs
        return render(self.record.tokenizer, messages, template_kwargs=kwargs)


class _Lazy:
    """A value that is computed when it is asked for."""

    def __init__(self, make: Callable[[], str]) -> None:
        self.make, self.value = make, ""

    def __call__(self) -> str:
        self.value = self.value or self.make()
        return self.value


def _finding(loss: Loss, *, row: int | None = None, count: int = 1, where: str = "") -> Finding:
    return Finding(
        id=loss.id,
        severity=loss.severity,
        what=loss.what,
        where=where or spot(row, loss.turn),
        fix=loss.fix or FIXES[loss.id],
        why=loss.why or WHY[loss.id],
        row=row,
        turn=loss.turn,
        count=count,
    )


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def _survives(said: str, text: str, squeezed: _Lazy) -> bool:
    """Whether a text stands in the render: word by word, escaped as JSON, or at least its words."""
    said = said.strip()
    if said in text:
        return True
    if any(json.dumps(said, ensure_ascii=plain)[1:-1] in text for plain in (True, False)):
        return True
    letters = _squeeze(said)
    return bool(letters) and letters in squeezed()


def _texts(message: Message) -> list[str]:
    """The texts of a message: of its parts, or the leaves of an object."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if isinstance(content, list | tuple):
        return [content_text({"content": [part]}) for part in content]
    return [*_leaves(content)]


def call_parts(message: Message) -> Iterator[str]:
    """Names, argument names and argument texts of all tool calls of a message."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            continue
        yield str(function.get("name") or "")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):  # not JSON: one text
                arguments = json.loads(arguments)
        yield from _leaves(arguments)


def _quoted(message: Message) -> Iterator[str]:
    """Arguments that are JSON text, as a template that runs `tojson` on the text writes them.

    The model would learn to answer {"arguments": "{\\"city\\": ...}"}: a text where callers, who
    parse such texts before they fill the template, see an object.
    """
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if isinstance(arguments, str) and arguments.strip().startswith("{"):
            yield from (json.dumps(arguments, ensure_ascii=plain) for plain in (True, False))


def _leaves(value: Any) -> Iterator[str]:
    """All keys and texts in a nested value; how numbers are printed differs too much."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def _tool_name(tool: Any) -> str:
    """Name of a tool given as a schema or as a function."""
    if isinstance(tool, Mapping):
        inner = tool.get("function", tool)
        return str(inner.get("name") or "") if isinstance(inner, Mapping) else ""
    return getattr(tool, "__name__", "")


DETECTORS = (schemas, survival)
