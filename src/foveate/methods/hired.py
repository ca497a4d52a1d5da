"""HiRED (AAAI 2025, arXiv 2408.10945): the thumbnail's early attention says how much each part of the image gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Crops, HiredShare, Quota, Read
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class HiRED(Method):
    """`alpha` of the count to the thumbnail, the rest to the crops by how many eye-catching tokens lie in them.

    Eye-catching are the thumbnail's top 1 - `alpha` by the attention of the first vision block; within each view the
    attention of the block that makes the features decides, and alone where an image has no thumbnail.
    """

    keep: float | Adaptive = 0.2
    alpha: float = 0.5
    positions: Positions | None = None

    card = Card(
        "hired",
        "Attention-guided token dropping for efficient inference of high-resolution VLMs",
        paper="arXiv 2408.10945",
        venue="AAAI 2025",
        signals=("vision attention of the first and the last block: CLS or received",),
        modality=("image",),
        checked=("shares of the views by hand",),
        deviations=(
            "crops are rectangles of the thumbnail; the released code takes horizontal stripes",
            "the whole budget is spent; the released code truncates the share of each crop",
            "parts as large as the thumbnail stand for the crops, whose seams a resized view no longer shows",
            "tiles whose arrangement a family does not know (InternVL) share by their size",
            "newline tokens stay",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        shallow = patch_attention(model.has_cls, model.vision_block(0))
        yield Step(
            Vision(),
            self.keep,
            score=Read(patch_attention(model.has_cls)),
            select=Quota(Crops(), HiredShare(self.alpha, shallow)),
            per="views",
            positions="compact",
        )
