"""Intervals over mails and seeds, and the rules that read them, on scores whose truth is known."""

import dataclasses

import numpy as np
import pytest

from sft_utils.ablate import trialstats
from sft_utils.errors import ConfigError
from sft_utils.scores import scoring
from sft_utils.scores.scoring import Score


def mail(tp, of=5):
    return Score(parses=True, schema_valid=True, exact=tp == of, tp=tp, fp=of - tp, fn=of - tp)


def run(rng, n, p, hard=None):
    """Scores of one run: each of five fields is right with probability p, less for hard mails."""
    hard = np.zeros(n) if hard is None else hard
    return [mail(int(rng.binomial(5, np.clip(p - h, 0, 1)))) for h in hard]


def test_one_seed_agrees_with_the_interval_of_scoring():
    rng = np.random.default_rng(0)
    a, b = run(rng, 48, 0.8), run(rng, 48, 0.6)
    ours, known = trialstats.difference([a], [b]), scoring.f1_difference(a, b)
    assert ours["value"] == pytest.approx(known["value"])
    assert ours["ci95"] == pytest.approx(known["ci95"], abs=0.02)
    assert trialstats.metric([a])["ci95"] == pytest.approx(scoring.f1_metric(a)["ci95"], abs=0.02)


def test_equal_arms_differ_by_nothing():
    rng = np.random.default_rng(1)
    arm = [run(rng, 24, 0.7), run(rng, 24, 0.5)]
    room = scoring.wilson(0, 24)[1]
    assert trialstats.difference(arm, arm) == {"value": 0.0, "n": 24, "ci95": [-room, room]}


def test_f1_of_mails_without_fields_is_one_and_a_lone_fault_costs_all():
    empty, wrong = mail(0, of=0), dataclasses.replace(mail(0, of=0), fp=1)
    assert trialstats.metric([[empty] * 9])["ci95"] == scoring.wilson(9, 9)
    assert trialstats.metric([[wrong]])["ci95"] == scoring.wilson(0, 1)


def test_no_difference_exceeds_one():
    best, worst, room = [[mail(5)] * 24] * 2, [[mail(0)] * 24] * 2, scoring.wilson(0, 24)[1]
    assert trialstats.difference(best, worst)["ci95"] == pytest.approx([1 - room, 1])
    assert trialstats.difference(worst, best)["ci95"] == pytest.approx([-1, room - 1])


def test_pairing_removes_what_is_common():
    rng = np.random.default_rng(2)
    hard = np.where(np.arange(40) % 2, 0.7, 0.0)  # half of the mails are hard for everybody
    a, b = [run(rng, 40, 0.95, hard)], [run(rng, 40, 0.80, hard)]
    low, high = trialstats.difference(a, b)["ci95"]
    alone = trialstats.metric(a)["ci95"]
    assert high - low < alone[1] - alone[0]


def test_seeds_that_disagree_widen_the_interval():
    good, bad = [mail(5)] * 24, [mail(1)] * 24
    steady, lucky = [[mail(3)] * 24] * 2, [good, bad]
    wide = trialstats.difference(lucky, steady)["ci95"]
    assert wide[0] < 0 < wide[1]
    assert trialstats.difference([good], steady[:1])["ci95"][0] > 0, "one seed cannot know"


def test_intervals_cover_the_truth():
    rng, inside = np.random.default_rng(3), 0
    for _ in range(120):
        low, high = trialstats.difference([run(rng, 32, 0.7)], [run(rng, 32, 0.6)])["ci95"]
        inside += low <= 0.1 <= high
    assert 0.87 <= inside / 120 <= 1.0


def test_other_mails_or_seeds_are_refused():
    a = [[mail(3)] * 4]
    for b in ([[mail(3)] * 5], [[mail(3)] * 4] * 2):
        with pytest.raises(ConfigError, match="same seeds and mails"):
            trialstats.difference(a, b)
    for broken in ([], [[]], [[mail(1)], [mail(1)] * 2]):
        with pytest.raises(ConfigError, match="equally many mails"):
            trialstats.metric(broken)


SIZES = (8, 16, 48, 96, 192)


def curve(rng, truth, n=24, seeds=2):
    return {size: [run(rng, n, p) for _ in range(seeds)] for size, p in zip(SIZES, truth, strict=True)}


