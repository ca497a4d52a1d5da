"""What the text behind the image says: relevance of each token to it, and the tokens nearest to its words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.select import tiered_top_k, unit
from ..tokens import VisualTokens
from .base import Score, Select, Selection
from .extent import Extent


@dataclass(frozen=True)
class TextRelevance(Score):
    """Mean cosine of each token with the text behind the image, in the space of this site.

    `scaled` brings each row to (0, 1] (CDPruner, for towers without a text tower of their own).
    """

    scaled: bool = True
    needs_text = True

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        assert tokens.text is not None, "the engine gives text to a step that asks for it"
        relevance = (unit(tokens.x) @ unit(tokens.text()).mean(1)[..., None])[..., 0]
        if not self.scaled:
            return relevance
        low, high = relevance.amin(1, keepdim=True), relevance.amax(1, keepdim=True)
        return (relevance - low + 1e-6) / (high - low + 1e-6)

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.width


@dataclass(frozen=True)
class NearestToWords(Select):
    """The tokens that are among the `neighbours` most similar ones of a word, best aligned first (MoB).

    Aligned means the largest cosine with any word of the text behind the image, in the space of this site. Where the
    words share so many neighbours that too few remain, the best aligned others follow.
    """

    neighbours: int = 4
    needs_text = True

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InvalidValue(f"neighbours must be at least 1, got {self.neighbours}")

    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        assert tokens.text is not None, "the engine gives text to a step that asks for it"
        cosine = unit(tokens.text()) @ unit(tokens.x).transpose(1, 2)
        near = cosine.sort(dim=2, descending=True, stable=True).indices[..., : self.neighbours]
        candidate = torch.zeros_like(tokens.where).scatter(1, near.flatten(1), 1)
        return Selection.of(tiered_top_k(candidate, cosine.amax(1), count))

    def flops(self, of: Extent) -> int:
        return 2 * of.text * of.n * of.width
