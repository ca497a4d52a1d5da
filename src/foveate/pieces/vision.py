"""Readings of the vision tower beyond one row of attention: features of a block, and what stands in for a CLS token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from ..ops import attention as op
from .base import Reading
from .extent import Extent
from .readings import Cls, VisionReceived
from .seen import Attention


def patch_attention(has_cls: bool, block: int | None = None) -> Cls | VisionReceived:
    """Attention of the CLS token in a vision block; where the tower has none, the attention each patch receives."""
    return Cls(block) if has_cls else VisionReceived(block)


@dataclass(frozen=True)
class Features(Reading):
    """What a vision block gave out: the features of each patch before the projector."""

    block: int | None = None
    place = "vision"
    sees: ClassVar[Literal["output"]] = "output"

    def __call__(self, output: Float[Tensor, "R L D"]) -> Float[Tensor, "R L D"]:
        return output

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class ClsAcrossHeads(Reading):
    """Attention of the CLS token with all heads as one: a single softmax over their concatenated queries and keys.

    Source: PruMerge (arXiv 2403.15388).
    """

    block: int | None = None
    place = "vision"
    needs_cls = True

    def __call__(self, attention: Attention) -> Float[Tensor, "R L"]:
        q, k = (x.transpose(1, 2).flatten(2)[:, None] for x in (attention.q[:, :, :1], attention.k))
        return op.last_query_attention(q, k, attention.scale * attention.q.shape[1] ** -0.5)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns * of.heads * of.head_dim
