"""The baselines every result is shown beside: random, uniform and pool. They beat many papers (UniPruneBench)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, EvenGrid, GridCells, WindowMean
from ..pieces import Random as RandomScore
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class Random(Method):
    """A random subset before the language model."""

    keep: float | Adaptive = 0.25
    seed: int = 0
    positions: Positions | None = None

    card = Card("random", "Random subset")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, score=RandomScore(self.seed))


@dataclass(frozen=True)
class Uniform(Method):
    """Evenly spaced tokens: over frames, rows and columns."""

    keep: float | Adaptive = 0.25
    positions: Positions | None = None

    card = Card("uniform", "Uniform grid")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, select=EvenGrid())


@dataclass(frozen=True)
class Pool(Method):
    """Average pooling of each frame to a coarser grid, the one whose size is nearest to `keep`."""

    keep: float | Adaptive = 0.25
    positions: Positions | None = None

    card = Card("pool", "Average pooling")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, select=GridCells(), merge=WindowMean())
