"""Boxes over space and time: a quadtree of each frame, its boxes linked from frame to frame (STTM)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidValue
from ..ops.quadtree import quadtree_merge
from ..ops.select import evenly
from ..tokens import Grid, Reduction, VisualTokens
from .base import Merge, Select, Selection
from .extent import Extent
from .selects import Scores


@dataclass(frozen=True)
class WholeGrid(Select):
    """So many tokens of a whole grid; which ones is left to a merger that decides it by itself."""

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        kept = evenly(tokens.x.shape[1], count).to(tokens.x.device)
        return Selection.of(kept.expand(tokens.x.shape[0], -1))

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("boxes need the whole grid: put the step before every other cut")
        return count

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class QuadtreeMerge(Merge):
    """Alike parts of a frame become one box, alike boxes of adjacent frames one token; see `ops.quadtree`.

    Needs the whole grid (`WholeGrid`). A token's position is that of the first token of its first box.
    """

    likeness: float = 0.8
    root: int = 1
    weighted: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.likeness <= 1 or self.root < 0:
            raise InvalidValue(
                f"QuadtreeMerge needs likeness in [-1, 1] and root >= 0, got {self.likeness} and {self.root}"
            )

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        g, count = tokens.grid, selection.kept.shape[1]
        merged = quadtree_merge(
            tokens.x, g.t, g.h, g.w, count, likeness=self.likeness, root=self.root, weighted=self.weighted
        )
        return Reduction(merged.kept, merged.source, merged.size, merged.x)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 20 * of.n * of.width

    def rounds(self, of: Extent) -> int:
        return 2 * max(0, of.n - 1).bit_length()
