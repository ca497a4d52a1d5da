"""Mergers: what becomes of the tokens that were not chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ..ops import merge as op
from ..tokens import Reduction, VisualTokens
from .base import Merge, Reading, Selection
from .readings import Keys
from .selects import cells


def _reduction(tokens: VisualTokens, merged: op.Merged) -> Reduction:
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


@dataclass(frozen=True)
class NearestMean(Merge):
    """Each joins its most similar survivor; survivors become the mean of their group (VScan, ApET)."""

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        return _reduction(tokens, op.nearest_mean(tokens.x, selection.kept, receives=selection.receives))


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
        return _reduction(
            tokens,
            op.contextual_mean(tokens.x, selection.kept, selection.receives, metric=metric, faithful=self.faithful),
        )

    def __str__(self) -> str:
        return f"ContextualMean(faithful={self.faithful})"


@dataclass(frozen=True)
class BipartiteMerge(Merge):
    """Rounds of bipartite merging down to the count (AIM, after ToMe); decides by itself who survives.

    Default: size-weighted means, survivors in raster order. `faithful=True` is AIM's released form: plain means, and
    after a partial round the features leave in its order (unmerged by similarity, then the others).
    """

    faithful: bool = False

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        merged = op.bipartite_merge(tokens.x, selection.kept.shape[1], weighted=not self.faithful)
        reduction = _reduction(tokens, merged)
        if not self.faithful:
            return reduction
        x = merged.x.gather(1, merged.order[..., None].expand_as(merged.x))
        return Reduction(reduction.kept, reduction.source, reduction.size, x)


@dataclass(frozen=True)
class WindowMean(Merge):
    """Each cell of a coarser grid becomes its mean (average pooling); its centre token stands for it."""

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        g = tokens.grid
        rows, columns = cells(selection.kept.shape[1], g)
        return _reduction(tokens, op.window_mean(tokens.x, g.t, g.h, g.w, rows, columns))
