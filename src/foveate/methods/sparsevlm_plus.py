"""SparseVLM+ (second version of arXiv 2410.04417): only heads that look at the image, freed of what distance does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..ops.stages import layers_at, stages_at
from ..pieces import Read, SalientHeads
from ..plan import Layer, ModelShape, Positions, Step
from .sparsevlm import LAYERS

#: visual tokens of 576 behind each cut at the budgets published
COUNTS = ((66, 34, 20), (246, 54, 28), (238, 108, 60), (300, 200, 118))


@dataclass(frozen=True)
class SparseVLMPlus(Method):
    """`keep` are left behind the third cut, by the `heads` (a share) that look at the image most; nothing is merged."""

    keep: float = 118 / 576
    heads: float = 14 / 32
    positions: Positions | None = None

    card = Card(
        "sparsevlm+",
        "Visual token sparsification with an improved text-visual attention pattern",
        paper="arXiv 2410.04417",
        venue="2025, second version",
        signals=("attention of the words that look at the image, in the heads that do",),
        checked=("the published counts of 64, 96, 128 and 192 tokens", "heads and correction by formula"),
        deviations=(
            "the correction is relative to distance 0 and at least 0.1, or far logits would grow without bounds",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score = Read(SalientHeads(share=self.heads))
        fractions = stages_at(self.keep, *(tuple(n / 576 for n in stages) for stages in COUNTS))
        for layer, fraction in zip(layers_at(model.layers, *LAYERS), fractions, strict=True):
            yield Step(Layer(layer), fraction, score, per="prompt")
