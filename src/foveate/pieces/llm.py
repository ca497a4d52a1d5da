"""Readings of a language model layer beyond rows of attention, and which words have a say in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InvalidValue, UnsupportedInput
from ..ops import attention as op
from ..ops.rows import rows_of
from ..tokens import VisualTokens
from .base import Reading, Score
from .extent import Extent
from .readings import Place, TextRows, _check_place
from .seen import Attention, Raters


@dataclass(frozen=True)
class AttendedWords(Raters):
    """The words that the visual tokens are more like than the average word (SparseVLM).

    Each visual token spreads a softmax of its products with the words over them; a word counts by its mean share.
    """

    def __call__(self, visual: Float[Tensor, "B N D"], text: Float[Tensor, "B r D"]) -> Bool[Tensor, "B r"]:
        words = text.float().transpose(1, 2)
        share = torch.stack([(v.float() @ words).softmax(2).sum(1) for v in torch.split(visual, 1024, dim=1)]).sum(0)
        return (share > share.mean(1, keepdim=True)) | (share == share.amax(1, keepdim=True))

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.text * of.width


@dataclass(frozen=True)
class SalientHeads(Reading):
    """Attention paid by the words that rate, in the heads that look at the image most, freed of position (SparseVLM+).

    `share` of the heads are taken. Logits are divided by those of a query and a key of ones at the same places, of
    which the rotary embedding alone decides, as a fraction of what they are at distance 0; at least by `least`.
    """

    raters: Raters | None = field(default_factory=AttendedWords)
    share: float = 14 / 32
    least: float = 0.1
    place: Place = "previous"

    def __post_init__(self) -> None:
        _check_place(self.place)
        if not (0 < self.share <= 1 and 0 < self.least <= 1):
            raise InvalidValue(f"share and least must lie in (0, 1], got {self.share} and {self.least}")

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        assert a.text is not None and a.visual is not None and a.rotate is not None, "a vision tower has no text"
        if a.text.shape[1] == 0:
            raise UnsupportedInput("no text stands behind the image to rank it by; put the question after the image")
        rows = a.text_valid if self.raters is None else a.raters[self.raters]
        ones = a.rotate(a.q.new_ones(a.q.shape[0], 1, *a.q.shape[2:]))[:, 0].float()
        asking = rows_of(ones, a.text)
        decay = (asking @ ones.transpose(1, 2) / ones.shape[2]).clamp(min=self.least)
        heads = max(1, round(self.share * a.q.shape[1]))
        return op.salient_heads_attention(
            a.q, a.k, a.text, a.scale, heads, a.visual, divisor=decay, row_valid=rows, valid=a.valid
        )

    def flops(self, of: Extent) -> int:
        return 2 * of.text * of.columns * (of.heads + 1) * of.head_dim


@dataclass(frozen=True)
class TextPeak(Reading):
    """The most attention that any word behind the image pays to each token, head mean (MustDrop)."""

    place: Place = "previous"

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        a = attention
        assert a.text is not None, "a vision tower has no text"
        if a.text.shape[1] == 0:
            raise UnsupportedInput("no text stands behind the image to rank it by; put the question after the image")
        return op.peak_attention(a.q, a.k, a.text, a.scale, row_valid=a.text_valid, valid=a.valid)

    def flops(self, of: Extent) -> int:
        return 2 * of.text * of.columns * of.heads * of.head_dim


@dataclass(frozen=True)
class LayerKeys(Reading):
    """Keys of a layer after RoPE, those of all heads in a row (PACT, DART)."""

    place: Place = "next"

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L e"]:
        return attention.k.transpose(1, 2).flatten(2)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class KeyLength(Reading):
    """Sum of the absolute values of the keys of all heads after RoPE: the L1 norm DART chooses pivots by."""

    place: Place = "previous"

    def __post_init__(self) -> None:
        _check_place(self.place)

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        length: Tensor = torch.linalg.vector_norm(attention.k.float(), ord=1, dim=(1, 3))
        return length

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class GlobalQuery(Reading):
    """Attention that the mean query of all visual tokens pays to each of them, before RoPE, head mean (PACT)."""

    place = "next"
    all_rows = True
    rotary = False

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        assert attention.visual is not None, "a vision tower has no prompt"
        return op.pooled_query_attention(attention.q, attention.k, attention.scale, attention.visual)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns * of.heads * of.head_dim


@dataclass(frozen=True)
class DualText(Score):
    """The larger of two: the share of a token in all that the words pay to the image, and `ratio` times its peak.

    A token that is over neither of two thresholds tau_global and tau_individual is one that this score puts below
    tau_global, with `ratio` tau_global / tau_individual (MustDrop; published 1 at 192 tokens).
    """

    ratio: float = 1.0
    reads: tuple[Reading, ...] = (TextRows(), TextPeak())

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise InvalidValue(f"ratio must be above 0, got {self.ratio}")

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        paid, peak = (tokens.signal(r).float() for r in self.reads)
        share = paid / paid.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return torch.maximum(share, self.ratio * peak)

    def flops(self, of: Extent) -> int:
        return 0

    def __str__(self) -> str:
        return f"DualText({self.ratio:g})"
