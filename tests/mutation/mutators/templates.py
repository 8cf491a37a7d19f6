"""Faults of the chat template, planted in any template; markers are those of foreign families."""

import copy
import json
from collections.abc import Callable
from typing import Any

from sft_utils.masks.masking import IGNORE
from sft_utils.preflight.record import RunRecord
from tests.mutation.conversations import tools
from tests.mutation.families import shared
from tests.mutation.frame import Mutator, Subject, with_rows
from tests.mutation.mutators.rewriting import (
    Chats,
    around,
    everywhere,
    gone,
    in_training,
    messages_as,
    prompt,
    rewriting,
    row_of,
    stop_text,
    text_with,
    texts,
    trained,
)
from tests.mutation.probes import encoded, rendered, turn

TAIL = "\ue0f0"  # put behind answers to find their ends in a finished text

FOREIGN = (
    ("<|im_start|>", "\n", "<|im_end|>\n"),
    ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    ("<start_of_turn>", "\n", "<end_of_turn>\n"),
)
"""Markers before and behind the role and behind the text, of three well-known families."""

THOUGHT = "Both facts are in the first table."


# --- C1, C5, C6: markers and the end of a turn


def foreign_template(record: RunRecord) -> RunRecord:
    before, behind, close = next(
        marks for marks in FOREIGN if len(encoded(record.tokenizer, marks[2].strip())) > 1
    )
    opening = f"{{{{ {json.dumps(before)} }}}}{{{{ ROLE }}}}{{{{ {json.dumps(behind)} }}}}"
    template = (
        "{% for m in messages %}" + opening.replace("ROLE", "m.role") + "{{ m.content }}"
        + "{{ " + json.dumps(close) + " }}{% endfor %}{% if add_generation_prompt %}"
        + opening.replace("ROLE", "'assistant'") + "{% endif %}"
    )  # fmt: skip
    return everywhere(record, template)


def no_stop_id(before: RunRecord, after: RunRecord) -> bool:
    """No row ends with a token at which serving stops."""
    tails = [encoded(after.tokenizer, t)[-6:] for _, t in texts(after)]
    return all(tails) and not any(set(t) & after.stops for t in tails)


def misspelt_end(record: RunRecord) -> RunRecord:
    template = text_with(record.tokenizer.chat_template, (around(record)[1], "<|end_turn|>\n"))
    return everywhere(record, template)


def no_end(record: RunRecord) -> RunRecord:
    said = messages_as(f"dict(x, content=x.content ~ '{TAIL}') if x.role == 'assistant' else x")
    behind = around(record)[1].rstrip()
    template = said + record.tokenizer.chat_template
    return everywhere(record, text_with(template, (TAIL + behind, ""), (TAIL, "")))


def other_special(record: RunRecord) -> str:
    """A control token that ends no answer."""
    tokens = record.tokenizer.added_tokens_decoder
    behind = around(record)[1]
    names = [str(t) for i, t in tokens.items() if t.special and i not in record.stops]
    return next(
        n for n in names if n.strip() and n not in behind and n != record.tokenizer.pad_token
    )


def base_model_eos(record: RunRecord) -> RunRecord:
    other = shared(record.tokenizer)
    other.eos_token = other_special(record)
    generation = {**(record.generation or {}), "eos_token_id": other.eos_token_id}
    return record.change(tokenizer=other, generation=generation)


def stop_not_served(record: RunRecord) -> RunRecord:
    other = record.tokenizer.convert_tokens_to_ids(other_special(record))
    return record.change(generation={**(record.generation or {}), "eos_token_id": [other]})


def eos_elsewhere(record: RunRecord) -> RunRecord:
    other = shared(record.tokenizer)
    other.eos_token = other_special(record)
    return record.change(tokenizer=other)


def stop_missing(before: RunRecord, after: RunRecord) -> bool:
    """The token behind an answer is not among the stops."""
    name = stop_text(before)
    return after.tokenizer.convert_tokens_to_ids(name) not in after.stops and bool(after.stops)


