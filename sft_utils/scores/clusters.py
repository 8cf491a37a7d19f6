"""Proportions of units that hang together: replies of a dialogue, answers to one text.

Such units fail together, so that intervals draw whole clusters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sft_utils.errors import ConfigError
from sft_utils.scores.intervals import bootstrap, newcombe, wilson

FEW = 8
"""Below so many clusters resampling alone is too narrow. Of 300 simulated intervals of a difference
69 to 89 % held the truth with two clusters of two, 76 to 97 % with three, 86 to 91 % with four, 93
to 97 % with six, and at least 98 % as they are widened here. With eight 92 to 96 % do unwidened."""


def _cluster_ratio(
    hits: Sequence[bool], clusters: Sequence[str]
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Statistic over drawn clusters (hits / units), and the number of clusters."""
    if not hits or len(hits) != len(clusters):
        raise ConfigError(f"{len(hits)} hits with {len(clusters)} cluster ids: one id per hit")
    place = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    index = [place[name] for name in clusters]
    good = np.bincount(index, weights=np.asarray(hits, dtype=float), minlength=len(place))
    size = np.bincount(index, minlength=len(place))
    return lambda draws: good[draws].sum(1) / size[draws].sum(1), len(place)


def _wide(drawn: list[float], n: int, least: list[float]) -> list[float]:
    """The resampled interval; of few clusters with what it lacks to the one of whole clusters."""
    return drawn if n >= FEW else [min(drawn[0], least[0]), max(drawn[1], least[1])]


def cluster_rate(hits: Sequence[bool], clusters: Sequence[str]) -> dict[str, Any]:
    """A proportion of units that hang together: value, n (units), n_clusters, ci95.

    Replies of one dialogue fail together, so that whole dialogues are drawn, not replies: the
    interval is that of `intervals.bootstrap` over clusters. Where all clusters agree there is
    nothing to resample; it is then Wilson's for the number of clusters.

    Raises:
        ConfigError: No units, or another number of cluster ids.
    Example:
        >>> entry = cluster_rate([True, True, False, False], ["a", "a", "b", "b"])
        >>> entry["value"], entry["n"], entry["n_clusters"], entry["ci95"]
        (0.5, 4, 2, [0.0, 1.0])
    """
    statistic, n = _cluster_ratio(hits, clusters)
    value = sum(hits) / len(hits)
    interval = _wide(bootstrap(statistic, n, within=(0, 1)), n, wilson(value * n, n))
    return {"value": value, "n": len(hits), "n_clusters": n, "ci95": interval}


def cluster_difference(
    a: Sequence[bool], b: Sequence[bool], clusters: Sequence[str]
) -> dict[str, Any]:
    """Rate of `a` minus rate of `b` on the same units, paired bootstrap of clusters.

    Of fewer than `FEW` clusters the interval reaches at least as far as Newcombe's of two shares
    of so many unrelated items.

    Raises:
        ConfigError: The lists do not describe the same units, or no units.
    """
    (f_a, n), (f_b, _) = _cluster_ratio(a, clusters), _cluster_ratio(b, clusters)
    drawn = bootstrap(lambda draws: f_a(draws) - f_b(draws), n, within=(-1, 1))
    one, two = sum(a) / len(a), sum(b) / len(b)
    interval = _wide(drawn, n, newcombe(one * n, two * n, one * two * n, n))
    value = (sum(a) - sum(b)) / len(a)
    return {"value": value, "n": len(a), "n_clusters": n, "ci95": interval}