def level(found):
    """The smallest size that is not shown to be worse."""
    return trialstats.not_worse(found.lost, found.lost.__getitem__)[0]


def test_smaller_sizes_are_not_asked_once_one_is_worse():
    worse = {8: [[mail(5)] * 24], 16: [[mail(1)] * 24], 48: [[mail(5)] * 24], 96: [[mail(5)] * 24]}
    asked = []

    def lost(n):
        asked.append(n)
        return trialstats.difference(worse[96], worse[n])

    assert trialstats.not_worse(worse, lost) == (48, {n: lost(n) for n in (48, 16)})
    assert asked[:2] == [48, 16]
    assert 8 not in asked
    for few in ([96], []):
        with pytest.raises(ConfigError, match="two sizes"):
            trialstats.not_worse(few, lost)
    touching = {"value": 0.1, "n": 24, "ci95": [0.0, 0.2]}
    assert trialstats.not_worse([8, 16], lambda n: touching)[0] == 8


def test_equal_sets_need_the_smallest():
    same = [[mail(4)] * 24, [mail(3)] * 24]
    found = trialstats.smallest_set(dict.fromkeys(SIZES, same), margin=0.2)
    assert (level(found), found.within) == (8, 8)
    narrow = trialstats.smallest_set(dict.fromkeys(SIZES, same), margin=0.1)
    assert (level(narrow), narrow.within) == (8, 192), "24 mails cannot show a loss below 0.14"


@pytest.mark.parametrize("enough", SIZES)
def test_a_step_is_found(enough):
    """Below `enough` everything is wrong, from there on right: both rules must say so."""
    arms = {n: [[mail(5 if n >= enough else 1)] * 24] * 2 for n in SIZES}
    found = trialstats.smallest_set(arms, margin=0.2)
    assert level(found) == found.within == enough


def test_a_lucky_small_set_does_not_hide_a_worse_larger_one():
    arms = {8: [[mail(5)] * 24], 16: [[mail(1)] * 24], 48: [[mail(5)] * 24], 96: [[mail(5)] * 24]}
    assert level(trialstats.smallest_set(arms, margin=0.05)) == 48


def test_within_never_asks_for_fewer_rows_than_a_clear_loss_allows():
    """On any scores: a size that is shown to lose more than the margin is never recommended."""
    rng = np.random.default_rng(4)
    undecided = 0
    for _ in range(60):
        arms = curve(rng, np.sort(rng.uniform(0.2, 0.95, len(SIZES))), n=16)
        found = trialstats.smallest_set(arms, margin=0.05)
        assert all(found.lost[n]["ci95"][0] <= 0 for n in SIZES if n >= level(found))
        assert all(found.lost[n]["ci95"][1] < 0.05 for n in SIZES if found.within <= n < SIZES[-1])
        below = [n for n in SIZES if n < level(found)]
        assert not below or found.lost[below[-1]]["ci95"][0] > 0
        undecided += found.within > level(found)
    assert undecided > 10, "sixteen mails leave sizes that neither rule decides"


def test_a_wider_margin_never_asks_for_more_rows():
    rng = np.random.default_rng(5)
    for _ in range(20):
        arms = curve(rng, np.sort(rng.uniform(0.2, 0.95, len(SIZES))), n=16)
        within = [trialstats.smallest_set(arms, margin=m).within for m in (0.02, 0.1, 0.3, 2.0)]
        assert within == sorted(within, reverse=True)
        assert within[-1] == SIZES[0]


def test_the_order_of_mails_does_not_matter_much():
    rng = np.random.default_rng(6)
    arms = curve(rng, (0.3, 0.6, 0.7, 0.8, 0.8))
    order = rng.permutation(24)
    mixed = {n: [[r[i] for i in order] for r in runs] for n, runs in arms.items()}
    one, two = (trialstats.smallest_set(a, margin=0.05) for a in (arms, mixed))
    for n in SIZES:
        assert one.lost[n]["value"] == pytest.approx(two.lost[n]["value"])
        assert one.lost[n]["ci95"] == pytest.approx(two.lost[n]["ci95"], abs=0.02)


