"""Nüwa (ICLR 2026, arXiv 2602.02951): anchors in every region that gather their surroundings, for grounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import BestOfEach, Features, LastQuery, Read, Surroundings, Windows
from ..pieces.vision import patch_attention
from ..plan import Layer, ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class Nuwa(Method):
    """`keep` enter the language model at their own positions, and `late` of those stay from `depth` on.

    Anchors are the most attended among the best few of each region of `region` x `region` tokens. All but the `pillars`
    (a quantile of their attention) become the mean of what is like them and near them, compared by the mean output of
    the vision blocks from `since` on. Inside, the attention of the last prompt token decides. keep = 1 keeps all.
    """

    keep: float = 112 / 576
    late: float = 1 / 7
    depth: float = 16 / 32
    region: int = 2
    since: float = 15 / 23
    pillars: float = 0.55
    faithful: bool = False
    positions: Positions | None = None

    card = Card(
        "nuwa",
        "Mending the spatial integrity torn by VLM token pruning",
        paper="arXiv 2602.02951",
        venue="ICLR 2026",
        signals=("vision attention: CLS or received", "features of the last third of the tower", "last prompt token"),
        modality=("image",),
        checked=("112, 224 and 336 of 576 tokens, then 16, 32 and 48: T_eq 64, 128 and 192", "weights in the open"),
        deviations=(
            "an anchor becomes the mean by its weights; the released code adds the surroundings to it, which up to "
            "doubles its norm (faithful=True)",
            "attention alone ranks, as in the released code; the paper writes attention times the norm of the key",
            "aggregated after the projector; the radius scales with the grid, sqrt(280) at 576 tokens",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        attention = patch_attention(model.has_cls)
        last = model.vision_blocks - 1
        deep = tuple(Features(b) for b in range(round(self.since * last), last + 1))
        yield Step(
            Vision(),
            self.keep,
            score=Read(attention),
            select=BestOfEach(Windows(side=self.region)),
            merge=Surroundings(attention, deep, pillars=self.pillars, faithful=self.faithful),
        )
        if self.keep < 1:
            at = Layer(max(1, round(self.depth * model.layers)))
            yield Step(at, self.late * self.keep, score=Read(LastQuery()), per="prompt")
