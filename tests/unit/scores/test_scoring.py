"""Metrics: known answers, standards, intervals."""

import json

import numpy as np
import pytest

from sft_utils.errors import ConfigError, DataError
from sft_utils.scores import intervals, scoring
from sft_utils.task.tickets import SCHEMA

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


@pytest.mark.parametrize(
    ("answer", "gold", "counts", "exact"),
    [
        ('"5"', "5", (1, 0, 0), True), ("5.0", 5, (1, 0, 0), True), ('"5"', 5, (0, 1, 1), False),
        ("true", 1, (0, 1, 1), False), ("It is 5.", 5, (0, 0, 1), False), ("", "x", (0, 0, 1), False),
        ('{"a": 5}', 5, (0, 1, 1), False), ("[5]", 5, (0, 1, 1), False), ("null", None, (0, 0, 0), True),
        ("7", None, (0, 1, 0), False), ("null", 5, (0, 0, 1), False),
    ],
)  # fmt: skip
def test_a_gold_value_without_fields_is_one_field(answer, gold, counts, exact):
    s = scoring.score(answer, gold, {})
    assert ((s.tp, s.fp, s.fn), s.exact) == (counts, exact)


def test_an_object_is_no_array():
    assert scoring.field_counts({"0": "x"}, ["x"]) == (0, 1, 1)
    assert scoring.field_counts({"a": {"0": "x"}, "b": 1}, {"a": ["x"], "b": 1}) == (1, 1, 1)
    assert scoring.field_counts(["x"], ["x"]) == (1, 0, 0)


def test_an_answer_that_is_no_json_costs_no_field_where_there_is_none():
    """Documented in `field_f1`: the form is counted by the other metrics."""
    s = scoring.score("garbage", dict.fromkeys(GOLD), SCHEMA)
    assert (s.tp, s.fp, s.fn, s.parses, s.schema_valid, s.exact) == (0, 0, 0, False, False, False)
    assert scoring.field_f1([s]) == 1.0
    known = scoring.score(dumps(product="x"), GOLD, SCHEMA)
    assert scoring.field_f1([s, known]) == scoring.field_f1([known])


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


def test_resampled_intervals_are_expanded_for_few_units():
    """Levels by Hesterberg: a t quantile, and n - 1 instead of n; nearly 2.5 % for many units."""
    drawn = np.arange(100_001) / 100_000
    for n, tail in ((2, 0.0), (10, 0.00855), (16, 0.01386), (168, 0.02384), (10**6, 0.025)):
        low, high = intervals.expanded_interval(drawn, n)
        assert (low, 1 - high) == (pytest.approx(tail, abs=2e-5), pytest.approx(tail, abs=2e-5))


def answers(*counts):
    """Scores of answers with six fields, so many of them right."""
    return [scoring.Score(parses=True, schema_valid=True, exact=k == 6, tp=k, fp=6 - k, fn=6 - k)
            for k in counts]  # fmt: skip


def test_no_interval_is_without_width():
    """Where no resample differs: Wilson's limits for a share, 0 of n around a difference."""
    assert scoring.f1_metric(answers(*[0] * 168))["ci95"] == scoring.wilson(0, 168)
    assert scoring.f1_metric(answers(*[6] * 24))["ci95"] == scoring.wilson(24, 24)
    assert scoring.f1_metric(answers(*[3] * 24))["ci95"] == pytest.approx(scoring.wilson(12, 24))
    assert scoring.f1_metric(answers(2))["ci95"] == pytest.approx(scoring.wilson(1 / 3, 1))
    room = scoring.wilson(0, 24)[1]
    same = scoring.f1_difference(answers(*[4] * 24), answers(*[4] * 24))
    assert (same["value"], same["ci95"]) == (0, pytest.approx([-room, room]))
    most = scoring.f1_difference(answers(*[6] * 24), answers(*[0] * 24))
    assert most["ci95"] == pytest.approx([1 - room, 1])
    least = scoring.f1_difference(answers(*[0] * 24), answers(*[6] * 24))
    assert least["ci95"] == pytest.approx([-1, room - 1])
    assert scoring.bootstrap(lambda d: np.full(len(d), 7.0), 5) == [7, 7], "no bounds are known"


def test_resamples_that_hardly_differ_are_still_resamples():
    drawn = np.linspace(0.990, 0.995, 1001)
    low, high = intervals.expanded_interval(drawn, 168, within=(0, 1))
    assert (low, high) == (pytest.approx(0.9901, abs=1e-4), pytest.approx(0.9949, abs=1e-4))


def test_one_unit_asked_with_several_seeds():
    """No draw is the one that counts: their middle for a share, all of them without bounds."""
    drawn = np.array([0.2, 0.9, 0.8])
    assert intervals.expanded_interval(drawn, 1) == [0.2, 0.9]
    assert intervals.expanded_interval(drawn, 1, within=(0, 1)) == scoring.wilson(0.8, 1)


