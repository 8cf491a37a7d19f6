"""Damage that a curation notebook has to find: one function for each kind.

Every function takes a clean row and returns a damaged copy with a note, or None if this row does
not lend itself to the damage; the caller then tries another row. The rest of the row stays right,
so a row has exactly one defect.
"""

import html
import re
from collections.abc import Callable
from random import Random
from typing import Any

from guidelines import schema_problems
from intruders import over_long, personal_data
from lexicon import pick_person, pick_product_name
from rows import Item, Row, dump, mail_of, ticket_of, with_texts
from written import CURRENCIES, pick_day, pick_money


def broken_line(rng: Random, row: Row) -> Item:
    """A line that is no JSON: cut off, with a NUL byte, or two objects in one line."""
    kind = rng.choice(("truncated", "NUL byte", "two objects in one line"))
    cut = rng.uniform(0.3, 0.9)

    def damage(line: str) -> str:
        if kind == "truncated":
            return line[: int(len(line) * cut)]
        if kind == "NUL byte":
            at = line.index('"content"') + 15
            return line[:at] + "\0" + line[at:]
        return line + line

    return Item(row=row, note=kind, damage=damage)


def invalid_json_answer(rng: Random, row: Row) -> Item:
    """An answer that json.loads refuses, or that hides the object in prose."""
    answer = row["messages"][1]["content"]
    forms = {
        "missing closing brace": answer[:-1],
        "single quotes": repr(ticket_of(row)),
        "prose around the object": f"Here is the ticket you asked for:\n{answer}\nAnything else?",
        "trailing comma": answer[:-1] + ",}",
        "code fence": f"```json\n{answer}\n```",
        "unquoted keys": re.sub(r'"(\w+)":', r"\1:", answer),
        "cut in the middle": answer[: len(answer) * 2 // 3],
    }
    note = rng.choice(list(forms))
    return Item(row=with_texts(row, answer=forms[note]), note=note)


def schema_violation(rng: Random, row: Row) -> Item | None:
    """An answer that is JSON but not a ticket."""
    ticket = ticket_of(row)
    missing = rng.choice(list(ticket))
    changes: dict[str, dict[str, Any] | None] = {
        "key missing": {k: v for k, v in ticket.items() if k != missing},
        "extra key": {**ticket, "priority": rng.choice(("high", "low"))},
        "unknown topic": {**ticket, "topic": rng.choice(("complaint", "Billing", "shipping"))},
        "unknown action": {**ticket, "action": rng.choice(("return", "exchange", "none"))},
        "boolean as text": {**ticket, "urgent": "yes" if ticket["urgent"] else "no"},
        "number as text": {**ticket, "amount": str(ticket["amount"])} if ticket["amount"] else None,
        "date not ISO": {**ticket, "date": "/".join(reversed(ticket["date"].split("-")))}
        if ticket["date"]
        else None,
        "empty text for null": {**ticket, "product": ""} if ticket["product"] is None else None,
        "order number with #": {**ticket, "order_id": f"#{ticket['order_id']}"}
        if ticket["order_id"]
        else None,
    }
    note = rng.choice([name for name, value in changes.items() if value is not None])
    if not schema_problems(changes[note]):
        return None
    return Item(row=with_texts(row, answer=dump(changes[note])), note=note)


def contradiction(rng: Random, row: Row) -> Item | None:
    """A well-formed ticket that says something else than the mail."""
    ticket, mail = ticket_of(row), mail_of(row)
    key = rng.choice(("order_id", "customer", "product", "amount", "date"))
    old = ticket[key]
    if old is None:
        return None
    if key == "order_id":
        at = [n for n in range(len(old) - 1) if old[n].isdigit() and old[n + 1].isdigit()]
        at = [n for n in at if old[n] != old[n + 1]]
        if not at:
            return None
        n = rng.choice(at)
        new: Any = old[:n] + old[n + 1] + old[n] + old[n + 2 :]
    elif key == "customer":
        new = pick_person(rng).name
    elif key == "product":
        new = pick_product_name(rng, "gadget")
    elif key == "amount":
        new = pick_money(rng, max(2, old * 0.4), old * 3 + 5, rng.choice(CURRENCIES)).value
    else:
        new = pick_day(rng).iso
    written = f"{new:g}" if key == "amount" else str(new)
    if new == old or written.upper() in mail.upper():
        return None
    ticket[key] = new
    return Item(row=with_texts(row, answer=dump(ticket)), note=f"{key}: {old!r} became {new!r}")


def mojibake(rng: Random, row: Row) -> Item | None:
    """Mail and answer in the wrong encoding, once or twice, or with replacement characters."""
    texts = [message["content"] for message in row["messages"]]
    if texts[0].isascii():
        return None
    note = rng.choice(("UTF-8 read as cp1252", "UTF-8 read as cp1252 twice", "U+FFFD"))
    try:
        if note == "U+FFFD":
            texts = [text.encode("cp1252").decode("utf-8", "replace") for text in texts]
        else:
            for _ in range(1 if note.endswith("cp1252") else 2):
                texts = [text.encode("utf-8").decode("cp1252") for text in texts]
    except UnicodeError:  # letters or bytes that cp1252 does not have
        return None
    return Item(row=with_texts(row, *texts), note=note)


def empty(rng: Random, row: Row) -> Item:
    """No mail or no answer."""
    blank = rng.choice(("", " ", "\n", " \n\n "))
    if rng.random() < 0.5:
        return Item(row=with_texts(row, mail=blank), note="empty mail")
    return Item(row=with_texts(row, answer=blank), note="empty answer")


def wrong_roles(rng: Random, row: Row) -> Item:
    """Messages that no chat template accepts."""
    user, assistant = row["messages"]
    forms: dict[str, list[dict[str, str]]] = {
        "human/gpt": [{**user, "role": "human"}, {**assistant, "role": "gpt"}],
        "two user turns": [user, {"role": "user", "content": "Hello?"}, assistant],
        "assistant first": [assistant, user],
        "no assistant": [user],
        "unknown role": [{**user, "role": "customer"}, assistant],
        "content missing": [user, {"role": "assistant"}],
        "both are user": [user, {**assistant, "role": "user"}],
    }
    note = rng.choice(list(forms))
    return Item(row={**row, "messages": forms[note]}, note=note)


def html_markup(rng: Random, row: Row) -> Item | None:
    """A mail with tags and entities; the labelled words stay readable."""
    mail, ticket = mail_of(row), ticket_of(row)
    labels = [ticket[key] for key in ("product", "customer", "order_id") if ticket[key]]
    if any(html.escape(label) != label for label in labels):
        return None
    lines = [html.escape(line) for line in mail.split("\n") if line]
    note = rng.choice(("paragraphs", "breaks and spaces", "styled div"))
    if note == "paragraphs":
        text = "".join(f"<p>{line}</p>" for line in lines)
    elif note == "breaks and spaces":
        text = "<br>\n".join(lines).replace(". ", ".&nbsp; ")
    else:
        body = "</span><br/><span>".join(lines)
        text = f'<div style="font-family:Arial;font-size:11pt"><span>{body}</span></div>'
    return Item(row=with_texts(row, mail=text), note=note)


def foreign_licence(rng: Random, row: Row) -> Item:
    """A row from a source that may not be trained on."""
    licence = rng.choice(("CC-BY-NC-4.0", "GPL-3.0", "unknown", None))
    source = rng.choice(("forum-scrape", "vendor-kb"))
    copy = {**row, "source": source, "licence": licence}
    if licence is None:
        del copy["licence"]
    return Item(row=copy, note=f"{source}, licence {licence or 'missing'}")


DAMAGES: dict[str, tuple[int, Callable[[Random, Row], Item | None]]] = {
    "broken_line": (6, broken_line),
    "invalid_json_answer": (25, invalid_json_answer),
    "schema_violation": (20, schema_violation),
    "contradiction": (30, contradiction),
    "mojibake": (25, mojibake),
    "empty": (15, empty),
    "wrong_roles": (20, wrong_roles),
    "html": (20, html_markup),
    "foreign_licence": (20, foreign_licence),
    "over_long": (12, over_long),
    "personal_data": (25, personal_data),
}
