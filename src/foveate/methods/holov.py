"""HoloV (NeurIPS 2025, arXiv 2510.02912): every part of the image gets a share, by attention and variety."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Features, LocalVariety, Quota, Read, Runs
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class HoloV(Method):
    """Runs of consecutive tokens share the count by attention + `alpha` variety; within a run attention decides.

    `runs` is how many there are in each frame at most.
    """

    keep: float | Adaptive = 64 / 576
    alpha: float = 0.09
    runs: int = 16
    positions: Positions | None = None

    card = Card(
        "holov",
        "Holistic visual token retention",
        paper="arXiv 2510.02912",
        venue="NeurIPS 2025",
        signals=("vision attention: CLS or received", "features before the projector"),
        modality=("image",),
        checked=("variance of cosines against its definition", "16 runs of 36 tokens"),
        deviations=(
            "what a full run cannot take goes to the others; the released code pads with zeros there",
            "survivors in raster order, not by attention within a run",
            "16 runs in every family; the released Qwen code lets the number fall with the budget",
            "no refetching of visual context: that part was not released",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        attention, runs = patch_attention(model.has_cls), Runs(self.runs)
        select = Quota(runs, LocalVariety(attention, self.alpha, runs, Features()))
        yield Step(Vision(), self.keep, score=Read(attention), select=select, positions="compact")