# --- C7, C9, C16, C20, C3: prompt, clock, markers, variables, server


def prompt_adds(text: str) -> Callable[[RunRecord], RunRecord]:
    """A fault that writes something into the served prompt only."""

    def apply(record: RunRecord) -> RunRecord:
        added = "{% if add_generation_prompt %}{{ " + json.dumps(text) + " }}{% endif %}"
        return everywhere(record, record.tokenizer.chat_template.removesuffix("\n") + added)

    return apply


def no_prefix(before: RunRecord, after: RunRecord) -> bool:
    """The served ids are no prefix of the row they belong to."""
    for row, text in texts(after):
        ids = prompt(after.tokenizer, row[:-1], after.template_kwargs)
        if encoded(after.tokenizer, text)[: len(ids)] != ids:
            return True
    return False


def markers_lost(record: RunRecord) -> RunRecord:
    template = record.tokenizer.chat_template
    for word in ("generation", "endgeneration"):
        for left in ("{%-", "{%"):
            for right in ("-%}", "%}"):
                template = template.replace(f"{left} {word} {right}", "")
    arguments = copy.copy(record.arguments)
    arguments.assistant_only_loss = True
    rows = [{"input_ids": r["input_ids"], "labels": [IGNORE] * len(r["labels"])}
            for r in (row_of(record, record.tokenizer, c, record.template_kwargs)
                      for c in record.conversations)]  # fmt: skip
    changed = everywhere(record, template + "{# edited #}").change(arguments=arguments)
    return with_rows(changed, rows)


def variable(*, trained_with: bool) -> Callable[[RunRecord], RunRecord]:
    """A fault that gives a variable to one side only."""
    added = messages_as(
        "dict(x, content='Be a ' ~ persona ~ '. ' ~ x.content) "
        "if persona is defined and x.role == 'user' else x"
    )

    def apply(record: RunRecord) -> RunRecord:
        plain = dict(record.template_kwargs)
        more = {**plain, "persona": "pirate"}
        now, then = (more, plain) if trained_with else (plain, more)
        changed = everywhere(record, added + record.tokenizer.chat_template)
        changed = changed.change(train_template_kwargs=now, template_kwargs=then)
        tokenizer = changed.tokenizer
        changed = changed.change(serve=lambda messages: prompt(tokenizer, messages, then))
        return trained(changed, tokenizer, kwargs=now)

    return apply


def renders_differ(before: RunRecord, after: RunRecord) -> bool:
    """The variables of training and serving give different texts."""
    return any(
        rendered(after.tokenizer, c, **after.template_kwargs)
        != rendered(after.tokenizer, c, **(after.train_template_kwargs or {}))
        for c in after.conversations
    )


def bos_twice(record: RunRecord) -> RunRecord:
    serve, bos = record.serve, record.tokenizer.bos_token_id
    return record.change(serve=lambda messages: [bos, *serve(messages)])


# --- C11, C12, C14, C15: content that is lost


def spaced(record: RunRecord) -> Chats:
    """The same rows, with white space around the answers."""
    chats = copy.deepcopy(list(record.conversations))
    for row in chats:
        row[-1]["content"] = f"  {row[-1]['content']}\n"
    return chats


def thoughtful(inline: bool) -> Callable[[RunRecord], Chats]:
    """Two answers with thoughts, in their content or in a field."""

    def said(text: str) -> dict[str, Any]:
        if inline:
            return turn("assistant", f"<think>\n{THOUGHT}\n</think>\n\n{text}")
        return turn("assistant", text, reasoning_content=THOUGHT)

    def chats(record: RunRecord) -> Chats:
        return [[turn("user", f"How old is tree {n}?"), said("Ninety years."),
                 turn("user", "And how tall?"), said(f"{n} metres, as of last year.")]
                for n in (21, 34, 55, 89)]  # fmt: skip

    return chats


