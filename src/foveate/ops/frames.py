"""Frames: where a video bends, and an order that spreads over a frame."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .select import unit


def curvature(centres: Float[Tensor, "B F D"]) -> Float[Tensor, "B F"]:
    """How much the path of unit frame centres turns at each frame: 1 - cosine of the step to it and the step from it.

    The two ends, and a frame that repeats a neighbour, have 1. Source: V-CAST.
    """
    step = unit(unit(centres).diff(dim=1))
    bend = centres.new_ones(centres.shape[:2], dtype=torch.float32)
    bend[:, 1:-1] -= (step[:, :-1] * step[:, 1:]).sum(2)
    return bend


def dither(h: int, w: int) -> Int[Tensor, " n"]:
    """An order of the raster positions of an (h, w) frame of which every beginning is spread evenly: the rank of each.

    The threshold order of ordered dithering (Bayer): rows and columns compared bit by bit, the finest bit first.
    """
    y, x = torch.arange(h)[:, None], torch.arange(w)
    value = torch.zeros(h, w, dtype=torch.long)
    for bit in range(max(h, w).bit_length()):
        value = value * 4 + 2 * (((x ^ y) >> bit) & 1) + ((y >> bit) & 1)
    return value.flatten().argsort().argsort()
