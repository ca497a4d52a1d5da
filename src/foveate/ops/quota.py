"""Quotas: a fixed number of tokens divided among groups by weight, exactly, with no group above its size."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def largest_remainder(
    weight: Float[Tensor, "B G"],
    count: int | Int[Tensor, " B"],
    capacity: Int[Tensor, "B G"],
    least: int | Int[Tensor, "B G"] = 0,
) -> Int[Tensor, "B G"]:
    """How many of `count` each group gets: in proportion to its weight, between `least` and its capacity.

    `least` goes to every group first (no more than it holds). The rest is divided by weight among the groups that are
    not full, so that what one cannot hold goes to the others in proportion; fractions are rounded down, and what that
    leaves goes to the largest fractional parts, one each, ties to the lower index. Groups of weight 0 get something
    only when all others are full; negative weights count as 0. The sum is `count` in every row, given that the groups
    can hold it and that `least` does not exceed it. Nothing is read on the host. Cost: sorts of G.
    """
    least = torch.minimum(torch.as_tensor(least, device=capacity.device).expand_as(capacity), capacity)
    wanted = torch.as_tensor(count, device=capacity.device).expand(capacity.shape[0]) - least.sum(1)
    room = capacity - least
    # float64: the sum of exact shares must not miss an integer by more than 1e-9
    w = weight.double().clamp(min=0)
    w = (w / w.amax(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)).clamp(min=1e-9)
    share = torch.minimum(room.double(), w * _level(w, room.double(), wanted.double())[:, None])
    whole = (share + 1e-9).floor()
    # in units that no fraction of small numbers lies halfway between: equal parts must not differ by their rounding
    part = ((share - whole) * 2**30).round().masked_fill(whole >= room, -1.0)
    extra = wanted - whole.long().sum(1)
    rank = part.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return least + whole.long() + (rank < extra[:, None]).long()


def _level(w: Float[Tensor, "B G"], room: Float[Tensor, "B G"], wanted: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The l at which the groups hold sum_g min(room_g, l w_g) = wanted: groups fill up in the order of room / w."""
    full_at, order = (room / w).sort(dim=1, stable=True)
    held, weight = room.gather(1, order), w.gather(1, order)
    before = held.cumsum(1) - held
    open_weight = weight.flip(1).cumsum(1).flip(1)
    level = (wanted[:, None] - before) / open_weight  # if exactly the groups before this one are full
    fits = level <= full_at
    first = torch.where(fits.any(1), fits.int().argmax(1), w.shape[1] - 1)
    return level.gather(1, first[:, None])[:, 0]
