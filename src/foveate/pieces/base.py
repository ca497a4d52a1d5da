"""The grammar of a step: readings watch the model, scores rank, selectors choose, mergers fold in the rest."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..tokens import Grid, Reduction, VisualTokens
from .extent import Extent, Piece
from .seen import Raters


class Reading(Piece):
    """Computes one number or vector per column from what it is shown; frozen, so it is its own name.

    `place` says where it is taken: "vision" (in the vision tower, at `block`, else at the block of the step's site,
    else at the family's default), "previous" (the layer that ran just before the cut), "next" (the layer behind the
    cut, on its own input) or "here" (the residual stream at the cut). `sees` says what it is shown there: "attention"
    (an `Attention`), "states" (a `States`; "previous" only), "output" (what a vision block gave, [R, P, D]) or "stream"
    (a `Stream`; "here" only).
    """

    place: Literal["vision", "previous", "next", "here"]
    sees: ClassVar[Literal["attention", "states", "output", "stream"]] = "attention"
    #: the vision block it is taken at, from 0, negative from the end; None: the one of the step's site
    block: int | None = None
    #: first layer of a sum over layers up to the cut; None: the layer before the cut alone ("previous" only)
    since: int | None = None
    #: which text tokens have a say, if not all
    raters: Raters | None = None
    #: True when it needs a CLS token, which some vision towers do not have
    needs_cls: ClassVar[bool] = False
    #: True when it needs the queries of all rows, not only those of the text behind the visual tokens ("next")
    all_rows: ClassVar[bool] = False
    #: False when it wants q and k as they are before RoPE ("next")
    rotary: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, seen: Any) -> Tensor:
        """A tensor [R, L] or [R, L, d] in the order of the columns or patches."""


class Score(Piece):
    """Importance of each token, higher is kept; float32, finite, normalised per row if combined with others."""

    reads: tuple[Reading, ...] = ()
    #: True when it looks at `tokens.text`
    needs_text: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        """The scores."""


class Selection(NamedTuple):
    """What a selector chose.

    kept      index of each survivor, ascending, no duplicates
    receives  whether a merger may fold dropped tokens into that survivor
    """

    kept: Int[Tensor, "B T"]
    receives: Bool[Tensor, "B T"]

    @classmethod
    def of(cls, kept: Int[Tensor, "B T"]) -> Selection:
        """All survivors may receive."""
        return cls(kept, torch.ones_like(kept, dtype=torch.bool))


class Select(Piece):
    """Chooses `count` of N tokens; ties go to the lower index."""

    reads: tuple[Reading, ...] = ()
    #: True when it looks at `tokens.text`
    needs_text: ClassVar[bool] = False
    #: False for selectors that look at features or geometry only
    needs_score: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        """Exactly `count` survivors in every row."""

    def possible(self, count: int, grid: Grid, n: int) -> int:
        """The count this selector can reach that is nearest to `count`; most reach any."""
        return count


class Completing(Select):
    """A selector that can also finish what another has begun."""

    @abstractmethod
    def complete(
        self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, begun: Int[Tensor, "B k"], count: int
    ) -> Int[Tensor, "B T"]:
        """Exactly `count` tokens, ascending: the distinct ones begun with, fewer than `count`, and the best others."""

    @abstractmethod
    def completing_flops(self, of: Extent, begun: int) -> int:
        """FLOPs of `complete`, as in `flops`."""


class Merge(Piece):
    """Decides what becomes of the tokens that were not chosen."""

    reads: tuple[Reading, ...] = ()
    #: True when it looks at `tokens.text`
    needs_text: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        """The reduction, with as many survivors as were selected."""


class Measure(Piece):
    """One number per image from its tokens, 0 to 1; an adaptive budget follows it."""

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> Float[Tensor, " B"]:
        """The measure."""


class Budget(Piece):
    """A fraction to keep that follows the content, between `low` and `high`; frozen, with those two as fields.

    Counts then depend on features, so each such step costs one device-to-host copy.
    """

    low: float
    high: float
    reads: tuple[Reading, ...] = ()

    @property
    def expected(self) -> float:
        """The fraction that plans count with: the highest, unless the rule steers the average over layers elsewhere."""
        return self.high

    @abstractmethod
    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction of the uncompressed count to keep of each row, on the host, within [low, high]."""


@dataclass(frozen=True)
class Adaptive(Budget):
    """A budget by a measure of the content: `low` where it is 0, `high` where it is 1, linear between."""

    measure: Measure
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise InvalidValue(f"an adaptive keep needs 0 < low <= high <= 1, got low={self.low}, high={self.high}")

    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction to keep of each row, on the host."""
        level = self.measure(tokens).clamp(0, 1)
        return [self.low + (self.high - self.low) * m for m in level.tolist()]

    def flops(self, of: Extent) -> int:
        return self.measure.flops(of)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} by {type(self.measure).__name__}"
