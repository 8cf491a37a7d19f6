"""Metrics: known answers, standards, intervals."""

import json

import numpy as np
import pytest

from sft_utils import scoring
from sft_utils.errors import ConfigError
from sft_utils.tickets import SCHEMA

GOLD = {
    "topic": "billing", "product": "Kestrel 40", "order_id": "KX-1", "amount": 49.9,
    "currency": "EUR", "date": None, "customer": None, "action": "refund", "urgent": False,
}  # fmt: skip


def dumps(**changes):
    return json.dumps({**GOLD, **changes})


def test_perfect_answer():
    s = scoring.score(dumps(), GOLD, SCHEMA)
    assert (s.parses, s.schema_valid, s.exact, s.tp, s.fp, s.fn) == (True, True, True, 7, 0, 0)


def test_wrong_value_counts_twice_and_null_fields_earn_nothing():
    s = scoring.score(dumps(product="Kestrel"), GOLD, SCHEMA)
    assert (s.exact, s.tp, s.fp, s.fn) == (False, 6, 1, 1)
    invented = scoring.score(dumps(customer="Bob"), GOLD, SCHEMA)
    assert (invented.tp, invented.fp, invented.fn) == (7, 1, 0)
    empty = scoring.score("{}", GOLD, SCHEMA)
    assert (empty.tp, empty.fp, empty.fn, empty.parses, empty.schema_valid) == (
        0,
        0,
        7,
        True,
        False,
    )


def test_prose_around_json_costs_form_not_content():
    s = scoring.score(f"Here is it:\n```json\n{dumps()}\n```", GOLD, SCHEMA)
    assert (s.parses, s.schema_valid, s.tp) == (False, False, 7)


@pytest.mark.parametrize(
    "text", ["", "{", "nope", '{"a": NaN}', '{"a": 1, "a": 2}', "[1,]", "{'a': 1}", "[" * 50_000]
)
def test_not_json(text):
    assert not scoring.score(text, GOLD, SCHEMA).parses


def test_booleans_are_not_numbers_but_integers_are_floats():
    assert scoring.same_value(49.0, 49)
    assert not scoring.same_value(True, 1)
    assert not scoring.same_value(0, False)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"topic": "money"}, "topic"), ({"date": "2026-02-30"}, "date"), ({"amount": "49"}, "amount"),
        ({"amount": -1}, "amount"), ({"order_id": "a b"}, "order_id"), ({"extra": 1}, "(root)"),
    ],
)  # fmt: skip
def test_schema_violations_are_named(change, where):
    errors = scoring.schema_errors({**GOLD, **change}, SCHEMA)
    assert len(errors) == 1
    assert errors[0].startswith(where)


def test_wilson_matches_known_values():
    low, high = scoring.wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I
    assert scoring.wilson(10, 10)[1] == pytest.approx(1.0)
    assert scoring.wilson(10, 10)[0] < 0.75
    with pytest.raises(ConfigError):
        scoring.wilson(0, 0)


def test_bootstrap_covers_the_truth():
    """95 % intervals over simulated data hold the true mean about 95 % of the time."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sample = rng.normal(1.0, 1.0, size=60)
        low, high = scoring.bootstrap(lambda d, s=sample: s[d].mean(1), 60, seed=trial)
        hits += low <= 1.0 <= high
    assert 180 <= hits <= 199


def test_paired_difference():
    good = [scoring.score(dumps(), GOLD, SCHEMA)] * 40
    bad = [scoring.score(dumps(product="x"), GOLD, SCHEMA)] * 40
    better = scoring.f1_difference(good, bad)
    assert better["ci95"][0] > 0
    assert scoring.verdict(better).startswith("better")
    assert scoring.verdict(scoring.f1_difference(bad, good)).startswith("worse")
    assert scoring.verdict(scoring.f1_difference(good, good)).startswith("no difference")
    with pytest.raises(ConfigError, match="same items"):
        scoring.f1_difference(good, bad[:-1])


def test_f1_is_micro_averaged():
    scores = [scoring.score(dumps(), GOLD, SCHEMA), scoring.score("{}", GOLD, SCHEMA)]
    assert scoring.field_f1(scores) == pytest.approx(2 * 7 / (2 * 7 + 0 + 7))
    assert scoring.f1_metric(scores)["n"] == 2


def test_a_paired_difference_of_proportions_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5
    a, b = hard | (rng.random(200) < 0.2), hard
    found = scoring.rate_difference(a.tolist(), b.tolist())
    assert found["value"] == pytest.approx(a.mean() - b.mean())
    low, high = found["ci95"]
    alone = scoring.rate(a.tolist())["ci95"]
    assert 0 < low < found["value"] < high
    assert high - low < alone[1] - alone[0]
    with pytest.raises(ConfigError, match="same items: 2 and 1"):
        scoring.rate_difference([True, False], [True])
    with pytest.raises(ConfigError, match="same items: 0 and 0"):
        scoring.rate_difference([], [])


def test_the_metrics_of_an_arm():
    right, wrong = scoring.score(dumps(), GOLD, SCHEMA), scoring.score("nope", GOLD, SCHEMA)
    found = scoring.arm_metrics("tuned", [right, right, right, wrong])
    assert {name: entry["value"] for name, entry in found.items()} == {
        "tuned.parses": 0.75, "tuned.schema_valid": 0.75, "tuned.exact_match": 0.75,
        "tuned.field_f1": pytest.approx(2 * 21 / (2 * 21 + 7)),
    }  # fmt: skip
    assert list(found) == [f"tuned.{name}" for name in scoring.METRICS]
    for entry in found.values():
        assert entry["n"] == 4
        assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
    assert found["tuned.parses"]["ci95"] == scoring.wilson(3, 4)
    texts = [scoring.score_text("The red house", "the house")]
    assert scoring.arm_metrics("base", texts, ["word_f1"])["base.word_f1"]["value"] == pytest.approx(0.8)
    with pytest.raises(ConfigError, match="unknown metric 'f2'; known: parses, "):
        scoring.arm_metrics("tuned", [right], ["parses", "f2"])
