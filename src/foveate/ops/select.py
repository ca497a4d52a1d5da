"""Selectors: which tokens stay, as ascending indices without duplicates. Ties go to the lower index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import InvalidValue
from .rows import rows_of

KEPT = 2**23
"""Similarities that are always kept rather than computed anew for each pick: 32 MB in float32."""


def top_k(score: Float[Tensor, "B N"], count: int) -> Int[Tensor, "B T"]:
    """The `count` highest scores of each row. Cost: a stable sort. Raises InvalidValue unless 1 <= count <= N."""
    check_count(count, score.shape[1])
    best = score.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return best.sort(dim=1).values


def evenly(n: int, count: int) -> Int[Tensor, " T"]:
    """The `count` of n indices that lie in the middle of equal strides; a middle between two goes to the lower one.

    Raises InvalidValue unless 1 <= count <= n.
    """
    return torch.tensor(_evenly(n, count))


def grid_points(t: int, h: int, w: int, count: int) -> list[int]:
    """Exactly `count` raster indices of a (t, h, w) grid, spread evenly over frames, then rows, then columns.

    Per frame, the number of rows used makes the points about as far apart downwards as sideways, so that a count that
    fits becomes a square lattice. On the host. Raises InvalidValue unless 1 <= count <= t * h * w.
    """
    check_count(count, t * h * w)
    points = []
    for frame, inside in _shares(t, count):
        rows = math.floor(math.sqrt(inside * h / w) + 0.5)
        rows = min(max(rows, -(-inside // w)), h, inside)
        picked = _evenly(h, rows)
        for row, columns in _shares(rows, inside):
            points += [(frame * h + picked[row]) * w + column for column in _evenly(w, columns)]
    return points


def tiered_top_k(tier: Int[Tensor, "B N"], score: Float[Tensor, "B N"], count: int) -> Int[Tensor, "B T"]:
    """The first `count` of each row by tier, then by score, both descending; ties go to the lower index.

    Cost: two stable sorts. Raises InvalidValue unless 1 <= count <= N.
    """
    check_count(count, score.shape[1])
    return by_tier(tier, score)[:, :count].sort(dim=1).values


def by_tier(tier: Int[Tensor, "B N"], score: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """All indices of each row by descending tier, then descending score, then index."""
    order = score.sort(dim=1, descending=True, stable=True).indices
    return order.gather(1, tier.gather(1, order).sort(dim=1, descending=True, stable=True).indices)


def max_min(
    x: Float[Tensor, "B N D"],
    count: int,
    chunk: int = 1024,
    centre: bool = False,
    seeds: Int[Tensor, "B S"] | None = None,
    weight: Float[Tensor, "B N"] | None = None,
) -> Int[Tensor, "B T"]:
    """Greedy farthest points by cosine distance: the most isolated token first, then whichever is farthest from all.

    Isolated means the largest distance to the nearest neighbour. `seeds` are taken in its place: distinct tokens, as
    many in every row, and at most `count`. `centre` subtracts the mean token before the cosine; `weight` > 0 multiplies
    the distances of each token wherever it is compared. A zero vector is at distance 1 from everything. Cost: N x N x D
    once, in chunks of rows (not with seeds), then N x D a pick; memory chunk x N. Where all similarities fit (`fits`)
    they are kept, and a pick costs N. Raises InvalidValue unless 1 <= count <= N and chunk >= 1.
    Source: DivPrune (arXiv 2503.02175); the released code holds N x N distances and gathers T x N of them every pick.
    """
    n = x.shape[1]
    check_count(count, n)
    if chunk < 1:
        raise InvalidValue(f"chunk must be at least 1, got {chunk}")
    cosines = Cosines.of(x, centre)
    if seeds is None:
        nearest = _nearest_similarity(cosines, chunk)
        seeds = first_argmax(-nearest if weight is None else (1 - nearest) * weight)[:, None]
    picks = [seeds]
    distance = torch.full(x.shape[:2], torch.inf, device=x.device)
    for _ in range(count - picks[0].shape[1]):
        for part in torch.split(picks[-1], chunk, dim=1):
            distance = torch.minimum(distance, 1 - cosines.rows(part).amax(1))
        distance.scatter_(1, picks[-1], -torch.inf)
        picks.append(first_argmax(distance if weight is None else distance * weight)[:, None])
    return torch.cat(picks, dim=1).sort(dim=1).values


def max_min_flops(n: int, count: int, width: int, seeds: int = 0) -> int:
    """FLOPs of the matmuls in `max_min`: all similarities once, and one row a pick where they are too many to keep."""
    if fits(n, width):
        return 2 * n * width * n
    return 2 * n * width * ((0 if seeds else n) + count - 1)


def first_argmax(score: Float[Tensor, "*s N"]) -> Int[Tensor, "*s"]:
    """Index of the largest score along the last axis, the lowest one of equals (`torch.argmax` returns any of them)."""
    n = score.shape[-1]
    index = torch.arange(n, device=score.device)
    first = torch.where(score == score.amax(-1, keepdim=True), index, n).amin(-1)
    return first.clamp(max=n - 1)


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines of the tokens of each row with each other: all kept where they fit, else computed when asked for."""

    u: Float[Tensor, "B N D"]
    kept: Float[Tensor, "B N N"] | None

    @classmethod
    def of(cls, x: Float[Tensor, "B N D"], centre: bool = False) -> Cosines:
        """Those of x, of which `centre` subtracts the mean token first. A zero vector has cosine 0 with everything."""
        u = unit(x - x.float().mean(1, keepdim=True)) if centre else unit(x)
        return cls(u, u @ u.transpose(1, 2) if fits(*x.shape[1:]) else None)

    def rows(self, index: Int[Tensor, "B m"]) -> Float[Tensor, "B m N"]:
        """Cosines of some tokens with all, in a tensor of its own."""
        kept = self.u if self.kept is None else self.kept
        rows = rows_of(kept, index)
        return rows if self.kept is not None else rows @ self.u.transpose(1, 2)


def fits(n: int, width: int) -> bool:
    """Whether n x n similarities are few enough to be kept: 32 MB, or twice as many numbers as the features have."""
    return n * n <= KEPT or n <= 2 * width


def unit(x: Float[Tensor, "*s D"]) -> Float[Tensor, "*s D"]:
    """The vectors at unit length, in float32; zero stays zero."""
    return normalize(x.float(), dim=-1)


def check_count(count: int, n: int) -> None:
    """Raises InvalidValue unless 1 <= count <= n."""
    if not 1 <= count <= n:
        raise InvalidValue(f"count must lie in 1..{n}, the number of tokens, got {count}")


def _nearest_similarity(cosines: Cosines, chunk: int) -> Float[Tensor, "B N"]:
    """Cosine of each token with its nearest other one."""
    b, n, _ = cosines.u.shape
    index = torch.arange(n, device=cosines.u.device).expand(b, n)
    nearest = []
    for start in range(0, n, chunk):
        rows = cosines.rows(index[:, start : start + chunk])
        rows.diagonal(start, 1, 2).fill_(-torch.inf)
        nearest.append(rows.amax(2))
    return torch.cat(nearest, dim=1)


def _evenly(n: int, count: int) -> list[int]:
    check_count(count, n)
    return [((2 * i + 1) * n - 1) // (2 * count) for i in range(count)]


def _shares(parts: int, count: int) -> list[tuple[int, int]]:
    """(part, how many of `count` it gets) for the parts that get any; those with one more are evenly spread."""
    base, more = divmod(count, parts)
    extra = set(_evenly(parts, more)) if more else set()
    return [(i, base + (i in extra)) for i in range(parts) if base or i in extra]
