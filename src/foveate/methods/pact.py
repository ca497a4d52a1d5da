"""PACT (CVPR 2025, arXiv 2504.08966): prune what no query asks for, then cluster what is left, at an early layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..method import Card, Method
from ..pieces import Bias, DistanceClusters, GlobalQuery, LayerKeys, Norm, Product, Read, SizeBias
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class Pact(Method):
    """`pruned_to` of the tokens are clustered into `keep`; what was pruned joins a cluster if it is near enough.

    The mean query of all visual tokens and the norms of hidden states rank; keys after RoPE decide who is near, within
    `recover` times the cutoff of the clusters. Later layers weigh a cluster by its size.
    """

    keep: float = 0.25
    pruned_to: float = 0.55
    recover: float = 1.5
    depth: float = 4 / 32
    bias: Bias | None = field(default_factory=SizeBias)
    positions: Positions | None = None

    card = Card(
        "pact",
        "Pruning and clustering-based token reduction for faster visual language models",
        paper="arXiv 2504.08966",
        venue="CVPR 2025",
        signals=("queries and keys before RoPE", "norms of hidden states", "keys after RoPE"),
        checked=("brute force of the centres at a cutoff, and of who joins",),
        deviations=(
            "a fixed count: the cutoff is the one that gives it, and the farthest tokens make up what is missing; the "
            "paper fixes the cutoff at 0.21 and lets the count follow",
            "all visual tokens are averaged into the query, not all tokens that are no text",
            "six rounds of choosing centres at once, instead of a sequential end",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        score = Product((Read(GlobalQuery()), Norm()))
        merge = DistanceClusters(score, LayerKeys(), self.pruned_to, self.recover)
        yield Step(Layer(max(1, round(self.depth * model.layers))), self.keep, score, merge=merge, per="prompt")
