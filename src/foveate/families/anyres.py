"""Images at any resolution, in LLaVA-NeXT and LLaVA-OneVision: a thumbnail, then crops stitched and unpadded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tokens import Grid
from .base import Layout, View


def side(config: Any) -> int:
    """Patches along one side of a crop."""
    return config.vision_config.image_size // config.vision_config.patch_size


def crops(config: Any, size: Tensor) -> int:
    """How many crops an image of this height and width is cut into, the thumbnail included."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)


def stitched(config: Any, height: int, width: int) -> Grid:
    """The grid of the stitched crops after unpadding.

    The model's own arithmetic, repeated on a blank image so that the two cannot drift apart.
    """
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    n = side(config)
    rows, columns = get_anyres_image_grid_shape(
        (height, width), config.image_grid_pinpoints, config.vision_config.image_size
    )
    blank = unpad_image(torch.empty(1, rows * n, columns * n, device="meta"), (height, width))
    return Grid(1, *blank.shape[1:])


def layout(base: Grid, stitched: Grid) -> Layout:
    """The thumbnail, then the stitched crops, each row of which ends in a newline token."""
    row = stitched.w + 1
    return Layout("image", base.n + stitched.h * row, (View(0, base, base.w), View(base.n, stitched, row)))


def stacked(tiles: list[Tensor]) -> Tensor:
    """Crops of each image as one tensor, those of fewer crops filled up with zeros, as the processors do."""
    most = max(t.shape[0] for t in tiles)
    return torch.stack([torch.cat([t, t.new_zeros(most - t.shape[0], *t.shape[1:])]) for t in tiles])
