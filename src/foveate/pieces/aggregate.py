"""Mergers that let survivors take in a share of many tokens: by attention (PruMerge), by surroundings (Nüwa)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.aggregate import attention_sum, neighbourhood_mean
from ..tokens import Reduction, VisualTokens
from .base import Merge, Reading, Selection
from .extent import Extent
from .merges import reduction_of
from .readings import Cls, Keys
from .vision import Features


@dataclass(frozen=True)
class AttentionSum(Merge):
    """Survivors get their neighbours added by attention, and the last of them stands for all the rest (PruMerge).

    Neighbours are the `neighbours` tokens of the most similar `keys`. The survivor of least attention becomes the
    attention-weighted sum of everything that did not survive, itself included.
    """

    attention: Reading = field(default_factory=Cls)
    keys: Reading = field(default_factory=lambda: Keys(heads="all"))
    neighbours: int = 32

    def __post_init__(self) -> None:
        if self.neighbours < 0:
            raise InvalidValue(f"neighbours must not be negative, got {self.neighbours}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.attention, self.keys)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        attention, keys = tokens.signal(self.attention).float(), tokens.signal(self.keys)
        return reduction_of(tokens, attention_sum(tokens.x, selection.kept, attention, keys, self.neighbours))

    def flops(self, of: Extent) -> int:
        rest = 1 if of.count > 1 else 0
        return 2 * of.n * (of.count * of.heads * of.head_dim + (of.count + rest) * of.width)


@dataclass(frozen=True)
class Surroundings(Merge):
    """Survivors become the mean of what is like them and near them; the most attended, the pillars, stay (Nüwa).

    Alike is the cosine of the mean of `features`, near a weight that falls from 1 to 0 at a distance of `radius` times
    the root of a frame's tokens (published sqrt(280) for 576). Pillars have an `attention` from the quantile `pillars`
    of all survivors on. `faithful=True` is the released arithmetic, the survivor plus the mean of its surroundings, up
    to twice the norm.
    """

    attention: Reading = field(default_factory=Cls)
    features: tuple[Reading, ...] = (Features(),)
    radius: float = math.sqrt(280 / 576)
    pillars: float = 0.55
    faithful: bool = False

    def __post_init__(self) -> None:
        if not (self.radius > 0 and 0 <= self.pillars <= 1 and self.features):
            raise InvalidValue(
                "Surroundings needs a radius above 0, pillars in [0, 1] and features, got "
                f"{self.radius}, {self.pillars}, {self.features}"
            )

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.attention, *self.features)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        attention = tokens.signal(self.attention).float().gather(1, selection.kept)
        gathers = attention < attention.quantile(self.pillars, dim=1, keepdim=True)
        metric = torch.stack([tokens.signal(f).float() for f in self.features]).mean(0)
        radius = self.radius * math.sqrt(tokens.grid.frame.n)
        merged = neighbourhood_mean(tokens.x, selection.kept, gathers, place_of(tokens), metric, radius, self.faithful)
        return reduction_of(tokens, merged)

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.count * (of.tower + of.width)

    def __str__(self) -> str:
        return f"Surroundings(faithful={self.faithful})"


def place_of(tokens: VisualTokens) -> Float[Tensor, "B N 3"]:
    """Frame, row and column of each token; frames are counted over all grids."""
    places, frames = [], 0
    for g in tokens.grids or (tokens.grid,):
        axes = torch.meshgrid(torch.arange(g.t) + frames, torch.arange(g.h), torch.arange(g.w), indexing="ij")
        places.append(torch.stack(axes, dim=-1).view(-1, 3))
        frames += g.t
    return torch.cat(places).float().to(tokens.where.device)[tokens.where]
