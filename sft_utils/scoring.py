"""Metrics of structured answers, and intervals that say how far to trust them."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sft_utils.artifacts import ROOT, read_json
from sft_utils.errors import ConfigError

RESAMPLES = 2000
"""Bootstrap resamples; the 95 % bounds move by less than 0.005 between seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one answer is worth."""

    parses: bool  # the whole answer is one JSON value by the standard
    schema_valid: bool  # ... and it satisfies the schema, formats included
    exact: bool  # ... and equals the gold object
    tp: int  # fields right, null fields not counted
    fp: int  # fields filled with something wrong or invented
    fn: int  # gold fields missed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError(f"duplicate key in {keys}")
    return dict(pairs)


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constants)


def parse_json(text: str) -> Any:
    """Parse a whole answer as one JSON value; NaN, infinity and duplicate keys are refused.

    Raises:
        ValueError: Not JSON; the message says where.
    """
    return _DECODER.decode(text.strip())


def extract_json(text: str) -> dict[str, Any] | None:
    """First JSON object in an answer that may have prose or a code fence around it.

    Field scores use this for every arm, so that a prompted model is not scored zero for saying
    "Here is the JSON:" first. Whether the answer *is* JSON is `parse_json`'s question.
    """
    start = text.find("{")
    while start != -1:
        try:
            value, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


@lru_cache(maxsize=8)
def _validator(path: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = read_json(ROOT / path)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def schema_errors(value: Any, schema: str) -> list[str]:
    """All violations of a JSON Schema file (draft 2020-12, formats checked), empty if valid.

    Args:
        value: A parsed JSON value.
        schema: Path of the schema, relative to the repository root.
    """
    errors = sorted(_validator(schema).iter_errors(value), key=lambda e: list(map(str, e.path)))
    return [f"{'/'.join(map(str, e.path)) or '(root)'}: {e.message}" for e in errors]


def same_value(a: Any, b: Any) -> bool:
    """JSON equality: 1 equals 1.0, but true does not equal 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return a == b


def score(answer: str, gold: dict[str, Any], schema: str) -> Score:
    """Score one answer against its gold object.

    A field counts as found only if its value is exactly right. Fields that are null in the gold
    object earn nothing (most fields of most mails are null; counting them would flatter every
    model), but filling one of them is an error.
    """
    try:
        parsed, parses = parse_json(answer), True
    except (ValueError, RecursionError):
        parsed, parses = None, False
    found = extract_json(answer) or {}
    tp = fp = fn = 0
    for key in gold.keys() | found.keys():
        want, got = gold.get(key), found.get(key)
        hit = want is not None and got is not None and same_value(want, got)
        tp += hit
        fn += want is not None and not hit
        fp += got is not None and not hit
    return Score(
        parses=parses,
        schema_valid=parses and not schema_errors(parsed, schema),
        exact=parses
        and isinstance(parsed, dict)
        and parsed.keys() == gold.keys()
        and all(same_value(parsed[k], gold[k]) for k in gold),
        tp=tp,
        fp=fp,
        fn=fn,
    )


def field_f1(scores: Sequence[Score]) -> float:
    """Micro-averaged F1 over fields: 2 tp / (2 tp + fp + fn)."""
    tp, fp, fn = (sum(getattr(s, k) for s in scores) for k in ("tp", "fp", "fn"))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def wilson(successes: int, n: int) -> list[float]:
    """95 % Wilson interval of a proportion; honest at 0 % and 100 %, unlike the bootstrap."""
    if n == 0:
        raise ConfigError("an interval needs n > 0")
    z, p = 1.959964, successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """A proportion as a metric entry: value, n, ci95 (Wilson)."""
    n = len(hits)
    if not n:
        raise ConfigError("a proportion of no items: the arm has no rows to score")
    return {"value": sum(hits) / n, "n": n, "ci95": wilson(sum(hits), n)}


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, *, seed: int = 17
) -> list[float]:
    """95 % percentile interval over resampled items.

    Args:
        statistic: Maps item indices of shape (RESAMPLES, n) to values of shape (RESAMPLES,).
        n: Number of items.
    """
    draws = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    low, high = np.percentile(statistic(draws), [2.5, 97.5])
    return [float(low), float(high)]


def _f1_of(scores: Sequence[Score]) -> Callable[[np.ndarray], np.ndarray]:
    tp = np.array([s.tp for s in scores])
    wrong = np.array([s.fp + s.fn for s in scores])

    def statistic(draws: np.ndarray) -> np.ndarray:
        hits, misses = tp[draws].sum(1), wrong[draws].sum(1)
        return np.where(hits + misses > 0, 2 * hits / np.maximum(2 * hits + misses, 1), 1.0)

    return statistic


def f1_metric(scores: Sequence[Score]) -> dict[str, Any]:
    """Field F1 as a metric entry: value, n (mails), ci95 (bootstrap over mails)."""
    interval = bootstrap(_f1_of(scores), len(scores))
    return {"value": field_f1(scores), "n": len(scores), "ci95": interval}


def f1_difference(a: Sequence[Score], b: Sequence[Score]) -> dict[str, Any]:
    """Field F1 of `a` minus `b` on the same mails, paired bootstrap interval.

    Raises:
        ConfigError: The two lists do not score the same number of items.
    """
    if len(a) != len(b):
        raise ConfigError(f"paired difference needs the same items: {len(a)} and {len(b)}")
    f_a, f_b = _f1_of(a), _f1_of(b)
    interval = bootstrap(lambda draws: f_a(draws) - f_b(draws), len(a))
    return {"value": field_f1(a) - field_f1(b), "n": len(a), "ci95": interval}


def arm_metrics(arm: str, scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """The four published metrics of one arm."""
    return {
        f"{arm}.parses": rate([s.parses for s in scores]),
        f"{arm}.schema_valid": rate([s.schema_valid for s in scores]),
        f"{arm}.field_f1": f1_metric(scores),
        f"{arm}.exact_match": rate([s.exact for s in scores]),
    }


def verdict(difference: dict[str, Any]) -> str:
    """Read a paired difference aloud; an interval that touches zero is no difference."""
    low, high = difference["ci95"]
    text = f"{difference['value']:+.3f} [{low:+.3f}, {high:+.3f}], n = {difference['n']}"
    if low > 0:
        return f"better: {text}"
    if high < 0:
        return f"worse: {text}"
    return f"no difference: {text}"
