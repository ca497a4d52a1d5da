"""What sticks out of a frame or of a whole video, from features alone: VidCom2 and V-CAST."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..ops.select import unit
from ..ops.sums import group_sum, unit_range_in
from ..ops.temporal import gaussian_similarity, steadiest_channels
from ..tokens import VisualTokens
from .base import Score
from .extent import Extent
from .frames import Frames, FrameWeights, frame_means, frames_of


@dataclass(frozen=True)
class GaussianOutlier(Score):
    """How little a token resembles the centres of its video and of its frame, on the steadiest channels (VidCom2)."""

    channels: float = 0.5

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        x = _calm(tokens, self.channels)
        frames = frames_of(tokens)
        return -_like_video(x) - gaussian_similarity(x, frame_means(tokens, frames, x), frames.of)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 12 * of.n * of.width


@dataclass(frozen=True)
class Uniqueness(FrameWeights):
    """1 + p - 1/F, p the softmax over frames of how little their tokens resemble the centre of the video (VidCom2).

    At the published temperature one frame takes nearly all of p, and twice its even share.
    """

    channels: float = 0.5
    temperature: float = 0.01

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        if self.temperature <= 0:
            raise InvalidValue(f"temperature must be above 0, got {self.temperature}")

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B F"]:
        frames = frames_of(tokens)
        like, size = group_sum(_like_video(_calm(tokens, self.channels))[..., None], frames.of, frames.count)
        there = size > 0
        unique = (-like[..., 0] / size.clamp(min=1)).masked_fill(~there, -torch.inf)
        p = (unique / self.temperature).softmax(1)
        return (1 + p - 1 / there.sum(1, keepdim=True)).masked_fill(~there, 0)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 9 * of.n * of.width


@dataclass(frozen=True)
class FrameOutlier(Score):
    """1 - cosine to the mean of the frame, plus the length of the token scaled to 0..1 within its frame (V-CAST)."""

    def __call__(self, tokens: VisualTokens) -> Float[Tensor, "B N"]:
        frames = frames_of(tokens)
        length = torch.linalg.vector_norm(tokens.x, dim=-1, dtype=torch.float32)
        return 1 - _cosine_to_frame(tokens, frames, length) + unit_range_in(length, frames.of, frames.count)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 5 * of.n * of.width


def _cosine_to_frame(
    tokens: VisualTokens, frames: Frames, length: Float[Tensor, "B N"], chunk: int = 1024
) -> Float[Tensor, "B N"]:
    centres = unit(frame_means(tokens, frames, tokens.x))
    rows = torch.arange(centres.shape[0], device=centres.device)[:, None]
    dots = [
        (tokens.x[:, i : i + chunk] * centres[rows, frames.of[:, i : i + chunk]]).sum(2)
        for i in range(0, tokens.x.shape[1], chunk)
    ]
    return torch.cat(dots, dim=1) / length.clamp(min=1e-12)


def _calm(tokens: VisualTokens, channels: float) -> Float[Tensor, "B N E"]:
    return unit(steadiest_channels(tokens.x, channels))


def _like_video(x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N"]:
    everywhere = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
    return gaussian_similarity(x, x.mean(1, keepdim=True), everywhere)


def _check_channels(share: float) -> None:
    if not 0 < share <= 1:
        raise InvalidValue(f"channels must lie in (0, 1], got {share}")
