"""Clusters no wider than a cutoff, with the cutoff that gives a wanted number of them (DBDPC, PACT)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .merge import Merged
from .rows import rows_of
from .select import Cosines, first_argmax, tiered_top_k, unit
from .sums import group_sum

CHUNK = 1024
ROUNDS = 6
HALVINGS = 12
KEPT = 2**24
"""Cosines that are kept, rather than computed anew at each of the 15 looks at them: 64 MB in float32."""


def distance_clusters(
    x: Float[Tensor, "B N D"], metric: Float[Tensor, "B N E"], pool: Int[Tensor, "B m"], count: int, reach: float
) -> Merged:
    """`count` clusters of the pooled tokens, each the mean of its tokens, at its centre's place.

    Distances are 1 - cosine of the metric. In the order of falling density, sum_j exp(-(d_ij / 2)^2), a token is a
    centre unless one within the cutoff is; the cutoff is the smallest that gives at most `count`, to 2^-11, and the
    tokens farthest from all centres make up what is missing. Pooled tokens join the nearest centre, the others only if
    it is within `reach` times the cutoff. Ties go to the lower index. Cost: m x m x E once up to m = 4,096, where the
    cosines are kept, else at each of 15 looks; memory m x m bytes, and four times that where they are kept.
    Source: PACT (arXiv 2504.08966).
    """
    b = x.shape[0]
    pool = pool.sort(dim=1).values
    u = unit(metric)
    pooled = rows_of(u, pool)
    few_enough = pool.shape[1] ** 2 <= KEPT
    cosines = Cosines(pooled, pooled @ pooled.transpose(1, 2) if few_enough else None)
    denser = _denser(cosines)
    low, high = u.new_zeros(b), u.new_full((b,), 2.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        few = _centres(cosines, denser, middle).sum(1) <= count
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    centre = _completed(cosines, _centres(cosines, denser, high), count)
    kept = pool.gather(1, centre)
    source, distance = _nearest(u, kept)
    joins = (distance <= reach * high[:, None]).scatter(1, pool, True)
    source = torch.where(joins, source, -1)
    total, size = group_sum(x, source, count)
    same = torch.arange(count, device=x.device).expand(b, -1)
    return Merged(kept, source, size, (total / size[..., None]).to(x.dtype), same)


def distance_clusters_flops(n: int, pooled: int, count: int, width: int) -> int:
    """FLOPs of the matmuls in `distance_clusters`."""
    looks = 1 if pooled**2 <= KEPT else HALVINGS + 3
    return 2 * width * (looks * pooled**2 + n * count)


def _denser(cosines: Cosines) -> Bool[Tensor, "B m m"]:
    """Whether the second token is denser than the first, or as dense and before it."""
    density = torch.cat([(-((1 - c) / 2).square()).exp().sum(2) for c in _chunks(cosines)], dim=1)
    place = density.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return place[:, None] < place[..., None]


def _centres(cosines: Cosines, denser: Bool[Tensor, "B m m"], cutoff: Float[Tensor, " B"]) -> Bool[Tensor, "B m"]:
    """Tokens that no denser centre is within the cutoff of.

    In each round those become centres that no denser token without one is near; what they are near has one. That is
    the walk in order of density, many steps at a time; what six rounds leave open has no centre of its own.
    """
    near = torch.cat([c >= 1 - cutoff[:, None, None] for c in _chunks(cosines)], dim=1) & denser
    centre = torch.zeros_like(near[:, 0])
    open_ = torch.ones_like(centre)
    for _ in range(ROUNDS):
        new = open_ & ~(near & open_[:, None]).any(2)
        centre = centre | new
        open_ = open_ & ~new & ~(near & new[:, None]).any(2)
    return centre


def _completed(cosines: Cosines, centre: Bool[Tensor, "B m"], count: int) -> Int[Tensor, "B T"]:
    """The centres, and the tokens farthest from all of them."""
    near = [c.masked_fill(~centre[:, None], -torch.inf).amax(2) for c in _chunks(cosines)]
    return tiered_top_k(centre.long(), 1 - torch.cat(near, dim=1), count)


def _nearest(u: Float[Tensor, "B N E"], kept: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Rank of the nearest centre of each token, and the distance to it; a centre is its own."""
    centres = rows_of(u, kept).transpose(1, 2)
    rank, distance = [], []
    for part in torch.split(u, CHUNK, dim=1):
        cosine = part @ centres
        rank.append(first_argmax(cosine))
        distance.append(1 - cosine.amax(2))
    own = torch.arange(kept.shape[1], device=u.device).expand_as(kept)
    return torch.cat(rank, dim=1).scatter(1, kept, own), torch.cat(distance, dim=1)


def _chunks(cosines: Cosines) -> Iterator[Float[Tensor, "B c m"]]:
    """The cosines of all tokens with all, a chunk of rows at a time."""
    rows = cosines.u if cosines.kept is None else cosines.kept
    for part in torch.split(rows, CHUNK, dim=1):
        yield part @ cosines.u.transpose(1, 2) if cosines.kept is None else part
