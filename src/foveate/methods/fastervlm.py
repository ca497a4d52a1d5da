"""FasterVLM (arXiv 2412.01818 v1): the tokens the CLS token attends to; with `since`, summed over layers (VTC-CLS)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InvalidValue
from ..method import Card, Method
from ..pieces import Adaptive, Read, Sum
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class FasterVLM(Method):
    """The highest CLS attention (received attention where the tower has no CLS) of one vision block.

    `since`, a fraction of the depth, sums it over all blocks with global attention from there to the last (VTC-CLS,
    which tunes it for each task). `block` is the one read otherwise: the one that makes the features by default.
    """

    keep: float | Adaptive = 64 / 576
    since: float | None = None
    block: int | None = None
    positions: Positions | None = None

    card = Card(
        "fastervlm",
        "[CLS] attention is all you need for training-free visual token pruning",
        paper="arXiv 2412.01818",
        signals=("vision attention: CLS or received",),
        modality=("image",),
        checked=("attention against that of eager transformers",),
    )

    def __post_init__(self) -> None:
        if self.since is not None and not 0 <= self.since <= 1:
            raise InvalidValue(f"since is a fraction of the depth and must lie in [0, 1], got {self.since:g}")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score: Read | Sum = Read(patch_attention(model.has_cls))
        if self.since is not None:
            first = model.vision_block(self.since)
            blocks = [b for b in model.vision_global if b >= first]
            score = Sum(tuple(Read(patch_attention(model.has_cls, b)) for b in blocks))
        yield Step(Vision(self.block), self.keep, score=score, positions="compact")
