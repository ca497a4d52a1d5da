"""CDPruner (NeurIPS 2025, arXiv 2506.10967): a determinantal point process conditioned on the question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Adaptive, Dpp, TextRelevance
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class CDPruner(Method):
    """Greedy MAP of a DPP over features after the projector, weighed by their relevance to the text behind the image.

    `theta` sharpens the relevance r to exp(r theta / (2 (1 - theta))); the paper's option is 0.5. `centre` subtracts
    the mean token before the cosine (Cen-Prune).
    """

    keep: float | Adaptive = 64 / 576
    theta: float | None = None
    centre: bool = False
    positions: Positions | None = None

    card = Card(
        "cdpruner",
        "Beyond attention or similarity: maximizing conditional diversity",
        paper="arXiv 2506.10967",
        venue="NeurIPS 2025",
        signals=("text embeddings", "features after the projector"),
        modality=("image",),
        checked=("greedy selection against determinants",),
        deviations=(
            "relevance is the mean cosine with the language model's text embeddings, the authors' form for towers "
            "without a text tower; for LLaVA theirs is the negated one of CLIP's text tower, which no checkpoint holds",
            "all text behind the last image counts, template words too",
            "relevance is scaled within each image; the released code scales over the batch",
            "when all directions are spanned the most relevant tokens follow, where the released code may give NaN",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select = Dpp(self.theta, self.centre)
        yield Step(Projector(), self.keep, score=TextRelevance(), select=select, positions="compact")
