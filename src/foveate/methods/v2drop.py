"""V2Drop (CVPR 2026): what a layer hardly changes is not needed behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..ops.stages import layers_at
from ..pieces import Read, Variation
from ..plan import Layer, ModelShape, Positions, Step

#: layers of 32 before which it cuts, and what is left behind each as a share of what the first cut leaves
LAYERS, SHARES = (3, 17, 22), (1.0, 1 / 2, 1 / 288)


@dataclass(frozen=True)
class V2Drop(Method):
    """`keep` are left by the first cut, half of them by the second, one of 288 by the third: those that change most.

    The published stages are one half, one quarter and a single token of 576. keep = 1 keeps everything.
    """

    keep: float = 0.5
    positions: Positions | None = None

    card = Card(
        "v2drop",
        "Variation-aware vision token dropping",
        venue="CVPR 2026",
        signals=("length of what a layer adds to the hidden states",),
        checked=("288, 144 and 1 of 576 tokens", "the lengths against hidden states"),
        deviations=("the layers are fractions of the depth, 3, 17 and 22 of 32",),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        for layer, share in zip(layers_at(model.layers, *LAYERS), SHARES, strict=True) if self.keep < 1 else ():
            yield Step(Layer(layer), share * self.keep, Read(Variation()), per="prompt")
