"""Proportions of units that hang together: replies of a dialogue, answers to one text.

Such units fail together, so that intervals draw whole clusters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sft_utils.errors import ConfigError
from sft_utils.intervals import bootstrap


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
    interval = bootstrap(statistic, n, within=(0, 1))
    return {"value": sum(hits) / len(hits), "n": len(hits), "n_clusters": n, "ci95": interval}


def cluster_difference(
    a: Sequence[bool], b: Sequence[bool], clusters: Sequence[str]
) -> dict[str, Any]:
    """Rate of `a` minus rate of `b` on the same units, paired bootstrap of clusters.

    Raises:
        ConfigError: The lists do not describe the same units, or no units.
    """
    (f_a, n), (f_b, _) = _cluster_ratio(a, clusters), _cluster_ratio(b, clusters)
    interval = bootstrap(lambda draws: f_a(draws) - f_b(draws), n, within=(-1, 1))
    value = (sum(a) - sum(b)) / len(a)
    return {"value": value, "n": len(a), "n_clusters": n, "ci95": interval}