def test_intervals_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="no rows to score"):
        scoring.f1_metric([])
    with pytest.raises(ConfigError, match="no rows to score"):
        scoring.rate([])
    with pytest.raises(ConfigError, match="same items: 0 and 0"):
        scoring.f1_difference([], [])
    with pytest.raises(ConfigError, match="no rows to score"):
        scoring.bootstrap(lambda draws: draws.mean(1), 0)


def test_the_interval_of_f1_covers_the_truth_for_ten_mails():
    """0.95 in 1,000 simulations (plain percentiles: 0.92); near an edge, at 0.9, 0.87 (0.79)."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        right = rng.binomial(6, rng.beta(2.4, 1.6, 10))
        low, high = scoring.f1_metric(answers(*right.tolist()))["ci95"]
        inside += low <= 0.6 <= high
    assert inside / 1000 >= 0.94


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


def test_an_interval_that_touches_zero_is_no_difference():
    for interval in ([0.0, 0.4], [-0.4, 0.0], [0.0, 0.0]):
        found = scoring.verdict({"value": 0.0, "n": 8, "ci95": interval})
        assert found.startswith("no difference: "), found


def test_f1_where_as_much_is_wrong_as_right_or_nothing_is_filled():
    def of(tp, fp):
        return scoring.Score(parses=True, schema_valid=True, exact=False, tp=tp, fp=fp, fn=0)

    assert scoring.field_f1([of(1, 1)]) == pytest.approx(2 / 3)
    assert scoring.field_f1([of(0, 0)]) == 1.0
    drawn = scoring.f1_of([of(0, 1), of(0, 0), of(1, 0)])(np.array([[0], [1], [2]]))
    assert drawn.tolist() == [0.0, 1.0, 1.0]
    assert scoring.f1_metric([of(0, 0)] * 9)["ci95"] == scoring.wilson(9, 9)


def test_an_answer_that_is_no_json_is_never_valid_nor_exact():
    """Also where its stand-in, null, would satisfy the schema and be the gold value."""
    s = scoring.score("nothing", None, {})
    assert (s.parses, s.schema_valid, s.exact) == (False, False, False)
    s = scoring.score("null", None, {})
    assert (s.parses, s.schema_valid, s.exact) == (True, True, True)


def test_a_list_in_prose_is_compared_item_by_item():
    def fields(answer, gold=(1, 3)):
        s = scoring.score(answer, list(gold), {})
        return s.tp, s.fp, s.fn

    assert fields("Here: [1, 2]") == (1, 1, 1)
    assert fields("none") == (0, 0, 2)
    assert fields("[[1, 3], [5", ([1, 3], [5])) == (0, 0, 3)  # cut off: its first item is no answer


def test_golds_are_read_or_named():
    assert scoring.read_golds(['{"a": 1}', "2"]) == [{"a": 1}, 2]
    with pytest.raises(DataError, match="reference 2 of 2 is not JSON"):
        scoring.read_golds(["1", "{"])
    with pytest.raises(DataError, match="no answers to score"):
        scoring.read_golds([])


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


def paired(both, ours, theirs, neither):
    """Two lists of hits with this table."""
    a = [True] * (both + ours) + [False] * (theirs + neither)
    return a, [True] * both + [False] * ours + [True] * theirs + [False] * neither


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((20, 12, 2, 16), 0.0562, 0.3292),  # phi with the continuity correction
        ((1, 1, 7, 12), -0.5069, -0.0256),  # phi 0 by the correction
        ((0, 24, 0, 0), 0.8049, 1.0),  # 1 - sqrt(2) times the upper Wilson limit of 0 of 24
        ((0, 0, 0, 36), -0.0964, 0.0964),
    ],
)
def test_paired_proportions_get_newcombes_interval(table, low, high):
    a, b = paired(*table)
    assert scoring.rate_difference(a, b)["ci95"] == pytest.approx([low, high], abs=5e-5)
    turned = scoring.rate_difference(b, a)["ci95"]
    assert turned == pytest.approx([-high, -low], abs=5e-5)


@pytest.mark.parametrize("chances", [(0.5, 0.03, 0.0), (0.5, 0.015, 0.015), (0.9, 0.03, 0.0), (0.4, 0.1, 0.05)])
def test_few_pairs_that_differ_are_covered(chances):
    """n = 36, 3 % of the pairs differ: the percentile bootstrap held the first truth in 64 %."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        table = rng.multinomial(36, [*chances, 1 - sum(chances)])
        low, high = scoring.rate_difference(*paired(*table.tolist()))["ci95"]
        inside += low <= chances[1] - chances[2] <= high
    assert inside / 1000 >= 0.93


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
    assert (texts[0].parses, texts[0].schema_valid) == (True, True)
    assert scoring.arm_metrics("base", texts, ["word_f1"])["base.word_f1"]["value"] == pytest.approx(0.8)
    with pytest.raises(ConfigError, match="unknown metric 'f2'; known: parses, "):
        scoring.arm_metrics("tuned", [right], ["parses", "f2"])
