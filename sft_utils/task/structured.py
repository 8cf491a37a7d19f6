"""Requests that carry their rules: the examples of notebook 05, authored or the reader's own.

A JSON example is scored by its schema, an XML document by its XSD, a cited answer by its passages,
a report by its outline; all give the same `Score`, so that one table holds them.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sft_utils.artifacts import ROOT, sha256_text
from sft_utils.config import Profile
from sft_utils.data import schemas
from sft_utils.data.rows import in_turns, rows_of
from sft_utils.masks.chat import Message
from sft_utils.model.generation import Answer
from sft_utils.scores import documents, taxonomy
from sft_utils.scores.scoring import Score, field_counts, score
from sft_utils.task import outlines, tasks, tickets

FOLDER = "data/structured"
REPORT = f"{FOLDER}/report.json"
PASSAGE = re.compile(r"^\[\d+\] (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """05: rows of data/structured; tickets come on top, one for every 14 rows."""

    train_rows: int
    group_rows: int  # held-out items of a full group
    learning_rate: float  # on a GPU that of QLoRA (arXiv 2305.14314) for 7B, not measured here
    most_tokens: int  # of a free answer: gold ones need fewer, but at smoke, which cuts them


SIZES = {
    "smoke": Sizes(train_rows=14, group_rows=2, learning_rate=2e-3, most_tokens=12),
    "cpu": Sizes(train_rows=640, group_rows=40, learning_rate=2e-3, most_tokens=4096),
    "gpu": Sizes(train_rows=1560, group_rows=96, learning_rate=2e-4, most_tokens=4096),
}


def sizes(profile: Profile) -> Sizes:
    """Sizes of 05; all GPU profiles share one set."""
    return SIZES[profile.track]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request with its rules and the answer it should get."""

    id: str
    kind: str  # json, xml, citation or report
    name: str  # of the schema
    group: str  # tickets, seen, unseen, own, or the kind
    text: str  # the request, without instructions; of own rows all that stands before the answer
    answer: str  # what is trained, as text
    rules: str  # the schema in a few lines, for the prompt
    schema: dict[str, Any] | None = None  # of JSON answers
    source: str = ""  # handwritten, grammar or own
    system: str = ""  # the own system prompt of a row of the reader's
    asked: tuple[Message, ...] = ()  # its turns before the answer; `text` would lose who spoke

    def turns(self) -> list[Message]:
        """The request, with its earlier turns, and the answer."""
        asked = self.asked or ({"role": "user", "content": self.text},)
        return [*asked, {"role": "assistant", "content": self.answer}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What is trained, and what is asked, by group."""

    train: list[Item]
    groups: dict[str, list[Item]]  # held out
    own: tasks.Own | None = None  # what became of the reader's file
    spare: list[Item] = field(default_factory=list)  # unseen schemas, held out, not asked

    def asked(self, *names: str) -> list[Item]:
        """Held-out items of some groups, one after the other; all without names."""
        return [item for name in names or self.groups for item in self.groups.get(name, ())]

    def examples(self, item: Item, n: int) -> list[Item]:
        """Solved examples for a prompt: trained ones, or spare ones of an unseen schema."""
        return [i for i in (*self.train, *self.spare) if i.name == item.name][:n]


SHARE = {"seen": 1.0, "unseen": 1.0, "tickets": 0.5, "xml": 0.5, "citation": 0.5, "report": 0.5}
"""Group -> held-out items as a share of `group_rows`: the main question gets the most."""


SHOTS = 2
"""Held-out examples of every unseen schema that are kept for prompts, and so not asked."""

WRITTEN = 0.75
"""Share of hand-written rows in training, as far as there are enough."""


def read(*, train_rows: int, group_rows: int, seed: int) -> Items:
    """The authored examples: tickets, seen and unseen schemas, XML, citations, reports.

    Three quarters of what is trained was written by hand, as far as there is: 40 % at the sizes of
    a GPU. Trained on the grammar alone, the 135M
    model wrote valid JSON for all of the grammar's held-out requests, and for 83 % of those that
    were written by hand (n = 49 and 47, one seed).

    Args:
        train_rows: Rows to train on, the schemas taking turns.
        group_rows: Held-out items of a full group (`SHARE`), the schemas taking turns.
        seed: Draws the rows.
    """
    rows = rows_of(ROOT / FOLDER / "train.jsonl")
    seen = {row["schema"] for row in rows}
    train = [_item(row, seen) for row in rows]
    written = _draw([i for i in train if i.source == "handwritten"], train_rows, seed)
    others = _draw([i for i in train if i.source != "handwritten"], train_rows, seed)
    held = [_item(row, seen) for row in rows_of(ROOT / FOLDER / "test.jsonl")]
    held += [_ticket(row) for row in tickets.read_rows(tickets.TEST)]
    groups = {
        name: _draw([i for i in held if i.group == name], max(1, round(group_rows * share)), seed)
        for name, share in SHARE.items()
    }
    unseen = [i for i in held if i.group == "unseen"]
    groups["unseen"], spare = _kept_apart(groups["unseen"], _draw(unseen, len(unseen), seed))
    return Items(
        train=(written[: round(WRITTEN * train_rows)] + others)[:train_rows],
        groups=groups, spare=spare,
    )  # fmt: skip


def _kept_apart(asked: list[Item], every: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """What is asked, and `SHOTS` examples or more of each schema that are not.

    Where nearly all are asked, the last ones of a schema are given back: a few-shot arm without
    examples would be the base arm under another name.
    """
    free = Counter(i.name for i in every) - Counter(i.name for i in asked)
    kept = []
    for item in reversed(asked):
        if free[item.name] < SHOTS:
            free[item.name] += 1
        else:
            kept.append(item)
    ids = {i.id for i in kept}
    return kept[::-1], [i for i in every if i.id not in ids]


def with_tickets(items: Items, rows: Sequence[dict[str, Any]]) -> Items:
    """The same examples, with ticket rows among those that are trained."""
    extra = [_ticket(row) for row in rows]
    mixed = sorted([*items.train, *extra], key=lambda i: sha256_text(i.id))
    return replace(items, train=mixed)


def from_file(
    source: str,
    *,
    schema: str = "",
    mapping: str = "",
    seed: int,
    train_rows: int,
    group_rows: int,
    tokenizer: Any = None,
    max_length: int = 0,
) -> Items:
    """The reader's file as examples of one schema; see `tasks.own`.

    Raises:
        DataError: Nothing usable is left, or the answers are not JSON and no schema was given.
    """
    mine = tasks.own(
        source, schema=schema, mapping=mapping, seed=seed,
        train_rows=train_rows, val_rows=0, test_rows=group_rows,
        tokenizer=tokenizer, max_length=max_length, told=True,
    )  # fmt: skip
    if mine.task.schema is None:
        raise tasks.not_json(source, mine.train)
    return Items(
        train=[_own(row, mine.task) for row in mine.train],
        groups={"own": [_own(row, mine.task) for row in mine.test]},
        own=mine,
    )


def _own(row: dict[str, Any], task: tasks.Task) -> Item:
    before = row["messages"][:-1]
    system = [m["content"] for m in before if m["role"] == "system"]
    return Item(
        id=row["id"], kind="json", name="own", group="own", source="own",
        text=tasks.request(row), answer=task.answer(row), schema=task.schema,
        rules=schemas.signature(task.schema), system="\n\n".join(system),
        asked=tuple(m for m in before if m["role"] != "system"),
    )  # fmt: skip


def _item(row: dict[str, Any], seen: set[str]) -> Item:
    kind, name, answer = row["kind"], row["schema"], row["answer"]
    group = kind if kind != "json" else "seen" if name in seen else "unseen"
    if kind == "json":
        answer = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return Item(
        id=row["id"], kind=kind, name=name, group=group, source=row["source"], text=row["text"],
        answer=answer, rules=rules(kind, name), schema=_schema(name) if kind == "json" else None,
    )  # fmt: skip


def _ticket(row: dict[str, Any]) -> Item:
    schema = _schema("ticket")
    return Item(
        id=row["id"], kind="json", name="ticket", group="tickets", source=row["source"],
        text=tickets.mail(row), answer=row["messages"][-1]["content"], schema=schema,
        rules=schemas.signature(schema),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _schema(name: str) -> dict[str, Any]:
    path = tickets.SCHEMA if name == "ticket" else f"{FOLDER}/schemas/{name}.json"
    return schemas.load_schema(ROOT / path)


@lru_cache(maxsize=64)
def rules(kind: str, name: str) -> str:
    """What a prompt says about the form of an answer."""
    if kind == "json":
        return schemas.signature(_schema(name))
    if kind == "xml":
        return outlines.of_xsd(f"{FOLDER}/xsd/{name}.xsd")
    if kind == "report":
        return outlines.of_report(REPORT)
    return ""


def _draw(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """At most `n` items, the names taking turns, in an order that the seed decides."""
    shuffled = sorted(items, key=lambda i: sha256_text(f"{seed}:{i.id}"))
    return in_turns(shuffled, key=lambda i: i.name)[:n]


def verdict(item: Item, text: str) -> documents.Verdict:
    """Judge an answer that is not JSON by the rules of its kind."""
    if item.kind == "xml":
        return documents.check_xml(text, f"{FOLDER}/xsd/{item.name}.xsd")
    if item.kind == "report":
        return documents.check_report(text, REPORT)
    return documents.check_citations(text, PASSAGE.findall(item.text))


def score_item(item: Item, answer: Answer | str) -> Score:
    """What one answer is worth; `parses` of other kinds than JSON: fields were found."""
    text = answer if isinstance(answer, str) else answer.text
    if item.kind == "json":
        return score(text, json.loads(item.answer), item.schema)
    got, gold = verdict(item, text), verdict(item, item.answer)
    tp, fp, fn = field_counts(got.fields, gold.fields)
    exact = text.strip() == item.answer.strip()
    return Score(parses=bool(got.fields), schema_valid=got.valid, exact=exact, tp=tp, fp=fp, fn=fn)


def failure(item: Item, answer: Answer) -> taxonomy.Failure:
    """The primary class of a JSON answer."""
    return taxonomy.classify(
        answer.text, gold=json.loads(item.answer), schema=item.schema, source_text=item.text,
        stopped=answer.stopped,
    )  # fmt: skip


def overview(items: Items) -> list[dict[str, Any]]:
    """Rows by group and schema, for a table."""
    trained = Counter((i.group, i.name) for i in items.train)
    asked = Counter((i.group, i.name) for i in items.asked())
    by_hand = Counter((i.group, i.name) for i in items.asked() if i.source == "handwritten")
    return [
        {"group": g, "schema": n, "trained": trained[g, n], "asked": asked[g, n],
         "hand-written": by_hand[g, n]}
        for g, n in sorted(trained.keys() | asked.keys())
    ]  # fmt: skip
