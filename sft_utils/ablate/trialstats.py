"""What trials allow to conclude: intervals over mails and seeds, and rules that read them.

An arm is a list of runs, one per seed; a run is one score per mail. All arms of a comparison were
scored on the same mails with the same seeds, so that differences are paired twice.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sft_utils.errors import ConfigError
from sft_utils.scores.intervals import RESAMPLES, expanded_interval
from sft_utils.scores.scoring import Score, rate_difference

Arm = Sequence[Sequence[Score]]
"""Runs of one setting, one per seed, each with one score per mail."""

Difference = dict[str, Any]
"""A metric entry: value, n (mails), ci95."""


def _counts(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """Right fields and faults (invented or missed), each of shape (seeds, mails)."""
    if not arm or not arm[0] or len({len(run) for run in arm}) != 1:
        raise ConfigError(
            f"an arm needs runs with equally many mails, it has {[len(r) for r in arm]}"
        )
    hits = np.array([[s.tp for s in run] for run in arm])
    return hits, np.array([[s.fp + s.fn for s in run] for run in arm])


def _f1(hits: Any, faults: Any) -> Any:
    return np.where(hits + faults > 0, 2 * hits / np.maximum(2 * hits + faults, 1), 1.0)


def _resampled(seeds: int, mails: int, seed: int = 17) -> Callable[[np.ndarray], np.ndarray]:
    """Sums of a (seeds, mails) table under drawn mails and drawn seeds, shape (RESAMPLES,).

    Both are drawn with replacement and independently: a mail is hard for every seed, and a seed is
    lucky on every mail. With one seed its luck is not in the interval, with two only roughly: of
    400 simulated differences of equal arms on 24 mails, whose seeds differ by 0.04 field F1
    (standard deviation), 85 % of the intervals of one seed hold zero, 98 % of two, 97 % of three;
    by 0.08: 67, 87 and 90 %.
    """
    rng = np.random.default_rng(seed)
    times_mail = rng.multinomial(mails, np.full(mails, 1 / mails), size=RESAMPLES)
    times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    return lambda table: ((times_mail @ table.T) * times_seed).sum(1)


def mean_f1(arm: Arm) -> float:
    """Field F1 over all mails and seeds together."""
    hits, faults = _counts(arm)
    return float(_f1(hits.sum(), faults.sum()))


def metric(arm: Arm) -> Difference:
    """Field F1 of an arm: value, n (mails), ci95 (bootstrap over mails and seeds).

    Example:
        >>> right = Score(parses=True, schema_valid=True, exact=True, tp=3, fp=0, fn=0)
        >>> entry = metric([[right, right]])
        >>> entry["value"], entry["n"], [round(x, 3) for x in entry["ci95"]]
        (1.0, 2, [0.342, 1.0])
    """
    hits, faults = _counts(arm)
    draw = _resampled(*hits.shape)
    interval = expanded_interval(_f1(draw(hits), draw(faults)), hits.shape[1], within=(0, 1))
    return {"value": mean_f1(arm), "n": hits.shape[1], "ci95": interval}


def difference(a: Arm, b: Arm) -> Difference:
    """Field F1 of `a` minus `b`, paired by mail and by seed.

    Raises:
        ConfigError: Another number of seeds or mails on the two sides.
    """
    (hits, faults), (hits_b, faults_b) = _counts(a), _counts(b)
    _refuse_other_shapes(hits, hits_b)
    draw = _resampled(*hits.shape)
    drawn = _f1(draw(hits), draw(faults)) - _f1(draw(hits_b), draw(faults_b))
    interval = expanded_interval(drawn, hits.shape[1], within=(-1, 1))
    return {"value": mean_f1(a) - mean_f1(b), "n": hits.shape[1], "ci95": interval}


def valid_difference(a: Arm, b: Arm) -> Difference:
    """Share of schema-valid answers of `a` minus that of `b`, paired by mail and by seed.

    With one seed the interval is Newcombe's for pairs, as everywhere; with several it is drawn.

    Raises:
        ConfigError: Another number of seeds or mails on the two sides.

    Example:
        >>> right = Score(parses=True, schema_valid=True, exact=True, tp=3, fp=0, fn=0)
        >>> wrong = Score(parses=True, schema_valid=False, exact=False, tp=3, fp=0, fn=0)
        >>> entry = valid_difference([[wrong] * 8], [[right] * 8])
        >>> entry["value"], entry["n"], [round(x, 3) for x in entry["ci95"]]
        (-1.0, 8, [-1.0, -0.541])
    """
    _counts(a), _counts(b)  # refuse runs of unequal length
    valid, valid_b = (np.array([[s.schema_valid for s in run] for run in arm]) for arm in (a, b))
    _refuse_other_shapes(valid, valid_b)
    seeds, mails = valid.shape
    if seeds == 1:
        return rate_difference(valid[0].tolist(), valid_b[0].tolist())
    gaps = valid.astype(float) - valid_b
    drawn = _resampled(seeds, mails)(gaps) / (seeds * mails)
    interval = expanded_interval(drawn, mails, within=(-1, 1))
    return {"value": float(gaps.mean()), "n": mails, "ci95": interval}


def _refuse_other_shapes(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ConfigError(
            f"a paired difference needs the same seeds and mails: {a.shape[0]} x "
            f"{a.shape[1]} and {b.shape[0]} x {b.shape[1]}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a comparison of arms recommends."""

    best: str  # highest field F1
    tied: tuple[str, ...]  # not shown to be worse than the best, itself included
    chosen: str  # the cheapest of these
    gap: Difference  # best minus chosen; of value zero where they are the same


