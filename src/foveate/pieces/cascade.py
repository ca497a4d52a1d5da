"""Merge over time while that pays, then prune to a cost: FrameFusion's rule, told from what earlier layers ran on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..tokens import Reduction, VisualTokens
from .base import Budget, Merge, Reading, Score, Selection
from .extent import Extent
from .merges import Drop
from .scores import Read
from .temporal import Change, RunMean


@dataclass(frozen=True)
class CostRule(Budget):
    """As many tokens as keep the average over `layers` at the fraction `cost` of those that entered the first.

    Before each layer the tokens whose cosine to the one before them reaches `threshold` are merged away, or only as
    many as the cost asks for. Once fewer than a share `stop` could go, or once one more layer on all that is left would
    leave nothing for those after it, the next cut prunes to the count at which all layers left may run.
    """

    layers: int = 28
    cost: float = 0.3
    threshold: float = 0.6
    stop: float = 0.1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.layers < 1 or not 0 < self.cost <= 1 or not 0 <= self.stop <= 1:
            raise InvalidValue(
                "CostRule needs layers >= 1, cost in (0, 1] and stop in [0, 1], "
                f"got {self.layers}, {self.cost} and {self.stop}"
            )

    @property
    def expected(self) -> float:
        """What the layers run on on average, whatever the content."""
        return self.cost * self.high

    def phase(self, tokens: VisualTokens) -> Literal["merge", "prune", "done"]:
        """What the cut before the next layer does; known on the host."""
        n, before = tokens.x.shape[1], tokens.history
        if n <= self._affordable(tokens):
            return "done"
        counts = [math.floor(self.high * tokens.grid.n + 0.5), *before]
        stopped = any(b > (1 - self.stop) * a for a, b in zip(counts, before, strict=False))
        late = self._left(tokens) - n < self.layers - len(before) - 1
        return "prune" if before and (stopped or late) else "merge"

    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction of the uncompressed count to keep of each row, on the host."""
        b, n, _ = tokens.x.shape
        phase, least = self.phase(tokens), max(1, self._affordable(tokens))
        if phase == "merge":
            alike = (Change()(tokens) <= 1 - self.threshold).sum(1)
            return [max(least, n - k) / tokens.grid.n for k in alike.tolist()]
        return [(n if phase == "done" else least) / tokens.grid.n] * b

    def _left(self, tokens: VisualTokens) -> float:
        """Tokens that the layers to come may run on, all together."""
        return self.layers * self.expected * tokens.grid.n - sum(tokens.history)

    def _affordable(self, tokens: VisualTokens) -> int:
        """The most tokens that all layers to come can run on."""
        return math.floor(self._left(tokens) / max(1, self.layers - len(tokens.history)) + 1e-9)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return Change().other_flops(of)

    def __str__(self) -> str:
        return f"{self.expected:.4g} on average"


@dataclass(frozen=True)
class MergeThenPrune(Score):
    """One score while the rule merges, another when it prunes (FrameFusion: change over time, then attention)."""

    rule: CostRule = field(default_factory=CostRule)
    merging: Score = field(default_factory=Change)
    pruning: Score = field(default_factory=Read)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.merging.reads + self.pruning.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.merging.needs_text or self.pruning.needs_text

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        return self.pruning(tokens) if self.rule.phase(tokens) == "prune" else self.merging(tokens)

    def flops(self, of: Extent) -> int:
        return self.merging.flops(of)

    def other_flops(self, of: Extent) -> int:
        return self.merging.other_flops(of)

    def __str__(self) -> str:
        return f"{self.merging}, then {self.pruning}"


@dataclass(frozen=True)
class RunMeanThenDrop(Merge):
    """Runs over time become their mean while the rule merges; what it prunes is dropped (FrameFusion)."""

    rule: CostRule = field(default_factory=CostRule)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        merge: Merge = Drop() if self.rule.phase(tokens) == "prune" else RunMean()
        return merge(tokens, selection)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return RunMean().other_flops(of)

    def __str__(self) -> str:
        return "RunMean, then Drop"
