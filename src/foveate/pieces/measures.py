"""Measures: how much an image holds, for budgets that follow it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..ops.complexity import complexity
from ..tokens import VisualTokens
from .base import Measure
from .extent import Extent


@dataclass(frozen=True)
class Complexity(Measure):
    """0 for identical tokens, 1 for tokens spread evenly over all directions; see `ops.complexity`."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, " B"]:
        return complexity(tokens.x)

    def flops(self, of: Extent) -> int:
        return 2 * of.n * of.width * min(of.n, of.width)
