"""Groups of tokens: who is where in its group, how a group spreads, and groups by principal direction."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .select import by_tier, first_argmax, unit


def rank_in_group(score: Float[Tensor, "B N"], group: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """Place of each token in its group by descending score, 0 for the best; ties go to the lower index."""
    order = by_tier(group, score)
    sorted_group = group.gather(1, order)
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    first = torch.ones_like(group, dtype=torch.bool)
    first[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    start = torch.where(first, place, 0).cummax(1).values
    return torch.empty_like(group).scatter(1, order, place - start)


def top_in_groups(
    score: Float[Tensor, "B N"], group: Int[Tensor, "B N"], quota: Int[Tensor, "B G"], count: int
) -> Int[Tensor, "B T"]:
    """The best `quota` tokens of each group, ascending; quotas of a row sum to `count`, and no group is asked for more
    than it holds. Ties go to the lower index. Cost: sorts of N.
    """
    chosen = rank_in_group(score, group) < quota.gather(1, group)
    return (~chosen).int().sort(dim=1, stable=True).indices[:, :count]


def group_sizes(group: Int[Tensor, "B N"], groups: int) -> Int[Tensor, "B G"]:
    """How many tokens each group has."""
    return group.new_zeros(group.shape[0], groups).scatter_add(1, group, torch.ones_like(group))


def local_variance(x: Float[Tensor, "B N D"], part: int) -> Float[Tensor, "B N"]:
    """How differently each token relates to the others of its stretch: the variance of its cosines with them.

    Stretches are consecutive runs of `part` tokens, the last one maybe shorter. Variance over the others, divided by
    their number; of a token without any it is 0. Cost: N x part x D. Raises InvalidValue for part < 1.
    Source: HoloV (arXiv 2510.02912).
    """
    if part < 1:
        raise InvalidValue(f"a stretch must hold at least 1 token, got {part}")
    n = x.shape[1]
    whole = n // part * part
    b = x.shape[0]
    pieces = [unit(x[:, :whole]).reshape(b, -1, part, x.shape[2])] if whole else []
    pieces += [unit(x[:, whole:])[:, None]] if whole < n else []
    variance = []
    for u in pieces:
        cosine = u @ u.transpose(-1, -2)
        cosine.diagonal(dim1=-2, dim2=-1).zero_()
        others = max(1, u.shape[2] - 1)
        mean = cosine.sum(-1, keepdim=True) / others
        squares = (cosine - mean).square()
        squares.diagonal(dim1=-2, dim2=-1).zero_()
        variance.append((squares.sum(-1) / others).flatten(1))
    return torch.cat(variance, dim=1)


def principal_groups(x: Float[Tensor, "B N D"], groups: int) -> Int[Tensor, "B N"]:
    """For each token the principal direction, of the first `groups`, in which it has the largest share.

    The principal components of the N tokens as variables and the D channels as observations, sigmoid(x) centred over
    channels: token n belongs to argmax_g |V_ng|, V the right singular vectors. They are found exactly, by the
    eigenvectors of the smaller Gram matrix, where the released code draws a randomised decomposition. Groups may be
    empty. Cost: N x D x min(N, D) and an eigen-decomposition of min(N, D). Raises InvalidValue for groups < 1.
    Source: PruneSID (arXiv 2603.09480).
    """
    if groups < 1:
        raise InvalidValue(f"there must be at least 1 group, got {groups}")
    a = x.float().sigmoid()
    a = a - a.mean(2, keepdim=True)
    n, d = a.shape[1:]
    if n <= d:
        v = torch.linalg.eigh(a @ a.transpose(1, 2)).eigenvectors.flip(2)[..., :groups]
    else:
        values, u = (e.flip(-1)[..., :groups] for e in torch.linalg.eigh(a.transpose(1, 2) @ a))
        v = (a @ u) / values.clamp(min=torch.finfo(torch.float32).tiny)[:, None].sqrt()
        v = v * (values > 1e-6 * values[:, :1])[:, None]  # directions of rounding error belong to nobody
    return first_argmax(v.abs())
