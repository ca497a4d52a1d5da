"""Any schedule over depth with any importance: the user's own progressive pruning inside the language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..method import Card, Method
from ..ops.schedule import Explicit, Linear, Schedule
from ..pieces import Read, Score
from ..plan import ModelShape, Positions, Step, along


@dataclass(frozen=True)
class Progressive(Method):
    """Prune along the depth by a schedule.

    `keep`, if given, is what the last layer runs on: the removals of the schedule are scaled so that it does.
    """

    keep: float | None = None
    schedule: Schedule = field(default_factory=Linear)
    importance: Score = field(default_factory=Read)
    positions: Positions | None = None

    card = Card(
        "progressive",
        "Progressive pruning by a schedule of your own",
        signals=("the importance you choose",),
    )

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise InvalidValue(f"keep is what the last layer runs on and must lie in [0, 1], got {self.keep:g}")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        fractions = self.schedule.per_layer(model.layers)
        if self.keep is not None and fractions[-1] < 1:
            by = (1 - self.keep) / (1 - fractions[-1])
            fractions = tuple(max(0.0, 1 - (1 - f) * by) for f in fractions)
        yield from along(Explicit(fractions), model, self.importance)
