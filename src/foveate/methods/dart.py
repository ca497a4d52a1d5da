"""DART (EMNLP 2025, arXiv 2502.11494): what is least like a few pivots, so that nothing is kept twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import LeastLikePivots
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class Dart(Method):
    """At an early layer the `visual` and `text` tokens of the largest keys each choose an equal share of the rest.

    They choose what is least like them by hidden states; the visual pivots stay as well, inside the budget.
    """

    keep: float = 128 / 576
    visual: int = 10
    text: int = 5
    depth: float = 2 / 32
    positions: Positions | None = None

    card = Card(
        "dart",
        "Stop looking for important tokens in multimodal language models: duplication matters more",
        paper="arXiv 2502.11494",
        venue="EMNLP 2025",
        signals=("L1 norm of keys", "hidden states of the text behind the image and of visual tokens"),
        checked=("brute force of the greedy rule", "counts that do not divide by the pivots"),
        deviations=(
            "exactly the budget: pivots count, and the first ones take one more where it does not divide",
            "pivots choose in the order of their norm, visual ones first; the released code walks a set",
            "layer and pivots as UniPruneBench runs it: layer 2, 10 and 5; others use layer 5, 4 and 4",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        at = Layer(max(1, round(self.depth * model.layers)))
        yield Step(at, self.keep, select=LeastLikePivots(self.visual, self.text), per="prompt")
