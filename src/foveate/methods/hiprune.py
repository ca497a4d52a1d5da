"""HiPrune (AAAI 2026, arXiv 2508.00553): anchors of a middle vision block with their neighbours, then the last one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, AnchorsAround, Read, VisionReceived
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class HiPrune(Method):
    """A share `alpha` of the count for anchors of a middle block and the four tokens around each; the rest by the last.

    Both blocks rank by received attention, with or without a CLS token. `objects` is the depth of the middle one.
    """

    keep: float | Adaptive = 64 / 576
    alpha: float = 0.1
    objects: float = 8 / 22
    positions: Positions | None = None

    card = Card(
        "hiprune",
        "Training-free visual token pruning via hierarchical attention in vision encoders",
        paper="arXiv 2508.00553",
        venue="AAAI 2026",
        signals=("received vision attention of a middle and the last block",),
        modality=("image",),
        checked=("neighbours on the grid by hand", "the published blocks of CLIP and Qwen2.5-VL"),
        deviations=("neighbours do not wrap around the end of a row, as they do in the released code",),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        middle = VisionReceived(model.vision_block(self.objects))
        select = AnchorsAround(middle, self.alpha / 5)
        yield Step(Vision(), self.keep, score=Read(VisionReceived()), select=select, positions="compact")
