"""PruneVid (Huang et al., ACL 2025, arXiv 2412.16117): tubes and clusters of scenes, then what the question needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Read, Scenes, StillSegments, TextPeak, WholeGrid
from ..plan import Layer, ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class PruneVid(Method):
    """Places that look alike throughout a scene become tubes; tubes and the rest of each frame are clustered.

    keep       what enters the language model
    threshold  mean cosine over the scene from which a place is still
    inner      share of those that are left behind `depth` of the layers, in the caches of all layers
    """

    keep: float = 0.4
    threshold: float = 0.8
    inner: float = 0.4
    depth: float = 10 / 32
    positions: Positions | None = None

    card = Card(
        "prunevid",
        "PruneVid: visual token pruning for efficient video large language models",
        paper="arXiv 2412.16117",
        venue="ACL 2025",
        signals=("features", "largest attention of any word and head"),
        modality=("video",),
        checked=("brute force of still places, peaks and means", "scenes by hand"),
        deviations=(
            "an exact budget, shared in proportion to what there is; the released ratio of one half is of what the "
            "tubes leave, so that its counts follow the content",
            "raster order; the released one puts still tokens before those that move",
            "inside the language model all tokens compete; released, each block and frame keeps its share",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        merge = StillSegments(Scenes(), self.threshold)
        yield Step(Projector(), self.keep, select=WholeGrid(), merge=merge, positions="compact")
        if self.keep < 1:
            layer = max(1, round(self.depth * model.layers))
            yield Step(Layer(layer), self.keep * self.inner, Read(TextPeak()), per="prompt", cache="all")
