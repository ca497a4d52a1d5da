"""Survivors that take in shares of others, and what a basis cannot say, against the formulas in the open."""

import math

import pytest
import torch

from foveate.ops import aggregate
from foveate.ops.aggregate import attention_sum, neighbourhood_mean
from foveate.ops.residual import far_apart, reconstruction_error


def random_x(b, n, d=4, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[256, 2])
def chunk(request, monkeypatch):
    monkeypatch.setattr(aggregate, "CHUNK", request.param)


@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_attention_sum_is_prumerges_update(neighbours, chunk):
    x, keys = random_x(2, 9, seed=1), random_x(2, 9, 3, seed=2)
    attention = random_x(2, 9, 1, seed=3)[..., 0].sigmoid()
    kept = torch.tensor([[0, 3, 4, 8], [1, 2, 5, 7]])
    merged = attention_sum(x, kept, attention, keys, neighbours)
    for row in range(2):
        k, a, u = kept[row].tolist(), attention[row].tolist(), torch.nn.functional.normalize(keys[row], dim=-1)
        extra = min(k, key=lambda i: (a[i], -i))
        for rank, i in enumerate(k):
            near = sorted((j for j in range(9) if j != i), key=lambda j: -float(u[i] @ u[j]))[:neighbours]
            expected = x[row, i] + sum(a[j] * x[row, j] for j in near)
            if i == extra:
                rest = [j for j in range(9) if j not in k or j == extra]
                expected = sum(a[j] * x[row, j] for j in rest)
                assert merged.source[row, rest].tolist() == [rank] * 6 and merged.size[row, rank] == 6
            torch.testing.assert_close(merged.x[row, rank], expected)
    assert merged.size.sum(1).tolist() == [9, 9]


def test_of_equal_attention_the_last_survivor_speaks_for_the_rest():
    merged = attention_sum(random_x(1, 5), torch.tensor([[1, 2, 4]]), torch.ones(1, 5), random_x(1, 5), 2)
    assert merged.source.tolist() == [[2, 0, 1, 2, 2]]


def test_a_single_survivor_speaks_for_itself():
    x = random_x(1, 4)
    merged = attention_sum(x, torch.tensor([[2]]), torch.full((1, 4), 0.5), torch.eye(4)[None], 1)
    assert merged.source.tolist() == [[-1, -1, 0, -1]]
    torch.testing.assert_close(merged.x[0, 0], x[0, 2] + 0.5 * x[0, 0])  # of equally near ones the first


@pytest.mark.parametrize("faithful", [False, True])
def test_neighbourhood_mean_is_nuwas_weights(faithful, chunk):
    x, metric = random_x(1, 24, seed=1), random_x(1, 24, 3, seed=2)
    place = torch.tensor([[f, r, c] for f in range(2) for r in range(3) for c in range(4)])[None].float()
    kept, gathers = torch.tensor([[0, 5, 6, 13, 20]]), torch.tensor([[True, False, True, True, True]])
    merged = neighbourhood_mean(x, kept, gathers, place, metric, 2.5, faithful)
    u = torch.nn.functional.normalize(metric[0], dim=-1)
    weight = torch.zeros(5, 24)
    for rank, i in enumerate(kept[0].tolist()):
        for j in range(24):
            if place[0, i, 0] == place[0, j, 0]:
                apart = math.dist(place[0, i, 1:].tolist(), place[0, j, 1:].tolist())
                weight[rank, j] = max(0.0, float(u[i] @ u[j])) * max(0.0, 1 - apart / 2.5)
        weight[rank] /= weight[rank].sum()
        if not gathers[0, rank]:
            weight[rank] = 0
        weight[rank, i] = 1
    expected = weight @ x[0]
    expected = expected if faithful else expected / weight.sum(1, keepdim=True)
    torch.testing.assert_close(merged.x[0], expected)
    assert torch.equal(merged.x[0, 1], x[0, 5])
    for j in set(range(24)) - set(kept[0].tolist()):
        heaviest = int(weight[:, j].argmax()) if weight[:, j].max() > 0 else -1
        assert merged.source[0, j] == heaviest
    assert (merged.source == -1).any() and merged.source.gather(1, kept).tolist() == [[0, 1, 2, 3, 4]]


def test_the_mean_keeps_the_length_of_equal_tokens_and_the_released_sum_doubles_it():
    x, place = torch.ones(1, 16, 2), torch.tensor([[0, i // 4, i % 4] for i in range(16)])[None].float()
    kept, gathers = torch.tensor([[5]]), torch.tensor([[True]])
    assert neighbourhood_mean(x, kept, gathers, place, x, 5.0).x[0, 0, 0].item() == pytest.approx(1)
    assert neighbourhood_mean(x, kept, gathers, place, x, 5.0, True).x[0, 0, 0].item() > 1.8


@pytest.mark.parametrize("n", [1, 2, 9])
def test_far_apart_is_farthest_point_sampling(n):
    x = random_x(2, n, seed=n)
    for row in range(2):
        y = x[row].double()
        apart = torch.cdist(y, y).tolist()
        picks = [int((y - y.mean(0)).norm(dim=-1).argmax())]
        while len(picks) < n:
            picks.append(
                max((i for i in range(n) if i not in picks), key=lambda i: (min(apart[i][j] for j in picks), -i))
            )
        assert far_apart(x, n)[row].tolist() == picks
    assert far_apart(torch.ones(1, 4, 2), 3).tolist() == [[0, 1, 2]]


def test_reconstruction_error_is_the_distance_from_the_span():
    x = random_x(2, 12, 8)
    basis = far_apart(x, 3)
    error = reconstruction_error(x, basis)
    for row in range(2):
        a = x[row, basis[row]].double()
        project = a.T @ torch.linalg.inv(a @ a.T) @ a
        expected = (x[row].double() - x[row].double() @ project).norm(dim=-1)
        torch.testing.assert_close(error[row].double(), expected, atol=1e-4, rtol=1e-4)
    assert error.gather(1, basis).max() < 1e-3
    assert torch.isfinite(reconstruction_error(torch.zeros(1, 4, 2), torch.tensor([[0, 1]]))).all()
