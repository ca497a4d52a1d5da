"""LLaVA-PruMerge and PruMerge+ (ICCV 2025, arXiv 2403.15388): outliers of CLS attention take in their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..method import Card, Method
from ..pieces import AttentionSum, Budget, ClsAcrossHeads, DominantContextual, Keys, Read, VisionReceived
from ..plan import ModelShape, Positions, Step, Vision

_DEVIATIONS = (
    "a fixed count by default, as in the tables of others; the published one, by outliers, is for each image "
    "keep=StandingOut(Read(ClsAcrossHeads(-1))), of which PruMerge+ keeps times=4",
    "the token for all the rest counts in the budget and stands where the survivor of least attention was",
    "aggregated after the projector, as families whose projector merges patches require; raster order",
)


def _step(model: ModelShape, keep: float | Budget, spatial: float, neighbours: int) -> Step:
    """The last vision block decides: a share `spatial` of the count is evenly spread over what attention left."""
    block = model.vision_blocks - 1 if model.has_cls else None
    attention = ClsAcrossHeads(block) if model.has_cls else VisionReceived(block)
    return Step(
        Vision(),
        keep,
        score=Read(attention),
        select=DominantContextual(spatial),
        merge=AttentionSum(attention, Keys(block, heads="all"), neighbours),
        positions="compact",
    )


@dataclass(frozen=True)
class PruMerge(Method):
    """The most attended tokens with their `neighbours` nearest added by attention, and one token for all the rest."""

    keep: float | Budget = 32 / 576
    neighbours: int = 32
    positions: Positions | None = None

    card = Card(
        "prumerge",
        "Adaptive token reduction for efficient large multimodal models",
        paper="arXiv 2403.15388",
        venue="ICCV 2025",
        signals=("CLS attention across heads, or received", "vision keys"),
        modality=("image",),
        checked=("the update against its formula",),
        deviations=_DEVIATIONS,
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield _step(model, self.keep, 0.0, self.neighbours)


@dataclass(frozen=True)
class PruMergePlus(Method):
    """PruMerge with evenly spread tokens besides: `spatial` of the count, published about three of four."""

    keep: float | Budget = 144 / 576
    spatial: float = 0.75
    neighbours: int = 32
    positions: Positions | None = None

    card = replace(
        PruMerge.card,
        name="prumerge+",
        deviations=(*_DEVIATIONS, "spread evenly over what attention left, not by a stride over the whole grid"),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield _step(model, self.keep, self.spatial, self.neighbours)
