"""LLaVA-NeXT: CLIP crops at any resolution, stitched and unpadded, a newline token behind each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from . import anyres
from .base import Family, Kind, Layout, text_shape
from .llava import encoder_layers, feature_block
from .tiny import IMAGE, TEXT, closed, opened, padded, seeded


class LlavaNext(Family):
    """LLaVA-NeXT (LLaVA-1.6), images: a thumbnail and a stitched view, each a grid of its own. Newline tokens stay."""

    model_types = ("llava_next",)
    title = "LLaVA-NeXT"

    def shape(self, config: Any) -> ModelShape:
        return text_shape(
            "llava_next",
            config.text_config,
            vision_blocks=config.vision_config.num_hidden_layers,
            vision_features=feature_block(config),
            has_cls=config.vision_feature_select_strategy == "default",
        )

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        return [anyres.layout(*_views(core.config, *size)) for size in arguments["image_sizes"].tolist()]

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        return encoder_layers(core)[feature_block(core.config) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).self_attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        strategy, sizes = core.config.vision_feature_select_strategy, arguments["image_sizes"]
        patches = torch.cat(per_patch)[:, 1 if strategy == "default" else 0 :]
        tiles = patches.split([anyres.crops(core.config, size) for size in sizes])
        # the model's own packing, applied to the numbers instead of the features: same stitching and unpadding
        packed, _ = core.pack_image_features(list(tiles), sizes, strategy, image_newline=None)
        views: list[Tensor] = []
        for values, size in zip(packed, sizes.tolist(), strict=True):
            views += values.split([grid.n for grid in _views(core.config, *size)])
        return views

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        return _views(config, height, width)

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

        vision_config = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=42,
            patch_size=14,
        )  # fmt: skip
        config = LlavaNextConfig(
            text_config=LlamaConfig(**TEXT | text), vision_config=vision_config, image_token_index=IMAGE,
            image_grid_pinpoints=[[42, 84], [84, 42], [84, 84]],
        )  # fmt: skip
        with seeded(seed):
            return LlavaNextForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        config, ids, tiles, sizes = model.config, [], [], []
        patch, crop = config.vision_config.patch_size, config.vision_config.image_size
        for i, images in enumerate(rows):
            row, generator = opened(i, options)
            for h, w in images:
                sizes.append(torch.tensor([h * patch, w * patch]))
                tiles.append(torch.randn(anyres.crops(config, sizes[-1]), 3, crop, crop, generator=generator))
                row += [IMAGE] * anyres.layout(*_views(config, h * patch, w * patch)).length + [14]
            ids.append(closed(row, generator, options))
        images = {"pixel_values": anyres.stacked(tiles), "image_sizes": torch.stack(sizes)} if tiles else {}
        return padded(ids, options) | images


def _views(config: Any, height: int, width: int) -> tuple[Grid, Grid]:
    n = anyres.side(config)
    return Grid(1, n, n), anyres.stitched(config, height, width)
