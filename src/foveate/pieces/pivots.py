"""Tokens chosen by how little they are like a few pivots (DART)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.pivots import least_like
from ..ops.rows import rows_of
from ..tokens import VisualTokens
from .base import Reading, Select, Selection
from .extent import Extent
from .llm import KeyLength
from .states import FinalNorm


@dataclass(frozen=True)
class LeastLikePivots(Select):
    """`visual` pivots of the largest keys among the visual tokens, and what is least like each of them and of the text.

    The `text` pivots are the words of the largest keys. Pivot by pivot, the visual ones first, those of larger keys
    first, an equal share of the count (one more for the first of them) goes to the tokens of smallest cosine. The
    visual pivots stay too.
    """

    visual: int = 4
    text: int = 4
    keys: Reading = field(default_factory=KeyLength)
    features: Reading = field(default_factory=FinalNorm)
    needs_text = True

    def __post_init__(self) -> None:
        if self.visual < 0 or self.text < 0 or self.visual + self.text < 1:
            raise InvalidValue(f"there must be at least one pivot, got {self.visual} visual ones and {self.text} words")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.keys, self.features)

    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        assert tokens.text is not None, "the engine gives text to a step that asks for it"
        x, keys = tokens.signal(self.features), tokens.signal(self.keys)
        seen = _largest(keys, min(self.visual, count))
        taken = torch.zeros_like(tokens.where, dtype=torch.bool).scatter(1, seen, True)
        said = _largest(tokens.text(self.keys), self.text)
        pivots = torch.cat([rows_of(x, seen), rows_of(tokens.text(self.features), said)], dim=1)
        each, more = divmod(count - seen.shape[1], pivots.shape[1])
        taken = least_like(x, pivots, taken, [each + (i < more) for i in range(pivots.shape[1])])
        return Selection.of((~taken).long().sort(dim=1, stable=True).indices[:, :count].sort(dim=1).values)

    def flops(self, of: Extent) -> int:
        return 2 * (min(self.visual, of.count) + min(self.text, of.text)) * of.n * of.width


def _largest(length: Float[Tensor, "B N"], count: int) -> Tensor:
    return length.sort(dim=1, descending=True, stable=True).indices[:, :count]
