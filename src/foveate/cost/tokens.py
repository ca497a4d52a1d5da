"""From pixels to tokens: what each image and video of a prompt becomes in the tower and in the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import InvalidValue

if TYPE_CHECKING:
    from .arch import Arch


class Grid(NamedTuple):
    """A grid of patches or tokens: frames, rows, columns."""

    t: int
    h: int
    w: int

    @property
    def n(self) -> int:
        """How many it holds."""
        return self.t * self.h * self.w


class Video(NamedTuple):
    """Frames as the processor gets them (already sampled), at this size; fps says how far apart they are."""

    frames: int
    width: int
    height: int
    fps: float | None = None


@dataclass(frozen=True)
class Inputs:
    """What a user sends. `text` are all other tokens of the prompt, its chat template included.

    images     (width, height) in pixels of each
    question   how many of the text tokens stand behind the last image; None: all. Some methods read their attention
    new_tokens tokens generated; the first comes from the prefill, so there are new_tokens - 1 decode steps
    batch      equal prompts in one batch
    """

    images: tuple[tuple[int, int], ...] = ()
    videos: tuple[Video, ...] = ()
    text: int = 50
    question: int | None = None
    batch: int = 1
    new_tokens: int = 1


@dataclass(frozen=True)
class Visual:
    """One image or video of the prompt.

    patches    grid of patches of each picture the tower encodes; attention never crosses pictures, and each of the t
               frames of a grid is a picture of its own
    grids      its tokens in the language model: one grid for each view
    structure  tokens that come with it and are not visual: newlines, separators, timestamps, markers
    behind     how many of those stand behind its last placeholder
    """

    kind: Literal["image", "video"]
    patches: tuple[Grid, ...]
    grids: tuple[Grid, ...]
    structure: int = 0
    behind: int = 0

    @property
    def tokens(self) -> int:
        """Visual tokens, structure not among them."""
        return sum(g.n for g in self.grids)


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens; `batch` equal ones run together. `question` text tokens stand behind the last visual one."""

    visuals: tuple[Visual, ...]
    text: int
    batch: int = 1
    question: int | None = None

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All grids of visual tokens, in the order of the prompt."""
        return tuple(g for v in self.visuals for g in v.grids)

    @property
    def visual(self) -> int:
        """Visual tokens."""
        return sum(v.tokens for v in self.visuals)

    @property
    def others(self) -> int:
        """Tokens that no method touches: text and structure."""
        return self.text + sum(v.structure for v in self.visuals)

    @property
    def behind(self) -> int:
        """Tokens behind the last visual one."""
        marker = self.visuals[-1].behind if self.visuals else 0
        return marker + (self.text if self.question is None else self.question)


def prompt_of(arch: Arch, inputs: Inputs) -> Prompt:
    """The prompt these inputs become, counted as the model's processor does.

    Raises InvalidValue for sizes that no processor takes, UnsupportedInput for videos where the model has none.
    """
    _check(inputs)
    alone = len(inputs.images) == 1
    images = tuple(arch.processor.image(width, height, alone) for width, height in inputs.images)
    visuals = images + tuple(arch.processor.video(v) for v in inputs.videos)
    return Prompt(visuals, inputs.text, inputs.batch, inputs.question)


def _check(inputs: Inputs) -> None:
    for width, height in inputs.images:
        if width < 1 or height < 1:
            raise InvalidValue(f"an image has at least 1x1 pixels, got {width}x{height}")
    for video in inputs.videos:
        if min(video.frames, video.width, video.height) < 1 or (video.fps is not None and video.fps <= 0):
            raise InvalidValue(f"a video needs frames, width, height and fps above 0, got {tuple(video)}")
    if inputs.text < 1:
        raise InvalidValue(f"a prompt has at least 1 text token, got {inputs.text}")
    if inputs.question is not None and not 0 <= inputs.question <= inputs.text:
        raise InvalidValue(f"the question is part of the {inputs.text} text tokens, got {inputs.question}")
    for name, value in (("batch", inputs.batch), ("new_tokens", inputs.new_tokens)):
        if value < 1:
            raise InvalidValue(f"{name} must be at least 1, got {value}")
