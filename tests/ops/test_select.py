"""Selectors against brute force, on counts, ties and spread."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops.select import Cosines, evenly, first_argmax, grid_points, max_min, tiered_top_k, top_k


def random_x(b, n, d=6, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def brute_force_max_min(x, count, seeds=()):
    """DivPrune in the open: all distances, lists, the lower index first."""
    u = torch.nn.functional.normalize(x.double(), dim=-1)
    distance = (1 - u @ u.T).tolist()
    n = len(distance)

    def first(values):
        best = max(values.values())
        return min(i for i, v in values.items() if v >= best - 1e-6)

    picks = list(seeds) or [first({i: min([distance[i][j] for j in range(n) if j != i], default=0) for i in range(n)})]
    while len(picks) < count:
        picks.append(first({i: min(distance[i][j] for j in picks) for i in range(n) if i not in picks}))
    return sorted(picks)


def test_top_k_takes_the_highest_and_of_ties_the_lower_index():
    score = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]])
    assert top_k(score, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert top_k(score, 6).tolist() == [list(range(6))] * 2
    assert top_k(torch.zeros(1, 1000), 500).tolist() == [list(range(500))]


def test_first_argmax_takes_the_lowest_of_equals():
    x = torch.zeros(2, 3, 1000)
    x[0, 0, [7, 400, 999]] = 1
    x[1, 2] = -torch.inf
    assert first_argmax(x).tolist() == [[7, 0, 0], [0, 0, 0]]


@given(st.integers(1, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_evenly_is_exact_unique_and_centred(n, data):
    count = data.draw(st.integers(1, n))
    index = evenly(n, count).tolist()
    assert len(set(index)) == count and index == sorted(index)
    assert index[0] >= 0 and index[-1] < n
    gaps = [b - a for a, b in pairwise(index)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(index[0] - (n - 1 - index[-1])) <= 1


@given(st.integers(1, 4), st.integers(1, 15), st.integers(1, 15), st.data())
@settings(max_examples=150, deadline=None)
def test_grid_points_are_exact_unique_ascending_and_even_over_frames(t, h, w, data):
    count = data.draw(st.integers(1, t * h * w))
    points = grid_points(t, h, w, count)
    assert len(set(points)) == count and points == sorted(points)
    assert points[0] >= 0 and points[-1] < t * h * w
    per_frame = [sum(p // (h * w) == f for p in points) for f in range(t)]
    assert max(per_frame) - min(per_frame) <= 1


def test_grid_points_form_a_lattice_when_the_count_fits():
    points = grid_points(1, 12, 12, 36)
    rows, columns = {p // 12 for p in points}, {p % 12 for p in points}
    assert len(rows) == len(columns) == 6
    assert points == [r * 12 + c for r in sorted(rows) for c in sorted(columns)]
    gaps = {b - a for s in (rows, columns) for a, b in pairwise(sorted(s))}
    assert gaps == {2}


def test_grid_points_follow_the_aspect_ratio():
    points = grid_points(1, 4, 16, 16)
    assert len({p // 16 for p in points}) == 2 and len({p % 16 for p in points}) == 8


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_max_min_is_the_greedy_rule(n, chunk):
    x = random_x(3, n, seed=n)
    for count in range(1, n + 1):
        expected = [brute_force_max_min(row, count) for row in x]
        assert max_min(x, count, chunk=chunk).tolist() == expected


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("chunk", [2, 1024])
def test_max_min_goes_on_from_its_seeds(kept, chunk, monkeypatch):
    if not kept:
        monkeypatch.setattr("foveate.ops.select.fits", lambda n, width: False)
    x, seeds = random_x(2, 12), torch.tensor([[3, 7, 11], [5, 0, 2]])
    for count in range(3, 13):
        expected = [brute_force_max_min(row, count, s) for row, s in zip(x, seeds.tolist(), strict=True)]
        assert max_min(x, count, chunk=chunk, seeds=seeds).tolist() == expected


def test_tiers_come_before_scores():
    score = torch.tensor([[9.0, 1.0, 8.0, 1.0, 7.0]])
    tier = torch.tensor([[0, 1, 0, 1, 2]])
    for count, expected in enumerate(([4], [1, 4], [1, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3, 4]), start=1):
        assert tiered_top_k(tier, score, count).tolist() == [expected]


def test_cosines_are_the_same_kept_and_computed(monkeypatch):
    x, index = random_x(2, 9), torch.tensor([[0, 8], [3, 3]])
    kept = Cosines.of(x)
    monkeypatch.setattr("foveate.ops.select.fits", lambda n, width: False)
    computed = Cosines.of(x)
    assert kept.kept is not None and computed.kept is None
    torch.testing.assert_close(kept.rows(index), computed.rows(index))
    u = torch.nn.functional.normalize(x, dim=-1)
    torch.testing.assert_close(kept.rows(index)[1, 0], u[1] @ u[1, 3])


def test_max_min_breaks_ties_by_lower_index():
    axes = torch.eye(4).repeat(3, 1)[None]  # three copies of four orthogonal tokens
    for count in range(1, 13):
        assert max_min(axes, count).tolist() == [brute_force_max_min(axes[0], count)]
    assert max_min(axes, 4).tolist() == [[0, 1, 2, 3]]
    assert max_min(torch.ones(1, 9, 4), 5).tolist() == [[0, 1, 2, 3, 4]]
    assert max_min(torch.zeros(1, 9, 4), 5).tolist() == [[0, 1, 2, 3, 4]]


def test_max_min_with_centre_subtracts_the_mean():
    x = random_x(2, 30) + 50
    assert torch.equal(max_min(x, 7, centre=True), max_min(x - x.mean(1, keepdim=True), 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_rows(dtype):
    x = random_x(4, 51, 33).to(dtype)
    for select in (lambda x: max_min(x, 17, chunk=16), lambda x: top_k(x[..., 0], 17)):
        assert torch.equal(select(x), torch.cat([select(row[None]) for row in x]))


@pytest.mark.parametrize("count", [0, -1, 6])
def test_an_impossible_count_is_refused(count):
    x = random_x(1, 5)
    for select in (
        lambda: top_k(x[..., 0], count), lambda: evenly(5, count), lambda: grid_points(1, 1, 5, count),
        lambda: max_min(x, count),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"count must lie in 1..5, the number of tokens, got {count}"):
            select()
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        max_min(x, 2, chunk=0)
