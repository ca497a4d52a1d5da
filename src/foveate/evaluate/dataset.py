"""A local evaluation set: one JSON object a line, checked row by row; what is broken is named and counted, never lost.

{"id": "7", "image": "7.png", "question": "What color is the star?", "answer": "red"}

Paths are relative to the file. In place of `image` a row has `images` (a list) or `video` (a file, or a folder of
frames); in place of `answer` it may have `answers`, any of which is right (for VQA: one a person asked). `choices`
makes it a multiple-choice question, whose answer is a letter or one of the choices; `kind` groups results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..errors import InvalidValue
from ..loading import check_aspect, open_image
from ..scenes import evaluation_set
from .metrics import LETTERS, choice_letter

EMBEDDED = "embedded"
EMBEDDED_SIZE = 500
#: Frames taken from a video, evenly spread.
FRAMES = 8


class Row(BaseModel):
    """One line of the file as it was written."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    id: str | None = None
    image: str | None = None
    images: list[str] | None = None
    video: str | None = None
    question: str
    answer: str | None = None
    answers: list[str] | None = None
    choices: list[str] | None = None
    kind: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Row:
        _one_of(image=self.image, images=self.images, video=self.video)
        _one_of(answer=self.answer, answers=self.answers)
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not all(a.strip() for a in self.given_answers):
            raise ValueError("an answer is empty")
        if self.choices is not None and not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(f"choices must be 2 to {len(LETTERS)}, got {len(self.choices)}")
        for answer in self.given_answers if self.choices else ():
            if choice_letter(answer, self.choices or ()) is None:
                raise ValueError(f"the answer {answer!r} is neither a choice nor the letter of one")
        return self

    @property
    def given_answers(self) -> list[str]:
        """`answers`, or the one `answer`."""
        return self.answers if self.answers is not None else [self.answer or ""]


def _one_of(**given: Any) -> None:
    there = [name for name, value in given.items() if value]
    if len(there) != 1:
        raise ValueError(f"give one of {', '.join(given)}; got {' and '.join(there) or 'none'}")


@dataclass(frozen=True)
class Sample:
    """A question about images or a video, with its right answers. Pictures are opened when they are asked for."""

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    kind: str = ""
    images: tuple[Path | Image.Image, ...] = ()
    video: Path | None = None

    @property
    def prompt(self) -> str:
        """What the model is asked: the question, and the options of a multiple-choice question by letter."""
        if not self.choices:
            return self.question
        options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, *options, "Answer with the option's letter from the given choices directly."])

    def pictures(self) -> list[Image.Image]:
        """Its images, or the frames of its video; raises InvalidValue for what cannot be read."""
        if self.video is not None:
            return open_video(self.video)
        opened = [i if isinstance(i, Image.Image) else open_image(i) for i in self.images]
        for picture in opened:
            check_aspect(picture, self.id)
        return opened


@dataclass(frozen=True)
class Broken:
    """A row that cannot be asked, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The samples that can be asked, as far as the file tells, and the rows that cannot."""

    name: str
    samples: tuple[Sample, ...]
    broken: tuple[Broken, ...] = ()


def load_dataset(source: str | Path, limit: int | None = None) -> Dataset:
    """The dataset in a JSONL file, or "embedded": the held-out questions of `foveate.scenes`; the first `limit` rows.

    Raises InvalidValue for a file that is not there, is empty, or holds no usable row.
    """
    if limit is not None and limit < 1:
        raise InvalidValue(f"limit must be at least 1, got {limit}")
    if str(source) == EMBEDDED:
        return _embedded(limit or EMBEDDED_SIZE)
    path = Path(source)
    if not path.is_file():
        raise InvalidValue(f"no dataset at {path}; give a JSONL file, or the name {EMBEDDED!r}")
    lines = [(n, line) for n, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise InvalidValue(f"{path} is empty; expected one JSON object a line")
    samples, broken = _sorted_out(_read(lines[:limit], path.parent))
    if not samples:
        raise none_left(str(path), broken)
    return Dataset(path.stem, samples, broken)


def none_left(name: str, broken: Sequence[Broken]) -> InvalidValue:
    """The error for a dataset of which nothing can be asked."""
    return InvalidValue(f"none of the {len(broken)} samples of {name} can be asked; the first: {broken[0].reason}")


def _embedded(n: int) -> Dataset:
    made = enumerate(evaluation_set(n))
    samples = tuple(Sample(str(i), s.question, (s.answer,), kind=s.kind, images=(s.image,)) for i, s in made)
    return Dataset(EMBEDDED, samples)


def _read(lines: Iterable[tuple[int, bytes]], folder: Path) -> Iterator[Sample | Broken]:
    seen: set[str] = set()
    for number, line in lines:
        name = f"line {number}"
        try:
            content = json.loads(line)
            if isinstance(content, dict) and content.get("id") is not None:
                name = str(content["id"])
            row = Row.model_validate(content)
            if name in seen:
                raise InvalidValue(f"line {number}: the id {name!r} was used before")
            sample = _sample(name, row, folder)
        except ValidationError as error:
            yield Broken(name, f"line {number}: {_first(error)}")
        except (ValueError, RecursionError) as error:  # JSON, UTF-8, and our own refusals
            yield Broken(name, f"line {number}: {str(error).removeprefix(f'line {number}: ')}")
        else:
            seen.add(name)
            yield sample


def _sample(name: str, row: Row, folder: Path) -> Sample:
    images = [folder / p for p in (row.images or [row.image or ""])] if row.video is None else []
    video = None if row.video is None else folder / row.video
    for path in images:
        if not path.is_file():
            raise InvalidValue(f"no image at {path}")
    if video is not None and not video.exists():
        raise InvalidValue(f"no video at {video}")
    answers, choices = tuple(row.given_answers), tuple(row.choices or ())
    return Sample(name, row.question, answers, choices, row.kind, tuple(images), video)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _sorted_out(rows: Iterable[Sample | Broken]) -> tuple[tuple[Sample, ...], tuple[Broken, ...]]:
    found = list(rows)
    return tuple(r for r in found if isinstance(r, Sample)), tuple(r for r in found if isinstance(r, Broken))


def open_video(path: Path, frames: int = FRAMES) -> list[Image.Image]:
    """At most `frames` pictures, evenly spread over a video file or a folder of frames in the order of their names.

    Files are decoded by PyAV. Raises InvalidValue for what cannot be read.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file())
        if not files:
            raise InvalidValue(f"{path} holds no frames")
        return [open_image(files[i]) for i in _spread(len(files), frames)]
    try:
        import av
    except ImportError as error:
        raise InvalidValue(
            f"{path} needs PyAV to be decoded; pip install 'foveate[video]', or give a folder of frames"
        ) from error
    try:
        with av.open(str(path)) as container:
            total = sum(1 for _ in container.decode(video=0))
            container.seek(0)
            wanted = set(_spread(total, frames))
            found = [f.to_image() for i, f in enumerate(container.decode(video=0)) if i in wanted]
    except (av.FFmpegError, IndexError, OSError, ValueError) as error:
        raise InvalidValue(f"{path} is no video that PyAV can decode: {error}") from error
    if not found:
        raise InvalidValue(f"{path} holds no frames")
    return found


def _spread(total: int, wanted: int) -> list[int]:
    """Indices of `wanted` evenly spread ones of `total`: the middles of equal parts."""
    n = min(total, wanted)
    return [(2 * i + 1) * total // (2 * n) for i in range(n)]
