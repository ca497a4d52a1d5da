"""Spending less without a method: smaller pictures, and fewer frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import InvalidValue
from ..families import family_of
from ..families.base import Kind
from ..loading import Loaded
from ..tokens import Grid
from .contender import Contender, Level, Setup
from .samples import Opened, inputs_of, visual_grids

#: how far from the wanted T_eq an input may end up: processors make grids, not any number of tokens
TOLERANCE = 0.25
SCALES = 400


@dataclass(frozen=True)
class Resolution(Contender):
    """Smaller pictures, such that the processor makes about as many visual tokens as wanted."""

    label: str = "resolution"

    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        assert level is not None
        wanted = level.target(sum(g.n for g in grids))
        planned, frames = _planner(loaded, like), len(like.pictures)
        scales = [i / SCALES for i in range(SCALES, 0, -1)]
        scale = min(scales, key=lambda s: abs(planned(s, frames) - wanted))
        return _checked(_smaller(loaded, scale), like, wanted, "smaller pictures", {"scale": scale})

    def recipe(self) -> dict[str, Any]:
        return {"method": "resolution"}


@dataclass(frozen=True)
class Frames(Contender):
    """Fewer frames of a video, evenly spread, such that about as many visual tokens are left as wanted."""

    label: str = "frames"

    def at(self, level: Level | None, loaded: Loaded, like: Opened, grids: Sequence[Grid]) -> Setup:
        assert level is not None
        if like.sample.video is None:
            raise InvalidValue("an image has no frames to leave out")
        wanted = level.target(sum(g.n for g in grids))
        planned = _planner(loaded, like)
        count = min(range(len(like.pictures), 0, -1), key=lambda n: abs(planned(1.0, n) - wanted))
        return _checked(_fewer(loaded, count), like, wanted, "fewer frames", {"frames": count})

    def recipe(self) -> dict[str, Any]:
        return {"method": "frames"}


@dataclass(frozen=True)
class Changed:
    """A processor that changes pictures before it does what it did: each one, or the list of frames of each video."""

    processor: Any
    picture: Callable[[Image.Image], Image.Image] | None = None
    frames: Callable[[list[Any]], list[Any]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name in ("images", "videos"):
            if kwargs.get(name) is not None:
                kwargs[name] = [self._changed(prompt, name == "videos") for prompt in kwargs[name]]
        return self.processor(*args, **kwargs)

    def _changed(self, pictures: Any, video: bool) -> Any:
        if not isinstance(pictures, list):  # the images of all prompts in one list
            return self.picture(pictures) if self.picture else pictures
        if video and self.frames:
            pictures = self.frames(pictures)
        return [self.picture(p) for p in pictures] if self.picture else pictures

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)


def _size(image: Image.Image, scale: float) -> tuple[int, int]:
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _smaller(loaded: Loaded, scale: float) -> Loaded:
    def picture(image: Image.Image) -> Image.Image:
        size = _size(image, scale)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)

    return Loaded(loaded.model, Changed(loaded.processor, picture=picture))


def _fewer(loaded: Loaded, count: int) -> Loaded:
    def frames(every: list[Any]) -> list[Any]:
        n, total = min(count, len(every)), len(every)
        return [every[(2 * i + 1) * total // (2 * n)] for i in range(n)]

    return Loaded(loaded.model, Changed(loaded.processor, frames=frames))


def _planner(loaded: Loaded, like: Opened) -> Callable[[float, int], int]:
    """How many visual tokens this sample would have at a scale, and of a video with so many frames, as its family says;
    no picture is made."""
    config, video = loaded.model.config, like.sample.video is not None
    family = family_of(config)
    own = getattr(loaded.processor, "video_processor", None) if video else None
    limits = (own or loaded.processor.image_processor).to_dict()
    kind: Kind = "video" if video else "image"
    pictures = like.pictures[:1] if video else like.pictures

    def planned(scale: float, frames: int) -> int:
        sizes = [_size(picture, scale) for picture in pictures]
        return sum(_n(family.planned(config, kind, height, width, frames, limits)) for width, height in sizes)

    return planned


def _checked(loaded: Loaded, like: Opened, wanted: float, what: str, settings: dict[str, Any]) -> Setup:
    """The setup, if it really has about as many tokens as wanted."""
    there = _n(visual_grids(loaded, inputs_of(loaded, [like])))
    if abs(there - wanted) > TOLERANCE * wanted:
        raise InvalidValue(f"t_eq={wanted:g} is out of reach: with {what} this processor comes no nearer than {there}")
    return Setup(loaded, None, settings)


def _n(grids: Iterable[Grid]) -> int:
    return sum(grid.n for grid in grids)