def choose(
    arms: Mapping[str, Arm], cost: Mapping[str, float], *, margin: float = math.inf
) -> Choice:
    """The cheapest arm that is not shown to be worse than the best one.

    The best of many arms was helped by luck, so that a tie goes to the cheaper one. "Not shown"
    depends on the number of mails: few mails, many ties. With several seeds the interval is wide,
    and an arm that collapsed with one of them would still tie: `margin` keeps it out.

    Args:
        arms: Name -> arm, all on the same mails and seeds.
        cost: Name -> what the arm costs: parameters, rows, steps. Equal costs: the better one.
        margin: Most field F1 that an arm may have lost against the best to tie with it.
    Raises:
        ConfigError: No arm, or an arm without a cost.
    """
    if not arms or set(arms) - set(cost):
        raise ConfigError(f"choose needs arms with costs, got {sorted(arms)} and {sorted(cost)}")
    values = {name: mean_f1(arm) for name, arm in arms.items()}
    best = max(values, key=lambda n: (values[n], -cost[n]))
    gaps = {name: difference(arms[best], arm) for name, arm in arms.items()}
    level = (n for n in arms if gaps[n]["ci95"][0] <= 0 and gaps[n]["value"] <= margin)
    tied = tuple(dict.fromkeys([*level, best]))
    chosen = min(tied, key=lambda n: (cost[n], -values[n]))
    return Choice(best=best, tied=tied, chosen=chosen, gap=gaps[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """How few rows do."""

    within: int  # from here on every size is shown to lose less than the margin
    margin: float
    lost: dict[int, Difference]  # size -> all rows minus this size


def smallest_set(curve: Mapping[int, Arm], *, margin: float) -> Smallest:
    """The smallest training set that is *shown* to lose less than a margin against all rows.

    The interval of its loss, and of every larger size, lies below the margin. That takes evidence,
    and where there is not enough the answer is "all"; see `not_worse` for the rule that few mails
    make easy.

    Args:
        curve: Rows -> arm; the largest is "all".
        margin: Field F1 that may be lost.
    Raises:
        ConfigError: Fewer than two sizes, or a margin that is not positive.
    """
    if margin <= 0:
        raise ConfigError(f"need a margin > 0, got {margin:g}")
    lost = {n: difference(curve[max(curve)], arm) for n, arm in curve.items()}
    within, _ = _down(curve, lost.__getitem__, lambda d: d["ci95"][1] < margin)
    return Smallest(within=within, margin=margin, lost=lost)


def not_worse(
    sizes: Collection[int], lost: Callable[[int], Difference]
) -> tuple[int, dict[int, Difference]]:
    """The smallest size that, like every larger one, is not shown to be worse than the largest.

    The interval of its loss touches zero, which few mails make easy.

    Args:
        sizes: Rows; the largest is "all".
        lost: What a size loses against it; asked from the larger sizes down to the first that is
            shown to be worse, so that smaller ones need no training.
    Returns:
        The size, and the losses that were asked for.
    Raises:
        ConfigError: Fewer than two sizes.
    """
    return _down(sizes, lost, lambda d: d["ci95"][0] <= 0)


def _down(
    sizes: Collection[int], lost: Callable[[int], Difference], fine: Callable[[Difference], bool]
) -> tuple[int, dict[int, Difference]]:
    """From the second largest size down to the first that is not fine; the last fine one."""
    smallest, *others = sorted(sizes, reverse=True) or [0]
    if not others:
        raise ConfigError(f"need two sizes, got {sorted(sizes)}")
    asked: dict[int, Difference] = {}
    for n in others:
        asked[n] = lost(n)
        if not fine(asked[n]):
            break
        smallest = n
    return smallest, asked


def luck_of_the_best(arm: Arm, n_arms: int, *, draws: int = 400, seed: int = 17) -> float:
    """How much the best of `n_arms` equal arms seems to beat their common score.

    Each pretended arm is the same arm on a fresh draw of as many mails.

    Args:
        arm: Gives the spread between mails.
        n_arms: How many settings were compared.
    """
    hits, faults = (table.sum(0) for table in _counts(arm))
    picks = np.random.default_rng(seed).integers(0, len(hits), (draws, n_arms, len(hits)))
    seen = _f1(hits[picks].sum(2), faults[picks].sum(2))  # (draws, n_arms)
    return float(seen.max(1).mean() - seen.mean())
