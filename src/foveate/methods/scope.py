"""SCOPE (NeurIPS 2025, arXiv 2510.24214): tokens that are attended to and together cover the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Coverage, Features, Read
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class Scope(Method):
    """Greedy coverage by cosine, each token's gain times its attention to the power `alpha`.

    `block` is the vision block whose features and attention count; by default the one that makes the features.
    `centre` subtracts the mean token before the cosine (Cen-Prune).
    """

    keep: float | Adaptive = 64 / 576
    alpha: float = 1.0
    block: int | None = None
    centre: bool = False
    positions: Positions | None = None

    card = Card(
        "scope",
        "Saliency-coverage oriented token pruning",
        paper="arXiv 2510.24214",
        venue="NeurIPS 2025",
        signals=("vision attention: CLS or received", "features before the projector"),
        modality=("image",),
        checked=("greedy selection against brute force of the rule",),
        deviations=(
            "beyond 2,896 tokens only the rows that the last pick covers better are computed anew: the same picks",
            "each view of an image has its own share of the budget in proportion to its tokens, not an equal one",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(
            Vision(self.block),
            self.keep,
            score=Read(patch_attention(model.has_cls)),
            select=Coverage(self.alpha, self.centre, Features()),
            positions="compact",
        )
