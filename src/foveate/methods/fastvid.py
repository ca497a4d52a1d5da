"""FastVID (Shen et al., NeurIPS 2025, arXiv 2503.11187): salient tokens of every frame, and anchors that absorb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import CutsWhereFramesChange, JoinEveryAnchorFrame, Read, SalientAndAnchors
from ..pieces.vision import patch_attention
from ..plan import ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class FastVid(Method):
    """Per frame the tokens attended to most, and density peaks of the rest as anchors of their segment.

    context    share of the kept tokens that are anchors
    every      one anchor frame for so many frames, from the end of each segment backwards
    own        the least part of itself that an anchor keeps
    fewest, threshold   segments: at least so many, and a new one below this cosine of frame means
    """

    keep: float = 0.1
    context: float = 0.4
    every: int = 4
    own: float = 0.6
    fewest: int = 8
    threshold: float = 0.9
    positions: Positions | None = None

    card = Card(
        "fastvid",
        "FastVID: dynamic density pruning for fast video large language models",
        paper="arXiv 2503.11187",
        venue="NeurIPS 2025",
        signals=("vision attention: CLS or received", "features"),
        modality=("video",),
        checked=("brute force of segments, density and joins",),
        deviations=(
            "frame vectors are means of tokens, as in the authors' Qwen port; their LLaVA release reads SigLIP's "
            "pooling head, which LLaVA checkpoints do not hold, and its attention",
            "exact counts: anchors are shared by largest remainder; the released floors fall below the budget",
            "density without the released noise; an anchor is not one of those that join it",
            "runs of nearly equal frames are not left out (the Qwen port's `ignore`)",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        segments = CutsWhereFramesChange(self.fewest, self.threshold)
        yield Step(
            Vision(),
            self.keep,
            Read(patch_attention(model.has_cls)),
            SalientAndAnchors(self.context, self.every, segments=segments),
            JoinEveryAnchorFrame(self.own, segments),
        )
