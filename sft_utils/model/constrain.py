"""Constrained decoding: at every step only tokens that keep the answer inside a JSON Schema.

The grammar engine is llguidance (outputs/reference/constrained.json has the comparison that chose
it). The model's own choice among the allowed tokens stays greedy.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft_utils.artifacts import sha256_json
from sft_utils.errors import ConfigError

LAYOUT = {"whitespace_flexible": True, "whitespace_pattern": " ?"}
"""At most one blank where JSON allows white space: the model writes `": "` or `":"` as it was
trained, and cannot write blanks until the limit."""

PROBE = 'a b\n"Zoë": 12.5 €'
"""What the engine must read from tokens exactly as the tokenizer does."""

DECIMALS = 6
LARGEST = 10**15


@dataclass(frozen=True, slots=True)
class Constraint:
    """One grammar per prompt, on the vocabulary of one tokenizer."""

    vocabulary: Any  # llguidance.LLTokenizer
    grammars: tuple[str, ...]  # compiled schemas, aligned with the prompts

    @property
    def digest(self) -> str:
        """Identity of the grammars; answers cached under another one are not used."""
        return sha256_json(list(self.grammars))

    def guide(self, prompts: Sequence[int]) -> "Guide":
        """A fresh state for a batch of prompts, given by their indices."""
        from llguidance import LLMatcher

        return Guide([LLMatcher(self.vocabulary, self.grammars[i]) for i in prompts])

    def allows(self, prompt: int, tokens: Sequence[int]) -> bool:
        """Whether these tokens, the stop at their end included, could be written to the end."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self.vocabulary, self.grammars[prompt])
        return matcher.validate_tokens(list(tokens)) == len(tokens)


class Guide:
    """Where each answer of a batch stands in its grammar."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self.matchers = list(matchers)

    def restrict(self, logits: Any, rows: Sequence[int]) -> Any:
        """Logits in which only tokens that can continue an answer are finite.

        Args:
            logits: (B, V); row k belongs to answer rows[k].
            rows: Which answers of the batch are still written.
        Returns:
            (B, V), a new tensor.
        Raises:
            ConfigError: The grammar engine gave up on an answer; says why.
        """
        import numpy as np
        import torch

        allowed = np.zeros(tuple(logits.shape), dtype=bool)
        for k, row in enumerate(rows):
            matcher = self.matchers[row]
            packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            bits = np.unpackbits(packed, bitorder="little")[: logits.shape[1]]
            allowed[k, : len(bits)] = bits
            self._check(row)
        keep = torch.from_numpy(allowed).to(logits.device)
        return logits.masked_fill(~keep, float("-inf"))

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Tell the grammar which token each answer received."""
        for row, token in zip(rows, tokens, strict=True):
            if not self.matchers[row].is_stopped():
                self.matchers[row].consume_token(token)
                self._check(row)

    def _check(self, row: int) -> None:
        matcher = self.matchers[row]
        if matcher.is_error():
            raise ConfigError(
                f"constrained decoding stopped in answer {row} of the batch: "
                f"{matcher.get_error().splitlines()[0]}. Simplify the schema."
            )


def compile_schema(schema: dict[str, Any]) -> str:
    """A JSON Schema as a grammar.

    Numbers get at most `DECIMALS` decimals and an integer part within `LARGEST`: a schema that
    says "number" would let a model write digits until the limit.

    Keys come in the order of `properties`. Keywords that the engine cannot enforce are refused
    rather than ignored: an answer that parses but breaks the schema would look like a guarantee.
    What it permits and `jsonschema` refuses: days that no month has and leap seconds, a key twice
    where other keys than `properties` are allowed, and in `pattern` the digits of other scripts
    where a class excludes `\\d`. So answers are validated under a constraint as well.

    Args:
        schema: A JSON Schema, draft 2020-12; local references only.
    Raises:
        ConfigError: The engine does not support the schema; says which part.
    Source: llguidance 1.9.1, docs/json_schema.md
    """
    from llguidance import LLMatcher

    try:
        bounded = json.dumps(_bounded(schema))
        grammar = LLMatcher.grammar_from_json_schema(bounded, overrides=LAYOUT)
    except ValueError as error:
        raise ConfigError(f"this schema cannot constrain decoding: {error}") from error
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed or messages:
        name = schema.get("title", "without a title")
        raise ConfigError(
            f"schema {name!r} cannot constrain decoding: {messages[0].splitlines()[0]}. "
            "Remove the keyword, or decode freely and validate."
        )
    return grammar


def _bounded(node: Any) -> Any:
    """A copy of a schema in which no number is endless."""
    if isinstance(node, list):
        return [_bounded(part) for part in node]
    if not isinstance(node, dict):
        return node
    new = {}
    for key, value in node.items():
        if key in _MANY and isinstance(value, dict):  # names of fields, which may be called "const"
            new[key] = {name: _bounded(part) for name, part in value.items()}
        else:
            new[key] = value if key in ("enum", "const") else _bounded(value)
    kinds = node.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    if kinds & {"number", "integer"} and "enum" not in node and "const" not in node:
        if "number" in kinds:
            new.setdefault("multipleOf", 10.0**-DECIMALS)
        low = node.get("minimum", node.get("exclusiveMinimum"))
        high = node.get("maximum", node.get("exclusiveMaximum"))
        if low is None:
            new["minimum"] = min(-LARGEST, (high or 0) - LARGEST)
        if high is None:
            new["maximum"] = max(LARGEST, (low or 0) + LARGEST)
    return new


