"""Scores: what makes a token important."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..tokens import VisualTokens
from .base import Reading, Score
from .extent import Extent
from .readings import LastQuery


@dataclass(frozen=True)
class Read(Score):
    """A reading as it is: the attention, or AIM's PageRank."""

    reading: Reading = field(default_factory=LastQuery)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.reading,)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        reading: Tensor = tokens.signal(self.reading)
        return reading.float()

    def flops(self, of: Extent) -> int:
        return 0

    def __str__(self) -> str:
        return str(self.reading)


@dataclass(frozen=True)
class Norm(Score):
    """L2 norm of each token's features."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        return _length(tokens.x)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 2 * of.n * of.width


@dataclass(frozen=True)
class Saliency(Score):
    """Distance from the mean token: how much a token sticks out, from features alone.

    Centring removes the component that all tokens share and that makes every cosine large (Cen-Prune's observation).
    """

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        x = tokens.x.float()
        return _length(x - x.mean(dim=1, keepdim=True))

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 4 * of.n * of.width


@dataclass(frozen=True)
class Hybrid(Score):
    """Weighted sum of attention and norm, each scaled to 0..1 within its row; default 0.6 and 0.4."""

    attention: Score = field(default_factory=Read)
    other: Score = field(default_factory=Norm)
    weight: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InvalidValue(f"the weight of the attention must lie in [0, 1], got {self.weight}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.attention.reads + self.other.reads

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        a, b = _unit_range(self.attention(tokens)), _unit_range(self.other(tokens))
        return self.weight * a + (1 - self.weight) * b

    def flops(self, of: Extent) -> int:
        return self.attention.flops(of) + self.other.flops(of)

    def other_flops(self, of: Extent) -> int:
        return self.attention.other_flops(of) + self.other.other_flops(of)

    def __str__(self) -> str:
        return f"{self.weight:g} {self.attention} + {1 - self.weight:g} {self.other}"


@dataclass(frozen=True)
class _Several(Score):
    """Several scores made one."""

    scores: tuple[Score, ...] = (Norm(), Saliency())

    def __post_init__(self) -> None:
        if not self.scores:
            raise InvalidValue(f"a {type(self).__name__.lower()} needs at least one score, got none")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return tuple(r for s in self.scores for r in s.reads)

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return any(s.needs_text for s in self.scores)

    def each(self, tokens: VisualTokens) -> Float[Tensor, "S B N"]:
        """The values of each of the S scores."""
        return torch.stack([s(tokens) for s in self.scores])

    def flops(self, of: Extent) -> int:
        return sum(s.flops(of) for s in self.scores)

    def other_flops(self, of: Extent) -> int:
        return sum(s.other_flops(of) for s in self.scores)


@dataclass(frozen=True)
class Sum(_Several):
    """Several scores added up."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        return self.each(tokens).sum(0)

    def __str__(self) -> str:
        return " + ".join(map(str, self.scores))


@dataclass(frozen=True)
class Product(_Several):
    """Several scores multiplied."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        return self.each(tokens).prod(0)

    def __str__(self) -> str:
        return " x ".join(map(str, self.scores))


@dataclass(frozen=True)
class Random(Score):
    """A uniform random number per token; the same for every row, so a batch equals its rows."""

    seed: int = 0

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        # drawn on the CPU for the whole uncut grid: equal on every device, and nested over several cuts
        b, n, _ = tokens.x.shape
        generator = torch.Generator().manual_seed(self.seed + tokens.seed)
        draw = torch.rand(max(tokens.grid.n, n), generator=generator).to(tokens.x.device)
        return draw.expand(b, -1).gather(1, tokens.where)

    def flops(self, of: Extent) -> int:
        return 0


def _length(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    length: Tensor = torch.linalg.vector_norm(x.float(), dim=-1)
    return length


def _unit_range(score: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    low, high = score.amin(dim=1, keepdim=True), score.amax(dim=1, keepdim=True)
    return (score - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
