"""Windows of a grid: which one each token lies in, its neighbours, its place; on the host, from shapes alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import InvalidValue


def windows(t: int, h: int, w: int, rows: int, columns: int) -> Int[Tensor, " N"]:
    """Which window each token of a (t, h, w) grid lies in, of rows x columns equal ones in each frame, raster order."""
    _check(rows, h, "rows")
    _check(columns, w, "columns")
    frame = torch.arange(t)[:, None, None] * (rows * columns)
    row = torch.arange(h)[:, None] * rows // h * columns
    return (frame + row + torch.arange(w) * columns // w).flatten()


def around(t: int, h: int, w: int) -> Int[Tensor, "N 4"]:
    """Raster indices of the tokens above, below, left and right of each in its frame; itself where there is none."""
    index = torch.arange(t * h * w).view(t, h, w)
    above = torch.cat([index[:, :1], index[:, :-1]], dim=1)
    below = torch.cat([index[:, 1:], index[:, -1:]], dim=1)
    left = torch.cat([index[..., :1], index[..., :-1]], dim=2)
    right = torch.cat([index[..., 1:], index[..., -1:]], dim=2)
    return torch.stack([above, below, left, right], dim=-1).view(-1, 4)


def stretched(values: Float[Tensor, "B N"], h: int, w: int, to_h: int, to_w: int) -> Float[Tensor, "B M"]:
    """A map of h x w numbers, raster order, bilinearly resized to to_h x to_w."""
    grown = interpolate(values.view(-1, 1, h, w), size=(to_h, to_w), mode="bilinear", align_corners=False)
    return grown.flatten(1)


def _check(number: int, most: int, what: str) -> None:
    if not 1 <= number <= most:
        raise InvalidValue(f"{what} must lie in 1..{most}, got {number}")
