"""Means with 95 % intervals, and differences between two methods on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean of n values and its 95 % interval; low and high are None where the values are one group."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True when the interval lies on one side of zero: of a difference, that it is significant."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def bootstrap_mean(values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0) -> Interval:
    """The mean, and the percentiles of the means of 2,000 resamples.

    `groups` says which values belong together (questions about one image): whole groups are drawn. Raises ValueError
    without a value.
    """
    if not len(values):
        raise ValueError("there is no mean of no values")
    x = np.asarray(values, dtype=float)
    names = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = np.bincount(names)
    mean = float(x.mean())
    if len(count) == 1:
        return Interval(mean, None, None, len(x))
    total = np.bincount(names, weights=x)
    generator = np.random.default_rng(seed)
    # how often each group was drawn: [draws, groups]
    drawn = generator.multinomial(len(count), np.full(len(count), 1 / len(count)), size=DRAWS)
    means = drawn @ total / (drawn @ count)
    low, high = np.percentile(means, (2.5, 97.5))
    # rounding must not turn a difference that is exactly zero into a significant one
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(x))


def share(flags: Sequence[bool | float], groups: Sequence[str] | None = None) -> Interval:
    """How many of the flags hold, as a fraction: Wilson's interval, or the bootstrap's where flags come in groups.

    Unlike the bootstrap's, Wilson's has a width where all or none hold.
    """
    n, z = len(flags), 1.959963985
    if not n or (groups is not None and len(set(groups)) < n):
        return bootstrap_mean([float(f) for f in flags], groups)
    p = sum(map(bool, flags)) / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), n)


def estimate(values: Sequence[float], groups: Sequence[str] | None = None) -> Interval:
    """The mean of values: as a share where they are all 0 or 1, else by the bootstrap."""
    return share(values, groups) if set(values) <= {0, 1} else bootstrap_mean(values, groups)


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], groups: Mapping[str, str] | None = None
) -> Interval | None:
    """Mean of a - b over the samples that both have, with its interval; None where they share none."""
    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    return bootstrap_mean([a[i] - b[i] for i in both], None if groups is None else [groups[i] for i in both])
