"""The most likely set of a determinantal point process, greedily: relevant tokens that point in new directions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .select import Cosines, check_count, first_argmax, fits

SPANNED = 1e-6
"""Share of its own length below which what a token adds to the directions of the picked ones is rounding error."""


def dpp(
    x: Float[Tensor, "B N D"], count: int, quality: Float[Tensor, "B N"] | None = None, centre: bool = False
) -> Int[Tensor, "B T"]:
    """Greedy MAP of the DPP with kernel K_ij = q_i cos(x_i, x_j) q_j, ascending in the end; ties to the lower index.

    Each pick is the token that multiplies the determinant of the picked ones' kernel most: the largest q^2 times the
    squared part of its direction that they do not span. Once all are spanned (a kernel of rank r gives r picks), the
    largest q come next. `centre` subtracts the mean token before the cosine. Cost: T^2 x N for the rows of the Cholesky
    factor (memory T x N), and N x N x D once, or N x D a pick where the cosines are too many to keep. Raises
    InvalidValue unless 1 <= count <= N.
    Source: CDPruner (arXiv 2506.10967), after Chen et al. (NeurIPS 2018, arXiv 1709.05135).
    """
    b, n, _ = x.shape
    check_count(count, n)
    cosines = Cosines.of(x, centre)
    q = torch.ones(b, n, device=x.device) if quality is None else quality.float()
    own = q.square() * cosines.u.square().sum(2)  # 0 for a zero vector
    left = own.clone()
    factor = torch.zeros(b, count, n, device=x.device)
    picks: list[Int[Tensor, "B 1"]] = []
    for step in range(count):
        spanned = left <= SPANNED * own
        pick = first_argmax(torch.where(spanned & left.isfinite(), 1e-12 * own, left))[:, None]
        picks.append(pick)
        row = q.gather(1, pick) * cosines.rows(pick)[:, 0] * q
        known = factor[:, :step]
        mine = known.gather(2, pick[:, None].expand(-1, step, 1))
        rest = row - (mine.transpose(1, 2) @ known)[:, 0]
        new = rest / left.gather(1, pick).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        new = new.masked_fill(spanned.gather(1, pick), 0)
        factor[:, step] = new
        left = (left - new.square()).scatter(1, pick, -torch.inf)
    return torch.cat(picks, dim=1).sort(dim=1).values


def dpp_flops(n: int, count: int, width: int) -> int:
    """FLOPs of the matmuls in `dpp`: similarities as in `Cosines`, and each pick with the factor of those before."""
    return 2 * n * width * (n if fits(n, width) else count) + n * count * (count - 1)
