"""Some of what was dropped comes back as the means of a few clusters (SparseVLM)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .cluster import density_peaks
from .merge import Merged
from .rows import rows_of
from .select import first_argmax
from .sums import group_sum


def recycled_counts(n: int, count: int, share: float, each: int) -> tuple[int, int, int]:
    """How many of n tokens stay as they are, how many of the next best are pooled, and into how many clusters.

    With r staying, floor(share (n - r)) + 1 are pooled, and every `each` of those, plus one, make a cluster: r is the
    largest for which both together are `count`.
    """
    for stay in range(count, -1, -1):
        pooled = int(share * (n - stay)) + 1
        if stay + pooled // each + 1 <= count:
            break
    return stay, min(pooled, n - stay), count - stay


def recycle(x: Float[Tensor, "B N D"], stay: Int[Tensor, "B r"], pool: Int[Tensor, "B m"], clusters: int) -> Merged:
    """The tokens that stay, and the pooled ones as the means of clusters; each cluster is at its centre's place.

    Centres are density peaks of the pool, each pooled token joins the nearest by Euclidean distance, ties to the lower
    index. What is neither is dropped. Cost: m x m x D twice, memory 1024 x m. Source: SparseVLM (arXiv 2410.04417).
    """
    b, n, _ = x.shape
    pool = pool.sort(dim=1).values
    pooled = rows_of(x, pool).float()
    centre = density_peaks(pooled, clusters)
    centres = rows_of(pooled, centre)
    # |p - c|^2 is smallest where p.c - |c|^2 / 2 is largest
    mean = pooled.mean(1, keepdim=True)
    near = (pooled - mean) @ (centres - mean).transpose(1, 2) - (centres - mean).square().sum(2)[:, None] / 2
    nearest = first_argmax(near).scatter(1, centre, torch.arange(clusters, device=x.device).expand(b, -1))
    kept, order = torch.cat([stay, pool.gather(1, centre)], dim=1).sort(dim=1)
    rank = order.argsort(1)
    source = kept.new_full((b, n), -1).scatter(1, stay, rank[:, : stay.shape[1]])
    source = source.scatter(1, pool, rank[:, stay.shape[1] :].gather(1, nearest))
    total, size = group_sum(x, source, kept.shape[1])
    same = torch.arange(kept.shape[1], device=x.device).expand_as(kept)
    return Merged(kept, source, size, (total / size[..., None]).to(x.dtype), same)
