"""What each processor makes of pixels: patches for the tower, tokens for the language model. Sizes are (width, height).

The arithmetic is that of the published processors, roundings and all. Tokens that a processor or its chat template puts
around and between visual ones (newlines, markers, timestamps) are `structure`: no method drops them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import InvalidValue, UnsupportedInput
from .tokens import Grid, Video, Visual


class Processor(ABC):
    """From the size of an image or video to what the model gets of it. Raises InvalidValue for an impossible size."""

    #: whether every patch becomes one token of the language model, so that patches may leave inside the tower
    patch_tokens: ClassVar[bool] = False

    @abstractmethod
    def image(self, width: int, height: int, alone: bool) -> Visual:
        """One image; `alone` if it is the only one of its prompt."""

    @abstractmethod
    def video(self, video: Video) -> Visual:
        """One video. Raises UnsupportedInput where the model has none."""


@dataclass(frozen=True)
class Square(Processor):
    """Every image becomes one square of `side` patches (LLaVA-1.5: resized and cropped)."""

    side: int

    patch_tokens = True

    def image(self, width: int, height: int, alone: bool) -> Visual:
        grid = Grid(1, self.side, self.side)
        return Visual("image", (grid,), (grid,))

    def video(self, video: Video) -> Visual:
        raise UnsupportedInput("this model reads images only; give frames as images, or choose a model that has videos")


@dataclass(frozen=True)
class AnyResolution(Processor):
    """A thumbnail, and crops of the image at the best of some resolutions, stitched and unpadded (LLaVA-NeXT).

    side        patches on the side of a crop of `pixels` pixels
    pinpoints   (height, width) of the resolutions
    most        crops' worth of tokens that the stitched grid is shrunk to; None: never
    many        whether images beside others are cropped too
    pool        how a frame of a video is halved: its last odd row "up" (kept) or "down" (cut off); None: no videos
    newline     where a video has newline tokens: one at its "end", after each "frame", each "row", or "none"
    """

    side: int
    pixels: int
    pinpoints: tuple[tuple[int, int], ...]
    most: int | None = None
    many: bool = True
    pool: Literal["up", "down"] | None = None
    newline: Literal["end", "frame", "row", "none"] = "end"

    def image(self, width: int, height: int, alone: bool) -> Visual:
        whole = Grid(1, self.side, self.side)
        if not (alone or self.many):
            return Visual("image", (whole,), (whole,), 1)
        rows, columns = (x // self.pixels for x in self._best(width, height))
        stitched = self._shrunk(*self._unpadded(rows * self.side, columns * self.side, width, height))
        # of a very thin image unpadding leaves rows without a patch, whose newlines stay
        views = (whole, stitched) if stitched.n else (whole,)
        return Visual("image", (whole,) * (1 + rows * columns), views, stitched.h)

    def video(self, video: Video) -> Visual:
        if self.pool is None:
            raise UnsupportedInput("this model reads images only; choose a model that has videos")
        half = -(-self.side // 2) if self.pool == "up" else self.side // 2
        newlines = {"end": 1, "frame": video.frames, "row": video.frames * half, "none": 0}[self.newline]
        patches, pooled = Grid(video.frames, self.side, self.side), Grid(video.frames, half, half)
        return Visual("video", (patches,), (pooled,), newlines)

    def _best(self, width: int, height: int) -> tuple[int, int]:
        """The resolution that keeps most of the image's pixels, and among those wastes fewest of its own."""

        def value(size: tuple[int, int]) -> tuple[int, int]:
            h, w = size
            scale = min(w / width, h / height)
            useful = min(int(width * scale) * int(height * scale), width * height)
            return useful, useful - h * w

        return max(self.pinpoints, key=value)

    @staticmethod
    def _unpadded(rows: int, columns: int, width: int, height: int) -> tuple[int, int]:
        """The stitched grid without the patches that are padding."""
        if width / height > columns / rows:
            padding = (rows - int(round(height * (columns / width), 7))) // 2
            return rows - 2 * padding, columns
        padding = (columns - int(round(width * (rows / height), 7))) // 2
        return rows, columns - 2 * padding

    def _shrunk(self, rows: int, columns: int) -> Grid:
        if self.most is not None:
            ratio = math.sqrt(rows * columns / (self.most * self.side**2))
            if ratio > 1.1:
                return Grid(1, int(rows // ratio), int(columns // ratio))
        return Grid(1, rows, columns)


@dataclass(frozen=True)
class Resized(Processor):
    """Images keep their shape and nearly their size: sides become multiples of a cell of merged patches (Qwen-VL).

    Bounds are pixels: of an image; of each frame of a video, or with `joint` of all its frames together. `per_frame` is
    the most tokens of one frame where the bound on all is shared out evenly (qwen-vl-utils does so), None where it is
    not. `timestamps`: each frame has a timestamp in text, such as <3.5 seconds>, and markers of its own.
    """

    patch: int
    merge: int
    frames: int
    image_pixels: tuple[int, int]
    video_pixels: tuple[int, int]
    joint: bool = False
    timestamps: bool = False
    per_frame: int | None = None

    @property
    def cell(self) -> int:
        """Pixels on the side of one token."""
        return self.patch * self.merge

    def image(self, width: int, height: int, alone: bool) -> Visual:
        rows, columns = self._cells(width, height, 1, 1, *self.image_pixels)
        return self._visual("image", 1, rows, columns, 2)

    def video(self, video: Video) -> Visual:
        n, width, height = video.frames, video.width, video.height
        t = -(-n // self.frames)
        low, high = self.video_pixels
        if self.joint:
            if n < self.frames:
                raise InvalidValue(f"a video needs at least {self.frames} frames here, got {n}; give an image instead")
            scale = max(self.cell / height, self.cell / width)
            if scale > 1:
                width, height = int(width * scale), int(height * scale)
            if self.per_frame is not None:
                high = n * max(min(self.per_frame * self.cell**2, high // n), int(low * 1.05))
            rounded = round(n / self.frames) * self.frames
            rows, columns = self._cells(width, height, n, rounded, low, high)
        else:
            if self.per_frame is not None:
                budget = int(self.per_frame * self.cell**2 * 0.9)
                high = max(min(high, budget * self.frames // n), int(low * 1.05))
            rows, columns = self._cells(width, height, 1, 1, low, high)
        structure = 2 + (sum(7 + _digits(s) for s in self._seconds(video, t)) if self.timestamps else 0)
        return self._visual("video", t, rows, columns, structure)

    def _visual(self, kind: Literal["image", "video"], t: int, rows: int, columns: int, structure: int) -> Visual:
        patches = Grid(t, rows * self.merge, columns * self.merge)
        return Visual(
            kind, (patches,), (Grid(t, rows, columns),), structure, behind=1 + self.timestamps * (kind == "video")
        )

    def _cells(self, width: int, height: int, n: int, rounded: int, low: int, high: int) -> tuple[int, int]:
        """Rows and columns of cells for n frames (`rounded`: to whole patches) that hold low to high pixels."""
        if max(width, height) / min(width, height) > 200:
            raise InvalidValue(f"the longer side may be at most 200 times the shorter, got {width}x{height} pixels")
        cell = self.cell
        rows, columns = round(height / cell), round(width / cell)
        pixels = rounded * rows * columns * cell**2
        if pixels > high:
            by = math.sqrt((n * height * width) / high)
            return max(1, math.floor(height / by / cell)), max(1, math.floor(width / by / cell))
        if pixels < low:
            by = math.sqrt(low / (n * height * width))
            return math.ceil(height * by / cell), math.ceil(width * by / cell)
        return rows, columns

    def _seconds(self, video: Video, t: int) -> list[float]:
        """The middle of each pair of frames, of a video sampled at its fps (24 where unknown)."""
        times = [min(i, video.frames - 1) / (video.fps or 24) for i in range(t * self.frames)]
        return [(times[i] + times[i + self.frames - 1]) / 2 for i in range(0, len(times), self.frames)]


@dataclass(frozen=True)
class Tiles(Processor):
    """`low` to `high` square tiles in the arrangement nearest to the image's shape, and a thumbnail (InternVL).

    side     patches on the side of a tile of `pixels` pixels; merge of them on a side become one token
    cropped  False: the whole image is one tile
    """

    side: int
    pixels: int
    merge: int
    low: int = 1
    high: int = 12
    cropped: bool = True

    def image(self, width: int, height: int, alone: bool) -> Visual:
        tiles = self._tiles(width, height) if self.cropped and self.high > 1 else 1
        return self._visual("image", tiles + (tiles > 1), 2)

    def video(self, video: Video) -> Visual:
        # "Frame12: <img>…</img>" and a line end between frames, as the Qwen tokenizer cuts it
        names = sum(5 + len(str(i + 1)) for i in range(video.frames))
        return self._visual("video", video.frames, names + video.frames - 1)

    def _visual(self, kind: Literal["image", "video"], tiles: int, structure: int) -> Visual:
        tokens = self.side // self.merge
        if kind == "video":
            return Visual(kind, (Grid(tiles, self.side, self.side),), (Grid(tiles, tokens, tokens),), structure, 1)
        patches, grids = (Grid(1, self.side, self.side),) * tiles, (Grid(1, tokens, tokens),) * tiles
        return Visual(kind, patches, grids, structure, 1)

    def _tiles(self, width: int, height: int) -> int:
        """How many tiles: nearest aspect ratio; of equals the larger one while it is at most twice the image."""
        choices = [
            (w, h) for w in range(1, self.high + 1) for h in range(1, self.high + 1) if self.low <= w * h <= self.high
        ]
        best, off = (1, 1), math.inf
        for w, h in sorted(choices, key=lambda c: c[0] * c[1]):
            now = abs(width / height - w / h)
            if now < off or (now == off and width * height > 0.5 * self.pixels**2 * w * h):
                best, off = (w, h), now
        return best[0] * best[1]


def _digits(seconds: float) -> int:
    """Digits before the point of a time written with one decimal."""
    return len(f"{seconds:.1f}") - 2
