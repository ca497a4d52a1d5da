"""Clusters: density peaks as centres, and which centre stands for each token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .rows import rows_of
from .select import check_count, first_argmax, top_k, unit


def density_peaks(
    x: Float[Tensor, "B N D"], count: int, neighbours: int | None = None, *, chunk: int = 1024
) -> Int[Tensor, "B T"]:
    """The `count` cluster centres of each row, ascending: dense tokens that are far from any denser one (DPC-kNN).

    density rho = exp(-mean squared distance to the `neighbours` nearest others), squared distances divided by D so that
    widths compare; delta = distance to the nearest denser token, for the densest the largest distance; centres have the
    largest rho * delta, compared as logarithms so that nothing underflows. Of equally dense tokens the lower index
    counts as denser. `neighbours` defaults to the count, at most N - 1. No noise is added: the same input gives the
    same centres, where the released code draws a tie-breaker.

    Cost: 2 x N x N x D, memory a few chunk x N. Raises InvalidValue unless 1 <= count <= N and neighbours >= 1.
    Source: SparseVLM (arXiv 2410.04417), section on token recycling; its neighbour lists include the token itself.
    """
    n = x.shape[1]
    check_count(count, n)
    if neighbours is not None and neighbours < 1:
        raise InvalidValue(f"neighbours must be at least 1, got {neighbours}")
    if n == 1:
        return torch.zeros_like(x[:, :, 0], dtype=torch.long)
    near = min(neighbours or count, n - 1)
    x = x.float() - x.float().mean(1, keepdim=True)
    log_density = []
    for start in range(0, n, chunk):
        squared = _squared_distances(x, start, chunk)
        squared.diagonal(start, 1, 2).fill_(torch.inf)
        log_density.append(-squared.topk(near, dim=2, largest=False).values.mean(2))
    log_rho = torch.cat(log_density, dim=1)
    delta = _distance_to_denser(x, log_rho, chunk)
    return top_k(log_rho + delta.log(), count)


def assign_nearest(
    x: Float[Tensor, "B N D"],
    centres: Int[Tensor, "B T"],
    metric: Float[Tensor, "B N E"] | None = None,
    *,
    receives: Bool[Tensor, "B T"] | None = None,
    chunk: int = 1024,
) -> Int[Tensor, "B N"]:
    """Rank 0..T-1 of the centre most similar to each token by cosine; each centre stands for itself.

    `metric` is compared in place of x. Only centres that `receives` marks take in others (default all); where none
    does, tokens that are no centre get -1. Ties go to the lower rank. Cost: N x T x D, memory chunk x T.
    """
    u = unit(x if metric is None else metric)
    targets = rows_of(u, centres).transpose(1, 2)
    ranks = []
    for start in range(0, u.shape[1], chunk):
        similarity = u[:, start : start + chunk] @ targets
        if receives is not None:
            similarity.masked_fill_(~receives[:, None], -torch.inf)
        ranks.append(first_argmax(similarity))
    rank = torch.cat(ranks, dim=1)
    if receives is not None:
        rank = rank.masked_fill(~receives.any(1, keepdim=True), -1)
    own = torch.arange(centres.shape[1], device=x.device).expand_as(centres)
    return rank.scatter(1, centres, own)


def _squared_distances(x: Float[Tensor, "B N D"], start: int, chunk: int) -> Float[Tensor, "B c N"]:
    """Squared Euclidean distances / D of a chunk of tokens to all; below rounding error they are exactly 0."""
    norm = x.square().sum(2)
    part = slice(start, start + chunk)
    scale = norm[:, part, None] + norm[:, None]
    squared = torch.baddbmm(scale, x[:, part], x.transpose(1, 2), alpha=-2)
    return squared.masked_fill_(squared < 1e-6 * scale, 0).div_(x.shape[2])


def _distance_to_denser(x: Float[Tensor, "B N D"], log_rho: Float[Tensor, "B N"], chunk: int) -> Float[Tensor, "B N"]:
    """Distance of each token to its nearest denser one; of the densest to the farthest."""
    n = x.shape[1]
    index = torch.arange(n, device=x.device)
    nearest = []
    for start in range(0, n, chunk):
        squared = _squared_distances(x, start, chunk)
        mine = log_rho[:, start : start + chunk, None]
        earlier = index < index[start : start + chunk, None]
        denser = (log_rho[:, None] > mine) | ((log_rho[:, None] == mine) & earlier)
        farthest = squared.amax(2)
        near = squared.masked_fill_(~denser, torch.inf).amin(2)
        nearest.append(torch.where(near.isinf(), farthest, near))
    return torch.cat(nearest, dim=1).sqrt()
