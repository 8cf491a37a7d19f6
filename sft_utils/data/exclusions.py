"""What speaks against a row of the reader's file, and how often it did."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import display_path
from sft_utils.data.rows import Row, write_jsonl
from sft_utils.scores.jsonanswers import parse_json, schema_errors

Reason = Callable[[Row], str | None]


def apply(rows: list[Row], reason: Reason, excluded: list[tuple[int, str]]) -> list[Row]:
    """Rows without a reason against them; the others are noted with theirs."""
    kept = []
    for row in rows:
        why = reason(row)
        if why:
            excluded.append((row["line"], why))
        else:
            kept.append(row)
    return kept


def json_answers(rows: list[Row]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """The answers that are JSON objects by number, and why the others are none."""
    found, others = {}, {}
    for row in rows:
        try:
            value = parse_json(row["messages"][-1]["content"])
        except (ValueError, RecursionError) as error:
            others[row["line"]] = f"answer is not JSON: {error}"
            continue
        if isinstance(value, dict):
            found[row["line"]] = value
        else:
            others[row["line"]] = "answer is no JSON object: scoring needs keys"
    return found, others


def breaks(rules: Mapping[str, Any], answers: Mapping[int, Any], words: str) -> Reason:
    """What excludes rows whose answers do not obey a schema."""

    def reason(row: Row) -> str | None:
        errors = schema_errors(answers[row["line"]], dict(rules))
        return f"{words}: {errors[0]}" if errors else None

    return reason


def listed(excluded: Sequence[tuple[int, str]], unit: str, path: Path) -> str:
    """Write every exclusion with its number and full reason, and say where.

    Args:
        excluded: Number and reason of each.
        unit: What the numbers count, "line" or "row".
        path: JSONL file; one of an earlier run is replaced.
    Returns:
        A sentence for the notebook.
    """
    write_jsonl(path, [{unit: number, "reason": reason} for number, reason in sorted(excluded)])
    if not excluded:
        return "nothing was left out"
    return f"{len(excluded)} left out, each with its reason in {display_path(path)}"


def counted(excluded: Sequence[tuple[int, str]], unit: str) -> str:
    """Exclusions by kind, and of the commonest kind the first one in full.

    Args:
        excluded: Number and reason of each; what stands before the first colon is the kind.
        unit: What the numbers count, "line" or "row".
    Example:
        >>> counted([(7, "no JSON: at 0"), (3, "no JSON: at 9"), (1, "too long: 9")], "line")
        '2 × no JSON, 1 × too long; the first of the commonest, line 3: no JSON: at 9'
    """
    kinds = Counter(reason.split(":")[0] for _, reason in excluded).most_common(6)
    if not kinds:
        return "none"
    number, reason = min(e for e in excluded if e[1].split(":")[0] == kinds[0][0])
    counts = ", ".join(f"{n} × {kind}" for kind, n in kinds)
    return f"{counts}; the first of the commonest, {unit} {number}: {reason}"
