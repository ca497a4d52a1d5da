"""DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): the most diverse subset, before the language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, MaxMin
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class DivPrune(Method):
    """Greedy max-min selection by cosine distance, per image; `centre` subtracts the mean token first (Cen-Prune)."""

    keep: float | Adaptive = 0.098
    centre: bool = False
    positions: Positions | None = None

    card = Card(
        "divprune",
        "Diversity-based visual token pruning",
        paper="arXiv 2503.02175",
        venue="CVPR 2025",
        signals=("features",),
        deviations=(
            "newline tokens never compete: the released code lets them in, and they win because they look diverse",
            "distances in float32 with a running minimum; same greedy rule, ties to the lower index",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, select=MaxMin(self.centre), positions="compact")
