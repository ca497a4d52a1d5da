"""Thumbnail and crops of one image: who gets how much, by what the thumbnail looks at (HiRED, GlobalCom²)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue, UnsupportedInput
from ..ops.groups import group_sizes
from ..ops.select import top_k
from ..ops.sums import group_sum
from ..ops.windows import stretched, windows
from ..tokens import Grid, VisualTokens
from .base import Reading, Score
from .extent import Extent
from .readings import Cls
from .spatial import Groups, placed


@dataclass(frozen=True)
class Crops(Groups):
    """The thumbnail of an image, then its parts: as many rows and columns as the view is larger, to the nearest.

    Other images, of one view or of tiles whose arrangement is not known, have one group for each view.
    """

    def __call__(self, tokens: VisualTokens) -> tuple[Int[Tensor, "B N"], int]:
        views = two_views(tokens)
        if views is None:
            return placed(tokens, lambda g: torch.zeros(g.n, dtype=torch.long))
        small, large = views
        part, number = parts(small, large, large)
        group = torch.cat([torch.zeros(small.n, dtype=torch.long), part])
        return group.to(tokens.where.device)[tokens.where], number


def two_views(tokens: VisualTokens) -> tuple[Grid, Grid] | None:
    """The grids of thumbnail and stitched crops; None for an image of one view, or of tiles that lie who knows how."""
    return (tokens.grids[0], tokens.grids[1]) if len(tokens.grids) == 2 else None


def parts(small: Grid, large: Grid, of: Grid) -> tuple[Int[Tensor, " N"], int]:
    """Which part of the large view, from 1, each token of a grid that shows the same lies in; and how many groups."""
    rows, columns = (max(1, math.floor(a / b + 0.5)) for a, b in ((large.h, small.h), (large.w, small.w)))
    rows, columns = min(rows, small.h), min(columns, small.w)
    return 1 + windows(1, of.h, of.w, rows, columns), 1 + rows * columns


def whole_views(tokens: VisualTokens) -> tuple[Grid, Grid] | None:
    """As `two_views`, of tokens that no cut has touched. Raises UnsupportedInput for others."""
    if not tokens.is_whole:
        raise UnsupportedInput("shares by what the thumbnail looks at need whole views; put the step before other cuts")
    return two_views(tokens)


@dataclass(frozen=True)
class HiredShare(Score):
    """What each token brings its view: the thumbnail `alpha`, the parts the rest by its eye-catching tokens in them.

    Those are the top 1 - `alpha` of the thumbnail by the reading `shallow` (HiRED).
    """

    alpha: float = 0.5
    shallow: Reading = field(default_factory=lambda: Cls(0))

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InvalidValue(f"alpha must lie in [0, 1], got {self.alpha}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.shallow,)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        views = whole_views(tokens)
        if views is None:
            return torch.ones(tokens.where.shape, device=tokens.x.device)
        small, large = views
        looked_at = tokens.signal(self.shallow)[:, : small.n].float()
        eye_catching = top_k(looked_at, max(1, math.floor((1 - self.alpha) * small.n + 0.5)))
        part, number = parts(small, large, small)
        catches = group_sizes(part.to(looked_at.device)[eye_catching], number).float()
        share = (1 - self.alpha) * catches / catches.sum(1, keepdim=True)
        share[:, 0] = self.alpha
        return _spread(share, tokens)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class GlobalShare(Score):
    """What each token brings its view: 1, in the parts more or less by the thumbnail's attention there (GlobalCom²).

    A part c gets 1 + p_c - mean(p), p the softmax over parts of the thumbnail's attention in them / `temperature`.
    """

    attention: Reading = field(default_factory=Cls)
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InvalidValue(f"temperature must be above 0, got {self.temperature}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.attention,)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        weight = torch.ones(tokens.where.shape, device=tokens.x.device)
        views = whole_views(tokens)
        if views is None:
            return weight
        small, large = views
        attention = tokens.signal(self.attention)[:, : small.n].float()
        part, number = parts(small, large, small)
        seen = group_sum(attention[..., None], part.to(attention.device).expand_as(attention), number)[0][:, 1:, 0]
        p = (seen / self.temperature).softmax(1)
        weight[:, small.n :] = (1 + p - p.mean(1, keepdim=True)).gather(1, Crops()(tokens)[0][:, small.n :] - 1)
        return weight

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class LocalAndGlobal(Score):
    """In the thumbnail its attention; in the parts their own, plus the thumbnail's laid over them, at equal length.

    Each of the two is divided by its L2 norm over the part (GlobalCom²). Other images are ranked by attention alone.
    """

    attention: Reading = field(default_factory=Cls)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.attention,)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        attention = tokens.signal(self.attention).float()
        views = whole_views(tokens)
        if views is None:
            return attention
        small, large = views
        overview, own = attention[:, : small.n], attention[:, small.n :]
        laid_over = stretched(overview, small.h, small.w, large.h, large.w)
        group, number = Crops()(tokens)
        group = group[:, small.n :]
        return torch.cat([overview, _unit_within(own, group, number) + _unit_within(laid_over, group, number)], dim=1)

    def flops(self, of: Extent) -> int:
        return 0


def _spread(share: Float[Tensor, "B G"], tokens: VisualTokens) -> Float[Tensor, "B N"]:
    """Each token's part of the share of its group."""
    group, number = Crops()(tokens)
    return (share / group_sizes(group, number).clamp(min=1)).gather(1, group)


def _unit_within(value: Float[Tensor, "B N"], group: Int[Tensor, "B N"], number: int) -> Float[Tensor, "B N"]:
    """A value divided by its L2 norm over the group."""
    squares = group_sum(value.square()[..., None], group, number)[0][..., 0]
    return value / squares.sqrt().clamp(min=torch.finfo(torch.float32).tiny).gather(1, group)
