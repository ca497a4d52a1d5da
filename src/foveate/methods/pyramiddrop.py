"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): a cut at each quarter of the depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..method import Card, Method
from ..ops.schedule import Pyramid
from ..pieces import LastQuery, Read, Score
from ..plan import ModelShape, Positions, Step, along


@dataclass(frozen=True)
class PyramidDrop(Method):
    """`stages` equal parts of the depth; the last part runs on `keep`, each cut keeps the same share of what was left.

    The published ratio of one half with 4 stages is keep = 0.125.
    """

    keep: float = 0.125
    stages: int = 4
    importance: Score = field(default_factory=lambda: Read(LastQuery(place="next")))
    positions: Positions | None = None

    card = Card(
        "pyramiddrop",
        "Pyramid visual redundancy reduction",
        paper="arXiv 2410.17247",
        venue="CVPR 2025",
        signals=("attention of the last prompt token, by the layer behind each cut",),
        deviations=(
            "counts round to nearest; the released code truncates",
            "works with left padding; the released code pads on the right only",
        ),
    )

    def __post_init__(self) -> None:
        if self.stages < 2:
            raise InvalidValue(f"PyramidDrop needs at least 2 stages, got {self.stages}")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        schedule = Pyramid(self.keep ** (1 / (self.stages - 1)), self.stages)
        yield from along(schedule, model, self.importance, positions="compact")
