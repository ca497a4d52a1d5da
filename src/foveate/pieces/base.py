"""The grammar of a step: readings watch attention, scores rank, selectors choose, mergers fold in the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..tokens import Grid, Reduction, VisualTokens


@dataclass(frozen=True, eq=False)
class Attention:
    """Queries and keys of one attention module during prefill, after RoPE, as a reading gets them.

    q [R, H, L, d], k [R, Hk, L, d] with Hk dividing H; `valid` [R, L] marks real columns (None: all);
    `last` [R, 1] the row of the last prompt token; `text` [R, r] the rows after the last visual token with
    `text_valid`. In a vision tower R runs over crops or frames, and last and text are None.
    """

    q: Float[Tensor, "R H L d"]
    k: Float[Tensor, "R Hk L d"]
    scale: float
    valid: Bool[Tensor, "R L"] | None = None
    last: Int[Tensor, "R 1"] | None = None
    text: Int[Tensor, "R r"] | None = None
    text_valid: Bool[Tensor, "R r"] | None = None


class Reading(ABC):
    """Computes one number or vector per key from an attention module's q and k; frozen, so it is its own name.

    `place` says where it is taken: "vision" (the block named by the step's site, else the family's default),
    "previous" (the layer that ran just before the cut) or "next" (the layer behind the cut, on its own input).
    """

    place: Literal["vision", "previous", "next"]
    #: True when it needs a CLS token, which some vision towers do not have
    needs_cls: ClassVar[bool] = False
    #: True when it needs the queries of all rows, not only those of the text behind the visual tokens
    all_rows: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, attention: Attention) -> Tensor:
        """A tensor [R, L] or [R, L, d] in the order of the keys."""


class Score(ABC):
    """Importance of each token, higher is kept; float32, finite, normalised per row if combined with others."""

    reads: tuple[Reading, ...] = ()

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


class Select(ABC):
    """Chooses `count` of N tokens; ties go to the lower index."""

    #: False for selectors that look at features or geometry only
    needs_score: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, tokens: VisualTokens, score: Float[Tensor, "B N"] | None, count: int) -> Selection:
        """Exactly `count` survivors in every row."""

    def possible(self, count: int, grid: Grid, n: int) -> int:
        """The count this selector can reach that is nearest to `count`; most reach any."""
        return count


class Merge(ABC):
    """Decides what becomes of the tokens that were not chosen."""

    reads: tuple[Reading, ...] = ()

    @abstractmethod
    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        """The reduction, with as many survivors as were selected."""


class Measure(ABC):
    """One number per image from its tokens, 0 to 1; an adaptive budget follows it."""

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> Float[Tensor, " B"]:
        """The measure."""


@dataclass(frozen=True)
class Adaptive:
    """A budget that follows the content: `low` where the measure is 0, `high` where it is 1, linear between.

    Counts then depend on features, so each such step costs one device-to-host copy.
    """

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

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} by {type(self.measure).__name__}"
