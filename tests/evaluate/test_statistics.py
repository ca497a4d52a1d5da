"""Intervals and tests against brute force: enumeration of all outcomes, and the definitions they invert."""

import itertools
import math

import numpy as np
import pytest

from foveate.evaluate import statistics


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 1), (5, 5), (0, 6), (2, 7)])
def test_mcnemar_by_tossing_every_coin(lost, gained):
    n = lost + gained
    outcomes = [sum(toss) for toss in itertools.product((0, 1), repeat=n)]
    extreme = sum(abs(k - n / 2) >= abs(lost - n / 2) - 1e-12 for k in outcomes)
    assert statistics.mcnemar(lost, gained) == pytest.approx(extreme / 2**n)


def test_mcnemar_of_many_pairs_does_not_overflow():
    assert statistics.mcnemar(3000, 3000) == 1 and 0 < statistics.mcnemar(400, 600) < 1e-9


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 3), (450, 500)])
def test_the_interval_of_a_share_inverts_the_score_test(right, n):
    scores = [1.0] * right + [0.0] * (n - right)
    found = statistics.mean(scores)
    inside = [
        p for p in np.linspace(0, 1, 20001) if abs(right / n - p) <= 1.959964 * math.sqrt(p * (1 - p) / n) + 1e-12
    ]
    assert found.mean == right / n
    assert found.low == pytest.approx(min(inside), abs=1e-4) and found.high == pytest.approx(max(inside), abs=1e-4)


def test_the_bootstrap_of_a_drop_by_every_resample():
    before, after = [1.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.75, 0.5]
    every = [sum(before[i] - after[i] for i in picked) / 4 for picked in itertools.product(range(4), repeat=4)]
    found = statistics.drop(before, after)
    assert found.mean == pytest.approx(0.3125)
    low, high = np.percentile(np.repeat(every, 100), (2.5, 97.5))
    assert found.low == pytest.approx(low, abs=0.07) and found.high == pytest.approx(high, abs=0.07)


def test_the_bootstrap_of_a_ratio_by_every_resample_of_groups():
    before, after, groups = [4.0, 4.0, 9.0, 2.0], [1.0, 1.0, 3.0, 2.0], ["a", "a", "b", "c"]
    sums = {"a": (8, 2), "b": (9, 3), "c": (2, 2)}
    every = [
        sum(sums[g][0] for g in picked) / sum(sums[g][1] for g in picked)
        for picked in itertools.product("abc", repeat=3)
    ]
    found = statistics.ratio(before, after, groups)
    assert found.mean == pytest.approx(19 / 7)
    low, high = np.percentile(np.repeat(every, 100), (2.5, 97.5))
    assert found.low == pytest.approx(low, abs=1e-9) and found.high == pytest.approx(high, abs=1e-9)


def test_one_batch_gives_no_interval():
    found = statistics.ratio([2.0, 2.0], [1.0, 1.0], ["a", "a"])
    assert (found.mean, found.low, found.high) == (2.0, None, None)


def test_soft_scores_get_the_bootstrap():
    found = statistics.mean([0.3, 0.6, 1.0, 0.0] * 10)
    assert found.mean == pytest.approx(0.475) and found.low < 0.475 < found.high
