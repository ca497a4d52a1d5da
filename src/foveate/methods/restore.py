"""RESTORE (ICML 2026): any pruner with its positions kept, its rest merged, and its distances made up for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..errors import InvalidValue
from ..method import Card, Method
from ..pieces import Bias, DistanceBias, NearestMean, WithAnchors
from ..pieces.merges import Drop
from ..plan import ModelShape, Positions, Step
from .divprune import DivPrune


@dataclass(frozen=True)
class Restore(Method):
    """`base` chooses a `share` of what it may keep; the rest goes to anchors, which take in everything else.

    base    a pruner; on the command line its name: `--set base=holov`
    bias    what makes up for the rotary decay towards tokens left far apart
    """

    keep: float = 0.25
    base: Method = field(default_factory=DivPrune)
    share: float = 0.5
    bias: Bias | None = field(default_factory=DistanceBias)
    positions: Positions | None = None

    card = Card(
        "restore",
        "Positions, calibration and merging for pruned visual tokens",
        venue="ICML 2026",
        signals=("those of its base", "features"),
        checked=("representativeness by brute force",),
        deviations=("no code is public: written from the paper's text", "anchors are chosen among what the base left"),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        for step in self.base.with_keep(self.keep).steps(model):
            if not isinstance(step.merge, Drop):
                raise InvalidValue(
                    f"{self.base.card.name} merges by {step.merge}; restore merges itself, give it one that drops"
                )
            select = WithAnchors(step.select, self.share)
            yield replace(step, select=select, merge=NearestMean(), positions="keep")
