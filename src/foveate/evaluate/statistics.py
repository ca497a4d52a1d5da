"""Tests and intervals for paired results: exact McNemar, ratios of totals; shares and means are in measure.interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..measure.interval import DRAWS, Interval, bootstrap_mean, share


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value that `lost` (right, then wrong) and `gained` (wrong, then right) are equally likely.

    The binomial test on the discordant pairs (McNemar 1947); 1 where there are none.
    """
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


def mean(scores: Sequence[float]) -> Interval:
    """The mean with Wilson's interval (1927) where all scores are 0 or 1, else the bootstrap's."""
    return share(scores) if set(scores) <= {0, 1} else bootstrap_mean(scores)


def drop(before: Sequence[float], after: Sequence[float]) -> Interval:
    """How much lower the mean of `after` is, pair by pair, with the paired bootstrap's interval."""
    return bootstrap_mean([a - b for a, b in zip(before, after, strict=True)])


def ratio(before: Sequence[float], after: Sequence[float], groups: Sequence[str], seed: int = 0) -> Interval:
    """Total of `before` divided by total of `after`: how many times less was needed; with the percentile interval.

    Whole groups are redrawn with replacement, both columns together (Efron 1979); with one group there is no interval.
    """
    names = np.unique(np.asarray(groups), return_inverse=True)[1]
    first, second = (np.bincount(names, weights=np.asarray(column)) for column in (before, after))
    value, n = float(first.sum() / second.sum()), len(first)
    if n == 1:
        return Interval(value, None, None, len(names))
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    low, high = np.percentile((counts @ first) / (counts @ second), (2.5, 97.5))
    return Interval(value, float(low), float(high), len(names))
