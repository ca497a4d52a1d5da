"""Along time: the token before each at its place, how much changed, what stands out, what always draws attention."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .select import unit
from .sums import group_sum


def predecessors(place: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """For each token the last one before it with the same place, -1 for the first of each place. Cost: a sort."""
    order = place.sort(dim=1, stable=True).indices
    sorted_place = place.gather(1, order)
    before = torch.where(sorted_place[:, 1:] == sorted_place[:, :-1], order[:, :-1], -1)
    return torch.full_like(place, -1).scatter(1, order[:, 1:], before)


def find(where: Int[Tensor, "B N"], wanted: Int[Tensor, "B M"], total: int) -> Int[Tensor, "B M"]:
    """The index of the token at each wanted position of `total`, -1 where there is none or the position is negative."""
    index = torch.arange(where.shape[1], device=where.device).expand_as(where)
    at = where.new_full((where.shape[0], total + 1), -1).scatter(1, where, index)
    return at.gather(1, torch.where(wanted < 0, total, wanted))


def change(x: Float[Tensor, "B N D"], before: Int[Tensor, "B N"], chunk: int = 1024) -> Float[Tensor, "B N"]:
    """1 - cosine of each token with the one `before` names, 0 exactly for equal ones; 2 where there is none (-1).

    Computed as half the squared distance of the unit vectors, so that equal tokens are told from nearly equal ones. A
    zero vector is 1/2 from any other and 0 from another zero. Cost: N x D, memory chunk x D.
    """
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    parts = []
    for start in range(0, x.shape[1], chunk):
        earlier = unit(x[rows, before[:, start : start + chunk].clamp(min=0)])
        parts.append((unit(x[:, start : start + chunk]) - earlier).square_().sum(2) / 2)
    return torch.cat(parts, dim=1).masked_fill(before < 0, 2.0)


def earlier_survivor(place: Int[Tensor, "B N"], kept: Int[Tensor, "B T"]) -> Int[Tensor, "B N"]:
    """For each token the rank of the last survivor up to it at its place, its own if it survives; -1 without one."""
    n, t = place.shape[1], kept.shape[1]
    rank = torch.full_like(place, -1).scatter(1, kept, torch.arange(t, device=kept.device).expand_as(kept))
    order = place.sort(dim=1, stable=True).indices
    # positions in that order of the last survivor so far, and of the first token of the place
    here = torch.arange(n, device=place.device).expand_as(place)
    survivor = torch.where(rank.gather(1, order) >= 0, here, -1).cummax(1).values
    sorted_place = place.gather(1, order)
    starts = torch.ones_like(place, dtype=torch.bool)
    starts[:, 1:] = sorted_place[:, 1:] != sorted_place[:, :-1]
    first = torch.where(starts, here, 0).cummax(1).values
    found = rank.gather(1, order).gather(1, survivor.clamp(min=0))
    return torch.empty_like(place).scatter(1, order, torch.where(survivor >= first, found, -1))


def steadiest_channels(x: Float[Tensor, "B N D"], share: float, chunk: int = 1024) -> Float[Tensor, "B N E"]:
    """The channels that vary least over the tokens of each row, this share of them (at least one), in their order.

    In float32; ties go to the lower channel. Raises InvalidValue unless 0 < share <= 1. Source: VidCom2's release.
    """
    if not 0 < share <= 1:
        raise InvalidValue(f"the share of channels must lie in (0, 1], got {share}")
    b, n, d = x.shape
    mean = x.mean(1, keepdim=True, dtype=torch.float32)
    spread = torch.zeros_like(mean)
    for start in range(0, n, chunk):
        spread += (x[:, start : start + chunk].float() - mean).square_().sum(1, keepdim=True)
    count = max(1, int(share * d + 1e-9))
    calm = spread[:, 0].sort(dim=1, stable=True).indices[:, :count].sort(dim=1).values
    return x.gather(2, calm[:, None].expand(b, n, count)).float()


def gaussian_similarity(
    x: Float[Tensor, "B N D"], centres: Float[Tensor, "B F D"], group: Int[Tensor, "B N"], chunk: int = 1024
) -> Float[Tensor, "B N"]:
    """Sum over a in 1/8, 1/4, 1/2, 1, 2 of exp(-|x - c|^2 / 2a), c the centre of the token's group; 5 at the centre.

    Cost: N x D, memory chunk x D. Source: VidCom2 (arXiv 2505.14454).
    """
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    parts = []
    for start in range(0, x.shape[1], chunk):
        centre = centres[rows, group[:, start : start + chunk]]
        parts.append((x[:, start : start + chunk].float() - centre).square_().sum(2))
    squared = torch.cat(parts, dim=1)
    return torch.stack([(squared / (-2 * a)).exp() for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)]).sum(0)


def sink_level(
    attention: Float[Tensor, "B N"], place: Int[Tensor, "B N"], places: int, power: float
) -> Float[Tensor, "B N"]:
    """How much the place of each token draws attention in every frame: its sum over frames to a power, scaled to 0..1.

    Source: SToP (arXiv 2604.20937).
    """
    total, _ = group_sum(attention[..., None], place, places)
    level = total[..., 0].clamp(min=0).pow(power).gather(1, place)
    low, high = level.amin(1, keepdim=True), level.amax(1, keepdim=True)
    return (level - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
