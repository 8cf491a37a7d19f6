"""A small foreign task for "bring your own data": flight questions and their slots.

The same rows in the layouts that people have at hand: prompt and completion, CSV, Alpaca, ShareGPT.
"""

import csv
import io
import json
from random import Random
from typing import Any

ROWS, OTHER_LAYOUTS = 160, 60
TOWNS = [
    "Boston", "Denver", "Dallas", "Atlanta", "Oakland", "Pittsburgh", "Baltimore", "Phoenix", "Seattle",
    "Memphis", "Cleveland", "Newark", "Tampa", "Detroit", "Houston", "Charlotte",
]  # fmt: skip
AIRLINES = ["Skylark Air", "Blue Prairie", "Condoria", "Transmesa", "Polar Jet"]
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
PARTS = ["morning", "afternoon", "evening"]
FRAMES = [
    "{show} flights {route}{when}{air}{fare}",
    "{show} all{stops} flights {route}{when}{air}",
    "is there a{stops} flight {route}{when}{air}",
    "i want to fly {route}{when}{air}",
    "what is the cheapest{stops} fare {route}{when}",
    "which airlines go {route}{when}",
    "how early can i get {route}{when}{air}",
    "{when_first} i need a{stops} flight {route}{air}",
    "{air_first} flights {route}{when} please",
]
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Slots of a question about flights",
    "description": "Only slots that the question names are present.",
    "type": "object",
    "properties": {
        "from_town": {"type": "string", "minLength": 1, "maxLength": 20},
        "to_town": {"type": "string", "minLength": 1, "maxLength": 20},
        "weekday": {"enum": WEEKDAYS},
        "part_of_day": {"enum": PARTS},
        "airline": {"type": "string", "minLength": 1, "maxLength": 20},
        "nonstop": {"const": True},
        "cheapest": {"const": True},
    },
    "required": ["from_town", "to_town"],
    "additionalProperties": False,
}


def _question(rng: Random) -> tuple[str, dict[str, Any]]:
    """One question and its slots, in the order of the schema."""
    frame = rng.choice(FRAMES)
    start, goal = rng.sample(TOWNS, 2)
    slots: dict[str, Any] = {"from_town": start, "to_town": goal}
    routes = [f"from {start} to {goal}", f"to {goal} from {start}"]
    if "flights {route}" in frame:
        routes.append(f"from {start} into {goal}")
    route = rng.choice(routes)
    day, part, airline = rng.choice(WEEKDAYS), rng.choice(PARTS), rng.choice(AIRLINES)
    when = when_first = ""
    if "{when_first}" in frame or ("{when}" in frame and rng.random() < 0.7):
        slots["weekday"], when, when_first = day, f" on {day}", f"on {day}"
        if rng.random() < 0.5:
            slots["part_of_day"], when, when_first = part, f"{when} {part}", f"{when_first} {part}"
    with_air = "{air_first}" in frame or ("{air}" in frame and rng.random() < 0.35)
    if with_air:
        slots["airline"] = airline
    stops = "{stops}" in frame and rng.random() < 0.5
    if stops:
        slots["nonstop"] = True
    fare = "cheapest" in frame or ("{fare}" in frame and rng.random() < 0.3)
    if fare:
        slots["cheapest"] = True
    text = frame.format(
        show=rng.choice(["show me", "list", "find me", "give me"]), route=route, when=when,
        when_first=when_first, air=f" with {airline}" if with_air else "", air_first=airline,
        stops=" nonstop" if stops else "", fare=", cheapest first" if fare else "",
    )  # fmt: skip
    return text, slots


def rows(seed: int) -> list[tuple[str, str]]:
    """Questions and slots as JSON, all different."""
    rng, found = Random(f"{seed}/flights"), {}
    while len(found) < ROWS:
        question, slots = _question(rng)
        found.setdefault(question, json.dumps(slots, separators=(",", ":"), ensure_ascii=False))
    return list(found.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def files(seed: int) -> dict[str, str]:
    """The text of every file of the example, by name."""
    pairs = rows(seed)
    some = pairs[:OTHER_LAYOUTS]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("question", "slots"), *some])
    lines = [{"prompt": question, "completion": slots} for question, slots in pairs]
    return {
        "flights.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        "flights.csv": table.getvalue(),
        "flights_alpaca.json": _json(
            [{"instruction": question, "input": "", "output": slots} for question, slots in some]
        ),
        "flights_sharegpt.json": _json(
            [
                {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": slots}]}
                for question, slots in some
            ]
        ),
        "flights.schema.json": _json(SCHEMA),
    }
