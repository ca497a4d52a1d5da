"""Methods made of methods: two stages, one after the other, and a method with some of its words swapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .errors import InvalidValue
from .method import Card, Method
from .pieces.base import Merge, Score, Select
from .pieces.bias import Bias
from .plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class TwoStage(Method):
    """Any reduction before the language model, then any inside it, on what the first left.

    The second method's fractions are of the first one's survivors. Raises InvalidValue at planning time when `merge`
    cuts inside the language model or `prune` before it.
    """

    merge: Method
    prune: Method
    positions: Positions | None = None

    card = Card("two-stage", "Two stages: before the language model, then inside it", signals=("those of its parts",))
    parts = ("merge", "prune")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        left = 1.0
        for step in self.merge.steps(model):
            if isinstance(step.at, Layer):
                raise InvalidValue(
                    f"{self.merge.card.name} cuts at {step.at}: as `merge` give one that cuts before the LLM"
                )
            left = step.highest
            yield step
        for step in self.prune.steps(model):
            if not isinstance(step.at, Layer):
                raise InvalidValue(
                    f"{self.prune.card.name} cuts at {step.at}: as `prune` give one that cuts inside the LLM"
                )
            yield step.scaled(left)


@dataclass(frozen=True)
class With(Method):
    """A method with some words of its steps swapped, or with a bias: what ablations and add-ons are made of.

    A swapped score is used where a step had one, and by a swapped selector that needs one. `compress(model, "fastv",
    score="random")` makes one of these.
    """

    method: Method
    score: Score | None = None
    select: Select | None = None
    merge: Merge | None = None
    bias: Bias | None = None
    positions: Positions | None = None

    card = Card("with", "A method with some of its words swapped", signals=("those of its parts",))
    parts = ("method",)

    def steps(self, model: ModelShape) -> Iterator[Step]:
        for step in self.method.steps(model):
            select = self.select or step.select
            ranked = step.score is not None or select.needs_score
            yield replace(
                step,
                score=self.score if self.score is not None and ranked else step.score,
                select=select,
                merge=self.merge or step.merge,
            )
