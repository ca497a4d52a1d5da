"""Segments of a video, as words: which frames belong together."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.segments import first_of_segment, scenes, similarity_cuts
from ..tokens import VisualTokens
from .extent import Extent, Piece


class Segments(Piece):
    """A division of a whole video into runs of frames."""

    @abstractmethod
    def __call__(self, tokens: VisualTokens) -> Int[Tensor, "B F"]:
        """The first frame of each frame's segment."""


def by_frame(tokens: VisualTokens, x: Tensor) -> Tensor:
    """Numbers per token of a whole grid as numbers per frame and place, [B, F, N, ...]."""
    assert tokens.is_whole, "the step's selector asks for the whole grid"
    return x.reshape(x.shape[0], tokens.grid.t, -1, *x.shape[2:])


def _centres(tokens: VisualTokens) -> Float[Tensor, "B F D"]:
    return by_frame(tokens, tokens.x).mean(2, dtype=torch.float32)


@dataclass(frozen=True)
class CutsWhereFramesChange(Segments):
    """A new segment where the cosine of frame means falls below `threshold`, and at least `fewest` of them."""

    fewest: int = 8
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if self.fewest < 1 or not -1 <= self.threshold <= 1:
            raise InvalidValue(
                f"segments need fewest >= 1 and threshold in [-1, 1], got {self.fewest} and {self.threshold}"
            )

    def __call__(self, tokens: VisualTokens) -> Int[Tensor, "B F"]:
        return first_of_segment(similarity_cuts(_centres(tokens), self.fewest, self.threshold))

    def flops(self, of: Extent) -> int:
        return 0


@dataclass(frozen=True)
class Scenes(Segments):
    """Clusters of frames by density peaks, one for every 1 / `share` frames, made contiguous (PruneVid)."""

    share: float = 0.25
    neighbours: int = 7

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.neighbours < 1:
            raise InvalidValue(
                f"scenes need share in (0, 1] and neighbours >= 1, got {self.share} and {self.neighbours}"
            )

    def __call__(self, tokens: VisualTokens) -> Int[Tensor, "B F"]:
        return scenes(_centres(tokens), self._clusters(tokens.grid.t), self.neighbours)

    def _clusters(self, frames: int) -> int:
        return math.floor(self.share * frames + 1e-9)

    def flops(self, of: Extent) -> int:
        f, clusters = of.frames, self._clusters(of.frames)
        return 2 * f * (2 * f + clusters) * of.width if f > 1 and clusters else 0
