"""Mergers: dropped tokens folded into survivors. Similarity and sums in float32, features in the dtype that came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .cluster import assign_nearest
from .rows import rows_of
from .select import check_count, first_argmax, unit
from .sums import group_sum


class Merged(NamedTuple):
    """N tokens became T.

    kept    index into the N tokens of each survivor, ascending
    source  for each of the N tokens the rank 0..T-1 of the survivor that stands for it, -1 if it was dropped
    size    how many of the N tokens each survivor stands for
    x       new features of the survivors
    order   ranks of the survivors in the order the published code returns them; x gathered by it is that output
    """

    kept: Int[Tensor, "B T"]
    source: Int[Tensor, "B N"]
    size: Float[Tensor, "B T"]
    x: Float[Tensor, "B T D"]
    order: Int[Tensor, "B T"]


def bipartite_merge(
    x: Float[Tensor, "B N D"],
    count: int | None,
    *,
    metric: Float[Tensor, "B N E"] | None = None,
    rounds: Sequence[int] | None = None,
    weighted: bool = True,
    size: Float[Tensor, "B N"] | None = None,
) -> Merged:
    """Iterated even/odd merging down to exactly `count` tokens, in rounds that halve and a last one that finishes.

    A round over t tokens calls the even positions A and the odd ones B, matches each A with its most similar B by
    cosine, and merges the r best matched A into their B; r = min(t // 2, t - count). `rounds` gives the r of each round
    instead (`count` is then ignored), clamped to t // 2; an r of 0 changes nothing. `metric` decides the matching in
    place of x and is merged with it. A survivor's representative is its B token, or itself if never merged.

    weighted=True: means are weighted by size, and each round sees the tokens in raster order of their representatives;
    `size` is how many original tokens each of the N stands for (default 1), where earlier merges made some of them.
    weighted=False is the released code: plain means, so that a token that stands for four counts as one, and the next
    round splits its output order, [unmerged A by descending similarity, B]; `order` tells the last one. Everything else
    is returned in raster order either way. Ties go to the lower position. A zero vector matches with similarity 0,
    where the released code gives NaN.

    Cost: N x N x D / 2 at most for all rounds, memory 1024 x N. Raises InvalidValue unless 1 <= count <= N, or when an
    r is negative. Source: AIM (arXiv 2412.03248) after ToMe (arXiv 2210.09461), written from the mathematics.
    """
    b, n, _ = x.shape
    if rounds is not None and any(r < 0 for r in rounds):
        raise InvalidValue(f"rounds must not be negative, got {list(rounds)}")
    if rounds is None:
        if count is None:
            raise InvalidValue("bipartite_merge needs a count or rounds; give one of them")
        check_count(count, n)
    index = torch.arange(n, device=x.device).expand(b, n)
    wide = torch.promote_types(x.dtype, torch.float32)
    ones = torch.ones(b, n, device=x.device)
    now = _Round(x.to(wide), metric, ones if size is None else size.float(), ones, index, index)
    for r in _ladder(n, count or n) if rounds is None else rounds:
        r = min(r, now.x.shape[1] // 2)
        if r:
            now = _merge_round(now, r, weighted)
            now = now.reordered(now.represents.argsort(1)) if weighted else now
    raster = now.represents.argsort(1)
    order = raster.argsort(1)
    now = now if weighted else now.reordered(raster)
    return Merged(now.represents, now.source, now.count, now.x.to(x.dtype), order)


def bipartite_flops(n: int, count: int, width: int) -> int:
    """FLOPs of the matmuls in `bipartite_merge`: in each round every even token with every odd one."""
    flops = 0
    for r in _ladder(n, count):
        flops += 2 * (n - n // 2) * (n // 2) * width
        n -= r
    return flops


def bipartite_rounds(n: int, count: int) -> int:
    """Rounds that `bipartite_merge` takes from n to `count` tokens."""
    return len(list(_ladder(n, count)))


def nearest_mean(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    *,
    metric: Float[Tensor, "B N E"] | None = None,
    receives: Bool[Tensor, "B T"] | None = None,
) -> Merged:
    """Every dropped token joins its most similar survivor; a survivor becomes the plain mean of its group.

    Similar means the cosine of `metric` (default x). Only survivors that `receives` marks take in others (default all);
    a row without any drops the rest. Ties go to the lower rank. Cost: N x T x D, memory 1024 x T.
    Source: VScan (arXiv 2505.22654), ApET.
    """
    source = assign_nearest(x, kept, metric, receives=receives)
    total, size = group_sum(x, source, kept.shape[1])
    return Merged(kept, source, size, (total / size[..., None]).to(x.dtype), _identity(kept))


def contextual_mean(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    receives: Bool[Tensor, "B T"],
    *,
    metric: Float[Tensor, "B N E"],
    faithful: bool = False,
) -> Merged:
    """Dropped tokens join the receiving survivor (the target) with the most similar metric; other survivors stay.

    A target becomes the mean of itself and its group. faithful=True is the released arithmetic, the target plus the
    mean of its group, about twice the norm. A target nobody joins is unchanged; a row without targets drops the rest.
    Ties go to the lower rank. Cost: N x T x E, memory 1024 x T. Source: VisionZip (arXiv 2412.04467).
    """
    source = assign_nearest(x, kept, metric, receives=receives)
    joined, size = group_sum(x, source.scatter(1, kept, -1), kept.shape[1])
    own = rows_of(x.to(joined.dtype), kept)
    group = size[..., None]
    features = own + joined / group.clamp(min=1) if faithful else (own + joined) / (group + 1)
    return Merged(kept, source, size + 1, features.to(x.dtype), _identity(kept))


def window_mean(x: Float[Tensor, "B N D"], t: int, h: int, w: int, rows: int, columns: int) -> Merged:
    """Average pooling of each frame of a (t, h, w) grid to rows x columns cells; each token lies in exactly one cell.

    Cell i of n covers i * h // n up to (i + 1) * h // n: adaptive pooling where h is a multiple of n, and no overlap
    where it is not. A cell is represented by the token nearest its centre, the upper left one of equals. Cost: N x D.
    Raises InvalidValue unless N = t * h * w, 1 <= rows <= h and 1 <= columns <= w.
    """
    b, n, _ = x.shape
    if n != t * h * w:
        raise InvalidValue(f"{n} tokens do not fill a grid of {t} x {h} x {w} = {t * h * w}")
    if not (1 <= rows <= h and 1 <= columns <= w):
        raise InvalidValue(f"cells must lie in 1..{h} rows and 1..{w} columns, got {rows} and {columns}")
    row_of, row_middle = _cells(h, rows)
    column_of, column_middle = _cells(w, columns)
    frame = torch.arange(t)[:, None, None]
    source = frame * (rows * columns) + torch.tensor(row_of)[:, None] * columns + torch.tensor(column_of)
    kept = frame * (h * w) + torch.tensor(row_middle)[:, None] * w + torch.tensor(column_middle)
    source, kept = (i.flatten().to(x.device).expand(b, -1) for i in (source, kept))
    total, size = group_sum(x, source, kept.shape[1])
    return Merged(kept, source, size, (total / size[..., None]).to(x.dtype), _identity(kept))


@dataclass(frozen=True, eq=False)
class _Round:
    """Tokens between two rounds: features, metric (None: the features), sizes, how many of the N, representatives,
    source of all N.
    """

    x: Float[Tensor, "B t D"]
    metric: Float[Tensor, "B t E"] | None
    size: Float[Tensor, "B t"]
    count: Float[Tensor, "B t"]
    represents: Int[Tensor, "B t"]
    source: Int[Tensor, "B N"]

    def reordered(self, order: Int[Tensor, "B t"]) -> _Round:
        """The same tokens, with token order[i] at position i."""
        metric = None if self.metric is None else rows_of(self.metric, order)
        source = order.argsort(1).gather(1, self.source)
        size, count, represents = (x.gather(1, order) for x in (self.size, self.count, self.represents))
        return _Round(rows_of(self.x, order), metric, size, count, represents, source)


def _merge_round(now: _Round, r: int, weighted: bool) -> _Round:
    """One round: the r best matched tokens at even positions join their match at an odd one; published order."""
    t = now.x.shape[1]
    match, by_strength = _matches(now.x if now.metric is None else now.metric)
    stay = by_strength.shape[1] - r
    rank = by_strength.argsort(1)
    to = torch.empty_like(now.represents)
    to[:, 0::2] = torch.where(rank < r, stay + match, rank - r)
    to[:, 1::2] = stay + torch.arange(t // 2, device=to.device)
    odd = torch.arange(1, t, 2, device=to.device).expand(to.shape[0], -1)
    survivors = torch.cat([2 * by_strength[:, r:], odd], dim=1)

    weight = now.size if weighted else torch.ones_like(now.size)
    sums, _ = group_sum(torch.stack([now.size, now.count, weight], dim=2), to, t - r)
    size, count, share = sums[..., 0], sums[..., 1], sums[..., 2:]
    x, _ = group_sum(now.x, to, t - r, weight)
    metric = None if now.metric is None else group_sum(now.metric, to, t - r, weight)[0] / share
    return _Round(x / share, metric, size, count, now.represents.gather(1, survivors), to.gather(1, now.source))


def _matches(metric: Float[Tensor, "B t E"], chunk: int = 1024) -> tuple[Int[Tensor, "B a"], Int[Tensor, "B a"]]:
    """The most similar odd token of each even one, and the even ones by descending similarity to it."""
    u = unit(metric)
    even, odd = u[:, 0::2], u[:, 1::2].transpose(1, 2)
    match, strength = [], []
    for start in range(0, even.shape[1], chunk):
        similarity = even[:, start : start + chunk] @ odd
        match.append(first_argmax(similarity))
        strength.append(similarity.amax(2))
    by_strength = torch.cat(strength, dim=1).sort(dim=1, descending=True, stable=True).indices
    return torch.cat(match, dim=1), by_strength


def _ladder(n: int, count: int) -> Iterator[int]:
    """How many tokens each round merges away."""
    while n > count:
        r = min(n // 2, n - count)
        yield r
        n -= r


def _cells(extent: int, n: int) -> tuple[list[int], list[int]]:
    """Cell of each of `extent` positions, and the middle position of each of n cells."""
    of = [((i + 1) * n - 1) // extent for i in range(extent)]
    bounds = [i * extent // n for i in range(n + 1)]
    return of, [(a + b - 1) // 2 for a, b in pairwise(bounds)]


def _identity(kept: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    return torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
