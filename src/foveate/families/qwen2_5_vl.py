"""Qwen2.5-VL: a 2x2 patch merger, window attention that permutes patches, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue
from ..plan import ModelShape
from ..tokens import Grid
from .base import Family, Kind, Layout, pad_rows, seeded, text_shape


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
        merge = core.config.vision_config.spatial_merge_size
        return [Layout.plain(kind, Grid(t, h // merge, w // merge)) for t, h, w in self._thw(kind, arguments).tolist()]

    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        full = core.config.vision_config.fullatt_block_indexes
        return core.visual.blocks[max(full) if block is None else block]

    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        return self.vision_block(core, block).attn

    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        from transformers.vision_utils import get_vision_window_index

        vision, thw = core.visual, self._thw(kind, arguments)
        # attention runs window by window: all pieces in a row are the patches in window order
        patches = torch.cat([p.flatten(0, 1) for p in per_patch])
        per_token = patches.view(-1, vision.spatial_merge_unit, patches.shape[-1]).mean(1)
        order, _ = get_vision_window_index(
            thw,
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        raster = per_token[torch.argsort(torch.as_tensor(order, device=per_token.device))]
        return list(raster.split([n // vision.spatial_merge_unit for n in thw.prod(-1).tolist()]))

    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        vision = config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        size = limits.get("size", {})
        low = size.get("shortest_edge", limits.get("min_pixels"))
        high = size.get("longest_edge", limits.get("max_pixels"))
        bounds = {"min_pixels": low, "max_pixels": high} if low and high else {}
        try:
            height, width = smart_resize(height, width, cell, **bounds)
        except ValueError as error:
            raise InvalidValue(f"{width}x{height} pixels cannot be planned: {error}") from error
        t = 1 if kind == "image" else -(-frames // vision.temporal_patch_size)
        return (Grid(t, height // cell, width // cell),)

    def rotary(self, layer: nn.Module, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        cos, sin = position_embeddings
        if cos.ndim == 3:
            return cos, sin
        # transformers before 5.20 joins the three axes of M-RoPE inside the attention
        sections = layer.self_attn.config.rope_parameters["mrope_section"] * 2
        cos, sin = (
            torch.cat([part[i % 3] for i, part in enumerate(p.split(sections, dim=-1))], dim=-1) for p in (cos, sin)
        )
        return cos, sin

    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        text_config = dict(
            hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=200, initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        ) | text  # fmt: skip
        vision_config = dict(
            depth=4, hidden_size=32, intermediate_size=64, num_heads=2, window_size=56, fullatt_block_indexes=[1, 3],
            out_hidden_size=text_config["hidden_size"],
        )  # fmt: skip
        config = Qwen2_5_VLConfig(
            text_config=text_config, vision_config=vision_config,
            image_token_id=10, video_token_id=11, vision_start_token_id=12, vision_end_token_id=13,
        )  # fmt: skip
        with seeded(seed):
            return Qwen2_5_VLForConditionalGeneration(config).eval()

    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(options.get("seed", 0))
        vision = model.config.vision_config
        unit, width = vision.spatial_merge_size**2, 3 * vision.temporal_patch_size * vision.patch_size**2
        ids: list[list[int]] = []
        pixels: dict[str, list[Tensor]] = {"image": [], "video": []}
        thw: dict[str, list[list[int]]] = {"image": [], "video": []}
        for i, sizes in enumerate(rows):
            row = [1, 20 + i]
            for size in sizes:
                kind, token = ("image", 10) if len(size) == 2 else ("video", 11)
                t, h, w = size if len(size) == 3 else (1, *size)
                row += [12, *[token] * (t * h * w), 13]
                pixels[kind].append(torch.randn(t * h * w * unit, width, generator=generator))
                thw[kind].append([t, h * 2, w * 2])
            row += torch.randint(30, 200, (options.get("text", 8),), generator=generator).tolist()
            ids.append(row)
        tokens, mask = pad_rows(ids, 0, options.get("padding", "left"))
        types = (tokens == 10).int() + 2 * (tokens == 11).int()
        inputs = {"input_ids": tokens, "attention_mask": mask, "mm_token_type_ids": types}
        if thw["image"]:
            inputs |= {"pixel_values": torch.cat(pixels["image"]), "image_grid_thw": torch.tensor(thw["image"])}
        if thw["video"]:
            inputs |= {"pixel_values_videos": torch.cat(pixels["video"]), "video_grid_thw": torch.tensor(thw["video"])}
        return inputs

    @staticmethod
    def _thw(kind: Kind, arguments: dict[str, Any]) -> Tensor:
        return arguments["image_grid_thw" if kind == "image" else "video_grid_thw"]
