"""Fewer frames: the baseline of every video method, whole frames evenly spread over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import WholeFrames
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class FewerFrames(Method):
    """As many whole frames as `keep` pays for; of an image, or of less than one frame, evenly spread tokens."""

    keep: float = 0.25
    positions: Positions | None = None

    card = Card(
        "fewer-frames",
        "Fewer frames",
        modality=("video",),
        checked=("frames and counts by hand",),
        deviations=("the vision tower still encodes every frame: sample fewer in the processor to save that too",),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, select=WholeFrames(), positions="compact")
