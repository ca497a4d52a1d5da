"""GlobalCom² (AAAI 2026, arXiv 2501.05179): the thumbnail guides how the crops of an image are compressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Crops, GlobalShare, LocalAndGlobal, Quota
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class GlobalCom2(Method):
    """Crops get a little more or less by the thumbnail's attention in them; their tokens are ranked by both views.

    `temperature` softens the shares: 10 makes them near equal. Without a thumbnail the attention alone ranks.
    """

    keep: float | Adaptive = 0.25
    temperature: float = 10.0
    positions: Positions | None = None

    card = Card(
        "globalcom2",
        "Global compression commander for high-resolution large vision-language models",
        paper="arXiv 2501.05179",
        venue="AAAI 2026",
        signals=("vision attention of thumbnail and crops: CLS or received",),
        modality=("image",),
        checked=("shares and scores of the views by hand",),
        deviations=(
            "shares are normalised so that the budget is exact, what a crop cannot hold goes to the others",
            "parts as large as the thumbnail stand for the crops, whose seams a resized view no longer shows",
            "tiles whose arrangement a family does not know (InternVL) share by their size",
            "newline tokens stay",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        attention = patch_attention(model.has_cls)
        yield Step(
            Vision(),
            self.keep,
            score=LocalAndGlobal(attention),
            select=Quota(Crops(), GlobalShare(attention, self.temperature)),
            per="views",
            positions="compact",
        )
