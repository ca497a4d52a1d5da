"""Two selectors in a row: the first takes its share, the second completes it from the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..tokens import VisualTokens
from .base import Completing, Reading, Score, Select, Selection
from .extent import Extent
from .selects import MaxMin, TopK


@dataclass(frozen=True)
class Chain(Select):
    """`first` takes a share of the count, `second` the rest, knowing what was taken.

    The share is `share` of the count plus `fixed` of all N tokens, to the nearest, at most the count. `score` ranks for
    the first in place of the step's.
    """

    first: Select = field(default_factory=TopK)
    second: Completing = field(default_factory=MaxMin)
    share: float = 0.5
    fixed: float = 0.0
    score: Score | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.fixed <= 1):
            raise InvalidValue(f"share and fixed must lie in [0, 1], got {self.share} and {self.fixed}")

    @property
    def needs_score(self) -> bool:  # type: ignore[override]
        return self.second.needs_score or (self.first.needs_score and self.score is None)

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return any(w.needs_text for w in (self.first, self.second, self.score) if w is not None)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return tuple(r for w in (self.score, self.first, self.second) if w is not None for r in w.reads)

    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        b, n, _ = tokens.x.shape
        begun = self._begun(n, count)
        taken = tokens.where.new_zeros(b, 0)
        if begun:
            taken = self.first(tokens, score if self.score is None else self.score(tokens), begun).kept
        return Selection.of(taken if begun == count else self.second.complete(tokens, score, taken, count))

    def _begun(self, n: int, count: int) -> int:
        return min(count, math.floor(self.share * count + self.fixed * n + 0.5))

    def flops(self, of: Extent) -> int:
        begun = self._begun(of.n, of.count)
        own = (self.score.flops(of) if self.score else 0) + self.first.flops(replace(of, count=begun)) if begun else 0
        return own + (self.second.completing_flops(of, begun) if begun < of.count else 0)

    def other_flops(self, of: Extent) -> int:
        begun = self._begun(of.n, of.count)
        return self.first.other_flops(replace(of, count=begun)) + self.second.other_flops(of)

    def rounds(self, of: Extent) -> int:
        begun = self._begun(of.n, of.count)
        return self.first.rounds(replace(of, count=begun)) + self.second.rounds(replace(of, count=of.count - begun))

    def __str__(self) -> str:
        share = f"{self.share:g}" + (f" + {self.fixed:g} N" if self.fixed else "")
        return f"{self.first} for {share}" + (f" by {self.score}" if self.score else "") + f", then {self.second}"
