"""Recorded entries that no report can compare or draw, and what is wrong with them, in words."""

import math
from collections.abc import Mapping
from typing import Any

KEYS = {"run_id": str, "headline": str, "wall_s": int | float, "metrics": dict, "manifest": dict}
"""What the report reads of every result file."""


def lacking(result: Mapping[str, Any]) -> str:
    """What of `KEYS` a result does not hold, in a few words; empty for a whole one."""
    missing = [key for key, kind in KEYS.items() if not isinstance(result.get(key), kind)]
    return f"it lacks {', '.join(missing)}" if missing else ""


def unfit(entry: object) -> str:
    """What makes one entry of `metrics` unusable; empty for a sound one.

    Example:
        >>> unfit({"value": None}), unfit({"value": 0.5, "n": 8, "ci95": [0.4]})
        ('the value None is no number', 'the interval [0.4] is not two numbers')
        >>> unfit({"value": 0.5, "n": 8, "ci95": [0.4, 0.6]}), unfit({"value": 7})
        ('', '')
    """
    if not isinstance(entry, Mapping):
        return f"{entry!r} is no entry with a value"
    value, n, ci95 = entry.get("value"), entry.get("n"), entry.get("ci95")
    if not _is_number(value):
        return f"the value {value!r} is no number"
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        return f"n = {n!r} is no count"
    pair = ci95 is None or (
        isinstance(ci95, list) and len(ci95) == 2 and all(map(_is_number, ci95))
    )
    return "" if pair else f"the interval {ci95!r} is not two numbers"


def parted(metrics: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The usable entries, and for each of the others what is wrong with it."""
    wrong = {name: why for name, entry in metrics.items() if (why := unfit(entry))}
    return {name: entry for name, entry in metrics.items() if name not in wrong}, wrong


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
