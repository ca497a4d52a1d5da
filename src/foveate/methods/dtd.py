"""TimeChat-Online's DTD (Yao et al., ACM MM 2025, arXiv 2504.17343): drop what is as it was one frame earlier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import AnchorFrames, Change, Changed, PerFrame, TopK
from ..pieces.base import Budget
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class Dtd(Method):
    """The first frame, and of each later one the same share, that which changed most (the paper's relative mode).

    `keep=Changed(0.5)` is the published threshold on the cosine: then the content decides how many stay.
    """

    keep: float | Budget = 0.25
    positions: Positions | None = None

    card = Card(
        "dtd",
        "TimeChat-Online: differential token drop",
        paper="arXiv 2504.17343",
        venue="ACM MM 2025",
        signals=("features",),
        modality=("video",),
        checked=("brute force of both modes",),
        deviations=(
            "a budget instead of the threshold by default: exact counts; 0.5 was tuned for the authors' own checkpoint",
            "below one frame's worth the first frame is thinned evenly, and so is an image",
            "the pixel mode is left out: a step sees features",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = TopK() if isinstance(self.keep, Changed) else PerFrame(AnchorFrames())
        yield Step(Projector(), self.keep, Change(), select)