def test_a_tie_goes_to_the_cheaper():
    same = [[mail(4)] * 24]
    found = trialstats.choose({"big": same, "small": same}, {"big": 9, "small": 1})
    assert (found.best, found.chosen, set(found.tied)) == ("small", "small", {"big", "small"})
    noisy = {"big": [[mail(5), mail(2)] * 12], "small": [[mail(2), mail(5)] * 11 + [mail(3)] * 2]}
    found = trialstats.choose(noisy, {"big": 9, "small": 1})
    assert (found.best, found.chosen) == ("big", "small")
    assert found.gap["ci95"][0] <= 0 < found.gap["value"]


def test_what_loses_more_than_the_margin_does_not_tie_however_wide_its_interval():
    """A cell that collapsed with one of two seeds."""
    steady, shaky = [[mail(4)] * 24] * 2, [[mail(5)] * 24, [mail(1)] * 24]
    arms, cost = {"big": steady, "small": shaky}, {"big": 9, "small": 1}
    assert trialstats.choose(arms, cost).chosen == "small"
    assert trialstats.choose(arms, cost, margin=0.05).tied == ("big",)


def test_at_equal_cost_a_tie_goes_to_the_better():
    noisy = {"worse": [[mail(2), mail(5)] * 11 + [mail(3)] * 2], "better": [[mail(5), mail(2)] * 12]}
    found = trialstats.choose(noisy, {"better": 1, "worse": 1})
    assert (found.chosen, set(found.tied)) == ("better", {"better", "worse"})
    with pytest.raises(ConfigError, match="arms with costs"):
        trialstats.choose({}, {})


def test_a_clear_winner_is_worth_its_price():
    arms = {"big": [[mail(5)] * 24], "small": [[mail(2)] * 24]}
    found = trialstats.choose(arms, {"big": 9, "small": 1})
    assert (found.best, found.chosen, found.tied) == ("big", "big", ("big",))
    with pytest.raises(ConfigError, match="arms with costs"):
        trialstats.choose(arms, {"big": 1})


def test_luck_grows_with_the_number_of_arms():
    rng = np.random.default_rng(7)
    arm = [run(rng, 24, 0.6)]
    luck = [trialstats.luck_of_the_best(arm, k) for k in (1, 3, 9, 27)]
    assert abs(luck[0]) < 0.01
    assert luck == sorted(luck)
    assert luck[2] > 0.02
    assert trialstats.luck_of_the_best([[mail(3)] * 24], 9) == pytest.approx(0.0)


def test_valid_answers_are_compared_beside_field_f1():
    """Wrong training answers cost the form before they cost a field: equal fields, fewer valid."""
    good = mail(4)
    bad = dataclasses.replace(good, schema_valid=False)
    curated, faults = [[good] * 12 + [bad] * 12] * 2, [[good] * 2 + [bad] * 22] * 2
    assert trialstats.difference(faults, curated)["value"] == 0
    for seeds in (1, 2):
        found = trialstats.valid_difference(faults[:seeds], curated[:seeds])
        assert found["value"] == pytest.approx(-10 / 24)
        assert found["ci95"][1] < 0
    twice = trialstats.valid_difference(faults, curated)["ci95"]
    once = trialstats.valid_difference(faults[:1], curated[:1])["ci95"]
    assert twice == pytest.approx(once, abs=0.05), "the same run twice tells as much as once"
    room = scoring.wilson(0, 24)[1]
    most, least = [[good] * 24] * 2, [[bad] * 24] * 2
    assert trialstats.valid_difference(most, least)["ci95"] == pytest.approx([1 - room, 1])
    assert trialstats.valid_difference(least, most)["ci95"] == pytest.approx([-1, room - 1])
    with pytest.raises(ConfigError, match="equally many mails"):
        trialstats.valid_difference([[good], [good] * 2], [[good], [good] * 2])
    lucky = [[good] * 12 + [bad] * 12, [good] * 24]
    seeds_differ = trialstats.valid_difference(lucky, [[good] * 12 + [bad] * 12] * 2)
    assert seeds_differ["value"] == pytest.approx(0.25)
    assert seeds_differ["ci95"][0] <= 0, "the luck of a seed is in the interval"
    with pytest.raises(ConfigError, match="the same seeds and mails"):
        trialstats.valid_difference(lucky, curated[:1])
