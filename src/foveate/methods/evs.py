"""EVS (Bagrov et al., NVIDIA, arXiv 2510.14624): the tokens of a video that changed most since the frame before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Change, FrameOrMore, TopK
from ..pieces.base import Budget
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class Evs(Method):
    """One ranking over the whole clip by 1 - cosine to the same place one frame earlier; the first frame comes first.

    The published pruning rate q is 1 - keep, 0.7 in Nemotron-Nano-VL. `faithful` keeps at least one frame's worth of
    tokens, as serving engines do: an image is then not touched.
    """

    keep: float | Budget = 0.3
    faithful: bool = False
    positions: Positions | None = None

    card = Card(
        "evs",
        "Efficient video sampling",
        paper="arXiv 2510.14624",
        venue="arXiv 2025",
        signals=("features",),
        modality=("video",),
        checked=("brute force of the rule", "counts of vLLM's rule max(N, floor(TN(1 - q))) with faithful=True"),
        deviations=(
            "on merged embeddings, as vLLM and SGLang run it; the paper compares pixels",
            "below one frame's worth the first frame is thinned evenly, and so is an image (faithful=True: never)",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = FrameOrMore() if self.faithful else TopK()
        yield Step(Projector(), self.keep, score=Change(), select=select, rounding="down")
