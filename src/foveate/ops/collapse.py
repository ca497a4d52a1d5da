"""Windows of a grid whose tokens are alike collapse to their mean (MustDrop)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .merge import Merged
from .select import top_k, unit
from .sums import group_sum


def whole_windows(t: int, h: int, w: int, side: int) -> Int[Tensor, "W s"]:
    """Raster indices of the tokens of each window of side x side that fits; the edges that are left belong to none."""
    if min(h, w) < side:
        return torch.empty(0, side * side, dtype=torch.long)
    index = torch.arange(t * h * w).view(t, h, w)
    return index.unfold(1, side, side).unfold(2, side, side).reshape(-1, side * side)


def likeness(metric: Float[Tensor, "B N E"], windows: Int[Tensor, "W s"]) -> Float[Tensor, "B W"]:
    """Mean cosine of the pairs of different tokens in each window. Cost: N x E.

    The sum over all pairs is the squared length of the sum of the unit vectors.
    """
    u = unit(metric)
    each, side = windows.shape
    total = torch.zeros(u.shape[0], each, u.shape[2], device=u.device)
    own = torch.zeros(u.shape[0], each, device=u.device)
    for place in range(side):
        x = u[:, windows[:, place]]
        total += x
        own += x.square().sum(2)
    return (total.square().sum(2) - own) / (side * (side - 1))


def collapse(
    x: Float[Tensor, "B N D"], windows: Int[Tensor, "W s"], score: Float[Tensor, "B W"], number: int
) -> Merged:
    """The `number` windows of the highest score become the mean of their tokens, at the place of the middle one.

    Everything else stays. Ties go to the lower window. Cost: N x D. Source: MustDrop (arXiv 2411.10803).
    """
    b, n, _ = x.shape
    side = windows.shape[1]
    chosen = windows[top_k(score, number)]
    gone = torch.cat([chosen[..., : side // 2], chosen[..., side // 2 + 1 :]], dim=2).flatten(1)
    stays = torch.ones(b, n, dtype=torch.bool, device=x.device).scatter(1, gone, False)
    rank = stays.cumsum(1) - 1
    middle = rank.gather(1, chosen[..., side // 2])
    source = rank.scatter(1, chosen.flatten(1), middle.repeat_interleave(side, 1))
    count = n - number * (side - 1)
    kept = (~stays).long().sort(dim=1, stable=True).indices[:, :count]
    total, size = group_sum(x, source, count)
    same = torch.arange(count, device=x.device).expand(b, -1)
    return Merged(kept, source, size, (total / size[..., None]).to(x.dtype), same)
