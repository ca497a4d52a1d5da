"""ApET (CVPR 2026, arXiv 2602.19870): the tokens that a few others cannot reconstruct; no attention is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Features, NearestMean, Unexplained
from ..plan import Layer, ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class ApET(Method):
    """`keep` enter the language model, and `late` of those stay from `depth` on (None: no second cut).

    `basis` far apart tokens stay, and those with the largest error of their reconstruction from them; what is dropped
    is averaged into the most similar survivor. keep = 1 keeps everything.
    """

    keep: float = 96 / 576
    late: float = 1 / 3
    depth: float | None = 16 / 32
    basis: int = 10
    positions: Positions | None = None

    card = Card(
        "apet",
        "Approximation-error guided token compression",
        paper="arXiv 2602.19870",
        venue="CVPR 2026",
        signals=("features before the projector", "hidden states"),
        modality=("image",),
        checked=("reconstruction error against projection", "288 to 96 and 96 to 32 at layer 16: T_eq 192 and 64"),
        deviations=(
            "the first token of the basis is the one farthest from the mean; distances are Euclidean",
            "similarity before the projector, means after it, as families whose projector merges patches require",
            "the cut inside ranks hidden states by the same rule and averages too, per prompt: our description of it "
            "names no other",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        merge = NearestMean(Features())
        yield Step(Vision(), self.keep, select=Unexplained(self.basis, Features()), merge=merge, positions="compact")
        if self.keep < 1 and self.depth is not None:
            at = Layer(max(1, round(self.depth * model.layers)))
            select = Unexplained(self.basis, None)
            yield Step(at, self.late * self.keep, select=select, merge=NearestMean(), per="prompt", positions="compact")
