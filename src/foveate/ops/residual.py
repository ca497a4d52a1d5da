"""What a few tokens cannot say of the others: a basis of far apart tokens, and the error of reconstructing from it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rows import rows_of
from .select import check_count, first_argmax

RIDGE = 1e-5
"""What is added to the diagonal of the basis's Gram matrix."""


def far_apart(x: Float[Tensor, "B N D"], count: int) -> Int[Tensor, "B M"]:
    """Farthest point sampling by Euclidean distance, in the order of the picks: first the token farthest from the mean.

    Then whichever is farthest from all picks; ties go to the lower index. Cost: N x D a pick. Raises InvalidValue
    unless 1 <= count <= N.
    """
    check_count(count, x.shape[1])
    x = x.float()
    picks = [first_argmax((x - x.mean(1, keepdim=True)).square().sum(2))]
    distance = torch.full(x.shape[:2], torch.inf, device=x.device)
    for _ in range(count - 1):
        pick = rows_of(x, picks[-1][:, None])
        distance = torch.minimum(distance, (x - pick).square().sum(2)).scatter(1, picks[-1][:, None], -1)
        picks.append(first_argmax(distance))
    return torch.stack(picks, dim=1)


def reconstruction_error(x: Float[Tensor, "B N D"], basis: Int[Tensor, "B M"]) -> Float[Tensor, "B N"]:
    """Distance of each token from the nearest combination of the basis tokens (least squares with RIDGE).

    Cost: 2 x N x M x D and a factorisation of M x M. Source: ApET (arXiv 2602.19870).
    """
    x = x.float()
    a = rows_of(x, basis)
    gram = a @ a.transpose(1, 2) + RIDGE * torch.eye(a.shape[1], device=x.device)
    weight = torch.linalg.solve(gram, a @ x.transpose(1, 2))
    error: Tensor = torch.linalg.vector_norm(x - weight.transpose(1, 2) @ a, dim=2)
    return error
