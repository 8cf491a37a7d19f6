"""Random draws in a hot loop: several times faster than Random.choice, and as repeatable."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def pick(rng: Random, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def pick_weighted(rng: Random, items: Sequence[T], weights: Sequence[float]) -> T:
    """One of the items, likely in proportion to its weight."""
    left = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        left -= weight
        if left < 0:
            return item
    return items[-1]  # only when rounding ate the last weight
