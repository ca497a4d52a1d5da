"""Along time: how much a token differs from the one before it at its place, and what is made of those that do not."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops import temporal as op
from ..ops.frames import dither
from ..ops.sums import group_sum
from ..tokens import Reduction, VisualTokens
from .base import Budget, Merge, Reading, Score, Selection
from .extent import Extent
from .frames import Frames, frames_of
from .readings import VisionReceived
from .scores import Read


@dataclass(frozen=True)
class Change(Score):
    """1 - cosine to the token at the same place before it; 2 to 3 where there is none, spread evenly over the frame.

    Before it means the last earlier one still there: the previous frame, before any cut. With a `window` (a power of 2)
    frames are compared as DyCoke pairs them: in windows of 4 the second with the first, the third with the first, the
    fourth with the third; the first of a window with none.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and (self.window < 2 or self.window & (self.window - 1)):
            raise InvalidValue(f"window must be a power of 2 from 2 up, got {self.window}")

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        frames = frames_of(tokens)
        before = op.predecessors(frames.place) if self.window is None else _in_window(tokens, frames, self.window)
        change = op.change(tokens.x, before)
        return torch.where(before < 0, change + _evenness(tokens, frames), change)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 9 * of.n * of.width


@dataclass(frozen=True)
class Changed(Budget):
    """As many as differ from the token before them (cosine up to `threshold`), and those with none before them.

    TimeChat-Online drops by such a threshold; 0.5 is what it uses offline, for its own checkpoint.
    """

    threshold: float = 0.5
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InvalidValue(f"Changed needs 0 <= low <= high <= 1, got low={self.low}, high={self.high}")

    def keep(self, tokens: VisualTokens) -> list[float]:
        """The fraction of the uncompressed count to keep of each row, on the host."""
        stays = (Change()(tokens) >= 1 - self.threshold).sum(1) / tokens.grid.n
        return [min(self.high, max(self.low, share)) for share in stays.tolist()]

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return Change().other_flops(of)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} by cosine up to {self.threshold:g}"


@dataclass(frozen=True)
class RunMean(Merge):
    """Each joins the survivor before it at its place, which becomes the plain mean of that run (FrameFusion).

    Those with no survivor before them are dropped.
    """

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        source = op.earlier_survivor(frames_of(tokens).place, selection.kept)
        total, run = group_sum(tokens.x, source, selection.kept.shape[1])
        size, _ = group_sum(tokens.size[..., None], source, selection.kept.shape[1])
        return Reduction(selection.kept, source, size[..., 0], (total / run[..., None]).to(tokens.x.dtype))

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return of.n * of.width


@dataclass(frozen=True)
class SinkFree(Score):
    """A score less `weight` times how much the token's place draws attention in every frame (SToP, ECCV 2026).

    Made for attention that sums to about 1 over the patches of a frame, as the readings of the vision tower do; a
    score on another scale needs another weight. Published: 0.03 with VisionZip, 0.02 with FastVID. The step must see
    the whole video (per="image"), or every frame is its own sink.
    """

    score: Score = field(default_factory=lambda: Read(VisionReceived()))
    weight: float = 0.03
    power: float = 1.1

    def __post_init__(self) -> None:
        if self.weight < 0 or self.power <= 0:
            raise InvalidValue(f"SinkFree needs weight >= 0 and power > 0, got {self.weight} and {self.power}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.score.reads

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        return self.score.needs_text

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        frames, score = frames_of(tokens), self.score(tokens)
        return score - self.weight * op.sink_level(score, frames.place, frames.places, self.power)

    def flops(self, of: Extent) -> int:
        return self.score.flops(of)

    def other_flops(self, of: Extent) -> int:
        return self.score.other_flops(of)

    def __str__(self) -> str:
        return f"{self.score} - {self.weight:g} sink"


def _in_window(tokens: VisualTokens, frames: Frames, window: int) -> Int[Tensor, "B N"]:
    """The token that each is compared with: as many frames back as the lowest set bit of its number in the window."""
    back = torch.tensor([(n % window) & -(n % window) for n in frames.numbers], device=tokens.where.device)[frames.of]
    sizes = torch.cat([torch.full((g.t,), g.frame.n) for g in tokens.grids or (tokens.grid,)])
    wanted = tokens.where - back * sizes.to(tokens.where.device)[frames.of]
    return op.find(tokens.where, torch.where(back == 0, -1, wanted), tokens.grid.n)


def _evenness(tokens: VisualTokens, frames: Frames) -> Float[Tensor, "B N"]:
    """From 1 for the first in an order that spreads over the frame, to 0."""
    grids = tokens.grids or (tokens.grid,)
    order = torch.cat([1 - dither(g.h, g.w) / g.frame.n for g in grids])
    return order.to(tokens.x.device)[frames.place]
