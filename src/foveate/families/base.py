"""What foveate must know of a model family: questions about a model, nothing about methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import UnsupportedInput
from ..plan import ModelShape
from ..tokens import Grid, Span

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class View:
    """One grid inside the tokens of an image: where it starts, and the distance between its rows."""

    offset: int
    grid: Grid
    stride: int

    def span(self, columns: Sequence[int], kind: Kind, image: int) -> Span:
        """Where it lies, from the columns of the image's tokens: there may be text between the frames of a video."""
        frame = self.grid.h * self.stride
        frames = tuple(columns[self.offset + f * frame] for f in range(self.grid.t))
        return Span(frames[0], self.grid, kind, self.stride, image, frames)


@dataclass(frozen=True)
class Layout:
    """The tokens of one image or video in the prompt: `length` in all, the views among them, the rest structure.

    A tile whose tokens follow directly on those of the tile before it belongs to the same image.
    """

    kind: Kind
    length: int
    views: tuple[View, ...]
    is_tile: bool = False

    @classmethod
    def plain(cls, kind: Kind, grid: Grid, tail: int = 0) -> Layout:
        """One grid, and `tail` structure tokens behind it."""
        return cls(kind, grid.n + tail, (View(0, grid, grid.w),))

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grids of its views."""
        return tuple(v.grid for v in self.views)


class Family(ABC):
    """One Hugging Face model family. Stateless; one instance serves all models of its `model_types`.

    `core` below is the model without its LM head (`model.base_model`); it must have `get_image_features`, and
    `get_video_features` if the family reads videos: the door at which images become known.
    """

    #: values of `config.model_type` this adapter serves
    model_types: ClassVar[tuple[str, ...]]
    #: what a person calls it
    title: ClassVar[str]
    #: True when early decoder layers add visual features to their outputs
    deepstack: ClassVar[bool] = False

    @abstractmethod
    def shape(self, config: Any) -> ModelShape:
        """The numbers a plan needs, from a config alone."""

    @abstractmethod
    def layouts(self, kind: Kind, core: nn.Module, arguments: dict[str, Any]) -> list[Layout]:
        """The token layout of each image, from the arguments of `get_image_features` or `get_video_features`."""

    @abstractmethod
    def vision_block(self, core: nn.Module, block: int | None) -> nn.Module:
        """A vision block; None is the one whose attention methods read by default."""

    @abstractmethod
    def vision_attention(self, core: nn.Module, block: int | None) -> nn.Module:
        """The attention module of a vision block."""

    @abstractmethod
    def to_llm(self, core: nn.Module, kind: Kind, arguments: dict[str, Any], per_patch: list[Tensor]) -> list[Tensor]:
        """Numbers per patch to numbers per LLM token: one tensor [N, c] for each view of each image, in prompt order.

        `per_patch` is what a vision reading gave, in the order the attention module was called, each [R, P, c].
        """

    @abstractmethod
    def planned(
        self, config: Any, kind: Kind, height: int, width: int, frames: int, limits: dict[str, Any]
    ) -> tuple[Grid, ...]:
        """The grids that an image or video of this size in pixels becomes; `limits` is the processor's config."""

    @abstractmethod
    def tiny(self, seed: int = 0, **text: Any) -> nn.Module:
        """A small random model of this family for tests, in eval mode; `text` overrides its language model's config."""

    @abstractmethod
    def tiny_inputs(
        self, model: nn.Module, rows: Sequence[Sequence[tuple[int, ...]]], **options: Any
    ) -> dict[str, Any]:
        """Inputs for `tiny`: for each row the sizes of its images in tokens, (h, w) or (t, h, w) for a video.

        Rows of different length are padded on the left; `padding="right"` pads on the right, `text` is the number of
        text tokens behind the images, `seed` draws the pixels and the words. With `first` the rows are those from this
        number on of a larger batch: `tiny_inputs(model, rows[2:], first=2)`.
        """

    def image_token_ids(self, config: Any) -> dict[Kind, int]:
        """Placeholder ids in the prompt."""
        ids: dict[Kind, int] = {"image": config.image_token_id}
        if getattr(config, "video_token_id", None) is not None:
            ids["video"] = config.video_token_id
        return ids

    def core(self, model: nn.Module) -> nn.Module:
        """The model without its LM head."""
        return model.base_model

    def decoder(self, core: nn.Module) -> nn.Module:
        """The language model: it has `layers`, and hidden states pass through them in order."""
        return core.language_model

    def rotary(self, layer: nn.Module, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """cos and sin [B or 1, L, d] as the layer's attention applies them."""
        return position_embeddings

    def rotated(self, layer: nn.Module, x: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """Queries or keys [B, h, L, d] after RoPE."""
        cos, sin = (p.unsqueeze(1) for p in self.rotary(layer, position_embeddings))
        return x * cos + _half_turned(x) * sin

    def query_and_key(
        self, layer: nn.Module, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor] | None, tail: int | None
    ) -> tuple[Tensor, Tensor]:
        """q [B, H, L, d] and k [B, Hk, L, d] that a decoder layer would compute from its input.

        After RoPE, or before it where `position_embeddings` is None. With `tail` only the last `tail` rows of q are
        computed, the others are zero: those are all a reading of the text needs, and the query projection is the
        dearest part.
        """
        attention = layer.self_attn
        h = layer.input_layernorm(hidden)
        first = 0 if tail is None else h.shape[1] - tail

        def project(linear: nn.Module, norm: nn.Module, rows: Tensor, start: int) -> Tensor:
            x = norm(linear(rows).view(*rows.shape[:-1], -1, attention.head_dim)).transpose(1, 2)
            if position_embeddings is None:
                return x
            cos, sin = (p[..., start:, :] for p in position_embeddings)
            return self.rotated(layer, x, (cos, sin))

        q_norm, k_norm = self.head_norms(attention)
        k = project(attention.k_proj, k_norm, h, 0)
        q = project(attention.q_proj, q_norm, h[:, first:], first)
        return nn.functional.pad(q, (0, 0, first, 0)), k

    def head_norms(self, attention: nn.Module) -> tuple[nn.Module, nn.Module]:
        """What q and k of each head pass between projection and RoPE."""
        return nn.Identity(), nn.Identity()

    def scale(self, layer: nn.Module) -> float:
        """What the logits of a decoder layer's attention are multiplied by."""
        return layer.self_attn.scaling


def text_shape(
    family: str,
    text: Any,
    *,
    vision_blocks: int,
    vision_features: int | None = None,
    vision_global: Sequence[int] | None = None,
    has_cls: bool = False,
    patch_tokens: bool = False,
    mrope: bool = False,
) -> ModelShape:
    """A ModelShape from a Llama-like text config; by default all vision blocks are global, the last makes features."""
    heads = text.num_attention_heads
    return ModelShape(
        family=family,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=text.num_key_value_heads or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        ffn=text.intermediate_size,
        vocab=text.vocab_size,
        vision_blocks=vision_blocks,
        vision_features=vision_blocks - 1 if vision_features is None else vision_features,
        vision_global=tuple(range(vision_blocks) if vision_global is None else sorted(vision_global)),
        has_cls=has_cls,
        patch_tokens=patch_tokens,
        mrope=mrope,
    )


def find_spans(
    ids: Sequence[Sequence[int]], tokens: dict[Kind, int], layouts: dict[Kind, list[Layout]]
) -> list[list[Span]]:
    """Where each view lies in each row of the prompt, in prompt order.

    Images are dealt out in the order of the rows, and the placeholders of one stand before those of the next.
    """
    at = dict.fromkeys(tokens, 0)
    rows = []
    for row in ids:
        spans: list[Span] = []
        for kind, token in tokens.items():
            columns = [i for i, t in enumerate(row) if t == token]
            image, end = -1, None
            while columns:
                layout = layouts[kind][at[kind]]
                own, columns = columns[: layout.length], columns[layout.length :]
                if len(own) < layout.length:
                    raise UnsupportedInput(
                        f"a row of the prompt ends {layout.length - len(own)} {kind} tokens too early for its last "
                        f"{kind}; do not truncate prompts"
                    )
                at[kind] += 1
                if not (layout.is_tile and own[0] == end):
                    image += 1
                end = own[-1] + 1
                spans += [view.span(own, kind, image) for view in layout.views]
        rows.append(sorted(spans, key=lambda s: s.start))
    return rows


def _half_turned(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)