SHORT_FORMATS = {"date", "uuid", "ipv4", "ipv6"}
"""Formats that bound the length of a text: a time may have any number of decimals."""
_MANY = ("properties", "patternProperties", "$defs", "definitions")
_ONE = ("items", "additionalProperties", "then", "else")
_BRANCHES = ("anyOf", "oneOf", "allOf")


def endless(schema: Any, place: str = "$") -> list[str]:
    """Places where an answer that obeys a schema can go on for ever.

    Constrained decoding guarantees what is written, not that it ends: a text without `maxLength`,
    an array without `maxItems`, an object that may have other keys or a value of any type can reach
    the length limit, and then the answer does not parse. A pattern is a bound if it holds the whole
    text and repeats nothing without end, a format if it is of `SHORT_FORMATS`. A schema that refers
    to one around it is named too, longer circles of references are not.

    Example:
        >>> fields = {"a": {"type": "string"}, "b": {"type": "boolean"}, "c": {}}
        >>> endless({"type": "object", "properties": fields, "additionalProperties": False})
        ['$.properties.a: text without maxLength', '$.properties.c: value without type']
        >>> endless({"type": "object"})
        ['$: object without additionalProperties: false']
    """
    return _endless(schema, place, typed=False)


def _endless(schema: Any, place: str, *, typed: bool) -> list[str]:
    """`endless`; a branch of a schema that has a type is `typed`."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict) or schema.keys() & {"enum", "const"}:
        return []
    found = []
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    ref = schema.get("$ref")
    if "string" in kinds and not _short(schema):
        found.append(f"{place}: text without maxLength")
    if "array" in kinds and "maxItems" not in schema and schema.get("items") is not False:
        found.append(f"{place}: array without maxItems")
    if "object" in kinds and (schema.get("additionalProperties") is not False
                              or schema.get("patternProperties")):  # fmt: skip
        found.append(f"{place}: object without additionalProperties: false")
    if not (kinds or typed or ref or schema.keys() & set(_BRANCHES)):
        found.append(f"{place}: value without type")
    if isinstance(ref, str) and f"{place}.".startswith("$" + ref[1:].replace("/", ".") + "."):
        found.append(f"{place}: refers to {ref}, which it is a part of")
    for key in _MANY:
        for name, part in (schema.get(key) or {}).items():
            found += _endless(part, f"{place}.{key}.{name}", typed=False)
    for key in _ONE:
        if isinstance(schema.get(key), dict):
            branch = bool(kinds or typed) and key in ("then", "else")
            found += _endless(schema[key], f"{place}.{key}", typed=branch)
    for key in ("prefixItems", *_BRANCHES):
        for i, part in enumerate(schema.get(key) or ()):
            branch = bool(kinds or typed) and key in _BRANCHES
            found += _endless(part, f"{place}.{key}[{i}]", typed=branch)
    return found


def _short(schema: dict[str, Any]) -> bool:
    """Something bounds the length of a text."""
    bare = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "x", str(schema.get("pattern", "")))
    ends = bare.startswith("^") and bare.endswith("$") and not re.search(r"[*+]|\{\d*,\}", bare)
    flat = None
    while flat != bare:
        flat, bare = bare, re.sub(r"\([^()]*\)", "x", bare)
    whole = ends and "|" not in flat  # of "^a$|b" only one branch holds the whole text
    return "maxLength" in schema or whole or schema.get("format") in SHORT_FORMATS


def constraint(
    tokenizer: Any, schemas: Sequence[dict[str, Any]], *, stops: Sequence[int], n_vocab: int
) -> Constraint:
    """Bind one schema per prompt to a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        schemas: One JSON Schema per prompt; equal ones are compiled once.
        stops: Ids that end an answer (the model's generation config).
        n_vocab: Width of the model's logits, which may exceed the tokenizer's vocabulary.
    Raises:
        ConfigError: A schema cannot be compiled, the engine misreads the tokenizer, or no stop.
    """
    if not stops:
        raise ConfigError(
            "no id ends an answer: give stops, as a list (generation_config.eos_token_id)"
        )
    import llguidance.hf

    vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=n_vocab, eos_token=list(stops))
    read = vocabulary.decode_bytes(tokenizer.encode(PROBE, add_special_tokens=False))
    if read != PROBE.encode():
        raise ConfigError(
            f"the grammar engine reads the tokens of {PROBE!r} as {read!r}: it would mask wrong "
            "tokens. The decoder in tokenizer.json does not belong to its vocabulary; repair it (a "
            "byte-level vocabulary needs the ByteLevel decoder)."
        )
    compiled: dict[str, str] = {}
    keys = [sha256_json(schema) for schema in schemas]
    for key, schema in zip(keys, schemas, strict=True):
        compiled[key] = compiled.get(key) or compile_schema(schema)
    return Constraint(vocabulary, tuple(compiled[key] for key in keys))
