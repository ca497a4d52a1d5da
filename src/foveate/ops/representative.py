"""Tokens that stand for many others and for none that stand for more (RESTORE)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .select import unit


def representativeness(x: Float[Tensor, "B N D"], chunk: int = 1024) -> Float[Tensor, "B N"]:
    """R_i (1 - max cos_ij over the tokens j with a larger R), with R_i the sum of the cosines of i with all tokens.

    Of equal R the lower index counts as larger. The token of the largest R takes its smallest cosine as the maximum.
    Cost: N x N x D, memory chunk x N. Source: RESTORE (ICML 2026).
    """
    u = unit(x)
    total = (u @ u.sum(1)[..., None])[..., 0]
    index = torch.arange(u.shape[1], device=x.device)
    nearest = []
    for start in range(0, u.shape[1], chunk):
        cosine = u[:, start : start + chunk] @ u.transpose(1, 2)
        mine, earlier = total[:, start : start + chunk, None], index < index[start : start + chunk, None]
        larger = (total[:, None] > mine) | ((total[:, None] == mine) & earlier)
        smallest = cosine.amin(2)
        near = cosine.masked_fill_(~larger, -torch.inf).amax(2)
        nearest.append(torch.where(near.isinf(), smallest, near))
    return total * (1 - torch.cat(nearest, dim=1))
