"""Who is compared: a name in a table, and how it is set so that it comes to a wanted T_eq."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValue
from ..families import family_of
from ..loading import Loaded
from ..method import Method
from ..plan import solve
from ..recipe import Recipe
from ..tokens import Grid
from .samples import Opened


@dataclass(frozen=True)
class Level:
    """How much is to be spent: T_eq as a share of the visual tokens, T_eq itself, or each method's own `keep`."""

    share: float | None = None
    t_eq: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.share, self.t_eq, self.keep) if v is not None]
        if len(given) != 1:
            raise InvalidValue(f"a budget is one of share, t_eq and keep; {len(given)} were given")
        if self.t_eq is None and not 0 < given[0] <= 1:
            raise InvalidValue(f"a budget must lie in (0, 1], got {given[0]:g}")
        if self.t_eq is not None and not self.t_eq > 0:
            raise InvalidValue(f"T_eq must be above 0, got {self.t_eq:g}")

    def __str__(self) -> str:
        if self.keep is not None:
            return f"keep {self.keep:g}"
        return f"T_eq {self.t_eq:g}" if self.share is None else f"T_eq {100 * self.share:g}%"

    @property
    def fraction(self) -> float | None:
        """The fraction that was asked for, of whatever kind."""
        return self.share if self.share is not None else self.keep

    def target(self, visual_tokens: int) -> float:
        """The T_eq wanted of a prompt with so many visual tokens; one with fewer than that keeps all."""
        wanted = self.t_eq if self.t_eq is not None else (self.fraction or 0) * visual_tokens
        return min(wanted, float(visual_tokens))


@dataclass(frozen=True)
class Setup:
    """A contender set for samples of one size: the model with its processor, the method (None: none), the settings."""

    loaded: Loaded
    method: Method | None
    settings: dict[str, Any]


class Contender(ABC):
    """A name in a table, and how it comes to a budget; frozen dataclasses with `label`."""

    label: str
    #: False for what runs as it is, once, beside all budgets
    budgeted = True

    @abstractmethod
    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        """Set for samples like this one, whose visual tokens have these grids.

        Raises InvalidValue when the budget is out of reach.
        """

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """What to write down so that `from_recipe` gives it back."""


@dataclass(frozen=True)
class Reduced(Contender):
    """A method whose `keep` is free."""

    label: str
    method: Method

    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        assert level is not None
        if level.keep is not None:
            method = self.method.with_keep(level.keep)
        else:
            shape = family_of(loaded.model.config).shape(loaded.model.config)
            method = solve(self.method, shape, grids, level.target(sum(g.n for g in grids)))
        return Setup(loaded, method, Recipe.of(method).settings)

    def recipe(self) -> dict[str, Any]:
        return Recipe.of(self.method).model_dump(exclude_none=True)


@dataclass(frozen=True)
class AsItIs(Contender):
    """A method whose budget follows the content, so that no budget can be set for it."""

    label: str
    method: Method
    budgeted = False

    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        return Setup(loaded, self.method, Recipe.of(self.method).settings)

    def recipe(self) -> dict[str, Any]:
        return Recipe.of(self.method).model_dump(exclude_none=True)


@dataclass(frozen=True)
class Uncompressed(Contender):
    """The model as it is."""

    label: str = "uncompressed"
    budgeted = False

    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        return Setup(loaded, None, {})

    def recipe(self) -> dict[str, Any]:
        return {"method": "uncompressed"}
