"""What a template does, found out by rendering: no marker of any family is written here."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sft_utils.masks.chat import Message
from sft_utils.masks.masking import IGNORE, Row

THOUGHTS = ("reasoning_content", "thinking")
"""Fields in which templates look for the reasoning of an answer."""

MARK = "\ue002MARK\ue003"
"""Private-use characters: no template holds them, no tokenizer merges them with text."""


def rendered(tokenizer: Any, messages: Sequence[Message], **kwargs: Any) -> str:
    """The render; empty where the template refuses the messages."""
    import jinja2

    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **kwargs)
    except (jinja2.TemplateError, KeyError, TypeError, AttributeError, ValueError, IndexError):
        return ""


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Ids of a rendered text, as the server computes them."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def words(message: Message) -> str:
    """The text of a message, from a string or from parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(p["text"] for p in content)


def in_parts(message: Message) -> Message:
    """The same message with its content as a list of parts."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def turn(role: str, content: str, **more: Any) -> Message:
    """One message."""
    return {"role": role, "content": content, **more}


def call(name: str, arguments: Any, content: str = "", number: int = 1) -> Message:
    """An assistant message that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return turn("assistant", content,
                tool_calls=[{"id": f"call_{number}", "type": "function", "function": function}])  # fmt: skip


def traits(tokenizer: Any, kwargs: Mapping[str, Any]) -> frozenset[str]:
    """What a tokenizer with its template can do.

    Returns:
        Some of: "bos" (the template writes the bos token once, in front), "adds_bos" (the tokenizer
        adds one to plain text), "system", "tools" (calls and results are rendered), "tool_text"
        (arguments must be JSON text, not an object), "parts" (contents may be lists of parts),
        "think" (reasoning_content is rendered), "strips_think" (reasoning inside an earlier answer
        is removed), "verbatim" (white space around an answer stays), "incremental" (every earlier
        render is a prefix of a later one).
    """
    chat = [turn("user", "Who?"), turn("assistant", "Ana."), turn("user", "When?"),
            turn("assistant", "Now.")]  # fmt: skip
    full = rendered(tokenizer, chat, **kwargs)
    ids, bos = encoded(tokenizer, full), tokenizer.bos_token_id

    def shows(messages: Sequence[Message], *wanted: str) -> bool:
        text = rendered(tokenizer, messages, **kwargs)
        return all(w in text for w in wanted)

    def tools(arguments: Any) -> bool:
        messages = [chat[0], call("find_it", arguments), turn("tool", "sunny", name="find_it",
                    tool_call_id="call_1"), chat[3]]  # fmt: skip
        return shows(messages, "find_it", "city", MARK, "sunny")

    steps = [rendered(tokenizer, chat[:k], add_generation_prompt=k % 2 == 1, **kwargs)
             for k in (1, 2, 3, 4)]  # fmt: skip
    spaced = f"  {MARK} \n"
    thought = f"<think>\n{MARK}\n</think>\n\nAna."
    as_object = tools({"city": MARK})
    as_text = not as_object and tools(json.dumps({"city": MARK}, ensure_ascii=False))
    found = {
        "bos": bos is not None and ids[:1] == [bos] and ids.count(bos) == 1,
        "adds_bos": bos is not None and tokenizer("Who?")["input_ids"][:1] == [bos],
        "system": shows([turn("system", MARK), *chat], MARK),
        "tools": as_object or as_text,
        "tool_text": as_text,
        "parts": full == rendered(tokenizer, [in_parts(m) for m in chat], **kwargs),
        "think": shows([chat[0], turn("assistant", "Ana.", reasoning_content=MARK)], MARK),
        "strips_think": not shows([chat[0], turn("assistant", thought), *chat[2:]], MARK),
        "verbatim": shows([chat[0], turn("assistant", spaced)], spaced),
        "incremental": bool(full) and all(s and full.startswith(s) for s in steps),
    }
    return frozenset(name for name, true in found.items() if true)


def first_stop(tokenizer: Any, kwargs: Mapping[str, Any]) -> str:
    """The control token that follows a final answer; empty if there is none."""
    text = rendered(tokenizer, [turn("user", "Who?"), turn("assistant", MARK)], **kwargs)
    after = text.partition(MARK)[2]
    for i in encoded(tokenizer, after):
        token = tokenizer.convert_ids_to_tokens(i)
        if i in tokenizer.added_tokens_decoder:
            return token
        if tokenizer.decode([i]).strip():
            return ""
    return ""


def served_row(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    stops: Sequence[int],
    kwargs: Mapping[str, Any],
    turns: Literal["all", "last"] = "all",
    constant: bool = True,
    trailing: bool = False,
) -> Row | str:
    """A row that trains what the served model has to write: from its prompt to the stop token.

    Args:
        stops: Ids at which serving stops.
        kwargs: Variables of the template.
        constant: Train text that the template writes between the prompt and the answer, too.
        trailing: Train what follows the last stop token, as trainers of completions do.
    Returns:
        The row, or why this conversation is no legal one for this template.
    """
    text = rendered(tokenizer, messages, **kwargs)
    both = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = both["input_ids"], both["offset_mapping"]
    labels = [IGNORE] * len(ids)
    said = [str(m.get(name) or "") for m in messages for name in THOUGHTS]
    if not all(part.strip() in text for part in (*said, *map(words, messages))):
        return "the template drops something"
    answers = [k for k, m in enumerate(messages) if m["role"] == "assistant"]
    for k in answers if turns == "all" else answers[-1:]:
        prompt = encoded(
            tokenizer, rendered(tokenizer, messages[:k], add_generation_prompt=True, **kwargs)
        )
        start = len(prompt)
        if not prompt or ids[:start] != prompt:
            return "the served prompt is no prefix of the row"
        end = next((i for i in range(start, len(ids)) if ids[i] in stops), None)
        if end is None:
            return "the answer ends without a stop token"
        written = text[offsets[start][0] : offsets[end][0]]
        answer = words(messages[k])
        if answer not in written:
            return "the template changes the answer"
        if not constant:
            begin = text.index(answer, offsets[start][0])
            start = next(i for i in range(start, end) if offsets[i][1] > begin)
        following = words(messages[k + 1]) if k + 1 < len(messages) else ""
        if following and following in written:
            return "an earlier answer ends without a stop token"
        last = len(ids) if trailing and k == len(messages) - 1 else end + 1
        labels[start:last] = ids[start:last]
    return {"input_ids": ids, "labels": labels}
