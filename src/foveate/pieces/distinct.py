"""Selectors that drop what resembles a better one: near duplicates in rounds (VisPruner), within groups (PruneSID)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.dedup import dedup, dedup_flops, dedup_rounds, suppress
from ..ops.groups import group_sizes, principal_groups, top_in_groups
from ..ops.quota import largest_remainder
from ..ops.select import by_tier, unit
from ..ops.sums import group_sum
from ..tokens import VisualTokens
from .base import Completing, Reading, Select, Selection
from .extent import Extent
from .vision import Features

Scores = Float[Tensor, "B N"] | None

PUBLISHED = 576
"""Tokens of the grid that published absolute numbers are for."""


@dataclass(frozen=True)
class Dedup(Completing):
    """Rounds that drop the tokens most like another one, down to the count (VisPruner).

    Tokens stand in the order of their scores, and every even one is compared with all odd ones, by `features`. `step`
    is the share of all tokens that a round drops, to the nearest: published 8 of 576, which makes some 60 rounds.
    """

    step: float = 8 / PUBLISHED
    features: Reading = field(default_factory=Features)
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise InvalidValue(f"step must lie in (0, 1], got {self.step}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        return Selection.of(self.complete(tokens, score, tokens.where[:, :0], count))

    def complete(
        self, tokens: VisualTokens, score: Scores, begun: Int[Tensor, "B k"], count: int
    ) -> Int[Tensor, "B T"]:
        assert score is not None, "Step sees to it"
        n, k = score.shape[1], begun.shape[1]
        open_ = torch.ones_like(score, dtype=torch.long).scatter(1, begun, 0)
        rest = by_tier(open_, score)[:, : n - k]
        left = dedup(tokens.signal(self.features), rest, count - k, self._step(n))
        return torch.cat([begun, left], dim=1).sort(dim=1).values

    def _step(self, n: int) -> int:
        return max(1, math.floor(self.step * n + 0.5))

    def flops(self, of: Extent) -> int:
        return self.completing_flops(of, 0)

    def completing_flops(self, of: Extent, begun: int) -> int:
        return dedup_flops(of.n - begun, of.count - begun, of.tower, self._step(of.n))

    def rounds(self, of: Extent) -> int:
        return dedup_rounds(of.n, of.count, self._step(of.n))


@dataclass(frozen=True)
class DistinctInGroups(Select):
    """Tokens grouped by principal direction; of each group the best that do not resemble a better one (PruneSID).

    There are `groups` of the count as many groups. Two tokens of a group resemble each other when the cosine of their
    `features` is above T / 32 times the mean cosine of all tokens; each group gets a share of the count by how many are
    left of it, at least 1 and at most 5 ceil(T / 64) if that is enough in all, and fills it by score. T is the count
    brought to a grid of 576 tokens, for which these numbers are published.
    """

    groups: float = 1 / 4
    features: Reading = field(default_factory=Features)
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 < self.groups <= 1:
            raise InvalidValue(f"groups is a share of the count and must lie in (0, 1], got {self.groups}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        x = tokens.signal(self.features)
        number, published = self._number(count), PUBLISHED * count / x.shape[1]
        group = principal_groups(x, number)
        left = suppress(x, score, group, published / 32 * _mean_cosine(x))
        sizes = group_sizes(group, number)
        survivors = group_sum(left[..., None].float(), group, number)[0][..., 0]
        cap = sizes.clamp(max=5 * math.ceil(published / 64))
        quota = largest_remainder(survivors, cap.sum(1).clamp(max=count), cap, least=1)
        quota = quota + largest_remainder(survivors, count - quota.sum(1), sizes - quota)
        place = by_tier(left.long(), score).argsort(1)
        return Selection.of(top_in_groups(-place.float(), group, quota, count))

    def _number(self, count: int) -> int:
        return max(1, math.floor(self.groups * count + 0.5))

    def flops(self, of: Extent) -> int:
        n, d = of.n, of.tower
        components = n * n * d if n <= d else n * d * d + n * d * min(d, self._number(of.count))
        return 2 * (components + n * n * d)

    def other_flops(self, of: Extent) -> int:
        return 9 * min(of.n, of.tower) ** 3  # eigenvectors

    def rounds(self, of: Extent) -> int:
        return 10  # of the suppression: as many as its longest chain of tokens that silence each other, and one


def _mean_cosine(x: Float[Tensor, "B N D"]) -> Float[Tensor, " B"]:
    """Mean cosine over all pairs of different tokens."""
    u, n = unit(x), x.shape[1]
    return (u.sum(1).square().sum(1) - u.square().sum((1, 2))) / max(1, n * (n - 1))
