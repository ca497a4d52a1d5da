"""Clusters by a cutoff: centres against the walk in order of density, members against the definition."""

import pytest
import torch

from foveate.ops import distance_clusters as op
from foveate.ops.select import Cosines, unit


def walk(cosine, cutoff):
    """A token is a centre unless a denser centre is within the cutoff."""
    density = (-((1 - cosine) / 2).square()).exp().sum(1)
    centres = []
    for i in density.sort(descending=True, stable=True).indices.tolist():
        if all(1 - cosine[i, c] > cutoff for c in centres):
            centres.append(i)
    return sorted(centres)


def points(b=2, n=24, d=5, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed)) + 0.6


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("cutoff", [0.02, 0.2, 0.6, 1.9])
def test_rounds_find_the_centres_of_the_walk(cutoff, kept, monkeypatch):
    monkeypatch.setattr(op, "CHUNK", 7)
    u = unit(points())
    cosines = Cosines(u, u @ u.transpose(1, 2) if kept else None)
    got = op._centres(cosines, op._denser(cosines), torch.full((2,), cutoff))
    for b in range(2):
        assert got[b].nonzero()[:, 0].tolist() == walk(u[b] @ u[b].T, cutoff)


@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_clusters_are_as_many_as_wanted_and_means_of_their_members(count):
    x, metric = points(d=9, seed=1), points(seed=2)
    pool = torch.arange(0, 24, 2).expand(2, -1)
    merged = op.distance_clusters(x, metric, pool, count, reach=1.5)
    assert merged.kept.shape == (2, count) and set(merged.kept.flatten().tolist()) <= set(range(0, 24, 2))
    u = unit(metric)
    for b in range(2):
        cosine = u[b] @ u[b, merged.kept[b]].T
        nearest = cosine.argmax(1)
        assert torch.equal(merged.source[b, pool[b]], nearest[pool[b]])
        outside = merged.source[b, 1::2]
        assert ((outside == -1) | (outside == nearest[1::2])).all()
        joined, left = 1 - cosine.amax(1)[1::2][outside >= 0], 1 - cosine.amax(1)[1::2][outside < 0]
        assert not joined.numel() or not left.numel() or joined.max() <= left.min()
        for rank in range(count):
            members = merged.source[b] == rank
            torch.testing.assert_close(merged.x[b, rank], x[b, members].mean(0))
            assert merged.size[b, rank] == members.sum()


def test_the_cutoff_is_the_smallest_that_gives_so_many():
    """Clusters of the walk at a cutoff come out again when their number is asked for."""
    metric = points(b=1)
    u = unit(metric)[0]
    centres = walk(u @ u.T, 0.35)
    merged = op.distance_clusters(metric, metric, torch.arange(24)[None], len(centres), reach=0.0)
    smaller = next(c for c in torch.linspace(0, 0.35, 701).tolist() if len(walk(u @ u.T, c)) <= len(centres))
    assert merged.kept[0].tolist() == walk(u @ u.T, smaller + 2**-11)


def test_what_was_left_out_joins_within_reach_of_the_cutoff():
    x, pool = points(b=1, n=60), torch.arange(0, 60, 2)[None]
    u = unit(x)[0]
    merged = op.distance_clusters(x, x, pool, 20, reach=1.5)
    cosine = u[pool[0]] @ u[pool[0]].T
    cutoff = next(c for c in torch.linspace(0, 2, 4001).tolist() if len(walk(cosine, c)) <= 20)
    distance = 1 - (u @ u[merged.kept[0]].T).amax(1)[1::2]
    joins = merged.source[0, 1::2] >= 0
    assert joins.any() and not joins.all()
    assert distance[joins].max() <= 1.5 * (cutoff + 0.001) and distance[~joins].min() > 1.5 * (cutoff - 0.001)


def test_equal_tokens_still_give_the_count():
    merged = op.distance_clusters(torch.ones(1, 6, 3), torch.ones(1, 6, 3), torch.arange(6)[None], 4, reach=1.5)
    assert merged.kept[0].tolist() == [0, 1, 2, 3]


def test_what_is_not_kept_is_counted_at_every_look(monkeypatch):
    from foveate.cost.counter import counted_flops
    from foveate.pieces import DistanceClusters, Extent

    monkeypatch.setattr(op, "KEPT", 10)
    extent = Extent(n=20, count=7, width=12, heads=4, kv_heads=2, head_dim=8)
    assert DistanceClusters().flops(extent) == counted_flops(DistanceClusters(), extent)
