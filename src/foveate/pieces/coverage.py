"""Selectors by what a set says of the whole: coverage (SCOPE, MMTok), determinants (CDPruner), a basis (ApET)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.coverage import DENSE, by_tokens, coverage, each_other
from ..ops.dpp import dpp, dpp_flops
from ..ops.residual import far_apart, reconstruction_error
from ..ops.select import fits, tiered_top_k
from ..tokens import VisualTokens
from .base import Reading, Select, Selection
from .extent import Extent
from .vision import Features

Scores = Float[Tensor, "B N"] | None


@dataclass(frozen=True)
class Coverage(Select):
    """Again and again the token that adds most to the coverage of all, times its score to the power `alpha` (SCOPE).

    Tokens cover each other by max(0, cosine) of `features`; `centre` subtracts the mean token first (Cen-Prune).
    """

    alpha: float = 1.0
    centre: bool = False
    features: Reading = field(default_factory=Features)
    needs_score = True

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        x = tokens.signal(self.features)
        return Selection.of(coverage([each_other(x, centre=self.centre)], count, score.clamp(min=0) ** self.alpha))

    def flops(self, of: Extent) -> int:
        return _each_other_flops(of)

    def other_flops(self, of: Extent) -> int:
        return _coverage_work(of, of.n)

    def rounds(self, of: Extent) -> int:
        return of.count


@dataclass(frozen=True)
class TextCoverage(Select):
    """Again and again the token that adds most to the coverage of words and of tokens (MMTok).

    Words are covered by the softmax over tokens of cosine / `text_temperature`, tokens by that of the cosine of
    `features` / `temperature`; each kind is averaged, and the second counts `alpha`.
    """

    text_temperature: float = 0.02
    temperature: float = 0.2
    alpha: float = 0.5
    features: Reading = field(default_factory=Features)
    needs_text = True

    def __post_init__(self) -> None:
        if not (self.text_temperature > 0 and self.temperature > 0 and self.alpha >= 0):
            raise InvalidValue(
                "TextCoverage needs temperatures above 0 and alpha >= 0, got "
                f"{self.text_temperature}, {self.temperature}, {self.alpha}"
            )

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.features,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert tokens.text is not None, "the engine gives text to a step that asks for it"
        words, n = tokens.text(), tokens.x.shape[1]
        said = by_tokens(words, tokens.x, self.text_temperature, 1 / words.shape[1])
        seen = each_other(tokens.signal(self.features), self.temperature, self.alpha / n)
        return Selection.of(coverage([said, seen], count))

    def flops(self, of: Extent) -> int:
        again = 0 if fits(of.n, of.tower) else 2 * of.n**2 * of.tower  # the sums of all rows come before the rows
        return 2 * of.text * of.n * of.width + _each_other_flops(of) + again

    def other_flops(self, of: Extent) -> int:
        return _coverage_work(of, of.n + of.text)

    def rounds(self, of: Extent) -> int:
        return of.count


def _each_other_flops(of: Extent) -> int:
    """FLOPs of all cosines; where they are too many to keep, of those computed anew, as many as expected."""
    rows = of.n
    if not fits(of.n, of.tower):
        rows += of.count - 1 + round(of.n * math.log(max(1, of.count)))
    return 2 * of.n * rows * of.tower


def _coverage_work(of: Extent, rows: int) -> int:
    """Subtract, cut at zero and add up the values of the rows that a pick touches."""
    touched = rows * of.count if of.n <= DENSE else round(of.n * math.log(max(1, of.count)))
    return 3 * of.n * touched


@dataclass(frozen=True)
class Dpp(Select):
    """Greedy MAP of a determinantal point process, directions of the features times the scores (CDPruner).

    `theta` sharpens: scores r become exp(r theta / (2 (1 - theta))). `centre` subtracts the mean token first
    (Cen-Prune).
    """

    theta: float | None = None
    centre: bool = False
    needs_score = True

    def __post_init__(self) -> None:
        if self.theta is not None and not 0 <= self.theta < 1:
            raise InvalidValue(f"theta must lie in [0, 1), got {self.theta}")

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        quality = score if self.theta is None else (score * (self.theta / (2 * (1 - self.theta)))).exp()
        return Selection.of(dpp(tokens.x, count, quality, self.centre))

    def flops(self, of: Extent) -> int:
        return dpp_flops(of.n, of.count, of.width)

    def rounds(self, of: Extent) -> int:
        return of.count


@dataclass(frozen=True)
class Unexplained(Select):
    """`basis` tokens that lie far apart, and those which no combination of these comes near (ApET).

    By `features`, or by the features at the site where that is None.
    """

    basis: int = 10
    features: Reading | None = field(default_factory=Features)

    def __post_init__(self) -> None:
        if self.basis < 1:
            raise InvalidValue(f"the basis needs at least 1 token, got {self.basis}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.features is None else (self.features,)

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        x = tokens.x if self.features is None else tokens.signal(self.features)
        basis = far_apart(x, min(self.basis, count))
        first = torch.zeros_like(tokens.where).scatter(1, basis, 1)
        return Selection.of(tiered_top_k(first, reconstruction_error(x, basis), count))

    def flops(self, of: Extent) -> int:
        m, width = min(self.basis, of.count), of.width if self.features is None else of.tower
        return 2 * m * width * (m + 2 * of.n)

    def other_flops(self, of: Extent) -> int:
        width = of.width if self.features is None else of.tower
        return 3 * of.n * width * min(self.basis, of.count)

    def rounds(self, of: Extent) -> int:
        return min(self.basis, of.count)
