"""LLaVA-OneVision: SigLIP without CLS, any-resolution crops stitched and unpadded, pooled video frames, newlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from . import anyres
from .base import Family, Kind, Layout, text_shape
from .llava import encoder_layers, feature_block
from .tiny import IMAGE, TEXT, VIDEO, closed, opened, padded, seeded


class LlavaOnevision(Family):
    """LLaVA-OneVision: images at any resolution (a thumbnail and a stitched view), several images, videos.

    Both views of an image are grids of their own. Newline tokens are structure and stay.
    """

    model_types = ("llava_onevision",)
    title = "LLaVA-OneVision"

    def shape(self, config: Any) -> ModelShape:
        blocks = config.vision_config.num_hidden_layers
        return text_shape(
            "llava_onevision", config.text_config, vision_blocks=blocks, vision_features=feature_block(config)
        )

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        if kind == "video":
            videos, frames = _video_pixels(arguments).shape[:2]
            return [Layout.plain("video", _video(core.config, frames), tail=1)] * videos
        return [_layout(core.config, size, alone) for size, alone in self._images(arguments)]

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        return encoder_layers(core)[feature_block(core.config) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).self_attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        patches = torch.cat(per_patch)
        if kind == "video":
            videos = _video_pixels(arguments).shape[0]
            return list(core.apply_pooling(patches).reshape(videos, -1, patches.shape[-1]))
        images = self._images(arguments)
        tiles = patches.split([anyres.crops(core.config, size) if alone else 1 for size, alone in images])
        # the model's own packing, applied to the numbers instead of the features: same stitching, unpadding, resizing
        sizes = [size for size, _ in images]
        packed, _ = core.pack_image_features(list(tiles), sizes, image_newline=None)
        views: list[Tensor] = []
        for values, (size, alone) in zip(packed, images, strict=True):
            views += values.split([v.grid.n for v in _layout(core.config, size, alone).views])
        return views

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        return (_video(config, frames),) if kind == "video" else _views(config, height, width)

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import (
            LlavaOnevisionConfig,
            LlavaOnevisionForConditionalGeneration,
            Qwen2Config,
            SiglipVisionConfig,
        )

        vision_config = SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=70,
            patch_size=14, vision_use_head=False,
        )  # fmt: skip
        config = LlavaOnevisionConfig(
            text_config=Qwen2Config(**TEXT | text), vision_config=vision_config, image_token_index=IMAGE,
            video_token_index=VIDEO, image_grid_pinpoints=[[70, 70], [70, 140], [140, 70], [140, 140]],
        )  # fmt: skip
        with seeded(seed):
            return LlavaOnevisionForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        config = model.config
        patch, crop = config.vision_config.patch_size, config.vision_config.image_size
        ids, tiles, sizes, videos, per_row = [], [], [], [], []
        for i, images in enumerate(rows):
            row, generator = opened(i, options)
            still = [s for s in images if len(s) == 2]
            for size in images:
                if len(size) == 3:
                    videos.append(torch.randn(size[0], 3, crop, crop, generator=generator))
                    row += [VIDEO] * (_video(config, size[0]).n + 1) + [14]
                else:
                    sizes.append(torch.tensor([side * patch for side in size]))
                    crops = anyres.crops(config, sizes[-1]) if len(still) == 1 else 1
                    tiles.append(torch.randn(crops, 3, crop, crop, generator=generator))
                    row += [IMAGE] * _layout(config, sizes[-1], len(still) == 1).length + [14]
            per_row.append(len(still))
            ids.append(closed(row, generator, options))
        inputs: dict[str, Any] = padded(ids, options)
        if tiles:
            inputs |= {"pixel_values": anyres.stacked(tiles), "image_sizes": torch.stack(sizes)}
            inputs["batch_num_images"] = torch.tensor([n for n in per_row if n])
        if videos:
            inputs["pixel_values_videos"] = torch.stack(videos)
        return inputs

    @staticmethod
    def _images(arguments: dict[str, Any]) -> list[tuple[Tensor, bool]]:
        """(height, width) of each image, and whether it is alone in its prompt: only then it is cut into crops."""
        sizes, numbers = arguments["image_sizes"], arguments.get("batch_num_images")
        alone = [True] * len(sizes) if numbers is None else [n == 1 for n in numbers.tolist() for _ in range(n)]
        return list(zip(sizes, alone, strict=True))


def _video_pixels(arguments: dict[str, Any]) -> Tensor:
    """Pixels [videos, frames, ...]; transformers before 5.20 names the argument like that of images."""
    name = "pixel_values_videos" if "pixel_values_videos" in arguments else "pixel_values"
    return arguments[name]


def _video(config: Any, frames: int) -> Grid:
    half = math.ceil(anyres.side(config) / 2)
    return Grid(frames, half, half)


def _layout(config: Any, size: Tensor, alone: bool) -> Layout:
    base, stitched = _views(config, *size.tolist())
    return anyres.layout(base, stitched) if alone else Layout.plain("image", base, tail=1)


def _views(config: Any, height: int, width: int) -> tuple[Grid, Grid]:
    """The thumbnail, and the stitched crops after the resize that bounds them."""
    n, grid = anyres.side(config), anyres.stitched(config, height, width)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(grid.n / (most * n**2))
    return Grid(1, n, n), Grid(1, int(grid.h // ratio), int(grid.w // ratio)) if ratio > 1.1 else grid
