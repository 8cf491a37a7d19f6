"""Build the rows of the three splits from the frames and the hand-written files."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from structured.engine import Draw, Topic, answer_of, expand, voice
from structured.frames import (
    apartment_listing,
    book_review,
    citation,
    flight_request,
    hotel_booking,
    incident_report,
    invoice_line,
    job_posting,
    meeting_invite,
    recipe_card,
    report,
    sensor_alert,
    unseen,
    xml_documents,
)

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]
MODULES = [
    flight_request, hotel_booking, recipe_card, job_posting, incident_report, meeting_invite,
    invoice_line, book_review, sensor_alert, apartment_listing,
]  # fmt: skip
SEEN = {module.TOPIC.name: module.TOPIC for module in MODULES}
UNSEEN = {topic.name: topic for topic in unseen.TOPICS}
DOCUMENTS = {topic.name: topic for topic in xml_documents.TOPICS}
SPLITS = ["train", "val", "test"]
# rows by grammar for each schema
JSON_COUNTS = {"train": 72, "val": 8, "test": 8}
UNSEEN_TEST = 12
XML_COUNTS = {"train": 36, "val": 4, "test": 10}
OTHER_COUNTS = {"train": 72, "val": 8, "test": 20}
ALIKE = 0.6  # share of common three-word sequences from which two texts are alike
TRIES = 400


def shingles(text: str) -> set[tuple[str, ...]]:
    """Sequences of three words, small letters."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def similarity(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Jaccard similarity of two sets of shingles."""
    return len(a & b) / max(1, len(a | b))


def schema_of(name: str) -> dict[str, Any]:
    """A JSON Schema of this data set."""
    return json.loads((HERE / "schemas" / f"{name}.json").read_text(encoding="utf-8"))


def handwritten(name: str) -> list[Row]:
    """The hand-written rows of one file, as (text, answer): `NAME` for tests, `train/NAME`."""
    lines = (HERE / "handwritten" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Collection:
    """Rows so far; refuses a text that exists, and a held-out one that resembles training."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        self.texts: set[str] = set()
        self.trained: dict[str, list[set[tuple[str, ...]]]] = {}

    def add(self, split: str, row: Row) -> bool:
        """Keep a row unless it repeats another one."""
        text, grams = row["text"].lower(), shingles(row["text"])
        known = self.trained.setdefault(row["schema"], [])
        if text in self.texts:
            return False
        if split == "train":
            known.append(grams)
        elif any(similarity(grams, one) >= ALIKE for one in known):
            return False
        self.texts.add(text)
        self.rows[split].append(row)
        return True

    def fill(self, split: str, count: int, make: Callable[[int], Row]) -> None:
        """Add `count` rows.

        Raises:
            ValueError: The grammar has too few different texts.
        """
        tries = done = 0
        while done < count:
            row = make(done)
            done += self.add(split, row)
            tries += 1
            if tries > TRIES + 10 * count:
                raise ValueError(f"too few different rows: {row['schema']}, {split}")


def framed_row(draw: Draw, topic: Topic, at: int, answer: Callable[[dict], Any], kind: str) -> Row:
    """A row of the frame number `at`, counted round and round."""
    frames = topic.frames[draw.split]
    number = at % len(frames)
    pieces, said = expand(draw, topic, frames[number])
    text = voice(draw, topic, pieces)
    for value in [one for one in said.values() if isinstance(one, dict)]:
        said |= value  # a slot of several keys
    return {
        "kind": kind, "schema": topic.name, "source": "grammar",
        "group": f"{topic.name}/{draw.split}-{number + 1:02}", "text": text, "answer": answer(said),
    }  # fmt: skip


def written_rows(name: str, kind: str, part: str = "") -> Iterator[Row]:
    """The hand-written rows of one schema: those for the test, or with part "train" the others."""
    for row in handwritten(f"{part}/{name}" if part else name):
        yield {
            "kind": kind, "schema": name, "source": "handwritten",
            "group": f"{name}/handwritten{f'-{part}' if part else ''}", "text": row["text"], "answer": row["answer"],
        }  # fmt: skip


def build(seed: int) -> dict[str, list[Row]]:
    """All rows by split, with ids."""
    data = Collection()
    for split in SPLITS:
        for name, topic in {**SEEN, **(UNSEEN if split == "test" else {})}.items():
            draw, schema = Draw(Random(f"{seed}/{split}/{name}"), split), schema_of(name)
            if split == "test":
                add_all(data, split, written_rows(name, "json"))
            count = JSON_COUNTS[split] if name in SEEN else UNSEEN_TEST
            data.fill(
                split,
                count,
                lambda at, draw=draw, topic=topic, schema=schema: framed_row(
                    draw, topic, at, lambda said: answer_of(schema, said, topic.defaults), "json"
                ),
            )
        for name, topic in DOCUMENTS.items():
            draw = Draw(Random(f"{seed}/{split}/{name}"), split)
            if split == "test":
                add_all(data, split, written_rows(name, "xml"))
            data.fill(
                split,
                XML_COUNTS[split],
                lambda at, draw=draw, topic=topic: framed_row(
                    draw, topic, at, lambda said: xml_documents.to_xml(topic.name, said), "xml"
                ),
            )
        for name, module in {"citation": citation, "report": report}.items():
            draw = Draw(Random(f"{seed}/{split}/{name}"), split)
            if split == "test":
                add_all(data, split, written_rows(name, name))
            data.fill(split, OTHER_COUNTS[split], lambda at, d=draw, m=module, n=name: _free_row(d, m, n))
        if split == "train":  # after the grammar, so that the ids of its rows stay
            for name in [*SEEN, *DOCUMENTS, "citation", "report"]:
                kind = "json" if name in SEEN else "xml" if name in DOCUMENTS else name
                add_all(data, split, written_rows(name, kind, "train"))
    for split, rows in data.rows.items():
        for number, row in enumerate(rows, 1):
            rows[number - 1] = {"id": f"{split}-{number:04}", **row}
    return data.rows


def add_all(data: Collection, split: str, rows: Iterator[Row]) -> None:
    """Add hand-written rows to a split.

    Raises:
        ValueError: One of them repeats another text, or a test text is near a trained one.
    """
    for row in rows:
        if not data.add(split, row):
            raise ValueError(f"hand-written row repeats another one: {row['text']!r}")


def _free_row(draw: Draw, module: Any, name: str) -> Row:
    group, text, answer = module.write(draw)
    part = "test-" if draw.split == "test" else ""
    return {
        "kind": name, "schema": name, "source": "grammar", "group": f"{name}/{part}{group}",
        "text": text, "answer": answer,
    }  # fmt: skip
