"""Selectors: which tokens stay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.cluster import density_peaks
from ..ops.merge import window_mean
from ..ops.select import evenly, grid_points, max_min, max_min_flops, tiered_top_k, top_k
from ..tokens import Grid, VisualTokens
from .base import Completing, Select, Selection
from .extent import Extent

Scores = Float[Tensor, "B N"] | None


@dataclass(frozen=True)
class TopK(Completing):
    """The highest scores."""

    needs_score = True

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        return Selection.of(top_k(score, count))

    def complete(
        self, tokens: VisualTokens, score: Scores, begun: Int[Tensor, "B k"], count: int
    ) -> Int[Tensor, "B T"]:
        assert score is not None, "Step sees to it"
        first = torch.zeros_like(score, dtype=torch.long).scatter(1, begun, 1)
        return tiered_top_k(first, score, count)

    def flops(self, of: Extent) -> int:
        return 0

    def completing_flops(self, of: Extent, begun: int) -> int:
        return 0


@dataclass(frozen=True)
class EvenGrid(Select):
    """Evenly spread over frames, rows and columns; after an earlier cut, evenly over what is left."""

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        b, n, _ = tokens.x.shape
        g = tokens.grid
        if tokens.is_whole:
            kept = torch.tensor(grid_points(g.t, g.h, g.w, count), device=tokens.x.device)
        else:
            kept = evenly(n, count).to(tokens.x.device)
        return Selection.of(kept.expand(b, -1))

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class GridCells(Select):
    """The centres of rows x columns equal cells; the count is the nearest product that fits the grid's shape."""

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        g = tokens.grid
        rows, columns = cells(count, g)
        blank = tokens.x.new_zeros(tokens.x.shape[0], g.n, 1)
        return Selection.of(window_mean(blank, g.t, g.h, g.w, rows, columns).kept)

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("pooling needs the whole grid: put it before every other cut")
        rows, columns = cells(count, grid)
        return grid.t * rows * columns

    def flops(self, of: Extent) -> int:
        return 0


def cells(count: int, grid: Grid) -> tuple[int, int]:
    """Rows and columns of cells per frame whose number is nearest to count/t; among equals the squarest cells."""
    target = count / grid.t
    best = min(
        ((r, c) for r in range(1, grid.h + 1) for c in {*_near(target / r, grid.w)}),
        key=lambda rc: (abs(rc[0] * rc[1] - target), abs(math.log((grid.h / rc[0]) / (grid.w / rc[1])))),
    )
    return best


def _near(x: float, most: int) -> tuple[int, int]:
    return max(1, min(most, math.floor(x))), max(1, min(most, math.ceil(x)))


@dataclass(frozen=True)
class MaxMin(Completing):
    """Greedy farthest points by cosine distance (DivPrune); `centre` subtracts the mean token first (Cen-Prune)."""

    centre: bool = False

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        return Selection.of(max_min(tokens.x, count, centre=self.centre))

    def complete(
        self, tokens: VisualTokens, score: Scores, begun: Int[Tensor, "B k"], count: int
    ) -> Int[Tensor, "B T"]:
        return max_min(tokens.x, count, centre=self.centre, seeds=begun if begun.shape[1] else None)

    def flops(self, of: Extent) -> int:
        return max_min_flops(of.n, of.count, of.width)

    def completing_flops(self, of: Extent, begun: int) -> int:
        return max_min_flops(of.n, of.count, of.width, seeds=begun)

    def other_flops(self, of: Extent) -> int:
        return 3 * of.n * of.count  # subtract, keep the nearer, find the farthest

    def rounds(self, of: Extent) -> int:
        return of.count


@dataclass(frozen=True)
class DensityPeaks(Select):
    """Cluster centres by density-peak clustering over nearest neighbours (DPC-kNN, as SparseVLM uses it)."""

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        return Selection.of(density_peaks(tokens.x, count))

    def flops(self, of: Extent) -> int:
        return 4 * of.n**2 * of.width if of.n > 1 else 0  # distances twice: for the density, for the denser


@dataclass(frozen=True)
class DominantContextual(Select):
    """The highest scores, and evenly spaced targets among the rest that may absorb what is dropped (VisionZip).

    `contextual` is the share of the count that goes to targets; published 10 of 64.
    """

    contextual: float = 10 / 64
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 <= self.contextual <= 1:
            raise InvalidValue(f"contextual must lie in [0, 1], got {self.contextual}")

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        n = tokens.x.shape[1]
        targets = min(round(self.contextual * count), count)
        dominant = score.sort(dim=1, descending=True, stable=True).indices[:, : count - targets]
        chosen = torch.zeros_like(score, dtype=torch.bool).scatter(1, dominant, True)
        rest = chosen.int().sort(dim=1, stable=True).indices[:, : n - count + targets]  # raster order
        context = rest[:, evenly(rest.shape[1], targets).to(rest.device)] if targets else rest[:, :0]
        both = torch.cat([dominant, context], dim=1)
        receives = torch.zeros_like(both, dtype=torch.bool)
        receives[:, count - targets :] = True
        kept, order = both.sort(dim=1)
        return Selection(kept, receives.gather(1, order))

    def flops(self, of: Extent) -> int:
        return 0
