"""Intervals: against resampling by hand, known values, and what must hold for any numbers."""

import numpy as np
import pytest

from foveate.measure.interval import bootstrap_mean, estimate, paired_difference, share


def test_the_bootstrap_is_that_of_resampling_by_hand():
    x = np.random.default_rng(3).exponential(size=80)
    found = bootstrap_mean(x.tolist())
    generator = np.random.default_rng(1)
    means = [x[generator.integers(0, len(x), len(x))].mean() for _ in range(4000)]
    assert found.mean == pytest.approx(x.mean()) and found.n == 80
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.02)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.02)
    assert bootstrap_mean(x.tolist()) == found, "the same numbers have the same interval"


def test_values_of_one_group_count_once():
    x = np.random.default_rng(0).normal(size=30)
    repeated, groups = np.repeat(x, 5), np.repeat([f"image {i}" for i in range(30)], 5)
    grouped, alone = bootstrap_mean(repeated.tolist(), groups.tolist()), bootstrap_mean(x.tolist())
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    naive = bootstrap_mean(repeated.tolist())
    assert naive.high - naive.low < 0.6 * (grouped.high - grouped.low)


def test_one_group_has_no_interval():
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]).low is None
    assert bootstrap_mean([1.0]).high is None and not bootstrap_mean([1.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(10, 10, 0.7225, 1), (8, 10, 0.4902, 0.9433), (0, 5, 0, 0.4345)]
)
def test_shares_have_wilsons_interval(right, n, low, high):
    """Values of the closed form, to be found in any table of it."""
    found = share([True] * right + [False] * (n - right))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert estimate([1.0] * right + [0.0] * (n - right)) == found
    assert estimate([0.5, 1.0, 0.0]).n == 3


def test_differences_are_paired():
    generator = np.random.default_rng(0)
    hard = generator.normal(size=200) * 10
    a = {str(i): float(h) for i, h in enumerate(hard)}
    b = {str(i): float(h) - 0.1 + 0.01 * float(generator.normal()) for i, h in enumerate(hard)}
    found = paired_difference(a, b)
    assert found.excludes_zero and 0.09 < found.low < found.high < 0.11
    same = paired_difference(a, dict(reversed(a.items())))
    assert (same.mean, same.low, same.high) == (0, 0, 0) and not same.excludes_zero
    assert paired_difference(a, {"else": 1.0}) is None
    assert paired_difference(a, {"3": 0.0}).n == 1
