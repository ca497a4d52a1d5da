"""VScan (TMLR 2026, arXiv 2505.22654): local and global scans in the vision tower, then one cut in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..method import Card, Method
from ..pieces import Chain, LastQuery, NearestMean, Quota, Read, TopK, Windows
from ..pieces.vision import patch_attention
from ..plan import Layer, ModelShape, Positions, Step, Vision


@dataclass(frozen=True)
class VScan(Method):
    """`keep` enter the language model, and `late` of those stay from `depth` on.

    Half of them are the best of each of 4 x 4 windows by the attention of a shallow vision block, half the best of the
    rest by a deep one; what is dropped is averaged into the most similar survivor. Inside, the attention of the last
    prompt token in the layer behind the cut decides. keep = 1 keeps everything.
    """

    keep: float = 96 / 576
    late: float = 1 / 3
    depth: float = 16 / 32
    local: float = 0.5
    shallow: float = 5 / 22
    windows: int = 4
    positions: Positions | None = None

    card = Card(
        "vscan",
        "Rethinking visual token reduction for efficient large vision-language models",
        paper="arXiv 2505.22654",
        venue="TMLR 2026",
        signals=("vision attention of a shallow and a deep block", "attention of the last prompt token"),
        modality=("image",),
        checked=("288 to 96, 192 to 64 and 96 to 32 tokens at layer 16 of 32: T_eq 192, 128 and 64",),
        deviations=(
            "survivors in raster order; windows by largest remainder where the count does not divide",
            "rotary embeddings in the cut inside, which the released Qwen code leaves out",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        shallow = Read(patch_attention(model.has_cls, model.vision_block(self.shallow)))
        yield Step(
            Vision(),
            self.keep,
            score=Read(patch_attention(model.has_cls)),
            select=Chain(Quota(Windows(self.windows)), TopK(), self.local, score=shallow),
            merge=NearestMean(),
            positions="compact",
        )
        if self.keep < 1:
            at = Layer(max(1, round(self.depth * model.layers)))
            score = Read(LastQuery(place="next"))
            yield Step(at, self.late * self.keep, score=score, per="prompt", positions="compact")
