"""Apply chat templates, and learn what a template writes around an answer."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.artifacts import sha256_text
from sft_utils.errors import TemplateError

Message = dict[str, Any]

SENTINEL = "\ue000SFT\ue001"
"""Private-use characters: no tokenizer merges them with text, no data holds them."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where data keeps the thoughts of an answer outside its content."""

THOUGHT = re.compile(r"\A\s*<(think|thinking|thought|reasoning)>(.*)</\1>\s*", re.DOTALL)
"""Thoughts written into the content itself."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a template writes around answers."""

    headers: tuple[str, ...]  # of an answer, as served and as in a whole conversation, no space
    openers: frozenset[int]  # tokens that begin a message: no stop tokens
    closers: frozenset[int]  # tokens that end an answer in the middle and at the end alike
    special: Mapping[int, str]  # id -> text of every token that could end a turn

    def header_end(self, text: str, floor: int, first: int, limit: int) -> int | None:
        """Where the header of an answer ends that begins at `first`, None if it has none.

        A header may end behind `first`, up to `limit`: some generation prompts open the thoughts.
        """
        for header in self.headers:
            at = text.rfind(header, floor, min(first + len(header), limit))
            if at >= 0:
                return at + len(header)
        return None


def renders(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    template_kwargs: Mapping[str, Any] | None,
    *,
    generation: bool = False,
) -> list[str | TemplateError]:
    """Render all conversations in one call, or one by one if one of them is refused.

    Raises:
        TemplateError: The tokenizer has no template.
    """
    import jinja2

    if not tokenizer.chat_template:
        raise TemplateError("the tokenizer has no chat template; load one with the model")
    refusals = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError)
    options = {"tokenize": False, "add_generation_prompt": generation, **(template_kwargs or {})}
    chats = [list(messages) for messages in conversations]
    if len(chats) > 1 and all(chats):
        try:
            return tokenizer.apply_chat_template(chats, **options)
        except (*refusals, ValueError):
            pass  # met again, and named, below
    texts: list[str | TemplateError] = []
    for chat in chats:
        try:
            texts.append(tokenizer.apply_chat_template(chat, **options))
        except (*refusals, ValueError) as error:
            roles = [m.get("role") if isinstance(m, Mapping) else m for m in chat]
            refused = TemplateError(f"the chat template refuses roles {roles}: {error}")
            refused.__cause__ = error
            texts.append(refused)
    return texts


def checked(result: str | TemplateError) -> str:
    """Raise what went wrong, or return what went right."""
    if isinstance(result, TemplateError):
        raise result
    return result


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    generation: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Apply the chat template; `generation` appends the header of the next answer.

    Raises:
        TemplateError: The tokenizer has no template, or the template refuses the messages.
    """
    return checked(renders(tokenizer, [messages], template_kwargs, generation=generation)[0])


def prompt_ids(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of the messages plus the header of the answer, as they are served."""
    text = render(tokenizer, messages, generation=True, template_kwargs=template_kwargs)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def is_conversation(row: Any) -> bool:
    """Whether something read from a file has the form of a conversation."""
    ordered = isinstance(row, Sequence) and not isinstance(row, str | bytes)
    return ordered and all(isinstance(message, Mapping) for message in row)


def context_only(message: Message) -> bool:
    """Whether the data says that this message is context: no answer to train on."""
    return message.get("train") is False or message.get("weight") == 0


