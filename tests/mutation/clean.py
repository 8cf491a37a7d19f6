"""Legal runs without any fault: every alarm on one of them is a false one.

Labels come from `probes.served_row` (everything the served model has to write, from the end of its
prompt to the stop token), which knows nothing about the preflight. A conversation that is no legal
one for a template is left out, with its reason in `left_out`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sft_utils.errors import ModelError
from sft_utils.masks import masking
from sft_utils.preflight.record import RunRecord
from tests.mutation.conversations import (
    FLAVOURS,
    PLAIN,
    Conversation,
    Flavour,
    chat,
    held_out,
    thinking,
)
from tests.mutation.families import (
    MARKER,
    Family,
    available,
    family,
    served_with,
    shared,
    trl_templates,
    unknown_markers,
    with_markers,
)
from tests.mutation.frame import Layout
from tests.mutation.legal_runs import by_run
from tests.mutation.probes import in_parts, served_row
from tests.mutation.subjects import LAYOUTS, healthy

FORMS: list[tuple[Layout, bool]] = [(layout, p) for layout in LAYOUTS for p in (False, True)]

TRL_FLAVOURS = {
    "one turn": Flavour(chats=PLAIN, held=False),
    "two turns": Flavour(held=False, chats=[chat("Dew?", "Water.", "Frost?", "Ice."),
                                            chat("Hail?", "Ice balls.", "Fog?", "Cloud.")]),
    "two turns, last trained": Flavour(held=False, turns="last", chats=[
        chat("Dew?", "Water.", "Frost?", "Ice."), chat("Hail?", "Ice balls.", "Fog?", "Cloud.")]),
    "system": Flavour(held=False, needs=frozenset({"system"}), chats=[
        chat("Hello!", "Good day.", system="Be formal."), chat("Hi.", "Hey!", system="Be casual.")]),
    "constant text untrained": Flavour(chats=PLAIN, held=False, constant=False),
    "contents in parts": Flavour(held=False, needs=frozenset({"parts"}), chats=[
        [in_parts(m) for m in c] for c in PLAIN]),
    "reasoning": Flavour(held=False, chats=thinking("reasoning_content")),
    "thoughts": Flavour(held=False, chats=thinking("thinking")),
}  # fmt: skip
"""What every template of trl is tried with."""

CLOCK = ('strftime_now("%Y-%m-%d")', "strftime_now('%Y-%m-%d')", 'strftime_now("%d %b %Y")')
"""Calls that would tie a render to today; the clean set holds a date instead."""

OTHER_STOPS = {
    "phi3": ("<|endoftext|>", "<|end|>"),  # eos closes the conversation, another token the turn
    "cohere2": ("<|END_OF_TURN_TOKEN|>",),  # the answer is closed by a token before this one
}
"""Published eos (first) and stop tokens where they are not the token right behind an answer."""

OWN_VOCABULARY = {"qwen": "qwen", "llama3": "llama3", "deepseek": "deepseek"}
"""Templates of trl that fit a real vocabulary, by the beginning of their names."""


def padded(rows: Sequence[masking.Row], pad: int, flavour: Flavour) -> dict[str, Any]:
    """One batch, with the padding a collator might be set to."""
    import torch

    batch = masking.collate(rows, pad)
    width = batch["input_ids"].shape[1]
    extra = -width % flavour.multiple
    fill = {"input_ids": pad, "attention_mask": 0, "labels": masking.IGNORE}
    for key, value in fill.items():
        wider = torch.nn.functional.pad(batch[key], (0, extra), value=value)
        if flavour.side == "left":
            lengths = [len(row["input_ids"]) for row in rows]
            moved = [torch.roll(line, wider.shape[1] - n) for line, n in
                     zip(wider, lengths, strict=True)]  # fmt: skip
            wider = torch.stack(moved)
        batch[key] = wider
    if flavour.positions:
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return batch


def batched(
    rows: Sequence[masking.Row], family: Family, flavour: Flavour, *, packed: bool
) -> list[dict[str, Any]]:
    """The rows as a correct collator or packer hands them over."""
    rows = list(reversed(rows)) if flavour.order == "reversed" else list(rows)
    parts = [rows[i : i + flavour.size] for i in range(0, len(rows), flavour.size)]
    if packed:
        return [masking.pack(part) for part in parts]
    return [padded(part, family.tokenizer.pad_token_id, flavour) for part in parts]


def legal(
    family: Family, chats: Sequence[Conversation], turns: Any, name: str,
    left_out: dict[str, str], **labels: bool,
) -> tuple[list[Conversation], list[masking.Row]]:  # fmt: skip
    """The conversations that are legal for a family, with their rows."""
    kept, rows = [], []
    for messages in chats:
        row = served_row(
            family.tokenizer, messages, stops=family.stops, kwargs=family.kwargs, turns=turns,
            **labels,
        )  # fmt: skip
        if isinstance(row, str):
            left_out[name] = row
        else:
            kept.append(messages)
            rows.append(row)
    return kept, rows


def configuration(
    family: Family, flavour: Flavour, form: tuple[Layout, bool], name: str, left_out: dict[str, str]
) -> RunRecord | None:
    """The record of one configuration, or None if no row of it is legal."""
    layout, packed = form
    turns = "last" if layout == "prompt_completion" else flavour.turns
    chats, rows = legal(family, flavour.rows(family.traits), turns, name, left_out,
                        constant=flavour.constant, trailing=flavour.trailing)  # fmt: skip
    if not chats:
        left_out.setdefault(name, "the template cannot do it")
        return None
    held_chats = held_out() if flavour.held else []
    held_rows = legal(family, held_chats, "all", name, left_out)[1]
    longest = max(len(row["input_ids"]) for row in (*rows, *held_rows))
    record = healthy(
        family, chats, rows, layout=layout, packed=packed, turns=turns, schema=flavour.schema,
        batches=batched(rows, family, flavour, packed=packed), max_length=flavour.max_length or longest,
        held_rows=held_rows if len(held_rows) == len(held_out()) else (),
    )  # fmt: skip
    if not flavour.eval_texts:
        return record
    judged = dataclasses.replace(record.evaluation, eval_texts=flavour.eval_texts)
    return record.change(evaluation=judged)


def by_family(
    families: Sequence[Family], left_out: dict[str, str], *, full: bool
) -> Iterator[tuple[str, RunRecord]]:
    """Every flavour in every family; layouts and packing take turns unless all are wanted."""
    for i, one in enumerate(families):
        for j, (title, flavour) in enumerate(FLAVOURS.items()):
            for form in FORMS if full else [FORMS[(i + j) % len(FORMS)]]:
                layout, packed = form
                name = f"{one.name}/{title}/{layout}{'/packed' if packed else ''}"
                record = configuration(one, flavour, form, name, left_out)
                if record is not None:
                    yield name, record


def trl_texts() -> dict[str, str]:
    """All templates of trl by name, with a fixed date where they would read the clock."""
    texts = {}
    for path in sorted(trl_templates().glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        for call in CLOCK:
            text = text.replace(call, '"2026-01-05"')
        texts[path.stem] = text
    return texts


def trl_families(
    families: Sequence[Family], left_out: dict[str, str]
) -> Iterator[tuple[str, list[Family]]]:
    """Every template of trl on the carrier, and on its own vocabulary where there is one.

    Yields:
        A name, and the same family with and without thinking switched off.
    """
    texts = trl_texts()
    bases = {f.name: f.tokenizer for f in families if f.real}
    bases["carrier"] = with_markers(list(texts.values()))
    for stem, template in texts.items():
        own = next((v for k, v in OWN_VOCABULARY.items() if stem.startswith(k)), None)
        for where in ("carrier", own):
            name = f"trl {stem} on {where}"
            if where not in bases or unknown_markers(bases[where], MARKER.findall(template)):
                continue
            try:
                tokenizer = served_with(shared(bases[where]), template)
            except ModelError as error:
                left_out[name] = str(error)
                continue
            stops = next((v for k, v in OTHER_STOPS.items() if stem.startswith(k)), ())
            tokenizer.eos_token = stops[0] if stops else tokenizer.eos_token
            yield name, [family(name, tokenizer, real=where == own, kwargs=kwargs, stops=stops[1:])
                         for kwargs in ({}, {"enable_thinking": False})]  # fmt: skip


def by_template(
    families: Sequence[Family], left_out: dict[str, str]
) -> Iterator[tuple[str, RunRecord]]:
    """The templates of trl as served templates, one record for each kind of chat they allow."""
    for i, (name, modes) in enumerate(trl_families(families, left_out)):
        for j, (title, flavour) in enumerate(TRL_FLAVOURS.items()):
            for mode in modes:
                full_name = f"{name}/{title}"
                form = ("messages", bool((i + j) % 2))
                record = configuration(mode, flavour, form, full_name, left_out)
                if record is not None:
                    left_out.pop(full_name, None)
                    yield full_name, record
                    break


def clean_records(
    *, full: bool = False, left_out: dict[str, str] | None = None
) -> Iterator[tuple[str, RunRecord]]:
    """Names and records of the clean set, built one after the other.

    Args:
        full: Every layout, packed and not, for every family and flavour: six times as many.
        left_out: Filled with what is not legal for a template, and why.
    """
    reasons = {} if left_out is None else left_out
    families, _ = available()
    yield from by_family(families, reasons, full=full)
    yield from by_template(families, reasons)
    yield from by_run(families[0])
