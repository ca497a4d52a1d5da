"""What the Qwen-VL families share: grids in the arguments, patches that make a token, pixels to grids, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue
from ..tokens import Grid
from .base import Kind, Layout
from .tiny import END, IMAGE, START, VIDEO, closed, opened, padded


def grids(kind: Kind, arguments: dict[str, Any]) -> Tensor:
    """(t, h, w) in patches of each image or video."""
    return arguments["image_grid_thw" if kind == "image" else "video_grid_thw"]


def layouts(kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
    """One grid each."""
    merge = core.config.vision_config.spatial_merge_size
    return [Layout.plain(kind, Grid(t, h // merge, w // merge)) for t, h, w in grids(kind, arguments).tolist()]


def per_token(core: nn.Module, per_patch: list[Tensor]) -> Tensor:
    """The means over the patches that make a token, [N, c], of all images in a row.

    Attention runs frame by frame or window by window, and the patches of a token follow one another.
    """
    patches = torch.cat([p.flatten(0, 1) for p in per_patch])
    return patches.unflatten(0, (-1, core.config.vision_config.spatial_merge_size**2)).mean(1)


def per_image(core: nn.Module, kind: Kind, arguments: dict[str, Any], tokens: Tensor) -> list[Tensor]:
    """Tokens of all images in a row [N, c], as one tensor for each image."""
    unit = core.config.vision_config.spatial_merge_size**2
    return list(tokens.split([n // unit for n in grids(kind, arguments).prod(-1).tolist()]))


def joined_axes(attention: nn.Module, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The rotary embeddings with the three axes of M-RoPE as one.

    Before transformers 5.20, Qwen2-VL and Qwen2.5-VL join them inside the attention.
    """
    cos, sin = position_embeddings
    if cos.ndim == 3:
        return cos, sin
    sections = attention.config.rope_parameters["mrope_section"] * 2
    cos, sin = (torch.cat([m[i % 3] for i, m in enumerate(p.split(sections, dim=-1))], dim=-1) for p in (cos, sin))
    return cos, sin


def bounds(limits: dict[str, Any], low: int, high: int) -> tuple[int, int]:
    """Fewest and most pixels, under either name that checkpoints use; low and high where they say nothing."""
    size = limits.get("size") or {}
    return (
        limits.get("min_pixels") or size.get("shortest_edge") or low,
        limits.get("max_pixels") or size.get("longest_edge") or high,
    )


def planned(
    vision: Any, kind: Kind, height: int, width: int, frames: int, resize: Callable[[int, int, int], tuple[int, int]]
) -> tuple[Grid, ...]:
    """The grid of an image or video that `resize(height, width, cell)` brings to multiples of a token's cell."""
    cell = vision.patch_size * vision.spatial_merge_size
    try:
        h, w = resize(height, width, cell)
    except ValueError as error:
        raise InvalidValue(f"{width}x{height} pixels cannot be planned: {error}") from error
    t = 1 if kind == "image" else -(-frames // vision.temporal_patch_size)
    return (Grid(t, h // cell, w // cell),)


def resize_image(limits: dict[str, Any], height: int, width: int, cell: int) -> tuple[int, int]:
    """As the image processor of all Qwen-VL families does."""
    low, high = bounds(limits, 56 * 56, 28 * 28 * 1280)
    return _smart_resize(height, width, cell, low, high)


def resize_frame(limits: dict[str, Any], frames: int, height: int, width: int, cell: int) -> tuple[int, int]:
    """As the video processor of Qwen2-VL and Qwen2.5-VL does: bounds for each frame, and a share of the context."""
    low, high = bounds(limits, 128 * 28 * 28, 768 * 28 * 28)
    if limits.get("cap_pixels_per_frame"):
        context = int(limits.get("max_video_tokens", 128000) * cell * cell * 0.9)
        high = max(min(high, context * limits.get("temporal_patch_size", 2) // frames), int(low * 1.05))
    return _smart_resize(height, width, cell, low, high)


def _smart_resize(height: int, width: int, cell: int, low: int, high: int) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    return smart_resize(height, width, cell, min_pixels=low, max_pixels=high)


def tiny_rope() -> dict[str, Any]:
    """M-RoPE for heads of width 16."""
    return {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}


def tiny_inputs(
    model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], options: dict[str, Any], *, timestamps: bool = False
) -> dict[str, Any]:
    """The prompt batch of `Family.tiny_inputs`; with `timestamps`, text of changing length stands between frames."""
    vision: Any = model.config.vision_config
    unit, width = vision.spatial_merge_size**2, 3 * vision.temporal_patch_size * vision.patch_size**2
    ids: list[list[int]] = []
    pixels: dict[str, list[Tensor]] = {"image": [], "video": []}
    thw: dict[str, list[list[int]]] = {"image": [], "video": []}
    for i, sizes in enumerate(rows):
        row, generator = opened(i, options)
        for size in sizes:
            kind, token = ("image", IMAGE) if len(size) == 2 else ("video", VIDEO)
            t, h, w = size if len(size) == 3 else (1, *size)
            if timestamps and kind == "video":
                for frame in range(t):
                    row += [*[14, 15][frame % 2 :], START, *[token] * (h * w), END]
            else:
                row += [START, *[token] * (t * h * w), END]
            pixels[kind].append(torch.randn(t * h * w * unit, width, generator=generator))
            thw[kind].append([t, h * vision.spatial_merge_size, w * vision.spatial_merge_size])
        ids.append(closed(row, generator, options))
    inputs: dict[str, Any] = padded(ids, options)
    tokens = inputs["input_ids"]
    inputs["mm_token_type_ids"] = (tokens == IMAGE).int() + 2 * (tokens == VIDEO).int()
    if thw["image"]:
        inputs |= {"pixel_values": torch.cat(pixels["image"]), "image_grid_thw": torch.tensor(thw["image"])}
    if thw["video"]:
        inputs |= {"pixel_values_videos": torch.cat(pixels["video"]), "video_grid_thw": torch.tensor(thw["video"])}
    return inputs
