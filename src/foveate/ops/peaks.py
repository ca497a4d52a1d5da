"""Density peaks within many small groups at once: rows of which only some tokens are there."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROOM = 2**23
"""Distances computed at a time: 32 MB in float32."""


def peak_scores(x: Float[Tensor, "G N D"], there: Bool[Tensor, "G N"], neighbours: int) -> Float[Tensor, "G N"]:
    """log(rho delta) of each token that is there, as in density-peak clustering; minus infinity for the others.

    rho = exp(-mean squared distance to the `neighbours` nearest tokens, itself among them), distances squared and
    divided by D; delta is the distance to the nearest denser token, for the densest the largest one. Of equally dense
    tokens the lower index counts as denser. Cost: G x N x N x D, memory about 32 MB. Source: the DPC-kNN of PruneVid,
    FastVID and HoliTom as released, whose noise on the density is left out.
    """
    g, n, _ = x.shape
    part = max(1, ROOM // (n * n))
    return torch.cat([_scores(x[i : i + part], there[i : i + part], neighbours) for i in range(0, g, part)])


def nearest_peak(x: Float[Tensor, "G N D"], centres: Bool[Tensor, "G N"]) -> Int[Tensor, "G N"]:
    """Index of the centre of the same row nearest to each token (Euclid; ties to the lower index), -1 in rows without.

    A centre is its own. Cost: G x N x N x D, memory about 32 MB.
    """
    g, n, _ = x.shape
    part = max(1, ROOM // (n * n))
    found = []
    for i in range(0, g, part):
        squared = _squared(x[i : i + part]).masked_fill_(~centres[i : i + part, None], torch.inf)
        low, index = squared.amin(2, keepdim=True), torch.arange(n, device=x.device)
        first = torch.where(squared == low, index, n).amin(2).clamp(max=n - 1)
        found.append(torch.where(low[..., 0].isinf(), -1, first))
    own = torch.arange(n, device=x.device).expand(g, n)
    return torch.where(centres, own, torch.cat(found))


def _scores(x: Float[Tensor, "g N D"], there: Bool[Tensor, "g N"], neighbours: int) -> Float[Tensor, "g N"]:
    n = x.shape[1]
    apart = _squared(x).masked_fill_(~there[:, None], torch.inf)
    near = apart.topk(min(neighbours, n), dim=2, largest=False).values
    real = near.isfinite()
    log_rho = -torch.where(real, near, 0).sum(2) / real.sum(2).clamp(min=1)
    index = torch.arange(n, device=x.device)
    mine, its = log_rho[:, :, None], log_rho[:, None]
    denser = (its > mine) | ((its == mine) & (index < index[:, None]))
    nearest = apart.masked_fill(~denser, torch.inf).amin(2)
    farthest = torch.where(apart.isinf(), -torch.inf, apart).amax(2)
    delta = torch.where(nearest.isinf(), farthest, nearest)
    return (log_rho + 0.5 * delta.log()).masked_fill(~there, -torch.inf)


def _squared(x: Float[Tensor, "g N D"]) -> Float[Tensor, "g N N"]:
    """Squared Euclidean distances / D; below rounding error, and of a token to itself, they are exactly 0."""
    x = x.float() - x.float().mean(1, keepdim=True)
    norm = x.square().sum(2)
    scale = norm[:, :, None] + norm[:, None]
    squared = torch.baddbmm(scale, x, x.transpose(1, 2), alpha=-2)
    squared.diagonal(dim1=1, dim2=2).zero_()
    return squared.masked_fill_(squared < 1e-6 * scale, 0).div_(x.shape[2])


def peaks_flops(groups: int, n: int, width: int) -> int:
    """FLOPs of the matmul in `peak_scores` or in `nearest_peak`."""
    return 2 * groups * n * n * width
