"""DyCoke (Tao et al., CVPR 2025, arXiv 2411.15024): of every four frames one whole, of the others what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..method import Card, Method
from ..pieces import AnchorFrames, Change, PerFrame, Recall, ReleasedWindows, Select
from ..pieces.base import Budget
from ..plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class DyCoke(Method):
    """In windows of 4 frames the second and third are compared with the first, the fourth with the third.

    The first frames are kept whole, the others share the rest equally: keep = (1 + 3(1 - K)) / 4 is the published
    pruning rate K, 0.475 its 0.7; a quarter is its floor. `faithful` keeps the counts of the released code.

    decode  what later layers look at while decoding; None for all that the cut left
    """

    keep: float | Budget = 0.475
    faithful: bool = False
    decode: Recall | None = field(default_factory=Recall)
    positions: Positions | None = None

    card = Card(
        "dycoke",
        "DyCoke: dynamic compression of tokens, temporal merging and a choice of keys while decoding",
        paper="arXiv 2411.15024",
        venue="CVPR 2025",
        signals=("features", "attention while decoding"),
        modality=("video",),
        checked=(
            "brute force of the rule and of the choice of keys",
            "with faithful=True the counts of the released code at 32 and 64 frames",
        ),
        deviations=(
            "exact counts, the last window and an odd last frame as all others (faithful=True: as released)",
            "raster order; the released code leaves a frame's tokens in the order of their similarity",
            "below a quarter the first frames of the windows are thinned evenly, and so is an image",
            "a choice of keys holds until attention moves on, as the paper means; the released code then sees all keys",
            "copies of a prompt (beams, return sequences) share one choice, by their mean attention",
            "several new tokens at once (another turn, assisted decoding) see all keys",
        ),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        select: Select = PerFrame(AnchorFrames(4))
        if self.faithful:
            if isinstance(self.keep, Budget):
                raise InvalidValue("the counts of the released code follow a number: give keep one, or faithful=False")
            select = ReleasedWindows(min(1.0, 4 / 3 * (1 - self.keep)))
        yield Step(Projector(), self.keep, Change(window=4), select, positions="compact")
