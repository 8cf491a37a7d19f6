"""How good is the funnel itself: its drops against an answer key of planted defects."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sft_utils.errors import DataError
from sft_utils.scores.intervals import wilson

CAUGHT_BY = {
    "broken_line": "parse",
    "wrong_roles": "roles",
    "empty": "empty",
    "over_long": "over_long",
    "mojibake": "encoding",
    "html": "markup",
    "foreign_licence": "licence",
    "personal_data": "personal_data",
    "invalid_json_answer": "answer_json",
    "schema_violation": "answer_schema",
    "contradiction": "answer_contradicts",
    "leakage_exact": "leakage",
    "leakage_near": "leakage",
    "exact_duplicate": "exact_duplicate",
    "near_duplicate": "near_duplicate",
}
"""Planted defect -> the filter that has to find it."""

CLEAN = "none"
"""Kind of a key entry that looks like a defect and is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindScore:
    """How one kind of defect fared."""

    kind: str
    planted: int
    caught: int  # dropped by any filter
    right: int  # dropped by the filter made for it
    missed: list[int]  # lines

    @property
    def recall(self) -> dict[str, Any]:
        """Share caught by the right filter, as a metric entry."""
        return proportion(self.right, self.planted)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterScore:
    """How one filter fared."""

    filter: str
    dropped: int
    right: int  # rows with a defect this filter is made for
    other: int  # rows with another defect
    false: list[int]  # lines of clean rows

    @property
    def precision(self) -> dict[str, Any]:
        """Share of the dropped rows that have a defect, as a metric entry."""
        return proportion(self.right + self.other, self.dropped)


def proportion(hits: int, n: int) -> dict[str, Any]:
    """Counts as a metric entry: value, n, ci95 (Wilson)."""
    return {"value": hits / n, "n": n, "ci95": wilson(hits, n)}


def _keys_by_line(
    dropped: Iterable[dict[str, Any]], planted: dict[int, dict[str, Any]]
) -> dict[int, int]:
    """Map each dropped line to the planted line it stands for.

    A funnel keeps the first of two equal rows. Where the planted copy comes before its original,
    it is the original that goes, as a repeat of that copy, and the pair was still found. A row
    that goes as a repeat of any other row has found nothing.
    """
    by_original = defaultdict(list)
    for line, entry in planted.items():
        if "duplicate" in entry["defect"]:
            by_original[entry["of"]].append(line)
    gone = {drop["line"] for drop in dropped}
    stands_for = {line: line for line in gone}
    for drop in dropped:
        if drop["line"] in planted:
            continue
        copies = by_original[drop["id"]]
        found = [n for n in copies if n not in gone and planted[n]["id"] == drop.get("of")]
        if found:
            stands_for[drop["line"]] = found[0]
            gone.add(found[0])
    return stands_for


def score_filters(
    dropped: Iterable[dict[str, Any]], answer_key: Iterable[dict[str, Any]]
) -> tuple[list[KindScore], list[FilterScore]]:
    """Score dropped rows against an answer key.

    Args:
        dropped: Records of dropped.jsonl.
        answer_key: Records with line, id, defect ("none" for clean look-alikes) and `of`.
    Returns:
        One score per kind of defect, and one per filter that dropped something.
    Raises:
        DataError: The key names a defect that no filter is made for.
    """
    drops = list(dropped)
    planted = {entry["line"]: entry for entry in answer_key if entry["defect"] != CLEAN}
    unknown = {entry["defect"] for entry in planted.values()} - CAUGHT_BY.keys()
    if unknown:
        raise DataError(
            f"answer key: no filter is made for {', '.join(sorted(unknown))}. "
            "Add the kind to audit.CAUGHT_BY."
        )
    stands_for = _keys_by_line(drops, planted)
    filter_of = {stands_for[drop["line"]]: drop["filter"] for drop in drops}
    kinds = []
    for kind in dict.fromkeys(CAUGHT_BY):
        lines = [line for line, entry in planted.items() if entry["defect"] == kind]
        caught = [line for line in lines if line in filter_of]
        right = sum(filter_of[line] == CAUGHT_BY[kind] for line in caught)
        missed = [line for line in lines if line not in filter_of]
        if lines:
            kinds.append(
                KindScore(
                    kind=kind, planted=len(lines), caught=len(caught), right=right, missed=missed
                )
            )
    total, right_of, other, false = Counter(), Counter(), Counter(), defaultdict(list)
    for drop in drops:
        name, entry = drop["filter"], planted.get(stands_for[drop["line"]])
        total[name] += 1
        if entry is None:
            false[name].append(drop["line"])
        elif CAUGHT_BY[entry["defect"]] == name:
            right_of[name] += 1
        else:
            other[name] += 1
    return kinds, [
        FilterScore(
            filter=name, dropped=n, right=right_of[name], other=other[name], false=false[name]
        )
        for name, n in total.items()
    ]
