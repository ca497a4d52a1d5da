"""V-CAST (Lin et al., 2026, arXiv 2603.27650): more tokens where the video bends, and outliers of each frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Curvature, FrameOutlier, PerFrame
from ..pieces.base import Budget
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class VCast(Method):
    """Budgets by the curvature of the path of frame means, and in each frame what is far from its mean or long."""

    keep: float | Budget = 0.25
    temperature: float = 0.7
    positions: Positions | None = None

    card = Card(
        "vcast",
        "V-CAST: video curvature-aware spatio-temporal pruning",
        paper="arXiv 2603.27650",
        venue="arXiv 2026",
        signals=("features",),
        modality=("video",),
        checked=("brute force of curvature and score", "budgets of a video that turns once"),
        deviations=(
            "what a full frame cannot take goes to the others in proportion, not token by token",
            "an image is one frame: the released code passes it over",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = PerFrame(Curvature(self.temperature), least=1)
        yield Step(Projector(), self.keep, FrameOutlier(), select)
