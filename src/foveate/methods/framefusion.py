"""FrameFusion (Fu et al., ICCV 2025, arXiv 2501.01986): merge over time in the first layers, then prune to a cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Change, CostRule, MergeThenPrune, RunMean, RunMeanThenDrop
from ..plan import Layer, ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class FrameFusion(Method):
    """Before each layer what is like the token before it at its place joins it; when little is, attention prunes once.

    keep       the average over all layers: T_eq is fixed, the counts of the layers follow the content
    threshold  cosine from which two tokens merge
    stop       share of the tokens that must have merged for merging to go on
    """

    keep: float = 0.3
    threshold: float = 0.6
    stop: float = 0.1
    positions: Positions | None = None

    card = Card(
        "framefusion",
        "FrameFusion: combining similarity and importance",
        paper="arXiv 2501.01986",
        venue="ICCV 2025",
        signals=("hidden states", "attention of the last prompt token"),
        modality=("video",),
        checked=("brute force of runs and of the cost rule, layer by layer", "the average over layers in a run"),
        deviations=(
            "cuts are made before layers; the released code also merges between attention and MLP",
            "the model's own number of layers; the released code always counts 28",
            "counts round down, so that the cost is never exceeded, and prune in time where the released code gives up",
            "an image has nothing before it: pruning alone brings it to the cost",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        if self.keep == 1:
            return
        rule = CostRule(model.layers, self.keep, self.threshold, self.stop)
        yield Step(Projector(), rule, Change(), merge=RunMean())
        for layer in range(1, model.layers):
            yield Step(Layer(layer), rule, MergeThenPrune(rule), merge=RunMeanThenDrop(rule))
