"""Frames of a video: where tokens lie in time, how much of the budget each frame gets, and which tokens it keeps."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.frames import curvature
from ..ops.groups import top_in_groups
from ..ops.quota import largest_remainder
from ..ops.select import evenly, grid_points, top_k
from ..ops.sums import group_sum
from ..tokens import Grid, VisualTokens
from .base import Reading, Select, Selection
from .extent import Extent, Piece
from .readings import LastQuery
from .selects import Scores


@dataclass(frozen=True, eq=False)
class Frames:
    """Where tokens lie in time, also after a cut and over several grids; an image is one frame.

    of       frame of each token, counted over all grids
    place    which place of its frame it takes; the frames of one grid share theirs
    numbers  of each frame its number in its own grid
    places   how many places there are
    left     tokens of each frame that are there
    """

    of: Int[Tensor, "B N"]
    place: Int[Tensor, "B N"]
    numbers: tuple[int, ...]
    places: int
    left: Int[Tensor, "B F"]

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self.numbers)


def frames_of(tokens: VisualTokens) -> Frames:
    """The frames that tokens come from."""
    of: list[Tensor] = []
    place: list[Tensor] = []
    numbers: list[int] = []
    places = 0
    for g in tokens.grids or (tokens.grid,):
        of.append(torch.arange(g.t).repeat_interleave(g.frame.n) + len(numbers))
        place.append(torch.arange(g.frame.n).repeat(g.t) + places)
        numbers += range(g.t)
        places += g.frame.n
    mine, here = (torch.cat(x).to(tokens.where.device)[tokens.where] for x in (of, place))
    left = mine.new_zeros(mine.shape[0], len(numbers)).scatter_add(1, mine, torch.ones_like(mine))
    return Frames(mine, here, tuple(numbers), places, left)


def frame_means(tokens: VisualTokens, frames: Frames, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B F D"]:
    """Mean of each frame's tokens (`x` in place of their features); zero for a frame of which none is left."""
    if tokens.is_whole and len(tokens.grids) <= 1:  # no need to sort what is sorted
        return x.reshape(x.shape[0], frames.count, -1, x.shape[2]).mean(2, dtype=torch.float32)
    total, size = group_sum(x, frames.of, frames.count)
    return total / size.clamp(min=1)[..., None]


class FrameWeights(Piece):
    """How much each frame deserves of a budget: numbers from 0 up, of which only the proportions count."""

    reads: tuple[Reading, ...] = ()

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        """The weights, frames counted over all grids."""


@dataclass(frozen=True)
class EqualFrames(FrameWeights):
    """All frames alike."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        return torch.ones(frames_of(tokens).left.shape, device=tokens.x.device)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class AnchorFrames(FrameWeights):
    """Every `every`-th frame is filled first, from the first on (None: only the first); the others share the rest.

    DyCoke's windows of 4; TimeChat-Online's first frame.
    """

    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InvalidValue(f"every must be at least 1, got {self.every}")

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        frames = frames_of(tokens)
        anchor = [n % self.every == 0 if self.every else n == 0 for n in frames.numbers]
        weight = torch.tensor([1e6 if a else 1.0 for a in anchor], device=tokens.x.device)
        return weight.expand(frames.left.shape)

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class Curvature(FrameWeights):
    """Softmax of how sharply the path of frame means turns at each frame (V-CAST)."""

    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InvalidValue(f"temperature must be above 0, got {self.temperature}")

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        bend = curvature(frame_means(tokens, frames_of(tokens), tokens.x))
        return (bend / self.temperature).softmax(1)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return of.n * of.width


@dataclass(frozen=True)
class Attended(FrameWeights):
    """The mean of a reading over each frame (DyToK: attention of the last prompt token)."""

    reading: Reading = field(default_factory=LastQuery)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return (self.reading,)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        frames = frames_of(tokens)
        total, size = group_sum(tokens.signal(self.reading)[..., None], frames.of, frames.count)
        return total[..., 0] / size.clamp(min=1)

    def flops(self, of: Extent) -> int:
        return 0

    def __str__(self) -> str:
        return f"mean {self.reading}"


@dataclass(frozen=True)
class PerFrame(Select):
    """The highest scores of each frame: shares by weight, exact in sum, `least` a frame where possible.

    What a full frame cannot take goes to the others, in proportion.
    """

    weights: FrameWeights = field(default_factory=EqualFrames)
    least: int = 0
    needs_score = True

    def __post_init__(self) -> None:
        if self.least < 0:
            raise InvalidValue(f"least must not be negative, got {self.least}")

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return self.weights.reads

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        frames = frames_of(tokens)
        least = min(self.least, count // frames.count)
        quota = largest_remainder(self.weights(tokens), count, frames.left, least)
        return Selection.of(top_in_groups(score, frames.of, quota, count))

    def flops(self, of: Extent) -> int:
        return self.weights.flops(of)

    def other_flops(self, of: Extent) -> int:
        return self.weights.other_flops(of)

    def __str__(self) -> str:
        return f"PerFrame by {self.weights}"


@dataclass(frozen=True)
class ReleasedWindows(Select):
    """The counts of DyCoke's released code, whatever was asked for: frames are kept whole or lose a share `drop`.

    Odd frames lose it, and so does the third of each window of 4 but the last; the last frame of an odd number is gone.
    """

    drop: float = 0.7
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise InvalidValue(f"drop must lie in [0, 1], got {self.drop}")

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        quota = torch.tensor(self._quota(tokens.grid), device=tokens.x.device).expand(tokens.x.shape[0], -1)
        return Selection.of(top_in_groups(score, frames_of(tokens).of, quota, count))

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("DyCoke's windows need the whole grid: put the step before every other cut")
        return sum(self._quota(grid))

    def _quota(self, grid: Grid) -> list[int]:
        t, n = grid.t, grid.frame.n
        fewer = math.floor((1 - self.drop) * n + 1e-9)
        loses = [f % 2 == 1 or (f % 4 == 2 and f < t - 2) for f in range(t)]
        quota = [fewer if less else n for less in loses]
        return [*quota[:-1], 0] if t % 2 and t > 1 else quota

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class WholeFrames(Select):
    """Whole frames, evenly spread over time; of less than one frame, tokens evenly spread over the middle one.

    The count is the nearest that whole frames make.
    """

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        g, size = tokens.grid, tokens.grid.frame.n
        picked = evenly(g.t, max(1, count // size))
        inside = torch.tensor(grid_points(1, g.h, g.w, min(count, size)))
        kept = (picked[:, None] * size + inside).flatten().to(tokens.x.device)
        return Selection.of(kept.expand(tokens.x.shape[0], -1))

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("whole frames need the whole grid: put the step before every other cut")
        size = grid.frame.n
        return count if count < size else size * ((2 * count + size) // (2 * size))

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class FrameOrMore(Select):
    """The highest scores, at least as many as one frame holds (EVS in serving engines: the first frame stays whole)."""

    needs_score = True

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        return Selection.of(top_k(score, count))

    def possible(self, count: int, grid: Grid, n: int) -> int:
        return min(n, max(count, grid.frame.n))

    def flops(self, of: Extent) -> int:
        return 0