def thought_lost(before: RunRecord, after: RunRecord) -> bool:
    return all(text and THOUGHT not in text.split("And how tall?")[0] for _, text in texts(after))


def with_tools(record: RunRecord) -> Chats:
    """Rows with calls and results, arguments as the template can add them up."""
    return tools(rendered(record.tokenizer, tools(False)[0], **record.template_kwargs) == "")


SCHEMA = {"type": "function", "function": {"name": "read_gauge", "description": "Reads a gauge.",
          "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}  # fmt: skip


def schemas_dropped(record: RunRecord) -> RunRecord:
    kwargs = {**record.template_kwargs, "tools": [SCHEMA]}
    changed = record.change(template_kwargs=kwargs, train_template_kwargs=kwargs)
    return everywhere(changed, "{% set tools = none %}" + record.tokenizer.chat_template)


def written_calls(record: RunRecord) -> Chats:
    """Rows whose arguments are JSON text, as OpenAI's interface gives them."""
    return tools(True)


def quoted(before: RunRecord, after: RunRecord) -> bool:
    """The arguments stand in the render as a text in quotation marks."""
    calls = [(text, call["function"]["arguments"]) for row, text in texts(after)
             for m in row for call in m.get("tool_calls") or ()]  # fmt: skip
    return bool(calls) and all(json.dumps(arguments) in text for text, arguments in calls)


def with_system(record: RunRecord) -> Chats:
    rows = [[m for m in c if m["role"] != "system"] for c in record.conversations]
    return [[turn("system", "Answer as a lighthouse keeper."), *c] for c in rows]


# --- C8, C10, C13: training template and served template


def header_space(record: RunRecord) -> RunRecord:
    header = around(record)[0]
    space = "\n" if header.endswith(" ") else " "
    change = (header, header.rstrip() + space)
    return in_training(record, text_with(record.tokenizer.chat_template, change))


def plain_template(record: RunRecord) -> RunRecord:
    template = (
        "{{ bos_token or '' }}{% for m in messages %}### {{ m.role }}:\n{{ m.content }}"
        "{{ eos_token }}\n\n{% endfor %}{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    return in_training(record, template)


def sides_differ(before: RunRecord, after: RunRecord) -> bool:
    """Training and serving render some row differently."""
    return any(
        rendered(after.train_tokenizer, row, **after.template_kwargs).rstrip() != text.rstrip()
        for row, text in texts(after)
    )


def has(*wanted: str, without: str = "", turns: str = "") -> Callable[[Subject], bool]:
    """Subjects with these traits."""

    def applies(subject: Subject) -> bool:
        return (
            set(wanted) <= subject.traits
            and without not in subject.traits
            and turns in ("", subject.record.turns)
        )

    return applies


def writes_eos(subject: Subject) -> bool:
    """Whether the template writes whatever eos is, so that another eos is written as well."""
    return "eos_token" in str(subject.record.tokenizer.chat_template)


def fault(id: str, name: str, apply: Any, alive: Any, **more: Any) -> Mutator:
    return Mutator(id=id, name=name, layer=more.pop("layer", "template"), apply=apply, alive=alive,
                   **more)  # fmt: skip


LAST = "loop.last or x.role != 'assistant'"
MUTATORS: tuple[Mutator, ...] = (
    fault("C1", "foreign-template", foreign_template, no_stop_id),
    fault("C1", "end-marker-misspelt", misspelt_end, no_stop_id),
    fault("C5", "answer-without-stop-token", no_end, no_stop_id),
    fault("C6", "eos-of-the-base-model", base_model_eos, stop_missing, layer="tokenizer",
          applies=lambda s: not writes_eos(s)),
    fault("C6", "turn-end-is-no-stop", stop_not_served, stop_missing, layer="config"),
    fault("C6", "tokenizer-eos-differs", eos_elsewhere,
          lambda b, a: a.tokenizer.eos_token_id not in a.stops, layer="tokenizer", severity="WARN",
          applies=lambda s: not writes_eos(s)),
    fault("C7", "thought-opened-in-the-prompt-only", prompt_adds("<think>\n"), no_prefix),
    fault("C7", "space-in-the-prompt-only", prompt_adds(" "), no_prefix),
    fault("C9", "date-in-the-prompt", severity="WARN",
          apply=rewriting("dict(x, content='Today is ' ~ strftime_now('%d %b %Y') ~ '. ' "
                          "~ x.content) if x.role == 'user' else x"),
          alive=lambda b, a: any("Today is " in t for _, t in texts(a))),
    fault("C16", "generation-markers-lost", markers_lost,
          lambda b, a: "generation %}" not in a.tokenizer.chat_template
          and a.arguments.assistant_only_loss,
          applies=lambda s: s.record.arguments is not None),
    fault("C20", "variable-in-training-only", variable(trained_with=True), renders_differ),
    fault("C20", "variable-in-serving-only", variable(trained_with=False), renders_differ),
    fault("C3", "bos-twice-when-served", bos_twice,
          lambda b, a: a.serve(a.conversations[0][:1])[:2] == [a.tokenizer.bos_token_id] * 2,
          layer="export", applies=has("bos")),
    fault("C11", "answers-trimmed", rewriting("dict(x, content=x.content | trim)", spaced),
          gone(lambda m: m["role"] == "assistant" and m["content"])),
    fault("C11", "answers-lower-case",
          rewriting("dict(x, content=x.content | lower) if x.role == 'assistant' else x"),
          gone(lambda m: m["role"] == "assistant" and m["content"])),
    fault("C11", "answers-cut",
          rewriting("dict(x, content=x.content[:4]) if x.role == 'assistant' else x"),
          gone(lambda m: m["role"] == "assistant" and m["content"])),
    fault("C12", "earlier-thoughts-stripped",
          rewriting(f"x if {LAST} else dict(x, content=x.content.split('</think>')[-1] | trim)",
                    thoughtful(True)), thought_lost, applies=has(turns="all")),
    fault("C12", "reasoning-field-ignored", rewriting("x", thoughtful(False)), thought_lost,
          applies=has(without="think", turns="all")),
    fault("C14", "tool-turns-dropped",
          rewriting("x", with_tools, keep="not x.tool_calls and x.role != 'tool'"),
          gone(lambda m: m["role"] == "tool" and m["name"])),
    fault("C14", "tool-results-dropped", rewriting("x", with_tools, keep="x.role != 'tool'"),
          gone(lambda m: m["role"] == "tool" and m["content"]), applies=has("tools")),
    fault("C14", "arguments-as-a-quoted-text",
          rewriting("dict(role=x.role, content=(x.content or '') ~ '<call>' "
                    "~ x.tool_calls[0].function.name ~ (x.tool_calls[0].function.arguments | tojson) "
                    "~ '</call>') if x.tool_calls else x", written_calls), quoted,
          applies=has("tools")),
    fault("C14", "tool-schemas-dropped", schemas_dropped,
          lambda b, a: all(t and "read_gauge" not in t for _, t in texts(a))),
    fault("C15", "system-prompt-dropped", rewriting("x", with_system, keep="x.role != 'system'"),
          gone(lambda m: m["role"] == "system" and m["content"])),
    fault("C8", "default-system-prompt-in-training",
          rewriting("x", where=in_training,
                    first="[] if messages[0].role == 'system' else "
                          "[{'role': 'system', 'content': 'You are a pirate.'}]"),
          sides_differ, applies=has("system")),
    fault("C10", "header-space-in-training", header_space, sides_differ),
    fault("C13", "empty-thoughts-in-training-history",
          rewriting(f"x if {LAST} else dict(x, content='<think>\n\n</think>\n\n' ~ x.content)",
                    where=in_training), sides_differ, applies=has(without="strips_think")),
    fault("C13", "other-template-in-training", plain_template, sides_differ),
)  # fmt: skip
"""Every fault of the group, planted in any family."""
