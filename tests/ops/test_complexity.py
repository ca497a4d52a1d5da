"""Complexity: its order on pictures we can rank by eye, its range, and its formula."""

import math
from itertools import pairwise

import pytest
import torch

from foveate.ops.complexity import complexity


def noise(n=144, d=48, seed=0):
    return torch.randn(1, n, d, generator=torch.Generator().manual_seed(seed))


def coloured(colours, n=144, d=48):
    return noise(colours, d)[:, torch.arange(n) % colours]


def test_it_grows_from_one_colour_to_noise():
    pictures = [coloured(1), coloured(2), coloured(4), coloured(12), noise()]
    values = [float(complexity(p)) for p in pictures]
    assert values[0] == 0 and all(a < b - 0.02 for a, b in pairwise(values)), values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 3, 144, 1500])
def test_identical_tokens_are_exactly_zero(n, dtype):
    assert float(complexity(noise(1, 768).expand(1, n, -1).to(dtype))) == 0
    assert float(complexity(torch.zeros(1, n, 5, dtype=dtype))) == 0


@pytest.mark.parametrize("n, d", [(1, 1), (1, 5), (2, 1), (2, 5), (3, 1), (7, 3), (3, 7), (40, 4)])
def test_it_lies_between_zero_and_one(n, d):
    for seed in range(5):
        assert 0 <= float(complexity(noise(n, d, seed))) <= 1
    opposite = torch.tensor([1.0, -1.0]).repeat(n)[:n, None].expand(1, n, d)
    assert 0 <= float(complexity(opposite)) <= 1
    assert float(complexity(torch.eye(max(n, d))[None])) <= 1


def test_tokens_along_all_axes_both_ways_are_one():
    axes = torch.cat([torch.eye(8), -torch.eye(8)])[None]
    torch.testing.assert_close(complexity(axes), torch.ones(1))


@pytest.mark.parametrize("n, d", [(30, 9), (9, 30), (12, 12)])
@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_it_is_its_formula_by_eigenvalues(n, d, chunk):
    x = noise(n, d) + 0.5
    u = torch.nn.functional.normalize(x[0].double(), dim=-1)
    lam = torch.linalg.eigvalsh(torch.cov(u.T, correction=0))
    participation = float(lam.sum() ** 2 / (lam**2).sum())
    dispersion = 1 - float(u.mean(0).square().sum())
    expected = math.sqrt(dispersion * math.log(1 + participation) / math.log(1 + min(n - 1, d)))
    assert float(complexity(x, chunk=chunk)) == pytest.approx(expected, abs=1e-5)


def test_scale_of_tokens_does_not_matter_and_a_batch_equals_its_rows():
    x = torch.cat([noise(), coloured(4), coloured(1)])
    torch.testing.assert_close(complexity(x * 37), complexity(x))
    assert torch.equal(complexity(x), torch.cat([complexity(row[None]) for row in x]))


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        complexity(noise(), chunk=0)
