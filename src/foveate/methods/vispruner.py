"""VisPruner (ICCV 2025, arXiv 2412.01818): the most attended tokens, and of the rest what has no near duplicate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Chain, Dedup, Features, Read, TopK
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class VisPruner(Method):
    """A share of the count by attention, `important`; the rest by rounds that drop near duplicates.

    `step` is the share of all tokens that a round drops, published 8 of 576. `block` is the vision block read: the one
    that makes the features by default.
    """

    keep: float | Adaptive = 64 / 576
    important: float = 0.5
    step: float = 8 / 576
    block: int | None = None
    positions: Positions | None = None

    card = Card(
        "vispruner",
        "Beyond text-visual attention: exploiting visual cues",
        paper="arXiv 2412.01818",
        venue="ICCV 2025",
        signals=("vision attention: CLS or received", "features before the projector"),
        modality=("image",),
        checked=("rounds against brute force of the rule", "56 rounds for 128 of 576 tokens"),
        deviations=(
            "a round drops a share of the tokens, so that large images take no more rounds; 8 of 576 as published",
            "any count; the released code needs even ones",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(
            Vision(self.block),
            self.keep,
            score=Read(patch_attention(model.has_cls)),
            select=Chain(TopK(), Dedup(self.step, Features()), self.important),
            positions="compact",
        )
