"""AIM (Zhong et al., ICCV 2025, arXiv 2412.03248): merge similar tokens before the language model, prune inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..method import Card, Method
from ..ops.schedule import AimSchedule, Schedule
from ..pieces import Adaptive, BipartiteMerge, EvenGrid, PageRank, Read, Score
from ..plan import ModelShape, Positions, Projector, Step, along


@dataclass(frozen=True)
class Aim(Method):
    """Iterated bipartite merging to `keep`, then PageRank pruning of what is left along `schedule`.

    keep        fraction left by the merging, per frame; 1 - keep is the merge ratio
    schedule    what each layer runs on, of the merged tokens; the published one falls to zero
    importance  PageRank, or any score that an LLM layer can give
    faithful    the released arithmetic: plain means, its output order after partial rounds
    """

    keep: float | Adaptive = 0.25
    schedule: Schedule = field(default_factory=AimSchedule)
    importance: Score = field(default_factory=lambda: Read(PageRank()))
    per: Literal["image", "frame"] = "frame"
    faithful: bool = False
    positions: Positions | None = None

    card = Card(
        "aim",
        "Adaptive inference of multi-modal LLMs via token merging and pruning",
        paper="arXiv 2412.03248",
        venue="ICCV 2025",
        signals=("features", "multi-modal PageRank over LLM attention"),
        deviations=(
            "tokens are removed; the released code masks keys and computes every layer on all of them",
            "only tokens still present vote in PageRank, as in the paper's formula; masked tokens vote in the code",
            "size-weighted means in raster order (faithful=True: plain means, the released order)",
            "merges after the projector in every family; the code merges LLaVA-1.5 in the tower by CLIP keys",
            "start and end are relative to the depth; the code has lists for 28 and 32 layers",
            "the newline token is never pruned; any-resolution and several images are merged too",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        per = "image" if isinstance(self.keep, Adaptive) else self.per
        merge = Step(
            Projector(),
            self.keep,
            select=EvenGrid(),
            merge=BipartiteMerge(self.faithful),
            per=per,
            positions="compact",
        )
        yield merge
        yield from along(self.schedule, model, self.importance, of=merge.highest, rounding="down")
