"""VTW (AAAI 2025): withdraw all visual tokens from the middle of the language model on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import EvenGrid
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class Vtw(Method):
    """`keep` is the fraction of the layers that see the image; at least the first does."""

    keep: float = 16 / 32
    positions: Positions | None = None

    card = Card(
        "vtw",
        "Boosting multimodal large language models with visual tokens withdrawal",
        venue="AAAI 2025",
        signals=(),
        checked=("16 of 32 layers: T_eq is half of the tokens",),
        deviations=("the layer is given, not searched on a calibration set",),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        layer = max(1, round(self.keep * model.layers))
        if layer < model.layers:
            yield Step(Layer(layer), 0.0, select=EvenGrid(), per="prompt")
