"""How much an image holds: one number in [0, 1] from the geometry of its tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from .select import unit


def complexity(x: Float[Tensor, "B N D"], chunk: int = 1024) -> Float[Tensor, " B"]:
    """How widely the tokens of each row spread over directions: 0 if all point one way, 1 if evenly over all.

    Tokens are scaled to unit length, since their length says little about what they show. With mean m and centred
    covariance C, whose eigenvalues are lambda:

    - dispersion = tr C = 1 - |m|^2: how far tokens stray from their mean, 0 for identical ones, 1 when they cancel;
    - participation = (sum lambda)^2 / sum lambda^2 = (tr C)^2 / |C|_F^2: over how many directions they stray, from 1 to
      min(N - 1, D). It is the exponential of the Renyi entropy of order 2 of the normalised eigenvalues, the cousin of
      the effective rank of Roy & Vetterli (EUSIPCO 2007, order 1), and needs no eigenvalues: |C|_F^2 is the sum of
      squares of the smaller Gram matrix (N x N or D x D);
    - spread = log(1 + participation) / log(1 + min(N - 1, D)); the 1 lets a single direction (an image of two colours)
      count for more than none;
    - complexity = sqrt(dispersion * spread): low as soon as one of them is.

    Identical tokens give exactly 0, also a single one; two tokens have one direction, so spread is 1. Zero vectors stay
    zero. Cost: N x D x min(N, D), memory chunk x min(N, D). Raises InvalidValue when chunk < 1.
    """
    if chunk < 1:
        raise InvalidValue(f"chunk must be at least 1, got {chunk}")
    n, d = x.shape[1:]
    u = unit(x)
    u = u - u.mean(1, keepdim=True)
    trace = u.square().sum((1, 2)) / n
    side = u if n <= d else u.transpose(1, 2)
    squares = torch.zeros_like(trace)
    for start in range(0, side.shape[1], chunk):
        gram = side[:, start : start + chunk] @ side.transpose(1, 2)
        squares = squares + gram.div_(n).square_().sum((1, 2))
    # 1e-10: what rounding leaves of identical tokens is near 1e-14, and its directions are noise
    some = trace > 1e-10
    participation = trace.square() / torch.where(some, squares, 1)
    spread = participation.log1p() / math.log1p(max(1, min(n - 1, d)))
    return torch.where(some, (trace * spread).sqrt().clamp(max=1), 0)
