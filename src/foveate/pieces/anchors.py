"""A selector with half of its places given to tokens that stand for many others (RESTORE)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.representative import representativeness
from ..ops.select import tiered_top_k
from ..tokens import VisualTokens
from .base import Reading, Select, Selection
from .extent import Extent
from .selects import MaxMin


@dataclass(frozen=True)
class WithAnchors(Select):
    """`base` fills a `share` of the count; the rest are anchors, the most representative others.

    Only anchors receive what is dropped.
    """

    base: Select = field(default_factory=MaxMin)
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidValue(f"share must lie in [0, 1], got {self.share}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.base.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.base.needs_text

    @property
    def needs_score(self) -> bool:  # type: ignore[override]
        return self.base.needs_score

    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        first = torch.zeros_like(tokens.where)
        own = self._own(count)
        if own:
            first = first.scatter(1, self.base(tokens, score, own).kept, 1)
        kept = tiered_top_k(first, representativeness(tokens.x), count)
        return Selection(kept, first.gather(1, kept) == 0)

    def _own(self, count: int) -> int:
        return math.floor(self.share * count + 0.5)

    def flops(self, of: Extent) -> int:
        own = self._own(of.count)
        base = self.base.flops(replace(of, count=own)) if own else 0
        return base + 2 * of.n * (of.n + 1) * of.width

    def other_flops(self, of: Extent) -> int:
        own = self._own(of.count)
        return self.base.other_flops(replace(of, count=own)) if own else 0

    def rounds(self, of: Extent) -> int:
        return self.base.rounds(replace(of, count=self._own(of.count)))

    def __str__(self) -> str:
        return f"{self.base} for {self.share:g}, then anchors"
