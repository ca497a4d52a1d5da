"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): one early cut, by the attention of the last prompt token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..method import Card, Method
from ..pieces import Adaptive, Read, Score
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class FastV(Method):
    """After `layer` full layers, keep the visual tokens the last prompt token attended to most."""

    keep: float | Adaptive = 0.5
    layer: int = 2
    importance: Score = field(default_factory=Read)
    positions: Positions | None = None

    card = Card(
        "fastv",
        "An image is worth half its tokens after layer 2",
        paper="arXiv 2403.06764",
        venue="ECCV 2024",
        signals=("attention of the last prompt token",),
        deviations=(
            "tokens leave the hidden states and the caches of the later layers; the released default only masks",
            "several images compete for one budget per prompt; the released code knows a single image",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Layer(self.layer), self.keep, score=self.importance, per="prompt")
