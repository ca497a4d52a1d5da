"""What a model is asked: samples, opened once for all methods, put together in batches, turned into model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import FoveateError, InvalidValue
from ..families import family_of
from ..loading import Loaded, check_aspect, open_image
from ..scenes import evaluation_set
from ..tokens import Grid


@runtime_checkable
class Sample(Protocol):
    """A question about pictures. `answers` are the right ones, if they are known; `kind` is the kind of question.

    With a `video` the pictures are its frames. `pictures` raises InvalidValue for what cannot be read.
    """

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def video(self) -> object | None: ...
    def pictures(self) -> list[Image.Image]: ...


@dataclass(frozen=True)
class Picture:
    """A question about image files, or images made here; `video` says that they are the frames of one."""

    id: str
    prompt: str
    images: tuple[Path | Image.Image, ...]
    answers: tuple[str, ...] = ()
    kind: str = ""
    video: bool | None = None

    def pictures(self) -> list[Image.Image]:
        """The images, opened."""
        opened = [i if isinstance(i, Image.Image) else open_image(i) for i in self.images]
        for image in opened:
            check_aspect(image, self.id)
        return opened


@dataclass(frozen=True)
class Unusable:
    """A sample that was broken where it was read, so that it is counted with the others."""

    id: str
    reason: str
    prompt: str = "?"
    answers: tuple[str, ...] = ()
    kind: str = ""
    video: None = None

    def pictures(self) -> list[Image.Image]:
        """Raises InvalidValue with the reason."""
        raise InvalidValue(self.reason)


@dataclass(frozen=True, eq=False)
class Opened:
    """A sample with its pictures."""

    sample: Sample
    pictures: tuple[Image.Image, ...]

    @classmethod
    def of(cls, sample: Sample) -> Opened:
        """Raises InvalidValue for a sample that cannot be asked: an empty question, a picture that cannot be read."""
        if not sample.prompt.strip():
            raise InvalidValue("the question is empty")
        return cls(sample, tuple(sample.pictures()))

    @property
    def sizes(self) -> tuple[object, ...]:
        """What the number of visual tokens depends on: batches are made of equals in this."""
        return (self.sample.video is not None, *(picture.size for picture in self.pictures))


@dataclass(frozen=True)
class Broken:
    """A sample that cannot be asked, and why."""

    sample: Sample
    reason: str


def embedded_samples(n: int) -> list[Picture]:
    """The first n held-out questions of `foveate.scenes`."""
    made = enumerate(evaluation_set(n))
    return [Picture(f"scene-{i:04}", s.question, (s.image,), (s.answer,), s.kind) for i, s in made]


def picture_samples(paths: Iterable[str | Path], prompts: Sequence[str]) -> list[Picture]:
    """Every prompt about every image; a folder stands for the image files in it.

    Raises InvalidValue for a folder without any. A file that is missing or broken is a sample all the same: it is
    found to be broken when it is asked about, and counted.
    """
    files = [file for path in paths for file in _files(Path(path))]
    samples = []
    for file in dict.fromkeys(files):
        for i, prompt in enumerate(prompts):
            samples.append(Picture(str(file) if len(prompts) == 1 else f"{file}#{i + 1}", prompt, (file,)))
    return samples


def synthetic_pictures(width: int, height: int, count: int = 1) -> Iterator[Image.Image]:
    """Pictures of noise, the same on every machine: for time, what is to be seen does not matter."""
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield Image.fromarray(pixels)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    Image.init()
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in Image.EXTENSION and p.is_file())
    if not found:
        raise InvalidValue(f"the folder {path} holds no image files")
    return found


def batches(samples: Iterable[Sample], size: int) -> Iterator[list[Opened] | Broken]:
    """Samples with pictures of equal sizes, at most `size` together, in an order that depends on the samples alone.

    Raises InvalidValue for an id that occurs twice.
    """
    waiting: dict[tuple[object, ...], list[Opened]] = {}
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise InvalidValue(f"two samples have the id {sample.id!r}; give each its own")
        seen.add(sample.id)
        try:
            opened = Opened.of(sample)
        except FoveateError as error:
            yield Broken(sample, str(error))
            continue
        group = waiting.setdefault(opened.sizes, [])
        group.append(opened)
        if len(group) == size:
            yield waiting.pop(opened.sizes)
        elif sum(map(len, waiting.values())) >= 4 * size:  # photographs of many sizes must not all stay in memory
            yield waiting.pop(max(waiting, key=lambda sizes: len(waiting[sizes])))
    yield from waiting.values()


def inputs_of(loaded: Loaded, batch: Sequence[Opened]) -> dict[str, Any]:
    """Model inputs of a batch, each sample one chat turn with its pictures first, padded on the left.

    Raises InvalidValue for a question that holds a placeholder of the model.
    """
    processor, video = loaded.processor, batch[0].sample.video is not None
    texts = [_chat(processor, opened, video) for opened in batch]
    pictures = [list(opened.pictures) for opened in batch]
    given: dict[str, Any] = {"images": pictures}
    if video:
        given = {"videos": pictures, "do_sample_frames": False}  # they are frames that were chosen
    if not pictures[0]:
        given = {}
    inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **given)
    inputs = inputs.to(loaded.model.device)
    for name, value in inputs.items():  # pixels come as float32 whatever the model's dtype
        if torch.is_tensor(value) and value.is_floating_point():
            inputs[name] = value.to(loaded.model.dtype)
    return dict(inputs)


def _chat(processor: Any, opened: Opened, video: bool) -> str:
    question = opened.sample.prompt
    for token in (getattr(processor, "image_token", None), getattr(processor, "video_token", None)):
        if token and token in question:
            raise InvalidValue(f"the question holds the placeholder {token}; pictures are placed for you, leave it out")
    seen: list[dict[str, Any]] = [{"type": "video"}] if video else [{"type": "image"} for _ in opened.pictures]
    chat = [{"role": "user", "content": [*seen, {"type": "text", "text": question}]}]
    text: str = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return text


def visual_grids(loaded: Loaded, inputs: dict[str, Any]) -> tuple[Grid, ...]:
    """The grids of all images and videos in these inputs, without running the vision tower."""
    family = family_of(loaded.model.config)
    core = family.core(loaded.model)
    found: list[Grid] = []
    for kind, token in family.image_token_ids(core.config).items():
        if bool((inputs["input_ids"] == token).any()):
            found += _grids(family.layouts(kind, core, inputs))
    return tuple(found)


def _grids(layouts: Iterable[Any]) -> list[Grid]:
    return [grid for layout in layouts for grid in layout.grids]


def answers_of(loaded: Loaded, batch: Sequence[Opened], max_new_tokens: int) -> list[str]:
    """The model's greedy answers, as text."""
    inputs = inputs_of(loaded, batch)
    ids = greedy(loaded, inputs, max_new_tokens)
    return [t.strip() for t in loaded.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def greedy(loaded: Loaded, inputs: dict[str, Any], max_new_tokens: int, **options: Any) -> Tensor:
    """The most likely next token, step by step, [B, T], whatever the checkpoint's settings say of sampling."""
    with torch.no_grad():
        out = loaded.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0, **options
        )
    ids: Tensor = out[:, inputs["input_ids"].shape[1] :]
    return ids
