"""Mergers that decide by themselves who survives, as means of clusters: recycling (SparseVLM), a cutoff (PACT)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InvalidValue
from ..ops.distance_clusters import distance_clusters, distance_clusters_flops
from ..ops.recycle import recycle, recycled_counts
from ..ops.select import by_tier
from ..tokens import Reduction, VisualTokens
from .base import Merge, Reading, Score, Selection
from .extent import Extent
from .llm import AttendedWords, GlobalQuery, LayerKeys
from .merges import reduction_of
from .readings import TextRows
from .scores import Norm, Product, Read


def _ranked(tokens: VisualTokens, selection: Selection, score: Score) -> Tensor:
    """All tokens, the selected ones first, each by descending score."""
    chosen = torch.zeros_like(tokens.where).scatter(1, selection.kept, 1)
    return by_tier(chosen, score(tokens))


@dataclass(frozen=True)
class Recycle(Merge):
    """Of what was not chosen the best come back as the means of a few clusters, inside the same count (SparseVLM).

    `share` of the dropped are pooled by `score`, and each `each` of them make a cluster; so many of the chosen with the
    lowest score give their places to the clusters and join the pool. Survivors stand at their own place, clusters at
    that of their centre.
    """

    score: Score = field(default_factory=lambda: Read(TextRows(raters=AttendedWords())))
    share: float = 0.3
    each: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.each < 1:
            raise InvalidValue(f"Recycle needs share in [0, 1] and each >= 1, got {self.share} and {self.each}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.score.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.score.needs_text

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        n, count = tokens.where.shape[1], selection.kept.shape[1]
        stay, pooled, clusters = recycled_counts(n, count, self.share, self.each)
        order = _ranked(tokens, selection, self.score)
        return reduction_of(tokens, recycle(tokens.x, order[:, :stay], order[:, stay : stay + pooled], clusters))

    def flops(self, of: Extent) -> int:
        _, pooled, clusters = recycled_counts(of.n, of.count, self.share, self.each)
        peaks = 4 * pooled**2 * of.width if pooled > 1 else 0
        return self.score.flops(of) + peaks + 2 * pooled * clusters * of.width


@dataclass(frozen=True)
class DistanceClusters(Merge):
    """The best `share` of all tokens by `score` become clusters by their `keys`, as many as were to stay (PACT).

    What was left out joins a cluster whose centre is within `reach` times the cutoff that gives so many. Clusters are
    the mean of their tokens at the place of their centre.
    """

    score: Score = field(default_factory=lambda: Product((Read(GlobalQuery()), Norm())))
    keys: Reading = field(default_factory=LayerKeys)
    share: float = 0.55
    reach: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.reach < 0:
            raise InvalidValue(f"share must lie in [0, 1] and reach not be negative, got {self.share}, {self.reach}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (*self.score.reads, self.keys)

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.score.needs_text

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        n, count = tokens.where.shape[1], selection.kept.shape[1]
        order = self.score(tokens).sort(dim=1, descending=True, stable=True).indices
        pool = order[:, : self._pooled(n, count)]
        return reduction_of(tokens, distance_clusters(tokens.x, tokens.signal(self.keys), pool, count, self.reach))

    def _pooled(self, n: int, count: int) -> int:
        return max(count, math.floor(self.share * n + 0.5))

    def flops(self, of: Extent) -> int:
        width = of.kv_heads * of.head_dim
        return self.score.flops(of) + distance_clusters_flops(of.n, self._pooled(of.n, of.count), of.count, width)
