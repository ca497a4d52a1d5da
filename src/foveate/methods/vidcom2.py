"""VidCom2 (Liu et al., EMNLP 2025, arXiv 2505.14454): what is unlike video and frame, more of unusual frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import GaussianOutlier, PerFrame, Uniqueness
from ..pieces.base import Budget
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class VidCom2(Method):
    """Outliers of each frame; the budgets of frames follow how unlike the video they are.

    channels     share of the channels compared, those that vary least over the video
    temperature  of the softmax over frames; at the published one a single frame gets up to twice its even share
    """

    keep: float | Budget = 0.25
    channels: float = 0.5
    temperature: float = 0.01
    positions: Positions | None = None

    card = Card(
        "vidcom2",
        "Video compression commander",
        paper="arXiv 2505.14454",
        venue="EMNLP 2025",
        signals=("features",),
        modality=("video",),
        checked=("brute force of score and budgets", "the bounds R(1 - 1/T) and R(2 - 1/T) of a frame's budget"),
        deviations=(
            "budgets sum to the planned count, by largest remainder; the released ones, rounded and at least 1, do not",
            "frame newlines stay where they are; the released LLaVA-Video layout appends them behind each frame",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = PerFrame(Uniqueness(self.channels, self.temperature))
        yield Step(Projector(), self.keep, GaussianOutlier(self.channels), select, positions="compact")
