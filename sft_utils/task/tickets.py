"""The running task: one support mail in, one JSON ticket out (data/tickets)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_utils.artifacts import ROOT
from sft_utils.errors import DataError
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer
from sft_utils.scores.scoring import Score, score

SCHEMA = "data/tickets/schema.json"
TEST = "data/tickets/test.jsonl"
FEW_SHOT = "data/tickets/fewshot.jsonl"

SYSTEM = "Turn the mail into a ticket as JSON."
"""All that a tuned model is told: the rest is in its weights."""

INSTRUCTIONS = """\
You turn customer mails into support tickets. Answer with one JSON object and nothing else.
Keys, in this order; use null when the mail does not say:
"topic": one of "billing", "delivery", "defect", "return", "account", "question"
"product": proper name of the product as written, without generic words
"order_id": order, invoice or contract number, upper case, without "#"
"amount": the disputed sum as a number with a decimal point
"currency": one of "EUR", "USD", "GBP", "CHF"; null if and only if amount is null
"date": the first full date in the customer's text as YYYY-MM-DD; the year is 2026 if missing
"customer": name as signed, without title
"action": one of "refund", "replacement", "repair", "information", "change", "cancel"
"urgent": true only if the mail says so or sets a deadline, else false"""
"""What a model must be told when its weights do not know the task."""


def read_rows(path: str | Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of a curated JSONL file; `limit` takes an even spread over the file.

    Raises:
        DataError: A line is not JSON, or the file is empty; names the line.
    """
    file = Path(path) if Path(path).is_absolute() else ROOT / path
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    if not rows:
        raise DataError(f"{path} holds no rows")
    if limit is not None and limit < len(rows):
        rows = _spread(rows, limit)
    return rows


def prefer_handwritten(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows: the hand-written ones first, then generated ones, half of them urgent.

    A quarter of all mails are urgent, so "false" is a safe guess for the last key of a ticket; a
    model trained on the plain mix took it in most doubtful cases. Written mails stay as they are.
    """
    by_hand = [r for r in rows if r["source"] == "handwritten"][:limit]
    others = [r for r in rows if r["source"] != "handwritten"]
    urgent = [r for r in others if gold(r)["urgent"]]
    calm = [r for r in others if not gold(r)["urgent"]]
    n = min(limit - len(by_hand), len(others))
    n_urgent = min(len(urgent), max(n // 2, n - len(calm)))
    return by_hand + _spread(urgent, n_urgent) + _spread(calm, n - n_urgent)


def _spread(rows: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """`n` rows, evenly over the sequence."""
    return [rows[i * len(rows) // n] for i in range(n)]


def mail(row: dict[str, Any]) -> str:
    """The customer's text of a row."""
    return row["messages"][0]["content"]


def gold(row: dict[str, Any]) -> dict[str, Any]:
    """The ticket of a row as an object."""
    return json.loads(row["messages"][1]["content"])


def conversation(row: dict[str, Any], system: str = SYSTEM) -> list[Message]:
    """System prompt, mail and ticket: what a row is trained on."""
    return [{"role": "system", "content": system}, *row["messages"]]


def prompt(
    row: dict[str, Any], system: str = SYSTEM, examples: Sequence[dict[str, Any]] = ()
) -> list[Message]:
    """System prompt, solved examples as earlier turns, and the mail."""
    shots = [message for example in examples for message in example["messages"]]
    return [{"role": "system", "content": system}, *shots, row["messages"][0]]


def score_answers(rows: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> list[Score]:
    """Score answers against the tickets of their rows."""
    return [score(a.text, gold(r), SCHEMA) for r, a in zip(rows, answers, strict=True)]
