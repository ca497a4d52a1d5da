"""Qwen2-VL: a 2x2 patch merger, global attention in every vision block, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..plan import ModelShape
from ..tokens import Grid
from . import qwen
from .base import Family, Kind, Layout, text_shape
from .tiny import END, IMAGE, START, TEXT, VIDEO, seeded


class Qwen2VL(Family):
    """Qwen2-VL, images and videos."""

    model_types = ("qwen2_vl",)
    title = "Qwen2-VL"

    def shape(self, config: Any) -> ModelShape:
        return text_shape("qwen2_vl", config.text_config, vision_blocks=config.vision_config.depth, mrope=True)

    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        return qwen.layouts(kind, core, arguments)

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        return core.visual.blocks[-1 if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        return qwen.per_image(core, kind, arguments, qwen.per_token(core, per_patch))

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        resize = partial(qwen.resize_frame, limits, frames) if kind == "video" else partial(qwen.resize_image, limits)
        return qwen.planned(config.vision_config, kind, height, width, frames, resize)

    def rotary(self, layer: nn.Module, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return qwen.joined_axes(layer.self_attn, position_embeddings)

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

        text_config = TEXT | qwen.tiny_rope() | text
        vision_config = dict(
            depth=4, embed_dim=32, mlp_ratio=2, num_heads=2, patch_size=4, hidden_size=text_config["hidden_size"]
        )
        config = Qwen2VLConfig(
            text_config=text_config, vision_config=vision_config,
            image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
        )  # fmt: skip
        with seeded(seed):
            return Qwen2VLForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        return qwen.tiny_inputs(model, rows, options)
