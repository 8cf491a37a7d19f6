"""The mechanical part of GUIDELINES.md and schema.json, as a check of one mail and its ticket."""

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parent / "schema.json").read_text(encoding="utf-8")
)
KEYS: list[str] = SCHEMA["required"]


def schema_problems(ticket: object) -> list[str]:
    """What schema.json forbids in a ticket; also the order of the keys."""
    if not isinstance(ticket, dict):
        return ["not an object"]
    if list(ticket) != KEYS:
        return [f"keys {list(ticket)}"]
    problems = []
    for key, rule in SCHEMA["properties"].items():
        value = ticket[key]
        types = rule.get("type", [])
        if "enum" in rule:
            good = value in rule["enum"]
        elif value is None:
            good = "null" in types
        elif "number" in types:
            good = type(value) in (int, float) and rule["minimum"] <= value <= rule["maximum"]
        elif "boolean" in types:
            good = isinstance(value, bool)
        else:
            good = isinstance(value, str) and 1 <= len(value) <= rule.get("maxLength", 60)
            good = good and bool(re.search(rule.get("pattern", ""), value))
            good = good and (rule.get("format") != "date" or _is_date(value))
        if not good:
            problems.append(f"{key}={value!r}")
    return problems


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def ticket_problems(mail: str, ticket: object) -> list[str]:
    """What a program can find wrong with a label: schema, and names that the mail does not hold.

    Example:
        >>> ticket_problems("hi", {"topic": "billing"})
        ["keys ['topic']"]
    """
    problems = schema_problems(ticket)
    if problems or not isinstance(ticket, dict):
        return problems
    for key in ("product", "customer"):
        if ticket[key] is not None and ticket[key] not in mail:
            problems.append(f"{key} {ticket[key]!r} is not in the mail")
    if ticket["order_id"] is not None and ticket["order_id"] not in mail.upper():
        problems.append(f"order_id {ticket['order_id']!r} is not in the mail")
    if (ticket["amount"] is None) != (ticket["currency"] is None):
        problems.append("amount and currency are not null together")
    return problems
