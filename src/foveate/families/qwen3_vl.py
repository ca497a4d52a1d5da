"""Qwen3-VL: DeepStack, a timestamp before each frame of a video, normed queries and keys, interleaved M-RoPE."""

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


class Qwen3VL(Family):
    """Qwen3-VL, images and videos. The timestamps between the frames of a video are structure and stay."""

    model_types = ("qwen3_vl",)
    title = "Qwen3-VL"
    deepstack = True

    def shape(self, config: Any) -> ModelShape:
        return text_shape("qwen3_vl", config.text_config, vision_blocks=config.vision_config.depth, mrope=True)

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
        resize = partial(_resize_video, limits, frames) if kind == "video" else partial(qwen.resize_image, limits)
        return qwen.planned(config.vision_config, kind, height, width, frames, resize)

    def head_norms(self, attention: nn.Module) -> tuple[nn.Module, nn.Module]:
        return attention.q_norm, attention.k_norm

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        text_config = TEXT | qwen.tiny_rope() | dict(head_dim=16) | text
        vision_config = dict(
            depth=4, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=4, num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1, 2], out_hidden_size=text_config["hidden_size"], initializer_range=0.15,
        )  # fmt: skip
        config = Qwen3VLConfig(
            text_config=text_config, vision_config=vision_config,
            image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
        )  # fmt: skip
        with seeded(seed):
            return Qwen3VLForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        return qwen.tiny_inputs(model, rows, options, timestamps=True)


def _resize_video(limits: dict[str, Any], frames: int, height: int, width: int, cell: int) -> tuple[int, int]:
    """As the video processor does: bounds for all frames together."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    low, high = qwen.bounds(limits, 128 * 32 * 32, 768 * 32 * 32)
    if limits.get("cap_pixels_per_frame"):
        most = limits.get("max_video_tokens", 768) * cell * cell
        high = frames * max(min(most, high // frames), int(low * 1.05))
    temporal = limits.get("temporal_patch_size", 2)
    return smart_resize(frames, height, width, temporal, cell, min_pixels=low, max_pixels=high)
