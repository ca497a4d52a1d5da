"""Attention between all patches of a vision block, and what FiCoCo makes of it: a score, a penalty and a merger."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops import spread as op
from ..tokens import Reduction, VisualTokens
from .base import Merge, Reading, Score, Selection
from .extent import Extent
from .readings import Cls
from .scores import Norm
from .seen import Attention
from .spatial import Groups, Windows


@dataclass(frozen=True)
class MeanAttention(Reading):
    """Attention of each patch to each, head mean: 577 x 577 numbers an image in CLIP, a megabyte that a tower can bear.

    Rows follow the patches; columns are the block's own, a CLS token first where there is one. For cuts inside the
    tower: projectors that merge patches would merge the rows alone.
    """

    place = "vision"

    def __call__(self, attention: Attention) -> Float[Tensor, "R L L"]:
        return op.mean_attention(attention.q, attention.k, attention.scale)

    def flops(self, of: Extent) -> int:
        return 2 * of.columns**2 * of.heads * of.head_dim


@dataclass(frozen=True)
class ClsOverPatches(Score):
    """`weight` times the attention of the CLS token, less the rest times what other patches pay; each of length 1."""

    weight: float = 0.35
    cls: Reading = field(default_factory=Cls)
    pairs: Reading = field(default_factory=MeanAttention)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InvalidValue(f"the weight of the CLS token must lie in [0, 1], got {self.weight:g}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.cls, self.pairs

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        received = _between(tokens, self.pairs).mean(1)
        cls: Tensor = tokens.signal(self.cls).float()
        return self.weight * _direction(cls) - (1 - self.weight) * _direction(received)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return of.n**2


@dataclass(frozen=True)
class WeakestLower(Score):
    """A score in which the lowest of each group is lower still, so that drops spread over the picture."""

    score: Score = field(default_factory=Norm)
    groups: Groups = field(default_factory=lambda: Windows(side=2))

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.score.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.score.needs_text

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        return op.lower_weakest(self.score(tokens), *self.groups(tokens))

    def flops(self, of: Extent) -> int:
        return self.score.flops(of)

    def other_flops(self, of: Extent) -> int:
        return self.score.other_flops(of)


@dataclass(frozen=True)
class Spread(Merge):
    """Each is shared out among the survivors it pays most attention to, those above a quantile (FiCoCo-V)."""

    quantile: float = 0.998
    pairs: Reading = field(default_factory=MeanAttention)

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise InvalidValue(f"quantile must lie in [0, 1], got {self.quantile:g}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.pairs,)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        between = _between(tokens, self.pairs)
        merged = op.spread(tokens.x, selection.kept, between, tokens.size, self.quantile)
        return Reduction(merged.kept, merged.source, merged.size, merged.x)

    def flops(self, of: Extent) -> int:
        return 2 * (of.n - of.count) * of.count * of.width

    def other_flops(self, of: Extent) -> int:
        return (of.n - of.count) * of.count  # the sort of what each one pays


def _between(tokens: VisualTokens, pairs: Reading) -> Float[Tensor, "B N N"]:
    """Attention between the patches alone."""
    every: Tensor = tokens.signal(pairs)
    return every[..., -every.shape[1] :].float()


def _direction(x: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Scaled to length 1; zeros stay."""
    return torch.nn.functional.normalize(x, dim=1)
