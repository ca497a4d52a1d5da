"""PruneSID (ICLR 2026, arXiv 2603.09480): groups by principal direction, and the distinct tokens of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, DistinctInGroups, Features, Read
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class PruneSID(Method):
    """One group for each `1 / groups` tokens kept; each gives its most attended tokens that resemble no better one."""

    keep: float | Adaptive = 64 / 576
    groups: float = 1 / 4
    positions: Positions | None = None

    card = Card(
        "prunesid",
        "Prune redundancy, preserve essence: synergistic importance-diversity",
        paper="arXiv 2603.09480",
        venue="ICLR 2026",
        signals=("vision attention: CLS or received", "features before the projector"),
        modality=("image",),
        checked=("suppression against the greedy rule", "groups against singular vectors"),
        deviations=(
            "exact principal directions, where the released code draws a randomised decomposition",
            "the numbers that depend on the count are those of a 576-token grid at the same fraction",
            "the mean cosine of the threshold is that of all tokens; caps too tight for the count are lifted",
            "the CLS token is not passed to the language model; survivors in raster order",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = DistinctInGroups(self.groups, Features())
        yield Step(Vision(), self.keep, score=Read(patch_attention(model.has_cls)), select=select, positions="compact")
