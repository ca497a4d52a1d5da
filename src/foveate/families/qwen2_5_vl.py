"""Qwen2.5-VL: a 2x2 patch merger, window attention that permutes patches, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from . import qwen
from .base import Family, Kind, Layout, text_shape
from .tiny import END, IMAGE, START, TEXT, VIDEO, seeded


class Qwen25VL(Family):
    """Qwen2.5-VL, images and videos."""

    model_types = ("qwen2_5_vl",)
    title = "Qwen2.5-VL"

    def shape(self, config: Any) -> ModelShape:
        vision = config.vision_config
        return text_shape(
            "qwen2_5_vl",
            config.text_config,
            vision_blocks=vision.depth,
            vision_global=vision.fullatt_block_indexes,
            mrope=True,
        )

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        return qwen.layouts(kind, core, arguments)

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        full = core.config.vision_config.fullatt_block_indexes
        return core.visual.blocks[max(full) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        from transformers.vision_utils import get_vision_window_index

        vision, tokens = core.visual, qwen.per_token(core, per_patch)
        order, _ = get_vision_window_index(
            qwen.grids(kind, arguments),
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        raster = tokens[torch.argsort(torch.as_tensor(order, device=tokens.device))]
        return qwen.per_image(core, kind, arguments, raster)

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        resize = partial(qwen.resize_frame, limits, frames) if kind == "video" else partial(qwen.resize_image, limits)
        return qwen.planned(config.vision_config, kind, height, width, frames, resize)

    def rotary(self, layer: nn.Module, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return qwen.joined_axes(layer.self_attn, position_embeddings)

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        text_config = TEXT | qwen.tiny_rope() | text
        vision_config = dict(
            depth=4, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=4, window_size=16,
            fullatt_block_indexes=[1, 3], out_hidden_size=text_config["hidden_size"],
        )  # fmt: skip
        config = Qwen2_5_VLConfig(
            text_config=text_config, vision_config=vision_config,
            image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
        )  # fmt: skip
        with seeded(seed):
            return Qwen2_5_VLForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        return qwen.tiny_inputs(model, rows, options)
