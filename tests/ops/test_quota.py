"""Dividing a count among groups against a plain loop that hands out shares."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops.quota import largest_remainder


def by_hand(weight, count, capacity, least=0):
    """Fill up whoever is full, in order of fullness, until the rest can take its exact share; then round."""
    least = [min(least, c) for c in capacity]
    room = [c - m for c, m in zip(capacity, least, strict=True)]
    wanted = count - sum(least)
    weight = [max(w, 1e-9 * max(weight)) if max(weight) > 0 else 1.0 for w in weight]
    full = set()
    while True:
        rest = [g for g in range(len(weight)) if g not in full]
        left, total = wanted - sum(room[g] for g in full), sum(weight[g] for g in rest)
        over = {g for g in rest if weight[g] * left / total > room[g] + 1e-12}
        if not over:
            break
        full |= over
    share = [float(room[g]) if g in full else weight[g] * left / total for g in range(len(weight))]
    whole = [math.floor(s + 1e-9) for s in share]
    order = sorted((g for g in rest if whole[g] < room[g]), key=lambda g: (-round((share[g] - whole[g]) * 2**30), g))
    for g in order[: wanted - sum(whole)]:
        whole[g] += 1
    return [m + w for m, w in zip(least, whole, strict=True)]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_it_is_the_loop_and_exact(data):
    groups = data.draw(st.integers(1, 7))
    capacity = data.draw(st.lists(st.integers(0, 9), min_size=groups, max_size=groups))
    weight = data.draw(st.lists(st.integers(0, 20), min_size=groups, max_size=groups))
    least = data.draw(st.integers(0, 2))
    fewest = sum(min(least, c) for c in capacity)
    count = data.draw(st.integers(fewest, sum(capacity)))
    got = largest_remainder(torch.tensor([weight]).float(), count, torch.tensor([capacity]), least)[0].tolist()
    assert sum(got) == count
    assert all(min(least, c) <= q <= c for q, c in zip(got, capacity, strict=True))
    assert got == by_hand([float(w) for w in weight], count, capacity, least)


def test_shares_are_proportional_and_what_overflows_goes_on_in_proportion():
    def shares(weight, count, capacity, least=0):
        return largest_remainder(torch.tensor([weight]), count, torch.tensor([capacity]), least).tolist()[0]

    assert shares([1.0, 2.0, 3.0], 12, [99, 99, 99]) == [2, 4, 6]
    assert shares([1.0, 2.0, 3.0], 13, [99, 99, 99]) == [2, 4, 7]  # 2.17, 4.33, 6.5
    assert shares([1.0, 1.0, 1.0], 5, [9, 9, 9]) == [2, 2, 1]
    assert shares([1.0, 2.0, 9.0], 12, [99, 99, 3]) == [3, 6, 3]
    assert shares([0.0, 5.0, 0.0], 6, [4, 4, 4]) == [1, 4, 1]
    assert shares([0.0, 0.0], 3, [4, 4]) == [2, 1]
    assert shares([-1.0, 1.0], 3, [4, 4]) == [0, 3]
    assert shares([1.0, 8.0, 0.0], 9, [9, 9, 9], least=1) == [2, 6, 1]
    assert shares([6.0, 6.0, 9.0, 15.0], 8, [2, 2, 2, 3], least=1) == [2, 2, 2, 2]  # equal parts: the lower index


def test_rows_are_divided_by_themselves_and_counts_may_differ():
    weight = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
    capacity = torch.tensor([[9, 9], [4, 9]])
    assert largest_remainder(weight, torch.tensor([4, 8]), capacity).tolist() == [[1, 3], [4, 4]]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_only_proportions_of_weights_count(scale):
    weight = torch.tensor([[1.0, 2.0, 4.0]]) * scale
    assert largest_remainder(weight, 7, torch.tensor([[9, 9, 9]])).tolist() == [[1, 2, 4]]
