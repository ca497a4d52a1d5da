"""LLaVA-OneVision: SigLIP without CLS, any-resolution crops stitched and unpadded, pooled video frames, newlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from .base import Family, Kind, Layout, View, pad_rows, seeded, text_shape
from .llava import encoder_layers, feature_block


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
        side = _side(core.config)
        if kind == "video":
            videos, frames = _video_pixels(arguments).shape[:2]
            half = math.ceil(side / 2)
            return [Layout.plain("video", Grid(frames, half, half), tail=1)] * videos
        return [_image_layout(core, size, alone) for size, alone in self._images(arguments)]

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
        tiles = patches.split([_tiles(core, size) if alone else 1 for size, alone in images])
        # the model's own packing, applied to the numbers instead of the features: same stitching, unpadding, resizing
        sizes = [size for size, _ in images]
        packed, _ = core.pack_image_features(list(tiles), sizes, image_newline=None)
        views: list[Tensor] = []
        for values, (size, alone) in zip(packed, images, strict=True):
            views += values.split([v.grid.n for v in _image_layout(core, size, alone).views])
        return views

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        side = _side(config)
        if kind == "video":
            half = math.ceil(side / 2)
            return (Grid(frames, half, half),)
        return (Grid(1, side, side), _stitched(config, height, width))

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import (
            LlavaOnevisionConfig,
            LlavaOnevisionForConditionalGeneration,
            Qwen2Config,
            SiglipVisionConfig,
        )

        text_config = dict(
            hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=200, initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        vision_config = dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=70,
            patch_size=14, vision_use_head=False,
        )  # fmt: skip
        config = LlavaOnevisionConfig(
            text_config=Qwen2Config(**text_config | text), vision_config=SiglipVisionConfig(**vision_config),
            image_token_index=10, video_token_index=11, image_token_id=10, video_token_id=11,
            image_grid_pinpoints=[[70, 70], [70, 140], [140, 70], [140, 140]],
        )  # fmt: skip
        with seeded(seed):
            return LlavaOnevisionForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(options.get("seed", 0))
        core, side = self.core(model), model.config.vision_config.image_size
        ids, tiles, sizes, videos, per_row = [], [], [], [], []
        for i, images in enumerate(rows):
            row = [1, 20 + i]
            still = [s for s in images if len(s) == 2]
            for size in images:
                if len(size) == 3:
                    frames = torch.randn(size[0], 3, side, side, generator=generator)
                    layout = self.layouts("video", core, {"pixel_values_videos": frames[None]})[0]
                    videos.append(frames)
                    row += [11] * layout.length + [14]
                else:
                    pixels = torch.tensor([size[0] * 14, size[1] * 14])
                    layout = _image_layout(core, pixels, len(still) == 1)
                    crops = _tiles(core, pixels) if len(still) == 1 else 1
                    tiles.append(torch.randn(crops, 3, side, side, generator=generator))
                    sizes.append(pixels)
                    row += [10] * layout.length + [14]
            per_row.append(len(still))
            ids.append(row + torch.randint(30, 200, (options.get("text", 8),), generator=generator).tolist())
        tokens, mask = pad_rows(ids, 0, options.get("padding", "left"))
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask}
        if tiles:
            most = max(t.shape[0] for t in tiles)
            padded = [torch.cat([t, t.new_zeros(most - t.shape[0], *t.shape[1:])]) for t in tiles]
            inputs |= {"pixel_values": torch.stack(padded), "image_sizes": torch.stack(sizes)}
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


def _side(config: Any) -> int:
    return config.vision_config.image_size // config.vision_config.patch_size


def _video_pixels(arguments: dict[str, Any]) -> Tensor:
    """Pixels [videos, frames, ...]; transformers before 5.20 names the argument like that of images."""
    name = "pixel_values_videos" if "pixel_values_videos" in arguments else "pixel_values"
    return arguments[name]


def _tiles(core: nn.Module, size: Tensor) -> int:
    from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

    return image_size_to_num_patches(size, core.config.image_grid_pinpoints, core.config.vision_config.image_size)


def _image_layout(core: nn.Module, size: Tensor, alone: bool) -> Layout:
    side = _side(core.config)
    base = Grid(1, side, side)
    if not alone:
        return Layout.plain("image", base, tail=1)
    height, width = (int(v) for v in size)
    stitched = _stitched(core.config, height, width)
    row = stitched.w + 1  # each row ends in a newline token
    return Layout("image", base.n + stitched.h * row, (View(0, base, side), View(base.n, stitched, row)))


def _stitched(config: Any, height: int, width: int) -> Grid:
    """The grid of the stitched crops after unpadding and the resize that bounds it.

    The shape that the model's own packing gives; its arithmetic is repeated on a blank image so that the two cannot
    drift apart.
    """
    from transformers.models.llava_onevision.modeling_llava_onevision import get_anyres_image_grid_shape, unpad_image

    side = _side(config)
    rows, columns = get_anyres_image_grid_shape(
        (height, width), config.image_grid_pinpoints, config.vision_config.image_size
    )
    blank = unpad_image(torch.empty(1, rows * side, columns * side, device="meta"), (height, width))
    h, w = blank.shape[1:]
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(h * w / (most * side**2))
    return Grid(1, int(h // ratio), int(w // ratio)) if ratio > 1.1 else Grid(1, h, w)
