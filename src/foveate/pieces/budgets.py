"""Budgets by how many tokens stand out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..tokens import VisualTokens
from .base import Budget, Reading, Score
from .extent import Extent
from .readings import Cls
from .scores import Read


@dataclass(frozen=True)
class StandingOut(Budget):
    """As many tokens as have a score above Q3 + `factor` IQR, `times` over (PruMerge; 4 times in PruMerge+).

    Q3 is the upper quartile of the scores of an image and IQR its distance from the lower one. Use the score the method
    ranks by: `Read(VisionReceived())` for a tower without CLS.
    """

    score: Score = field(default_factory=lambda: Read(Cls()))
    factor: float = 1.5
    times: float = 1.0
    low: float = 0.01
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise InvalidValue(f"a budget needs 0 < low <= high <= 1, got low={self.low}, high={self.high}")
        if not self.times > 0:
            raise InvalidValue(f"times must be above 0, got {self.times}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.score.reads

    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction to keep of each row, on the host."""
        score = self.score(tokens)
        lower, upper = score.quantile(0.25, dim=1, keepdim=True), score.quantile(0.75, dim=1, keepdim=True)
        out = (score > upper + self.factor * (upper - lower)).float().mean(1)
        return [min(self.high, max(self.low, self.times * share)) for share in out.tolist()]

    def flops(self, of: Extent) -> int:
        return self.score.flops(of)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} by what stands out of {self.score}"
