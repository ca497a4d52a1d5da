"""Selectors: which tokens stay, as ascending indices without duplicates. Ties go to the lower index."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import InvalidValue

KEPT = 2**23
"""Similarities that are kept rather than computed anew for each pick: 32 MB in float32."""


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


def max_min(x: Float[Tensor, "B N D"], count: int, chunk: int = 1024, centre: bool = False) -> Int[Tensor, "B T"]:
    """Greedy farthest points by cosine distance: the most isolated token first, then whichever is farthest from all.

    Isolated means the largest distance to the nearest neighbour. `centre` subtracts the mean token before the cosine. A
    zero vector is at distance 1 from everything. Cost: N x N x D once, in chunks of rows, then N x D a pick; memory
    chunk x N. Up to N = 2,896 all similarities are kept (32 MB) and a pick costs N. Raises InvalidValue unless
    1 <= count <= N and chunk >= 1.
    Source: DivPrune (arXiv 2503.02175); the released code holds N x N distances and gathers T x N of them every pick.
    """
    n = x.shape[1]
    check_count(count, n)
    if chunk < 1:
        raise InvalidValue(f"chunk must be at least 1, got {chunk}")
    u = unit(x - x.float().mean(1, keepdim=True)) if centre else unit(x)
    similarity = _similarity_to_others(u, 0, n) if n * n <= KEPT else None
    pick = first_argmax(-(_nearest_similarity(u, chunk) if similarity is None else similarity.amax(2)))
    picks = [pick]
    distance = torch.full(u.shape[:2], torch.inf, device=u.device)
    for _ in range(count - 1):
        if similarity is None:
            chosen = u.gather(1, pick[:, None, None].expand(-1, 1, u.shape[2]))
            row = (u @ chosen.transpose(1, 2))[..., 0]
        else:
            row = similarity.gather(1, pick[:, None, None].expand(-1, 1, n))[:, 0]
        distance = torch.minimum(distance, 1 - row)
        distance.scatter_(1, pick[:, None], -torch.inf)
        pick = first_argmax(distance)
        picks.append(pick)
    return torch.stack(picks, dim=1).sort(dim=1).values


def first_argmax(score: Float[Tensor, "*s N"]) -> Int[Tensor, "*s"]:
    """Index of the largest score along the last axis, the lowest one of equals (`torch.argmax` returns any of them)."""
    n = score.shape[-1]
    index = torch.arange(n, device=score.device)
    first = torch.where(score == score.amax(-1, keepdim=True), index, n).amin(-1)
    return first.clamp(max=n - 1)


def unit(x: Float[Tensor, "*s D"]) -> Float[Tensor, "*s D"]:
    """The vectors at unit length, in float32; zero stays zero."""
    return normalize(x.float(), dim=-1)


def check_count(count: int, n: int) -> None:
    """Raises InvalidValue unless 1 <= count <= n."""
    if not 1 <= count <= n:
        raise InvalidValue(f"count must lie in 1..{n}, the number of tokens, got {count}")


def _nearest_similarity(u: Float[Tensor, "B N D"], chunk: int) -> Float[Tensor, "B N"]:
    """Cosine of each unit vector with its nearest other one."""
    n = u.shape[1]
    return torch.cat([_similarity_to_others(u, i, min(i + chunk, n)).amax(2) for i in range(0, n, chunk)], dim=1)


def _similarity_to_others(u: Float[Tensor, "B N D"], start: int, stop: int) -> Float[Tensor, "B r N"]:
    """Cosines of some unit vectors with all; with themselves minus infinity."""
    similarity = u[:, start:stop] @ u.transpose(1, 2)
    similarity.diagonal(start, 1, 2).fill_(-torch.inf)
    return similarity


def _evenly(n: int, count: int) -> list[int]:
    check_count(count, n)
    return [((2 * i + 1) * n - 1) // (2 * count) for i in range(count)]


def _shares(parts: int, count: int) -> list[tuple[int, int]]:
    """(part, how many of `count` it gets) for the parts that get any; those with one more are evenly spread."""
    base, more = divmod(count, parts)
    extra = set(_evenly(parts, more)) if more else set()
    return [(i, base + (i in extra)) for i in range(parts) if base or i in extra]
