"""MustDrop (arXiv 2411.10803): merge alike windows, filter by the text but never what vision needs, forget the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Chain, DualText, Read, TopK
from ..pieces.collapse import AlikeWindows, CollapseWindows, WindowsCollapsed
from ..pieces.vision import patch_attention
from ..plan import Layer, ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class MustDrop(Method):
    """Windows of 3 x 3 alike to `threshold` become one token; then `keep` are left by what the text looks at.

    The `protected` share of all tokens with the most vision attention stays in any case. Behind the prefill the layers
    before the filter forget what it dropped, too. keep = 1 keeps everything.
    """

    keep: float = 128 / 576
    threshold: float = 0.8
    protected: float = 0.08
    ratio: float = 1.0
    depth: float = 2 / 32
    positions: Positions | None = None

    card = Card(
        "mustdrop",
        "Multi-stage vision token dropping",
        paper="arXiv 2411.10803",
        signals=("features of the first vision block", "vision attention", "attention of the text: sum and peak"),
        modality=("image",),
        checked=("windows, peaks and the dual score by brute force", "caches of all layers hold `keep`"),
        deviations=(
            "the tokens that pass both thresholds furthest, as many as planned; thresholds alone leave the count open",
            "one filter, before the layer at `depth`, a setting of ours",
            "windows are compared in the tower and merged after the projector, never below `keep`",
            "the protected set is ranked with the survivors: windows that collapsed count by their middle token",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        if self.keep == 1:
            return
        alike = AlikeWindows(self.threshold, low=self.keep)
        yield Step(Projector(), alike, select=WindowsCollapsed(), merge=CollapseWindows(), positions="compact")
        vision = Read(patch_attention(model.has_cls))
        select = Chain(TopK(), TopK(), min(1.0, self.protected / self.keep), score=vision)
        layer = Layer(max(1, round(self.depth * model.layers)))
        score = DualText(self.ratio)
        yield Step(layer, self.keep, score, select, per="prompt", positions="compact", cache="all")
