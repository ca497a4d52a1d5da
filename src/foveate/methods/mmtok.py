"""MMTok (ICLR 2026, arXiv 2508.18264): the tokens that best cover the question and the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Features, TextCoverage
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class MMTok(Method):
    """Greedy coverage of the words behind the image (after the projector) and of all patches (before it)."""

    keep: float | Adaptive = 64 / 576
    text_temperature: float = 0.02
    temperature: float = 0.2
    alpha: float = 0.5
    positions: Positions | None = None

    card = Card(
        "mmtok",
        "Multimodal coverage maximization",
        paper="arXiv 2508.18264",
        venue="ICLR 2026",
        signals=("text embeddings", "features before and after the projector"),
        modality=("image",),
        checked=("greedy selection against brute force of the rule",),
        deviations=(
            "all text behind the last image counts, with stop words, answer instructions and template words, which the "
            "released code takes out of the question",
            "padding never competes: families leave it out of the grid",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = TextCoverage(self.text_temperature, self.temperature, self.alpha, Features())
        yield Step(Projector(), self.keep, select=select, positions="compact")
