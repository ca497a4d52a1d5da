"""Readings: what a score may learn from an attention module, computed from the rows it needs and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue, UnsupportedInput
from ..ops import attention as op
from ..ops.pagerank import CHUNK, pagerank
from .base import Reading
from .extent import Extent
from .seen import Attention, Raters

Place = Literal["previous", "next"]


def _check_place(place: str) -> None:
    if place not in ("previous", "next"):
        raise InvalidValue(f"place must be 'previous' or 'next', got {place!r}")


@dataclass(frozen=True)
class LastQuery(Reading):
    """Attention the last prompt token pays to each token, head mean (FastV, PyramidDrop).

    `among` "visual": in each head the share of each visual token in what all visual ones get (DyToK).
    """

    place: Place = "previous"
    since: int | None = None
    among: Literal["all", "visual"] = "all"

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        assert a.last is not None, "a vision tower has no last prompt token"
        return op.rows_attention(a.q, a.k, a.last, a.scale, valid=a.valid if self.among == "all" else a.visual)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns * of.heads * of.head_dim


@dataclass(frozen=True)
class TextRows(Reading):
    """Attention paid by the text behind the last visual token, mean over those rows and heads.

    With `raters` only by the rows they choose (SparseVLM).
    """

    place: Place = "previous"
    raters: Raters | None = None

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        assert a.text is not None, "a vision tower has no text"
        if a.text.shape[1] == 0:
            raise UnsupportedInput("no text stands behind the image to rank it by; put the question after the image")
        rows = a.text_valid if self.raters is None else a.raters[self.raters]
        return op.rows_attention(a.q, a.k, a.text, a.scale, row_valid=rows, valid=a.valid)

    def flops(self, of: Extent) -> int:
        return 2 * of.text * of.columns * of.heads * of.head_dim


@dataclass(frozen=True)
class Received(Reading):
    """Attention each token receives from all tokens of the prompt, mean over queries and heads."""

    place: Place = "previous"
    all_rows = True

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        return op.received_attention(a.q, a.k, a.scale, valid=a.valid, causal=True)

    def flops(self, of: Extent) -> int:
        return 2 * op.causal_area(of.columns) * of.heads * (of.head_dim + 1)


@dataclass(frozen=True)
class PageRank(Reading):
    """AIM's multi-modal PageRank over text and visual tokens (arXiv 2412.03248; defaults of the released code)."""

    temperature: float = 0.1
    iterations: int = 5
    damping: float = 0.0
    place: Place = "previous"
    all_rows = True

    def __post_init__(self) -> None:
        _check_place(self.place)
        if self.temperature <= 0 or self.iterations < 1 or not 0 <= self.damping < 1:
            raise InvalidValue(
                "PageRank needs temperature > 0, iterations >= 1 and damping in [0, 1), got "
                f"{self.temperature}, {self.iterations}, {self.damping}"
            )

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        return pagerank(
            a.q, a.k, a.scale, valid=a.valid, causal=True,
            temperature=self.temperature, iterations=self.iterations, damping=self.damping,
        )  # fmt: skip

    def flops(self, of: Extent) -> int:
        return 2 * op.causal_area(of.columns, CHUNK) * of.heads * (of.head_dim + self.iterations)


@dataclass(frozen=True)
class VisionReceived(Reading):
    """Attention each patch receives in a vision block, mean over queries and heads; the CLS substitute (HiPrune)."""

    block: int | None = None
    place = "vision"

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        return op.received_attention(attention.q, attention.k, attention.scale)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns**2 * of.heads * (of.head_dim + 1)


@dataclass(frozen=True)
class Cls(Reading):
    """Attention the CLS token pays to each patch in a vision block, head mean (FasterVLM, VisionZip)."""

    block: int | None = None
    place = "vision"
    needs_cls = True

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        first = attention.q.new_zeros(attention.q.shape[0], 1).long()
        return op.rows_attention(attention.q, attention.k, first, attention.scale, causal=False)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns * of.heads * of.head_dim


@dataclass(frozen=True)
class Keys(Reading):
    """Keys of a vision block: their mean over heads, the metric VisionZip merges by, or those of all heads in a row."""

    block: int | None = None
    heads: Literal["mean", "all"] = "mean"
    place = "vision"

    def __post_init__(self) -> None:
        if self.heads not in ("mean", "all"):
            raise InvalidValue(f"heads must be 'mean' or 'all', got {self.heads!r}")

    def __call__(self, attention: Attention) -> Float[Tensor, "R L e"]:
        return op.mean_key(attention.k) if self.heads == "mean" else attention.k.transpose(1, 2).flatten(2)

    def flops(self, of: Extent) -> int:
        return 0
