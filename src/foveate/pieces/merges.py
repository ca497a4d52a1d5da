"""Mergers: what becomes of the tokens that were not chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ..ops import merge as op
from ..ops.rows import rows_of
from ..tokens import Reduction, VisualTokens
from .base import Merge, Reading, Selection
from .extent import Extent
from .readings import Keys
from .selects import cells


def reduction_of(tokens: VisualTokens, merged: op.Merged) -> Reduction:
    """A merge of tokens that may themselves stand for several."""
    size = tokens.size.new_zeros(merged.size.shape).scatter_add(
        1, merged.source.clamp(min=0), tokens.size * (merged.source >= 0)
    )
    return Reduction(merged.kept, merged.source, size, merged.x)


@dataclass(frozen=True)
class Drop(Merge):
    """They are gone."""

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        return Reduction.drop(selection.kept, tokens.size)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class NearestMean(Merge):
    """Each joins its most similar survivor; survivors become the mean of their group (VScan, ApET).

    `metric` is a reading of the vision tower's features to compare in place of the features at the site.
    """

    metric: Reading | None = None

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.metric is None else (self.metric,)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        metric = None if self.metric is None else tokens.signal(self.metric)
        merged = op.nearest_mean(tokens.x, selection.kept, metric=metric, receives=selection.receives)
        return reduction_of(tokens, merged)

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.count * (of.width if self.metric is None else of.tower)


@dataclass(frozen=True)
class ContextualMean(Merge):
    """Each joins the receiving survivor with the most similar key (VisionZip).

    A survivor becomes the mean of itself and its group. `faithful=True` is the released arithmetic, the survivor plus
    the mean of its group, which doubles its norm.
    """

    faithful: bool = False
    reads: tuple[Reading, ...] = (Keys(),)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        if selection.kept.shape[1] == 0 or not selection.receives.shape[1]:
            return Reduction.drop(selection.kept, tokens.size)
        metric = tokens.signal(self.reads[0])
        return reduction_of(
            tokens,
            op.contextual_mean(tokens.x, selection.kept, selection.receives, metric=metric, faithful=self.faithful),
        )

    def __str__(self) -> str:
        return f"ContextualMean(faithful={self.faithful})"

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.count * of.head_dim


@dataclass(frozen=True)
class BipartiteMerge(Merge):
    """Rounds of bipartite merging down to the count (AIM, after ToMe); decides by itself who survives.

    Default: size-weighted means, survivors in raster order. `faithful=True` is AIM's released form: plain means, and
    after a partial round the features leave in its order (unmerged by similarity, then the others). `metric` is a
    reading to compare in place of the features (ToMe: keys).
    """

    faithful: bool = False
    metric: Reading | None = None

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.metric is None else (self.metric,)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        metric = None if self.metric is None else tokens.signal(self.metric).float()
        count, weighted = selection.kept.shape[1], not self.faithful
        merged = op.bipartite_merge(tokens.x, count, metric=metric, weighted=weighted, size=tokens.size)
        reduction = reduction_of(tokens, merged)
        if not self.faithful:
            return reduction
        x = rows_of(merged.x, merged.order)
        return Reduction(reduction.kept, reduction.source, reduction.size, x)

    def flops(self, of: Extent) -> int:
        return op.bipartite_flops(of.n, of.count, of.width if self.metric is None else of.head_dim)

    def rounds(self, of: Extent) -> int:
        return op.bipartite_rounds(of.n, of.count)


@dataclass(frozen=True)
class WindowMean(Merge):
    """Each cell of a coarser grid becomes its mean (average pooling); its centre token stands for it."""

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        g = tokens.grid
        rows, columns = cells(selection.kept.shape[1], g)
        return reduction_of(tokens, op.window_mean(tokens.x, g.t, g.h, g.w, rows, columns))

    def flops(self, of: Extent) -> int:
        return 0
