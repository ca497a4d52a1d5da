"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467): what the vision tower attends to, and a summary of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, ContextualMean, DominantContextual, Read
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class VisionZip(Method):
    """Dominant tokens by CLS attention (received attention where the tower has no CLS), the others merged by key.

    `contextual` is the share of the kept tokens that are merged ones, published 10 of 64. `block` is the vision block
    read: the one that makes the features by default.
    """

    keep: float | Adaptive = 64 / 576
    contextual: float = 10 / 64
    block: int | None = None
    faithful: bool = False
    positions: Positions | None = None

    card = Card(
        "visionzip",
        "Longer is better but not necessary in vision language models",
        paper="arXiv 2412.04467",
        venue="CVPR 2025",
        signals=("vision attention: CLS or received", "vision keys"),
        deviations=(
            "a contextual token is the mean of its group; the released code adds the mean to the target, which doubles "
            "its norm (faithful=True)",
            "merged after the projector, as families whose projector merges patches require; raster order",
            "the CLS token is not passed to the language model: the projector never saw one in training",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(
            Vision(self.block),
            self.keep,
            score=Read(patch_attention(model.has_cls)),
            select=DominantContextual(self.contextual),
            merge=ContextualMean(self.faithful),
            positions="compact",
        )
