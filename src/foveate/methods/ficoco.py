"""FiCoCo (AAAI 2026, arXiv 2411.17686): filter, correlate, compress between the later blocks of the vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InvalidValue
from ..method import Card, Method
from ..pieces import ClsOverPatches, Spread, WeakestLower
from ..plan import Block, ModelShape, Positions, Step


@dataclass(frozen=True)
class FiCoCo(Method):
    """FiCoCo-V: equally many patches leave behind each block from the middle of the tower on, shared out among others.

    keep      what leaves the tower; the default is 42 patches fewer behind each of 11 blocks of CLIP ViT-L
    since     fraction of the tower's blocks before the first cut
    weight    of the CLS token's attention, against what other patches pay
    quantile  of the attention a patch pays, above which survivors get a share of it
    """

    keep: float = 114 / 576
    since: float = 0.5
    weight: float = 0.35
    quantile: float = 0.998
    positions: Positions | None = None

    card = Card(
        "ficoco",
        "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration",
        paper="arXiv 2411.17686",
        venue="AAAI 2026",
        signals=("CLS attention", "attention between patches, head mean"),
        checked=("score, penalty and shares by brute force", "42 patches fewer behind each block from the 12th on"),
        deviations=(
            "FiCoCo-V alone: layers and counts of FiCoCo-L, its form in the language model, are not known to us",
            "cut between blocks; patches of 2 x 2 are those of the whole grid, and one left alone is not penalised",
            "the attention between patches that counts against a patch is what it receives, its own included",
            "at the quantile counts as above it, so that each patch has a target",
            "needs a tower with a CLS token whose patches each become a token",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.since <= 1:
            raise InvalidValue(f"since is a fraction of the vision blocks and must lie in [0, 1], got {self.since:g}")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        if not model.patch_tokens:
            raise InvalidValue(
                "ficoco cuts inside the vision tower, which needs a projector that makes one token of each patch; that "
                f"of {model.family} merges, pools or stitches them: use a method that cuts after it"
            )
        last = model.vision_features
        first = min(last, max(1, round(self.since * model.vision_blocks)))
        cuts = last - first + 1
        score, merge = WeakestLower(ClsOverPatches(self.weight)), Spread(self.quantile)
        for i in range(1, cuts + 1):
            yield Step(Block(first + i - 1), 1 - (1 - self.keep) * i / cuts, score, merge=merge)
