"""ToMe (ICLR 2023, arXiv 2210.09461): merge the most similar pairs in every block of the vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..method import Card, Method
from ..pieces import Bias, BipartiteMerge, EvenGrid, Keys, SizeBias
from ..plan import Block, ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class ToMe(Method):
    """Equally many tokens are merged between all blocks down to `keep`, compared by the keys of the block before.

    stage   "tower", or "projector": at once after it, by features; by default the tower where it can be cut
    bias    what makes a token that stands for four weigh like four in all later attention
    """

    keep: float = 0.25
    stage: Literal["tower", "projector"] | None = None
    bias: Bias | None = field(default_factory=SizeBias)
    positions: Positions | None = None

    card = Card(
        "tome",
        "Token merging: your ViT but faster",
        paper="arXiv 2210.09461",
        venue="ICLR 2023",
        signals=("vision keys, or features after the projector",),
        checked=("merging in two steps weighs as merging at once", "(576 - T) / 22 tokens between 23 blocks"),
        deviations=(
            "merged between blocks; the paper merges between attention and feed-forward network",
            "the bias holds in the language model too, where merged tokens go on standing for many",
            "raster order; the CLS token stays outside the matching",
            "towers whose projector merges or pools patches need all of them: there it merges after the projector",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        if self.stage == "projector" or (self.stage is None and not model.patch_tokens):
            yield Step(Projector(), self.keep, select=EvenGrid(), merge=BipartiteMerge())
            return
        blocks = model.vision_features
        for block in range(1, blocks + 1):
            left = 1 - (1 - self.keep) * block / blocks
            yield Step(Block(block), left, select=EvenGrid(), merge=BipartiteMerge(metric=Keys()))
