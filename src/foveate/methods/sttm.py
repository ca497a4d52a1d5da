"""STTM (Hyun et al., ICCV 2025, arXiv 2507.07990): alike parts of a frame merge, then alike boxes over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import QuadtreeMerge, WholeGrid
from ..pieces.base import Budget
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class Sttm(Method):
    """One merge before `layer`, of quadtrees within frames and of boxes over time, to `keep` of the tokens.

    likeness  cosine of a box with its parts from which it is one token; published 0.75 to 0.95, 0.8 at 30 %
    root      the largest boxes, in levels below the whole frame
    weighted  tokens are means of their tokens, not of their boxes
    """

    keep: float | Budget = 0.3
    layer: int = 2
    likeness: float = 0.8
    root: int = 1
    weighted: bool = False
    positions: Positions | None = None

    card = Card(
        "sttm",
        "Multi-granular spatio-temporal token merging",
        paper="arXiv 2507.07990",
        venue="ICCV 2025",
        signals=("hidden states",),
        modality=("video",),
        checked=("brute force of the quadtree, and of the links one by one",),
        deviations=(
            "the threshold over time is solved for an exact count (published: tuned for each benchmark); if none can "
            "reach it `likeness` gives way, and the last few boxes join the one beside them",
            "at odd sides a missing part counts as alike, and a box of one part is what that part is",
            "`root` counts down from the whole frame",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        merge = QuadtreeMerge(self.likeness, self.root, self.weighted)
        yield Step(Layer(self.layer), self.keep, select=WholeGrid(), merge=merge, positions="compact")
