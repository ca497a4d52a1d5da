"""Windows of alike tokens become one token each: how many, which counts that gives, and the merge (MustDrop)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.collapse import collapse, likeness, whole_windows
from ..ops.select import evenly
from ..tokens import Grid, Reduction, VisualTokens
from .base import Budget, Merge, Reading, Select, Selection
from .extent import Extent
from .merges import reduction_of
from .vision import Features


def _check_side(side: int) -> None:
    if side < 2:
        raise InvalidValue(f"a window must be at least 2 tokens wide, got {side}")


@dataclass(frozen=True)
class WindowsCollapsed(Select):
    """Says only how many stay: the nearest count that is reached by collapsing whole windows of `side` x `side`."""

    side: int = 3

    def __post_init__(self) -> None:
        _check_side(self.side)

    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        b, n, _ = tokens.x.shape
        return Selection.of(evenly(n, count).to(tokens.x.device).expand(b, -1))

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("windows need the whole grid: collapse them before every other cut")
        fewer = self.side**2 - 1
        windows = grid.t * (grid.h // self.side) * (grid.w // self.side)
        return n - fewer * min(windows, math.floor((n - count) / fewer + 0.5))

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class AlikeWindows(Budget):
    """As many as are left when each window whose mean cosine between tokens reaches `threshold` is one token."""

    threshold: float = 0.8
    side: int = 3
    features: Reading = field(default_factory=lambda: Features(0))
    low: float = 0.01
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_side(self.side)
        if not 0 < self.low <= self.high <= 1:
            raise InvalidValue(f"a budget needs 0 < low <= high <= 1, got low={self.low}, high={self.high}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction to keep of each row, on the host."""
        alike = (_likeness(tokens, self.features, self.side) >= self.threshold).sum(1)
        fewer, n = self.side**2 - 1, tokens.grid.n
        return [min(self.high, max(self.low, 1 - fewer * k / n)) for k in alike.tolist()]

    def flops(self, of: Extent) -> int:
        return 0

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} by windows alike to {self.threshold:g}"


@dataclass(frozen=True)
class CollapseWindows(Merge):
    """The windows whose tokens are most alike by `features` become their mean, at the place of their middle token.

    Decides by itself who survives; use it with `WindowsCollapsed`.
    """

    side: int = 3
    features: Reading = field(default_factory=lambda: Features(0))

    def __post_init__(self) -> None:
        _check_side(self.side)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        g = tokens.grid
        windows = whole_windows(g.t, g.h, g.w, self.side).to(tokens.x.device)
        number = (g.n - selection.kept.shape[1]) // (self.side**2 - 1)
        if number == 0:
            return Reduction.drop(selection.kept, tokens.size)
        score = _likeness(tokens, self.features, self.side)
        return reduction_of(tokens, collapse(tokens.x, windows, score, number))

    def flops(self, of: Extent) -> int:
        return 0


def _likeness(tokens: VisualTokens, features: Reading, side: int) -> Float[Tensor, "B W"]:
    g = tokens.grid
    return likeness(tokens.signal(features), whole_windows(g.t, g.h, g.w, side).to(tokens.x.device))
