"""Selectors that look at where tokens are: the best of each window or run, shares by weight, anchors and neighbours."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.groups import group_sizes, local_variance, rank_in_group, top_in_groups
from ..ops.quota import largest_remainder
from ..ops.select import tiered_top_k, top_k
from ..ops.sums import group_sum
from ..ops.windows import around, windows
from ..tokens import Grid, VisualTokens
from .base import Reading, Score, Select, Selection
from .extent import Extent
from .readings import Cls, VisionReceived
from .vision import Features

Scores = Float[Tensor, "B N"] | None


class Groups(ABC):
    """Which group each token is in, from geometry alone; the groups of one grid come after those of the grid before."""

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> tuple[Int[Tensor, "B N"], int]:
        """The group of each token, and how many groups there are."""


@dataclass(frozen=True)
class Windows(Groups):
    """Rectangles of a frame, all frames alike: `across` by `across` of them, or of `side` by `side` tokens if given."""

    across: int = 4
    side: int | None = None

    def __post_init__(self) -> None:
        if self.across < 1 or (self.side is not None and self.side < 1):
            raise InvalidValue(f"windows need numbers of at least 1, got across={self.across}, side={self.side}")

    def __call__(self, tokens: VisualTokens) -> tuple[Int[Tensor, "B N"], int]:
        return placed(tokens, self._of)

    def _of(self, g: Grid) -> Int[Tensor, " N"]:
        rows, columns = (min(self.across, x) if self.side is None else -(-x // self.side) for x in (g.h, g.w))
        return windows(g.t, g.h, g.w, rows, columns)


@dataclass(frozen=True)
class Runs(Groups):
    """At most `number` equal runs of consecutive tokens in each frame; after a cut, in what is left."""

    number: int = 16

    def __post_init__(self) -> None:
        if self.number < 1:
            raise InvalidValue(f"number must be at least 1, got {self.number}")

    def __call__(self, tokens: VisualTokens) -> tuple[Int[Tensor, "B N"], int]:
        frames, n = frame_lengths(tokens)
        length = self.length(n)
        runs = -(-n // length)
        group = (torch.arange(frames)[:, None] * runs + torch.arange(n) // length).flatten()
        return group.to(tokens.x.device).expand(tokens.x.shape[0], -1), frames * runs

    def length(self, n: int) -> int:
        """Tokens of a run in a frame of n; the last run may be shorter."""
        return -(-n // self.number)


def frame_lengths(tokens: VisualTokens) -> tuple[int, int]:
    """How many frames there are, and the tokens of each; after a cut, one frame of all that is left."""
    whole = tokens.is_whole and len(tokens.grids) <= 1
    return (tokens.grid.t, tokens.grid.frame.n) if whole else (1, tokens.x.shape[1])


def placed(tokens: VisualTokens, of: Callable[[Grid], Int[Tensor, " N"]]) -> tuple[Int[Tensor, "B N"], int]:
    """Groups of the tokens that are left, from the groups of each whole grid, and how many groups there are."""
    groups, number = [], 0
    for g in tokens.grids or (tokens.grid,):
        mine = of(g)
        groups.append(mine + number)
        number += int(mine.max()) + 1
    return torch.cat(groups).to(tokens.where.device)[tokens.where], number


@dataclass(frozen=True)
class Quota(Select):
    """The highest scores of each group; shares by the sum of `weight` over the group, by its size where that is None.

    What a full group cannot take goes to the others in proportion.
    """

    groups: Groups = field(default_factory=Windows)
    weight: Score | None = None
    needs_score = True

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.weight is None else self.weight.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.weight is not None and self.weight.needs_text

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        group, number = self.groups(tokens)
        sizes = group_sizes(group, number)
        weight = sizes.float()
        if self.weight is not None:
            weight = group_sum(self.weight(tokens)[..., None], group, number)[0][..., 0]
        return Selection.of(top_in_groups(score, group, largest_remainder(weight, count, sizes), count))

    def flops(self, of: Extent) -> int:
        return self.weight.flops(of) if self.weight else 0

    def __str__(self) -> str:
        return f"Quota of {self.groups}" + (f" by {self.weight}" if self.weight else "")


@dataclass(frozen=True)
class BestOfEach(Select):
    """The highest scores among the best few of each group: as few of each as reach the count."""

    groups: Groups = field(default_factory=lambda: Windows(side=2))
    needs_score = True

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        group, number = self.groups(tokens)
        candidate = rank_in_group(score, group) < -(-count // number)
        return Selection.of(tiered_top_k(candidate.long(), score, count))

    def flops(self, of: Extent) -> int:
        return 0

    def __str__(self) -> str:
        return f"BestOfEach of {self.groups}"


@dataclass(frozen=True)
class AnchorsAround(Select):
    """Anchors, the tokens above, below, left and right of them, and the highest scores of the rest (HiPrune).

    `share` of the count are anchors, to the nearest: the highest of the reading `anchors`.
    """

    anchors: Reading = field(default_factory=VisionReceived)
    share: float = 0.1 / 5
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidValue(f"share must lie in [0, 1], got {self.share}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.anchors,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        number = math.floor(self.share * count + 0.5)
        if number == 0:
            return Selection.of(top_k(score, count))
        anchors = tokens.where.gather(1, top_k(tokens.signal(self.anchors).float(), number))
        near = self._around(tokens)[anchors].flatten(1)
        tier = torch.zeros(score.shape[0], tokens.grid.n, dtype=torch.long, device=score.device)
        tier = tier.scatter(1, near, 1).scatter(1, anchors, 2).gather(1, tokens.where)
        return Selection.of(tiered_top_k(tier, score, count))

    def _around(self, tokens: VisualTokens) -> Int[Tensor, "n 4"]:
        tables, offset = [], 0
        for g in tokens.grids or (tokens.grid,):
            tables.append(around(g.t, g.h, g.w) + offset)
            offset += g.n
        return torch.cat(tables).to(tokens.where.device)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class LocalVariety(Score):
    """Attention, plus how differently a token relates to the others of its run (HoloV).

    The second is the variance of its cosines with them, by `features`, scaled to the mean of the attention, and counts
    `alpha`.
    """

    attention: Reading = field(default_factory=Cls)
    alpha: float = 0.09
    runs: Runs = field(default_factory=Runs)
    features: Reading = field(default_factory=Features)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.attention, self.features)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        attention, x = tokens.signal(self.attention).float(), tokens.signal(self.features)
        n = frame_lengths(tokens)[1]
        variety = local_variance(x.reshape(-1, n, x.shape[2]), self.runs.length(n)).reshape(attention.shape)
        mean = variety.mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return attention + self.alpha * variety * (attention.mean(1, keepdim=True) / mean)

    def flops(self, of: Extent) -> int:
        n = of.n // of.frames
        length = self.runs.length(n)
        return 2 * of.frames * of.tower * (n // length * length**2 + (n % length) ** 2)

    def __str__(self) -> str:
        return f"{self.attention} + {self.alpha:g} variety"
