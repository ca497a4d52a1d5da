"""Tokens that are least like some pivots (DART)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .select import unit


def least_like(
    x: Float[Tensor, "B N D"], pivots: Float[Tensor, "B P D"], taken: Bool[Tensor, "B N"], counts: list[int]
) -> Bool[Tensor, "B N"]:
    """`taken` and, pivot by pivot, the `counts[p]` others of smallest cosine with pivot p that none before it took.

    Ties go to the lower index. At least sum(counts) tokens must be free in each row. Cost: N x P x D, and P sorts of N.
    """
    cosine = unit(pivots) @ unit(x).transpose(1, 2)
    for p, count in enumerate(counts):
        order = cosine[:, p].masked_fill(taken, torch.inf).sort(dim=1, stable=True).indices
        taken = taken.scatter(1, order[:, :count], True)
    return taken
