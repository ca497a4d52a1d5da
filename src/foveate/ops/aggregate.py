"""Survivors that take in a share of the others: by attention (PruMerge), by likeness and distance (Nüwa)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .merge import Merged
from .rows import rows_of
from .select import first_argmax, unit

CHUNK = 256
"""Survivors whose shares of all tokens exist at a time."""


def attention_sum(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    attention: Float[Tensor, "B N"],
    keys: Float[Tensor, "B N E"],
    neighbours: int,
) -> Merged:
    """Survivors with their neighbours added by attention, and one token for all the rest.

    A survivor i becomes x_i + sum_j a_j x_j over the `neighbours` tokens j, kept or not, of the most similar keys,
    itself left out; attention is not normalised, so little is added. The survivor of least attention (of equals the
    last) gives its place to the rest: sum_j a_j x_j over all tokens that did not get one, itself among them; it is
    their `source`. A single survivor keeps its place, and the rest is dropped. Ties go to the lower index. Cost: T x N
    x (E + D), memory CHUNK x N. Source: LLaVA-PruMerge (arXiv 2403.15388).
    """
    b, n, d = x.shape
    t = kept.shape[1]
    wide, a = x.float(), attention.float()
    u = unit(keys)
    added = []
    for part in torch.split(kept, CHUNK, dim=1):
        cosine = rows_of(u, part) @ u.transpose(1, 2)
        cosine.scatter_(2, part[..., None], -torch.inf)
        near = cosine.sort(dim=2, descending=True, stable=True).indices[..., : min(neighbours, n - 1)]
        share = torch.zeros_like(cosine).scatter(2, near, a.gather(1, near.flatten(1)).view(near.shape))
        added.append(share @ wide)
    features = rows_of(wide, kept) + torch.cat(added, dim=1)
    rank = torch.arange(t, device=x.device).expand(b, t)
    source = kept.new_full((b, n), -1).scatter(1, kept, rank)
    if t > 1:
        last = t - 1 - first_argmax(-a.gather(1, kept).flip(1))[:, None]
        rest = (source < 0) | (source == last)
        whole = ((a * rest)[:, None] @ wide).expand(b, 1, d)
        features = features.scatter(1, last[..., None].expand(b, 1, d), whole)
        source = torch.where(rest, last, source)
    return Merged(kept, source, _sizes(source, t), features.to(x.dtype), rank)


def neighbourhood_mean(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    gathers: Bool[Tensor, "B T"],
    place: Float[Tensor, "B N 3"],
    metric: Float[Tensor, "B N E"],
    radius: float,
    faithful: bool = False,
) -> Merged:
    """Survivors that gather become the mean of their surroundings, weighed by likeness and distance; others stay.

    The weight of token j for survivor i is max(0, cos(metric_i, metric_j)) x max(0, 1 - |place_i - place_j| / radius),
    `place` being (frame, row, column); other frames count nothing. A row of weights is divided by its sum; then that
    of the survivor itself is set to 1. Features are the mean by these weights; faithful=True is the released sum, which
    has up to twice the norm. Tokens may count for several survivors; `source` is the gathering one for which a dropped
    token weighs most (of equals the lower rank), -1 if none reaches it. Cost: T x N x (E + D), memory CHUNK x N.
    Source: Nüwa (arXiv 2602.02951).
    """
    t = kept.shape[1]
    wide, u = x.float(), unit(metric)
    features = []
    heaviest = torch.zeros_like(x[..., 0], dtype=torch.float32)
    source = kept.new_full(heaviest.shape, -1)
    for start in range(0, t, CHUNK):
        part, open_ = kept[:, start : start + CHUNK], gathers[:, start : start + CHUNK, None]
        weight = (rows_of(u, part) @ u.transpose(1, 2)).clamp_(min=0) * _nearness(rows_of(place, part), place, radius)
        weight = weight / weight.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        weight = weight.masked_fill(~open_, 0).scatter(2, part[..., None], 1)
        mixed = weight @ wide
        features.append(mixed if faithful else mixed / weight.sum(2, keepdim=True))
        most, by = weight.amax(1), first_argmax(weight.transpose(1, 2)) + start
        source = torch.where(most > heaviest, by, source)
        heaviest = torch.maximum(most, heaviest)
    rank = torch.arange(t, device=x.device).expand_as(kept)
    source = source.scatter(1, kept, rank)
    return Merged(kept, source, _sizes(source, t), torch.cat(features, dim=1).to(x.dtype), rank)


def _nearness(at: Float[Tensor, "B T 3"], place: Float[Tensor, "B N 3"], radius: float) -> Float[Tensor, "B T N"]:
    """1 at the same place, 0 from `radius` on and in another frame."""
    apart = torch.cdist(at[..., 1:], place[..., 1:], compute_mode="donot_use_mm_for_euclid_dist")
    same = at[..., :1] == place[:, None, :, 0]
    return (1 - apart / radius).clamp_(min=0) * same


def _sizes(source: Int[Tensor, "B N"], groups: int) -> Float[Tensor, "B T"]:
    """How many tokens each survivor stands for."""
    sizes = source.new_zeros(source.shape[0], groups + 1).scatter_add(1, source + 1, torch.ones_like(source))
    return sizes[:, 1:].float()
