"""InternVL3: tiles of fixed size with CLS, a pixel shuffle that makes one token of 2x2 patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from .base import Family, Kind, Layout, View, text_shape
from .llava import feature_block
from .tiny import END, IMAGE, START, TEXT, closed, opened, padded, seeded


class InternVL(Family):
    """InternVL3 (and 2.5) as transformers has it: images of one or more tiles, the last of several a thumbnail.

    Every tile is a grid of its own: the tower is not told how tiles lie in the image. The frames of a video are such
    images too.
    """

    model_types = ("internvl",)
    title = "InternVL3"

    def shape(self, config: Any) -> ModelShape:
        return text_shape(
            "internvl",
            config.text_config,
            vision_blocks=config.vision_config.num_hidden_layers,
            vision_features=feature_block(config),
            has_cls=config.vision_feature_select_strategy == "default",
        )

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        grid = _tile(core.config)
        tile = Layout("image", grid.n, (View(0, grid, grid.w),), is_tile=True)
        return [tile] * arguments["pixel_values"].shape[0]

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        return core.vision_tower.encoder.layer[feature_block(core.config) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).attention

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        config = core.config
        patches = torch.cat(per_patch)[:, 1 if config.vision_feature_select_strategy == "default" else 0 :]
        tiles, n, c = patches.shape
        # the model's own shuffle, applied to the numbers instead of the features, puts those of a token side by side
        side = int(n**0.5)
        shuffled = core.pixel_shuffle(patches.reshape(tiles, side, side, c), config.downsample_ratio)
        return list(shuffled.unflatten(-1, (-1, c)).mean(-2).flatten(1, 2))

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        tiles = frames if kind == "video" else _tiles(config, height, width, limits)
        return (_tile(config),) * tiles

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config
        from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

        vision_config = InternVLVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=(56, 56),
            patch_size=(7, 7), layer_scale_init_value=1.0,
        )  # fmt: skip
        config = InternVLConfig(
            text_config=Qwen2Config(**TEXT | text), vision_config=vision_config, image_token_id=IMAGE,
            image_seq_length=16, tie_word_embeddings=False,
        )  # fmt: skip
        with seeded(seed):
            return InternVLForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        vision: Any = model.config.vision_config
        ids, pixels, n = [], [], _tile(model.config).n
        for i, images in enumerate(rows):
            row, generator = opened(i, options)
            for size in images:  # two tiles and a thumbnail, or one; the frames of a video are images of one
                frames = size[0] if len(size) == 3 else 1
                tiles = 3 if len(size) == 2 and size[0] * size[1] > 25 else 1
                row += [14, START, *[IMAGE] * (tiles * n), END] * frames
                pixels.append(torch.randn(frames * tiles, 3, *vision.image_size, generator=generator))
            ids.append(closed(row, generator, options))
        return padded(ids, options) | ({"pixel_values": torch.cat(pixels)} if pixels else {})


def _tile(config: Any) -> Grid:
    sides = zip(config.vision_config.image_size, config.vision_config.patch_size, strict=True)
    h, w = (int(image // patch * config.downsample_ratio) for image, patch in sides)
    return Grid(1, h, w)


def _tiles(config: Any, height: int, width: int, limits: dict[str, Any]) -> int:
    """As the processor cuts: the arrangement of tiles nearest to the image's aspect, and a thumbnail of several."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    fewest, most = limits.get("min_patches", 1), limits.get("max_patches", 12)
    columns, rows = get_optimal_tiled_canvas((height, width), tuple(config.vision_config.image_size), fewest, most)
    return columns * rows + (columns * rows > 1)
