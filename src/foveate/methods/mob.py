"""MoB (NeurIPS 2025, arXiv 2505.10118): cover the prompt first, then the image, at an early layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Chain, MaxMin, NearestToWords
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class MoB(Method):
    """Tokens near the words of the prompt, by hidden states, then the farthest points from those.

    The published (64, 48, 32) of (192, 128, 64) tokens for the prompt are `share` of the count plus `fixed` of all, and
    the (8, 6, 4) neighbours of each word 2 + 18 keep, both exactly.
    """

    keep: float = 64 / 576
    share: float = 1 / 4
    fixed: float = 16 / 576
    depth: float = 2 / 32
    positions: Positions | None = None

    card = Card(
        "mob",
        "Multi-objective balanced covering",
        paper="arXiv 2505.10118",
        venue="NeurIPS 2025",
        signals=("hidden states of the text behind the image and of visual tokens",),
        modality=("image",),
        checked=(
            "64, 48 and 32 prompt tokens with 8, 6 and 4 neighbours for 192, 128 and 64",
            "seeded farthest points",
        ),
        deviations=(
            "no code is public: written from the paper's text",
            "the form without priors on the kind of benchmark",
            "alignment is the largest cosine with a word; farthest points by cosine",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        words = NearestToWords(round(2 + 18 * self.keep))
        select = Chain(words, MaxMin(), self.share, self.fixed)
        yield Step(Layer(max(1, round(self.depth * model.layers))), self.keep, select=select, per="prompt")