def content_text(message: Message) -> str:
    """The text of a message: a string as it is, parts joined, None and missing as nothing."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        return "".join(str(p) for p in parts if p is not None)
    return "" if content is None else str(content)


def reasoning_text(message: Message) -> str:
    """The thoughts of an answer, from a field of their own or from the head of the content.

    Example:
        >>> reasoning_text({"content": "<think>\\n2 and 2\\n</think>\\n\\n4"})
        '2 and 2'
    """
    for name in REASONING_FIELDS:
        value = message.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    thought = THOUGHT.match(content_text(message))
    return thought[2].strip() if thought else ""


def thought_length(content: str) -> int:
    """Characters of the thoughts at the head of a content, with their marks and the space behind.

    Example:
        >>> thought_length("<think>No.</think> Yes.")
        19
    """
    thought = THOUGHT.match(content) if "</" in content else None
    return thought.end() if thought else 0


def with_content(message: Message, text: str) -> Message:
    """A copy of a message that says something else, in the layout (string, parts) it had."""
    parts = isinstance(message.get("content"), list | tuple)
    return {**message, "content": [{"type": "text", "text": text}] if parts else text}


def specials(tokenizer: Any) -> dict[int, str]:
    """Id -> text of all special and added tokens that are not pure white space."""
    found = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    ids = [i for i in tokenizer.all_special_ids if i not in found]
    found.update(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    return {i: text for i, text in found.items() if text.strip()}


def shape(tokenizer: Any, like: Sequence[Message], template_kwargs: Mapping[str, Any]) -> Shape:
    """Learn headers, openers and closers from conversations of one, two and three messages.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        like: A conversation whose layout of contents (string, parts) is used.
        template_kwargs: Variables of the template.
    """
    parts = any(isinstance(m.get("content"), list) for m in like)

    def say(role: str, text: str = SENTINEL) -> Message:
        return with_content({"role": role, "content": [] if parts else ""}, text)

    def after(chat: list[Message], generation: bool = False) -> str:
        """What the template writes between the first sentinel and the next, or the end."""
        text = renders(tokenizer, [chat], template_kwargs, generation=generation)[0]
        return text.split(SENTINEL)[1] if isinstance(text, str) and SENTINEL in text else ""

    asked, told = [say("user")], [say("user", "a"), say("assistant")]
    end, served, whole = after(asked), after(asked, True), after([*asked, told[1]])
    last, inner = after(told), after([*told, say("user")])
    known = specials(tokenizer)

    def marks(text: str) -> list[int]:
        found = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [i for i in found if i in known]

    def header(text: str) -> str:
        """The text without the tokens that close the message before it."""
        here = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        closing = tokenizer(end, add_special_tokens=False)["input_ids"] if end else []
        pairs = zip(here["input_ids"], here["offset_mapping"], [*closing, None], strict=False)
        return next((text[a:] for token, (a, _), other in pairs if token != other), text)

    # Space alone stands everywhere: it is no header that could be looked for.
    found = (header(t) for t in (served, whole) if t)
    headers = tuple(dict.fromkeys(h for h in found if h.strip()))
    closers, between = marks(last), marks(inner)
    openers = {i for h in headers[:1] for i in marks(h)} | set(between[1:])
    if len(between) == 1:  # one marker between two messages can only be the header of the second
        openers |= set(between)
    return Shape(
        headers=headers,
        openers=frozenset(openers - set(closers)),
        closers=frozenset(set(closers) & set(between)),
        special=known,
    )


def turn_begin(around: Shape, context: Sequence[Message], text: str, floor: int, start: int) -> int:
    """From where on the thoughts of an answer can stand: behind its header, or else its prompt.

    Args:
        context: The messages before the answer.
        floor: Where the answer before it ended.
        start: Where what the answer says begins, without thoughts.
    """
    last = max((k for k, m in enumerate(context) if m.get("role") == "assistant"), default=-1)
    for message in context[last + 1 :]:
        said = content_text(message).strip()
        at = text.find(said, floor, start)
        floor = floor if at < 0 else at + len(said)
    found = ((text.find(header, floor, start), len(header)) for header in around.headers)
    return next((at + n for at, n in found if at >= 0), floor)


@dataclass(frozen=True, slots=True)
class Served:
    """What renders a conversation, and what it writes around answers."""

    tokenizer: Any
    kwargs: Mapping[str, Any]
    shape: Shape
    stops: frozenset[int]

    def __call__(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        return render(self.tokenizer, messages, generation=generation, template_kwargs=self.kwargs)


def template_hash(tokenizer: Any) -> str:
    """Hash of the chat template text."""
    template = tokenizer.chat_template or ""
    return sha256_text(template if isinstance(template, str) else json.dumps(template))
