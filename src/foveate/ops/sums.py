"""Sums over groups of tokens (frames, windows, clusters), and scores within the range of their group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .rows import flat_rows


def group_sum(
    x: Float[Tensor, "B N D"], to: Int[Tensor, "B N"], groups: int, weight: Float[Tensor, "B N"] | None = None
) -> tuple[Float[Tensor, "B G D"], Float[Tensor, "B G"]]:
    """Sum (of each times its weight) in float32 or wider and number of the tokens of each group; -1 is no group.

    Each sum runs over its tokens in raster order: deterministic on a GPU too, where scatter_add is not.
    """
    b, n, d = x.shape
    order = to.sort(dim=1, stable=True).indices
    size = torch.zeros(b, groups + 1, dtype=torch.long, device=x.device)
    size.scatter_add_(1, to + 1, torch.ones_like(to))
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(b * n, d)
    first = size.flatten().cumsum(0) - size.flatten()
    share = None if weight is None else weight.to(wide.dtype).gather(1, order).flatten()
    # sums the rows where they lie, without a sorted or weighted copy
    total = embedding_bag(flat_rows(order, n), wide, first, mode="sum", per_sample_weights=share)
    return total.view(b, groups + 1, d)[:, 1:], size[:, 1:].float()


def unit_range_in(score: Float[Tensor, "B N"], group: Int[Tensor, "B N"], groups: int) -> Float[Tensor, "B N"]:
    """Scores scaled to 0..1 within their group; 0 throughout a group of equal ones."""
    empty = score.new_zeros(score.shape[0], groups)
    low = empty.scatter_reduce(1, group, score, "amin", include_self=False).gather(1, group)
    high = empty.scatter_reduce(1, group, score, "amax", include_self=False).gather(1, group)
    return (score - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
