"""HoliTom (Shao et al., NeurIPS 2025, arXiv 2505.21334): windows that save most become tubes, the rest is ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import NearestMean, Read, StillWindows, WholeGrid
from ..pieces.vision import patch_attention
from ..plan import Layer, ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class HoliTom(Method):
    """Still places of a window become one token each, thinned to peaks; of what moves the best attended stay.

    keep       what enters the language model
    threshold  cosine to the frame before from which a place is still (published 0.8, at 10 % 0.65)
    inner      share of those that are left behind `depth` of the layers; the others join the nearest of them
    """

    keep: float = 0.25
    threshold: float = 0.8
    inner: float = 0.5
    depth: float = 18 / 28
    positions: Positions | None = None

    card = Card(
        "holitom",
        "HoliTom: holistic token merging for fast video large language models",
        paper="arXiv 2505.21334",
        venue="NeurIPS 2025",
        signals=("features", "vision attention: CLS or received", "attention of the last prompt token"),
        modality=("video",),
        checked=("the windows against every division of a short video", "brute force of peaks, tubes and means"),
        deviations=(
            "exact counts: tubes and moving tokens share the budget by largest remainder; released ones are rounded "
            "apart. Where tubes leave too few, the best tokens inside them come back",
            "inside the language model a proper mean with the nearest survivor; the released one depends on the order",
            "raster order; a tube stands in the first frame of its window",
            "what moves is ranked by attention alone, as the released scripts run it",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score = Read(patch_attention(model.has_cls))
        yield Step(
            Vision(), self.keep, select=WholeGrid(), merge=StillWindows(score, self.threshold), positions="compact"
        )
        if self.keep < 1:
            layer = max(1, round(self.depth * model.layers))
            yield Step(Layer(layer), self.keep * self.inner, Read(), merge=NearestMean(), per="prompt")
