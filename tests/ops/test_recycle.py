"""Recycling: counts by trying all, clusters by hand and by brute force."""

import pytest
import torch

from foveate.ops.cluster import density_peaks
from foveate.ops.recycle import recycle, recycled_counts


@pytest.mark.parametrize("n", [2, 5, 20, 48, 576])
def test_counts_are_the_most_that_stay_so_that_all_fit(n):
    for count in range(1, n):
        stay, pooled, clusters = recycled_counts(n, count, 0.3, 10)
        assert stay + clusters == count and 1 <= clusters <= pooled <= n - stay
        fitting = [r for r in range(count + 1) if r + (int(0.3 * (n - r)) + 1) // 10 + 1 <= count]
        assert stay == max(fitting, default=0)


def test_of_576_tokens_300_are_291_and_nine_clusters_of_86():
    assert recycled_counts(576, 300, 0.3, 10) == (291, 86, 9)


def test_clusters_are_means_of_the_nearest_pooled_tokens():
    x = torch.randn(2, 30, 7, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 3, 30)[:, None]
    stay, pool = torch.tensor([[3, 17], [0, 29]]), torch.tensor([[9, 1, 4, 22, 8, 13], [2, 5, 7, 11, 20, 21]])
    merged = recycle(x, stay, pool, 3)
    for b in range(2):
        members = pool[b].sort().values
        centres = members[density_peaks(x[b, members][None], 3)[0]]
        assert merged.kept[b].tolist() == sorted(stay[b].tolist() + centres.tolist())
        nearest = [min(centres.tolist(), key=lambda c: (x[b, p] - x[b, c]).norm().item()) for p in members.tolist()]
        for rank, token in enumerate(merged.kept[b].tolist()):
            mine = [p for p, c in zip(members.tolist(), nearest, strict=True) if c == token] or [token]
            torch.testing.assert_close(merged.x[b, rank], x[b, mine].mean(0))
            assert (merged.source[b] == rank).nonzero()[:, 0].tolist() == sorted(mine)
            assert merged.size[b, rank] == len(mine)
        assert (merged.source[b] >= 0).sum() == 8
