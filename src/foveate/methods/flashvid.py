"""FlashVID (Fan et al., ICLR 2026, arXiv 2602.08024): distinct tokens of every frame, and trees through time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import CutsWhereFramesChange, DistinctThenTrees, Read, WholeGrid
from ..pieces.vision import patch_attention
from ..plan import Layer, ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class FlashVid(Method):
    """Most of the budget by farthest points that attention weighs, the rest by trees of redundant tokens.

    keep       what enters the language model: the published retention times 1.25
    share      of the budget that is picked; the rest are roots of trees
    threshold  cosine from which a token hangs on one of the frame before
    inner      share of those that are left behind `depth` of the layers
    fewest     segments at least (published 8, 4 for Qwen)
    """

    keep: float = 0.125
    share: float = 0.7
    threshold: float = 0.8
    inner: float = 0.3
    depth: float = 20 / 28
    fewest: int = 8
    positions: Positions | None = None

    card = Card(
        "flashvid",
        "FlashVID: tree-based spatiotemporal token merging",
        paper="arXiv 2602.08024",
        venue="ICLR 2026",
        signals=("features", "vision attention: CLS or received", "attention of the last prompt token"),
        modality=("video",),
        checked=("brute force of links, roots, segments and weighted farthest points",),
        deviations=(
            "exact counts over the whole video; the released ceilings overshoot, and are per segment",
            "picks are weighed by attention as in its first version (Qwen); the second, for LLaVA, also by relevance "
            "to the segment, and may pick a token twice",
            "tokens that were picked never join a tree",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score = Read(patch_attention(model.has_cls))
        segments = CutsWhereFramesChange(self.fewest, 0.9)
        merge = DistinctThenTrees(score, self.share, self.threshold, segments=segments)
        yield Step(Vision(), self.keep, select=WholeGrid(), merge=merge, positions="compact")
        if self.keep < 1:
            layer = max(1, round(self.depth * model.layers))
            yield Step(Layer(layer), self.keep * self.inner, Read(), per="prompt")
