"""Numbers, durations and tables as people read them; which way a metric should move."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FALLING = ("nll", "loss", "perplexity", "format_bleed", "leaky_share", "forgetting", "over_refusal")
"""Words in the names of metrics that should fall."""
_FALLS = re.compile(rf"(?:^|[._])(?:{'|'.join(FALLING)})(?:[._]|$)")


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> clock(7.4), clock(130), clock(7260)
        ('7 s', '2 min 10 s', '2 h 01 min')
        >>> clock(60), clock(3600)
        ('1 min 00 s', '1 h 00 min')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A GitHub markdown table; `|` and line breaks in cells are made harmless."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"

    names = list(header)
    return "\n".join([line(names), line(["---"] * len(names)), *map(line, rows)])


def number(value: float | int | bool | None) -> str:
    """A metric value for people: integers exact, fractions to three digits.

    A share that is not quite 0 or 1 never reads as 0 or 1: it gets the digits that show it.

    Example:
        >>> number(160), number(0.98765), number(0.00001234), number(None)
        ('160', '0.988', '1.23e-05', 'none')
        >>> number(0.0), number(0.001), number(0.005), number(1_234_567.0), number(True)
        ('0.000', '0.001', '0.005', '1.23e+06', 'yes')
        >>> number(17577 / 17579), number(0.9996), number(1.0)
        ('0.9999', '0.9996', '1.000')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    digits = 3
    while 1 - abs(value) > 1e-9 and round(abs(value), digits) == 1:
        digits += 1
    return f"{value:.{digits}f}"


def interval(metric: Mapping[str, Any]) -> str:
    """The 95 % interval of a metric as `[low, high]`, or a dash where there is none."""
    bounds = metric.get("ci95")
    return f"[{number(bounds[0])}, {number(bounds[1])}]" if bounds else "-"


def size(metric: Mapping[str, Any]) -> str:
    """The n of a metric, and behind it how many clusters of units its interval draws.

    Example:
        >>> size({"n": 289, "n_clusters": 16}), size({"n": 40}), size({})
        ('289 (16)', '40', '')
    """
    n, clusters = metric.get("n"), metric.get("n_clusters")
    return f"{n} ({clusters})" if n and clusters else str(n or "")


def lower_is_better(metric: str) -> bool:
    """Whether a metric, named without its arm, should fall.

    Whole words count, and an accuracy rises: names may hold that of a reader's file.

    Example:
        >>> lower_is_better("general_nll"), lower_is_better("over_refusal")
        (True, True)
        >>> lower_is_better("glossary.jsonl_accuracy"), lower_is_better("loss.jsonl_accuracy")
        (False, False)
    """
    return bool(_FALLS.search(metric)) and not metric.endswith("accuracy")


def worse(name: str, metric: Mapping[str, Any]) -> bool:
    """Whether a recorded paired difference lies on the worse side of zero with its whole interval.

    Args:
        name: `after_minus_before.metric`; other names are no differences.
        metric: Its entry.
    Example:
        >>> loss = {"value": -0.03, "n": 9, "ci95": [-0.05, -0.01]}
        >>> worse("tuned_minus_base.accuracy", loss), worse("tuned_minus_base.nll", loss)
        (True, False)
    """
    arms, _, measured = name.partition(".")
    if "_minus_" not in arms or not metric.get("ci95"):
        return False
    low, high = metric["ci95"]
    return low > 0 if lower_is_better(measured) else high < 0


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
    return "\n".join(lines)
