"""LLaVA-Scissor (Sun et al., 2025, arXiv 2506.21862): connected components of frames, then of the video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import ConnectedMerge, WholeGrid
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class Scissor(Method):
    """What is alike within a frame is joined above `threshold`, over the video until `keep` is met; all tokens vote."""

    keep: float = 0.1
    threshold: float = 0.9
    positions: Positions | None = None

    card = Card(
        "scissor",
        "LLaVA-Scissor: semantic connected components",
        paper="arXiv 2506.21862",
        venue="arXiv 2025",
        signals=("features",),
        modality=("video",),
        checked=("single linkage joined pair by pair",),
        deviations=(
            "over the video the strongest edges are joined until the count is met; released, a threshold decides, so "
            "that the count follows the content",
            "all tokens are nodes; the released code samples them at random above about 3,400",
            "an anchor stands where its first token was, not its most connected one",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(
            Projector(), self.keep, select=WholeGrid(), merge=ConnectedMerge(self.threshold), positions="compact"
        )
