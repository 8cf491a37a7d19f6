"""What a training set covers, and how hard its rows are: simple counts, computed from the rows."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Any

from sft_utils.curation.answers import FACTS, ticket_of
from sft_utils.data.rows import Row, mail_of

HARD_STYLES = frozenset({"typos", "non_native", "quoted_reply", "several_issues"})
"""Styles that hide what a plain mail says outright."""
LONG_WORDS = 60
_NUMBER = re.compile(r"\S*\d\S*")


def _spellings(ticket: dict[str, Any]) -> set[str]:
    """Digit strings that the labelled facts may leave in a mail."""
    digits = {re.sub(r"\D", "", str(ticket[name] or "")) for name in ("order_id", "product")}
    digits |= set(re.findall(r"\d+", ticket["product"] or ""))
    if ticket["amount"] is not None:
        digits |= {str(int(ticket["amount"])), f"{ticket['amount']:.2f}".replace(".", "")}
        digits.add(re.sub(r"\D", "", str(ticket["amount"])))
    if ticket["date"]:
        day = date.fromisoformat(ticket["date"])
        heads = (f"{day.day}{day.month}", f"{day.day:02}{day.month:02}", str(day.day))
        heads = (*heads, f"{day.day:02}", f"{day.month:02}{day.day:02}", "")
        digits |= {head + str(tail) for head in heads for tail in ("", day.year, day.year % 100)}
        digits.add(ticket["date"].replace("-", ""))
    return digits


def decoys(row: Row) -> int:
    """Numbers in a mail that belong to no label: serials, quantities, other sums, quoted dates.

    Example:
        >>> content = "Order 4711 of 3.4.: 2 of 5 cups broken"
        >>> answer = '{"order_id":"4711","product":null,"amount":null,"date":"2026-04-03"}'
        >>> decoys({"messages": [{"content": content}, {"content": answer}]})
        2
    """
    known = _spellings(ticket_of(row))
    seen = (re.sub(r"\D", "", token) for token in _NUMBER.findall(mail_of(row)))
    return sum(digits not in known for digits in seen)


def features(row: Row) -> dict[str, Any]:
    """The properties of a row that coverage tables and the difficulty are made of.

    `difficulty` counts what a reader has to do: facts to find, decoys to pass by, one for a long
    mail, one for a hard style. It orders rows; it has no unit.
    """
    ticket, words = ticket_of(row), len(mail_of(row).split())
    facts = sum(ticket[name] is not None for name in FACTS if name != "currency")
    found = {
        "topic": ticket["topic"],
        "action": ticket["action"],
        "urgent": ticket["urgent"],
        "style": row["style"],
        "source": row["source"],
        "words": words,
        "facts": facts,
        "decoys": decoys(row),
    }
    hard = (words > LONG_WORDS) + (row["style"] in HARD_STYLES)
    return {**found, "difficulty": facts + found["decoys"] + hard}


def crosstab(rows: Iterable[dict[str, Any]], across: str, down: str) -> list[dict[str, Any]]:
    """Counts of two features against each other, one table row per value of `down`.

    Example:
        >>> crosstab([{"a": 1, "b": "x"}, {"a": 2, "b": "x"}], across="a", down="b")
        [{'b': 'x', 1: 1, 2: 1}]
    """
    counts = Counter((row[down], row[across]) for row in rows)
    columns = sorted({value for _, value in counts})
    return [
        {down: line, **{column: counts[line, column] for column in columns}}
        for line in sorted({value for value, _ in counts})
    ]
