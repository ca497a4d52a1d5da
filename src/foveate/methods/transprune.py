"""TransPrune (CVPR 2026, arXiv 2507.20630): how far layers turn a token, and how much the text looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..ops.stages import layers_at, stages_at
from ..pieces import Hybrid, Read, TextRows, Transition
from ..plan import Layer, ModelShape, Positions, Step

#: layers of 32 before which it cuts
LAYERS = (7, 9, 12)


@dataclass(frozen=True)
class TransPrune(Method):
    """`keep` are left behind the third cut; seven and five times as many behind the first two, at most all.

    Transitions of all layers since the one before the first cut are summed, and each cut adds the attention of the text
    by the layer behind it, both scaled to 0..1.
    """

    keep: float = 0.125
    positions: Positions | None = None

    card = Card(
        "transprune",
        "Token transition pruning for efficient large vision-language models",
        paper="arXiv 2507.20630",
        venue="CVPR 2026",
        signals=("what attention and feed-forward network do to hidden states", "attention of the text"),
        checked=("7/8, 5/8 and 1/8 before layers 7, 9 and 12 of 32: T_eq 236", "transitions against their formula"),
        deviations=(
            "both parts are scaled to 0..1 within a prompt; what the paper normalises by is not said",
            "shares are of all visual tokens of the prompt",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        layers = layers_at(model.layers, *LAYERS)
        score = Hybrid(Read(TextRows(place="next")), Read(Transition(since=layers[0] - 1)), weight=0.5)
        for layer, fraction in zip(layers, stages_at(self.keep, (7 / 8, 5 / 8, 1 / 8)), strict=True):
            yield Step(Layer(layer), fraction, score, per="prompt", positions="compact")
