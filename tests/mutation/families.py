"""Tokenizer families of the benchmark: six real vocabularies, and synthetic carriers.

A family is a tokenizer with the template it is served with. Synthetic families put the template
and markers of a family, whose vocabulary cannot be had offline, on SmolLM2's vocabulary.
"""

import copy
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sft_utils.config import get_profile
from sft_utils.errors import ModelError
from sft_utils.model import modeling
from tests.mutation.probes import first_stop, traits
from tests.mutation.vocabularies import find_wheel_file, vocabulary

__all__ = ["Family", "available", "family", "find_wheel_file", "served_with", "shared"]

MARKER = re.compile(
    r"<\|[^\s|<>]+\|?>|<[a-z_]+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_\w+>|\[/?INST\]|\[gMASK\]|<sop>"
)
"""What control tokens look like in templates."""

Edits = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tokenizer with the template that is served; eos is the token that ends a turn."""

    name: str  # "qwen", "gemma (synthetic)"
    real: bool  # the vocabulary of that family, not a carrier with its markers
    tokenizer: Any
    stops: tuple[int, ...]  # ids at which the served model stops, eos first
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # template kwargs, trained and served
    traits: frozenset[str] = frozenset()  # what tests.mutation.probes.traits found


def trl_templates() -> Path:
    """The folder of chat templates inside the installed trl."""
    (package,) = importlib.util.find_spec("trl").submodule_search_locations
    return Path(package) / "chat_templates"


def trl_template(name: str, edits: Edits = ()) -> str:
    """A template of trl, read at run time, with small repairs.

    Raises:
        ModelError: A repair finds nothing to repair: trl has changed the template.
    """
    text = (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")
    for old, new in edits:
        if old not in text:
            raise ModelError(f"template {name} no longer holds {old!r}")
        text = text.replace(old, new)
    return text


def mistral_template(space: str) -> str:
    """[INST] question [/INST] answer, as mistral-common writes it; `space` stands before texts."""
    return (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' and loop.first %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}{{ '[INST]SPACE' + ns.system + m.content + '[/INST]' }}"
        "{% set ns.system = '' %}"
        "{% elif m.role == 'assistant' %}{{ 'SPACE' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant turns') }}{% endif %}{% endfor %}"
    ).replace("SPACE", space)


REAL: dict[str, Callable[[], str]] = {
    "qwen": partial(trl_template, "qwen2_5"),
    "llama3": partial(trl_template, "llama3"),
    "mistral-tekken": partial(mistral_template, ""),
    "mistral-v3": partial(mistral_template, " "),
    # The stored template opens a thought in the prompt that its training render does not have.
    "deepseek": partial(
        trl_template, "deepseekv3", (("<｜Assistant｜><think>\\n", "<｜Assistant｜>"),)
    ),
}
"""Real vocabularies and the templates they are served with."""

STOPS = {"qwen": ("<|endoftext|>",), "llama3": ("<|end_of_text|>", "<|eom_id|>")}
"""Further stop tokens in the published generation configs."""

# phi3 repeats eos behind the whole conversation: a second terminator when eos ends a turn.
NO_LAST_EOS: Edits = (("{% else %}{{ eos_token }}{% endif %}", "{% endif %}"),)

SYNTHETIC: dict[str, dict[str, Any]] = {
    "gemma": {"bos": "<bos>", "adds_bos": True},
    "gemma3": {"bos": "<bos>", "adds_bos": True},
    "phi3": {"bos": "<s>", "edits": NO_LAST_EOS},
    "phi3_5": {"bos": "<s>", "edits": NO_LAST_EOS},
    "cohere": {"bos": "<BOS_TOKEN>", "adds_bos": True},
    "lfm2": {"bos": "<|startoftext|>", "adds_bos": True},
    "lfm2_2_5": {"bos": "<|startoftext|>", "adds_bos": True},
    "nemotron_3_nano": {"bos": "<s>", "kwargs": {"enable_thinking": False}},
}
"""Templates of trl for which no vocabulary can be had offline, and what their carriers need."""


@lru_cache(maxsize=1)
def smollm2() -> Any:
    """The base model's tokenizer; also the carrier of the synthetic families."""
    return modeling.load_tokenizer(get_profile("smoke"))


def shared(tokenizer: Any) -> Any:
    """A copy with a template and special tokens of its own, but the same vocabulary object."""
    core = tokenizer.backend_tokenizer
    return copy.deepcopy(tokenizer, {id(core): core})


def with_markers(templates: Sequence[str]) -> Any:
    """SmolLM2's vocabulary, with all markers of some templates as special tokens."""
    tokenizer = copy.deepcopy(smollm2())
    markers = dict.fromkeys(m for text in templates for m in MARKER.findall(text))
    tokenizer.add_special_tokens({"extra_special_tokens": unknown_markers(tokenizer, markers)})
    return tokenizer


def unknown_markers(tokenizer: Any, markers: Iterable[str]) -> list[str]:
    """Markers that the vocabulary does not hold as one token."""
    return [m for m in markers if tokenizer.backend_tokenizer.token_to_id(m) is None]


def served_with(tokenizer: Any, template: str, kwargs: Mapping[str, Any] | None = None) -> Any:
    """The tokenizer itself, with a template whose turn end is its eos token.

    Raises:
        ModelError: The template does not render a chat, or writes no token behind an answer.
    """
    tokenizer.chat_template = template
    eos = first_stop(tokenizer, kwargs or {})
    if not eos:
        raise ModelError("no control token follows an answer")
    tokenizer.eos_token = eos
    return tokenizer


def family(
    name: str, tokenizer: Any, *, real: bool, kwargs: Mapping[str, Any] | None = None,
    stops: Sequence[str] = (),
) -> Family:  # fmt: skip
    """A family with everything that can be found out about it."""
    more = [tokenizer.convert_tokens_to_ids(t) for t in stops]
    kwargs = dict(kwargs or {})
    return Family(name=name, real=real, tokenizer=tokenizer, stops=(tokenizer.eos_token_id, *more),
                  kwargs=kwargs, traits=traits(tokenizer, kwargs))  # fmt: skip


def real_family(name: str) -> Family:
    """A family with its own vocabulary.

    Raises:
        ModelError: It cannot be built here.
    """
    tokenizer = vocabulary(name)
    tokenizer.chat_template = REAL[name]()
    return family(name, tokenizer, real=True, stops=STOPS.get(name, ()))


def synthetic_family(name: str) -> Family:
    """A family's markers and template on SmolLM2's vocabulary."""
    options = SYNTHETIC[name]
    template = trl_template(name, options.get("edits", ()))
    tokenizer = with_markers([template])
    tokenizer.add_special_tokens({"bos_token": options["bos"]})
    tokenizer.add_bos_token = options.get("adds_bos", False)
    kwargs = options.get("kwargs", {})
    return family(
        f"{name} (synthetic)", served_with(tokenizer, template, kwargs), real=False, kwargs=kwargs
    )


@lru_cache(maxsize=1)
def available() -> tuple[list[Family], dict[str, str]]:
    """All families that can be built here, and why each of the others cannot."""
    built = [family("smollm2", smollm2(), real=True)]
    absent = {}
    for name in REAL:
        try:
            built.append(real_family(name))
        except ModelError as error:
            absent[name] = str(error)
    return [*built, *(synthetic_family(name) for name in SYNTHETIC)], absent
