"""Replay requests never come near the forgetting probe: it would measure what was trained."""

import json
import re

import pytest

from sft_utils.artifacts import ROOT
from sft_utils.task import tickets


def questions(path):
    return [json.loads(x)["question"] for x in (ROOT / path).read_text("utf-8").splitlines()]


def overlap(a, b):
    """Jaccard similarity of the longer words (function words say nothing about the topic)."""
    x, y = ({w for w in re.findall(r"[a-z]+", t.lower()) if len(w) > 3} for t in (a, b))
    return len(x & y) / max(1, len(x | y))


def nearest(asked, probes):
    return max((overlap(a, p), a, p) for a in asked for p in probes)


def test_no_replay_request_resembles_a_probe():
    closest = nearest(
        questions("data/replay/questions.jsonl"), questions("data/probes/general.jsonl")
    )
    assert closest[0] < 0.5, closest


def test_the_comparison_sees_a_reworded_probe():
    probe = "Why does ice float on water instead of sinking to the bottom?"
    assert nearest(["Why does ice float on water instead of sinking?"], [probe])[0] >= 0.5


def test_requests_are_distinct_and_identified():
    rows = [
        json.loads(x)
        for x in (ROOT / "data/replay/questions.jsonl").read_text("utf-8").splitlines()
    ]
    assert (
        len({r["question"].lower() for r in rows})
        == len({r["id"] for r in rows})
        == len(rows)
        == 96
    )


@pytest.mark.parametrize("row", ["data/replay/README.md", "data/probes/README.md"])
def test_licence_is_stated(row):
    assert "CC-BY-4.0" in (ROOT / row).read_text("utf-8")


def test_training_rows_prefer_written_mails_and_balance_the_urgent_ones():
    def row(i, source, urgent):
        content = json.dumps({"urgent": urgent})
        return {"id": i, "source": source, "messages": [{}, {"content": content}]}

    rows = [row(i, "handwritten", False) for i in range(3)]
    rows += [row(i, "grammar", i % 4 == 0) for i in range(3, 43)]
    picked = tickets.prefer_handwritten(rows, 15)
    assert picked[:3] == rows[:3]
    assert sum(tickets.gold(r)["urgent"] for r in picked[3:]) == 6
    assert len({r["id"] for r in picked}) == 15
    everything = tickets.prefer_handwritten(rows, 1000)
    assert len(everything) == len(rows) == len({r["id"] for r in everything})
    assert len(tickets.prefer_handwritten(rows, 40)) == 40  # more calm than half: none is missing
