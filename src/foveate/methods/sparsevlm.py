"""SparseVLM (ICML 2025, arXiv 2410.04417): words that look at the image rate it, at three layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..ops.stages import layers_at, stages_at
from ..pieces import AttendedWords, Read, Recycle, TextRows
from ..plan import Layer, ModelShape, Positions, Step

#: layers of 32 before which it cuts, and visual tokens of 576 behind each cut at the budgets published
LAYERS = (3, 7, 16)
COUNTS = ((66, 30, 17), (238, 48, 26), (303, 110, 36), (300, 200, 110))


@dataclass(frozen=True)
class SparseVLM(Method):
    """`keep` are left behind the third cut; what is dropped comes back in part, as the means of a few clusters."""

    keep: float = 110 / 576
    recycled: float = 0.3
    positions: Positions | None = None

    card = Card(
        "sparsevlm",
        "Visual token sparsification for efficient vision-language model inference",
        paper="arXiv 2410.04417",
        venue="ICML 2025",
        signals=("attention of the words that look at the image", "hidden states"),
        checked=("the published counts of 64, 96, 128 and 192 tokens", "clusters by brute force", "words by formula"),
        deviations=(
            "recycled clusters count in the budget; the released code adds them to it, 9 to the first 300",
            "clusters stand at their centre; the released code puts them behind the image",
            "fixed counts, as released; the paper's first version follows the rank of the attention",
            "no noise breaks ties, so the same input gives the same clusters",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score = Read(TextRows(raters=AttendedWords()))
        merge = Recycle(score, self.recycled)
        fractions = stages_at(self.keep, *(tuple(n / 576 for n in stages) for stages in COUNTS))
        for layer, fraction in zip(layers_at(model.layers, *LAYERS), fractions, strict=True):
            yield Step(Layer(layer), fraction, score, merge=merge, per="prompt", positions="compact")
