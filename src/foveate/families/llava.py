"""LLaVA-1.5: one CLIP image of fixed size, a plain MLP projector, 1-D RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from . import anyres
from .base import Family, Kind, Layout, text_shape
from .tiny import IMAGE, TEXT, closed, opened, padded, seeded


class Llava(Family):
    """LLaVA-1.5, images."""

    model_types = ("llava",)
    title = "LLaVA-1.5"

    def shape(self, config: Any) -> ModelShape:
        vision = config.vision_config
        has_cls = config.vision_feature_select_strategy == "default"
        return text_shape(
            "llava",
            config.text_config,
            vision_blocks=vision.num_hidden_layers,
            vision_features=feature_block(config),
            has_cls=has_cls,
            patch_tokens=isinstance(config.vision_feature_layer, int),
        )

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        side = anyres.side(core.config)
        return [Layout.plain("image", Grid(1, side, side))] * arguments["pixel_values"].shape[0]

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        return encoder_layers(core)[feature_block(core.config) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).self_attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        patches = torch.cat(per_patch)
        first = 1 if core.config.vision_feature_select_strategy == "default" else 0
        return list(patches[:, first:])

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        side = anyres.side(config)
        return (Grid(1, side, side),)

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        vision_config = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=56,
            patch_size=14,
        )  # fmt: skip
        config = LlavaConfig(
            text_config=LlamaConfig(**TEXT | text), vision_config=vision_config, image_token_index=IMAGE
        )
        with seeded(seed):
            return LlavaForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        side, ids, pixels = model.config.vision_config.image_size, [], []
        for i, images in enumerate(rows):
            row, generator = opened(i, options)
            for _ in images:  # every image has the one size this family knows
                row += [IMAGE] * anyres.side(model.config) ** 2 + [14]
                pixels.append(torch.randn(3, side, side, generator=generator))
            ids.append(closed(row, generator, options))
        return padded(ids, options) | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def encoder_layers(core: nn.Module) -> nn.ModuleList:
    """The blocks of a CLIP or SigLIP tower, wherever this version of transformers keeps them."""
    tower = core.vision_tower
    return getattr(tower, "vision_model", tower).encoder.layers


def feature_block(config: Any) -> int:
    """The block whose output is handed to the projector: hidden_states[i] is the output of block i - 1."""
    layer = config.vision_feature_layer
    layer = layer if isinstance(layer, int) else layer[-1]
    blocks = config.vision_config.num_hidden_layers
    return (layer if layer >= 0 else blocks + 1 + layer) - 1
