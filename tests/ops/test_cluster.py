"""Density peaks against brute force, and the nearest centre of each token."""

import math

import pytest
import torch

from foveate.ops.cluster import assign_nearest, density_peaks


def random_x(b, n, d=6, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def brute_force_peaks(x, count, near):
    """The definition in double precision, rho and delta multiplied as they stand."""
    n, d = x.shape
    x = x.double()
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) / d
    rho, delta = [], []
    for i in range(n):
        others = sorted(float(squared[i, j]) for j in range(n) if j != i)[:near]
        rho.append(math.exp(-sum(others) / near))
    for i in range(n):
        denser = [j for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        delta.append(math.sqrt(min(squared[i, j] for j in denser) if denser else squared[i].max()))
    return sorted(sorted(range(n), key=lambda i: (-rho[i] * delta[i], i))[:count])


@pytest.mark.parametrize("n", [2, 3, 7, 12, 25])
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_density_peaks_are_the_definition(n, chunk):
    x = random_x(2, n, seed=n)
    for count in {1, n // 2, n}:
        if count:
            expected = [brute_force_peaks(row, count, min(count, n - 1)) for row in x]
            assert density_peaks(x, count, chunk=chunk).tolist() == expected
    assert density_peaks(x, 2, neighbours=1).tolist() == [brute_force_peaks(row, 2, 1) for row in x]


def test_density_peaks_find_one_centre_in_each_blob():
    blobs = torch.eye(4)[torch.arange(40) % 4] * 10
    x = (blobs + 0.1 * random_x(1, 40, 4)[0])[None]
    centres = density_peaks(x, 4, neighbours=5)
    assert sorted((centres % 4).tolist()[0]) == [0, 1, 2, 3]
    assert assign_nearest(x, centres).tolist()[0] == [(centres % 4).tolist()[0].index(i % 4) for i in range(40)]


def test_identical_and_far_tokens_give_distinct_lowest_indices():
    assert density_peaks(torch.ones(1, 9, 4), 3).tolist() == [[0, 1, 2]]
    assert density_peaks(torch.randn(1, 1, 4), 1).tolist() == [[0]]
    wide = random_x(1, 20, 8) * 1e4  # exp(-density) is 0 for all: only the logarithms tell them apart
    assert torch.equal(density_peaks(wide, 5), density_peaks(wide, 5, chunk=3))
    assert density_peaks(wide, 5, neighbours=3).unique().numel() == 5


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_each_token_gets_its_most_similar_centre(chunk):
    x, metric = random_x(2, 11), random_x(2, 11, 3, seed=5)
    centres = torch.tensor([[0, 4, 9], [2, 3, 10]])
    for m in (None, metric):
        u = torch.nn.functional.normalize(x if m is None else m, dim=-1)
        similarity = u @ u.transpose(1, 2)
        got = assign_nearest(x, centres, m, chunk=chunk)
        for b in range(2):
            for i in range(11):
                c = centres[b].tolist()
                expected = c.index(i) if i in c else int(similarity[b, i, centres[b]].argmax())
                assert got[b, i] == expected


def test_identical_centres_keep_themselves_and_share_by_lower_rank():
    x = torch.ones(1, 6, 3)
    assert assign_nearest(x, torch.tensor([[1, 3]])).tolist() == [[0, 0, 0, 1, 0, 0]]
    receives = torch.tensor([[False, True]])
    assert assign_nearest(x, torch.tensor([[1, 3]]), receives=receives).tolist() == [[1, 0, 1, 1, 1, 1]]
    nobody = torch.tensor([[False, False]])
    assert assign_nearest(x, torch.tensor([[1, 3]]), receives=nobody).tolist() == [[-1, 0, -1, 1, -1, -1]]


def test_a_batch_equals_its_rows():
    x = random_x(4, 51, 33)
    assert torch.equal(density_peaks(x, 9), torch.cat([density_peaks(row[None], 9) for row in x]))


def test_impossible_arguments_are_refused():
    x = random_x(1, 5)
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"count must lie in 1..5, the number of tokens, got {count}"):
            density_peaks(x, count)
    with pytest.raises(ValueError, match="neighbours must be at least 1, got 0"):
        density_peaks(x, 2, neighbours=0)
