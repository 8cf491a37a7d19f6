"""The small template language of phrases/*.toml: parse once, expand against a speaker.

- ``<a|b|c>`` is one of the alternatives, nested as needed;
- ``[text]`` is optional; it is left out if the speaker cannot fill a slot in it;
- ``{slot}`` is asked from the speaker.

A template never says a fact twice: what a mandatory slot needs further on is not spent in an optional part.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Protocol

from draw import pick

from sft_utils.errors import DataError

TOKEN = re.compile(r"\{(\w+)\}|([<>|\[\]])|([^{}<>|\[\]]+)")


# The slots that say a fact, each fact at most once in a mail; all other slots are words.
FACT_OF_SLOT = {
    "date": "date",
    "amount": "amount",
    "order": "order",
    "oref": "order",
    "Oref": "order",
    "name": "product",
    "signer": "customer",
}


class Speaker(Protocol):
    """Who fills the slots."""

    rng: Random
    left: set[str]  # facts that are still unsaid
    used: set[str]  # templates that were said

    def can(self, slot: str) -> bool:
        """Whether the slot can be filled now."""
        ...

    def say(self, slot: str, before: str) -> str:
        """The text of a slot, given the text before it."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that the speaker fills."""

    name: str


@dataclass(frozen=True, slots=True)
class Maybe:
    """A part that may be left out."""

    parts: "Sequence"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several parts."""

    options: tuple["Sequence", ...]


Node = str | Slot | Maybe | Choice
Sequence = tuple[Node, ...]


@cache
def parse(text: str) -> Sequence:
    """Parse one template.

    Raises:
        DataError: Brackets that do not match; names the template.
    Example:
        >>> parse("a <b|c>[ {d}]")
        ('a ', Choice(options=(('b',), ('c',))), Maybe(parts=(' ', Slot(name='d'))))
    """
    tokens = list(TOKEN.finditer(text))
    nodes, end = _sequence(tokens, 0, "")
    if end != len(tokens) or "".join(t.group() for t in tokens) != text:
        raise DataError(f"template {text!r} has an unmatched bracket. Close it in phrases/*.toml.")
    return nodes


def _sequence(tokens: list[re.Match[str]], at: int, stop: str) -> tuple[Sequence, int]:
    nodes: list[Node] = []
    while at < len(tokens) and tokens[at].group() not in stop.split():
        slot, mark, literal = tokens[at].groups()
        if slot:
            nodes.append(Slot(slot))
        elif mark == "[":
            inner, at = _sequence(tokens, at + 1, "]")
            nodes.append(Maybe(inner))
        elif mark == "<":
            options: list[Sequence] = []
            while at < len(tokens) and tokens[at].group() != ">":
                inner, at = _sequence(tokens, at + 1, "| >")
                options.append(inner)
            nodes.append(Choice(tuple(options)))
        elif mark:
            return tuple(nodes), at
        else:
            nodes.append(literal)
        at += 1
    return tuple(nodes), at


@dataclass(frozen=True, slots=True)
class Clause:
    """A parsed template with what is needed to choose it quickly."""

    text: str
    nodes: Sequence
    asks: bool  # starts with "!", the mark of a clause that asks for the action itself
    needs: frozenset[str]  # facts that must be unsaid
    facts: frozenset[str]  # facts that it can say
    plain: bool  # `needs` is the whole condition


@cache
def clause(text: str) -> Clause:
    """Parse a template and work out its conditions."""
    nodes = parse(text)
    slots = [node.name for node in nodes if isinstance(node, Slot)]
    needs = {FACT_OF_SLOT[slot] for slot in slots if slot in FACT_OF_SLOT}
    plain = not any(isinstance(node, Choice) and facts_of((node,)) for node in nodes)
    plain = plain and not any(slot.startswith("other_") or "_amount" in slot for slot in slots)
    return Clause(text, nodes, text[:1] == "!", frozenset(needs), facts_of(nodes), plain)


@cache
def facts_of(nodes: Sequence) -> frozenset[str]:
    """All facts that a template can say, in optional parts too."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, Slot):
            found |= {FACT_OF_SLOT[node.name]} if node.name in FACT_OF_SLOT else set()
        elif isinstance(node, Maybe):
            found |= facts_of(node.parts)
        elif isinstance(node, Choice):
            found |= frozenset().union(*map(facts_of, node.options))
    return frozenset(found)


def feasible(nodes: Sequence, speaker: Speaker) -> bool:
    """Whether every mandatory slot can be filled."""
    return all(
        speaker.can(node.name)
        if isinstance(node, Slot)
        else any(feasible(option, speaker) for option in node.options)
        if isinstance(node, Choice)
        else True
        for node in nodes
    )


@cache
def clauses(texts: tuple[str, ...]) -> tuple[Clause, ...]:
    """`clause` of each template."""
    return tuple(map(clause, texts))


def fitting(texts: tuple[str, ...], speaker: Speaker, *, asking: bool) -> list[Clause]:
    """The templates that the speaker can say now and has not said before.

    Args:
        asking: Whether clauses are allowed that ask for the action by themselves.
    """
    left, used = speaker.left, speaker.used
    return [
        one
        for one in clauses(texts)
        if one.needs <= left
        and one.text not in used
        and (asking or not one.asks)
        and (one.plain or feasible(one.nodes, speaker))
    ]


def expand(nodes: Sequence, speaker: Speaker, before: str = "") -> str:
    """Write a feasible template out; the speaker notes which facts were said."""
    text = before
    for n, node in enumerate(nodes):
        if isinstance(node, str):
            text += node
        elif isinstance(node, Slot):
            text += speaker.say(node.name, text)
        elif isinstance(node, Choice):
            options = [option for option in node.options if feasible(option, speaker)]
            text = expand(pick(speaker.rng, options), speaker, text)
        elif _wanted(node, nodes[n + 1 :], speaker):
            text = expand(node.parts, speaker, text)
    return text


def _wanted(node: Maybe, rest: Sequence, speaker: Speaker) -> bool:
    """Decide on an optional part: facts are mostly said, plain words half of the time."""
    said = facts_of(node.parts)
    later = facts_of(tuple(part for part in rest if isinstance(part, Slot))) if said else said
    if not feasible(node.parts, speaker) or said & later:
        return False
    return speaker.rng.random() < (0.85 if said else 0.5)
