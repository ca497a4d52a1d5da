"""A small synthetic world of coloured shapes and printed signs, and the questions one can ask about it.

Objects are small (28 to 46 pixels, one to nine visual tokens of 28 pixels) and lie on plain, shaded, noisy or
photographed backgrounds, so that an answer sits in few tokens and can be lost with them. The embedded model is
trained on ``split="train"``; ``split="test"`` uses other photographs.
"""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Split = Literal["train", "test"]

COLORS = {
    "red": (220, 30, 40),
    "green": (40, 165, 60),
    "blue": (40, 85, 225),
    "yellow": (250, 220, 40),
    "purple": (145, 50, 175),
    "orange": (245, 135, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
WORDS = ("BUS", "ZOO", "TEA", "HOT", "SKI", "PUB", "GYM", "OIL")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
KINDS = ("color", "shape", "count", "position", "at", "exist", "read")
PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": ("coffee", "rocket", "brick", "grass", "gravel", "hubble_deep_field"),
    "test": ("astronaut", "chelsea"),
}
ASSETS = Path(__file__).parent / "assets"
INK = (18, 18, 22)
PAPER = (246, 246, 240)
LATTICE = 14
"""Centres lie on this lattice, in pixels, shifted by at most two: one step of the vision tower's patches."""


@dataclass(frozen=True)
class Thing:
    """A shape or a sign in a scene. A shape has a colour and no text, a sign has a text and no colour."""

    shape: str
    color: str
    text: str
    x: float
    y: float
    box: Box

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}" if self.color else self.shape


@dataclass(frozen=True)
class Question:
    """A question with its only right answer and the pixel boxes that hold the evidence (none for "none there")."""

    kind: str
    text: str
    answer: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Scene:
    """An image, what is in it and what can be asked about it."""

    image: Image.Image
    things: tuple[Thing, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Sample:
    """One question about one image."""

    image: Image.Image
    question: str
    answer: str
    kind: str
    boxes: tuple[Box, ...]


def make_scene(seed: int, size: tuple[int, int] = (336, 336), split: Split = "test", photo: str | None = None) -> Scene:
    """Draw the scene that a seed stands for: two to five shapes, at most one sign, and one or two questions a kind.

    ``size`` is width and height, at least 112 each. ``photo`` names one of the packaged photographs as background.
    """
    if min(size) < 112:
        raise ValueError(f"a scene of {size[0]}x{size[1]} pixels is too small for nine places; use at least 112x112")
    if split not in PHOTOS:
        raise ValueError(f"split must be one of {', '.join(PHOTOS)}, not {split!r}")
    rng = random.Random(f"{split}-{seed}")
    things: tuple[Thing, ...] = ()
    while sum(bool(t.color) for t in things) < 2:
        things = tuple(_things(rng, size))
    image = _background(rng, size, split, photo)
    for thing in things:
        _draw(image, thing, rng)
    return Scene(image, things, tuple(_questions(rng, things, size)))


def evaluation_set(n: int = 500, seed: int = 0, size: tuple[int, int] = (336, 336)) -> list[Sample]:
    """Return n held-out samples, the same on every machine, the kinds in turn and each from a scene of its own."""
    samples: list[Sample] = []
    scene_seed = 1_000_003 * (seed + 1)
    while len(samples) < n:
        kind = KINDS[len(samples) % len(KINDS)]
        scene = make_scene(scene_seed, size, "test")
        scene_seed += 1
        asked = next((q for q in scene.questions if q.kind == kind), None)
        if asked is not None:
            samples.append(Sample(scene.image, asked.text, asked.answer, asked.kind, asked.boxes))
    return samples


def is_correct(answer_text: str, truth: str) -> bool:
    """Say whether an answer matches the truth, apart from case, outer spaces and a final full stop."""
    return answer_text.strip().rstrip(".").strip().lower() == truth.strip().lower()


# ------------------------------------------------------------------------------------------------ what is in a scene
def _things(rng: random.Random, size: tuple[int, int]) -> Iterator[Thing]:
    """Choose shapes and perhaps a sign: one a place, none touching another, no pair of colour and shape twice."""
    favourite = rng.choice(SHAPES) if rng.random() < 0.5 else None
    names = [(s, c) for s in SHAPES for c in COLORS]
    chosen: list[tuple[str, str]] = []
    for _ in range(rng.choice((2, 3, 4, 4, 5, 5))):
        wanted = [n for n in names if n[0] == favourite] if favourite and rng.random() < 0.75 else names
        wanted = [n for n in wanted if n not in chosen and sum(c[0] == n[0] for c in chosen) < 4]
        chosen.append(rng.choice(wanted or [n for n in names if n[0] != favourite and n not in chosen]))
    boxes: list[Box] = []
    places: set[int] = set()
    if rng.random() < 0.6:
        text = rng.choice(WORDS) if rng.random() < 0.35 else str(rng.randint(0, 9 if rng.random() < 0.3 else 99))
        spot = _spot(rng, size, sign_width(text) / 2, 21, boxes, places)
        if spot:
            yield Thing("sign", "", text, *spot, boxes[-1])
    for shape, color in chosen:
        radius = rng.choice((14, 16, 18, 20))
        spot = _spot(rng, size, 1.1 * radius, 1.1 * radius, boxes, places)
        if spot:
            yield Thing(shape, color, "", *spot, boxes[-1])


def _spot(
    rng: random.Random, size: tuple[int, int], half_w: float, half_h: float, boxes: list[Box], places: set[int]
) -> tuple[float, float] | None:
    """Find a free place for a box, record it and return its centre; None where sixty tries did not."""
    width, height = size
    for _ in range(60):
        x, y = (
            LATTICE * rng.randrange(extent // LATTICE) + LATTICE // 2 + rng.randint(-2, 2) for extent in (width, height)
        )
        box = (x - half_w, y - half_h, x + half_w, y + half_h)
        # A centre near the border of two places would have no certain name.
        clear = all(abs(v - k * extent / 3) >= 9 for v, extent in ((x, width), (y, height)) for k in (1, 2))
        inside = box[0] >= 1 and box[1] >= 1 and box[2] <= width - 1 and box[3] <= height - 1
        place = place_of(x, y, size)
        if clear and inside and place not in places and not any(_touch(box, other) for other in boxes):
            boxes.append(box)
            places.add(place)
            return x, y
    return None


def _touch(a: Box, b: Box, gap: float = 5.0) -> bool:
    return a[0] - gap < b[2] and b[0] - gap < a[2] and a[1] - gap < b[3] and b[1] - gap < a[3]


def place_of(x: float, y: float, size: tuple[int, int]) -> int:
    """Return the index in PLACES of a point."""
    return 3 * min(2, int(3 * y / size[1])) + min(2, int(3 * x / size[0]))


def sign_width(text: str) -> int:
    """Return how wide the plate of a sign is, in pixels: room for two digits or one word, or for one digit."""
    return 42 if len(text) == 1 else 70


# ------------------------------------------------------------------------------------------------ what can be asked
def _questions(rng: random.Random, things: Sequence[Thing], size: tuple[int, int]) -> Iterator[Question]:
    """Ask up to two questions of each kind that has a certain answer."""
    shapes = [t for t in things if t.color]
    signs = [t for t in things if t.text]
    unique_shape = [t for t in shapes if sum(o.shape == t.shape for o in shapes) == 1]
    unique_color = [t for t in shapes if sum(o.color == t.color for o in shapes) == 1]
    for t in rng.sample(unique_shape, min(2, len(unique_shape))):
        yield Question("color", f"What color is the {t.shape}?", t.color, (t.box,))
    for t in rng.sample(unique_color, min(2, len(unique_color))):
        yield Question("shape", f"What shape is the {t.color} thing?", t.shape, (t.box,))
    # Each number of objects that occurs is equally likely to be asked for, so that zero and one do not drown the rest.
    counts = {s: sum(t.shape == s for t in shapes) for s in SHAPES}
    for number in rng.sample(sorted(set(counts.values())), min(2, len(set(counts.values())))):
        yield ask_count(things, rng.choice([s for s in SHAPES if counts[s] == number]))
    for t in rng.sample(things, min(2, len(things))):
        yield Question("position", f"Where is the {t.name}?", PLACES[place_of(t.x, t.y, size)], (t.box,))
    for t in rng.sample(things, min(2, len(things))):
        yield Question("at", f"What is at the {PLACES[place_of(t.x, t.y, size)]}?", t.name, (t.box,))
    questions = list(_existence(rng, things))
    yield from rng.sample(questions, len(questions))
    for t in signs:
        yield Question("read", f"What {'number' if t.text.isdigit() else 'word'} is on the sign?", t.text, (t.box,))


def _existence(rng: random.Random, things: Sequence[Thing]) -> Iterator[Question]:
    """Ask once for what is there and once for its shape in another colour or its colour in another shape."""
    shapes = [t for t in things if t.color]
    t = rng.choice(shapes)
    yield ask_exist(things, t.shape, t.color)
    there = {(o.shape, o.color) for o in shapes}
    near = [(t.shape, c) for c in COLORS] if rng.random() < 0.5 else [(s, t.color) for s in SHAPES]
    shape, color = rng.choice([n for n in near if n not in there])
    yield ask_exist(things, shape, color)


def ask_count(things: Sequence[Thing], shape: str) -> Question:
    """Ask how many things have a shape."""
    boxes = tuple(t.box for t in things if t.shape == shape)
    return Question("count", f"How many {plural(shape)} are there?", str(len(boxes)), boxes)


def ask_exist(things: Sequence[Thing], shape: str, color: str) -> Question:
    """Ask whether a thing of a shape and a colour is there."""
    boxes = tuple(t.box for t in things if (t.shape, t.color) == (shape, color))
    article = "an" if color == "orange" else "a"
    return Question("exist", f"Is there {article} {color} {shape}?", "yes" if boxes else "no", boxes)


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


# ------------------------------------------------------------------------------------------------ how it is drawn
def _background(rng: random.Random, size: tuple[int, int], split: Split, photo: str | None) -> Image.Image:
    """Return a plain, shaded, noisy or photographed canvas, now and then with faint lines on it."""
    width, height = size
    noise = np.random.RandomState(rng.randrange(2**31))
    style = rng.random()
    if photo is not None or style > 0.55:
        image = _photo_crop(rng, size, photo or rng.choice(PHOTOS[split]), keep_colors=split == "test")
    elif style < 0.15:
        image = Image.new("RGB", size, tuple(int(v) for v in noise.randint(40, 225, 3)))
    elif style < 0.35:
        ends = noise.randint(30, 235, (2, 3)).astype(np.uint8)
        strip = ends[None] if rng.random() < 0.5 else ends[:, None]
        image = Image.fromarray(strip).resize(size, Image.Resampling.BILINEAR)
    else:
        cell = rng.choice((7, 14, 28))
        coarse = noise.randint(60, 200, 3) + noise.randint(-40, 41, (height // cell + 2, width // cell + 2, 3))
        image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        draw = ImageDraw.Draw(image, "RGBA")
        for _ in range(rng.randint(2, 6)):
            ends_of_line = [rng.randint(0, v) for v in (width, height, width, height)]
            draw.line(ends_of_line, fill=(*(rng.randint(0, 255) for _ in range(3)), 90), width=rng.randint(1, 3))
    return image


def _photo_crop(rng: random.Random, size: tuple[int, int], name: str, keep_colors: bool) -> Image.Image:
    """Return a random, perhaps mirrored part of a photograph, for training in other colours too (there are few)."""
    photo = _photo(name)
    scale = rng.uniform(0.55, 1.0) * min(photo.width / size[0], photo.height / size[1])
    crop_w, crop_h = scale * size[0], scale * size[1]
    left, top = rng.uniform(0, photo.width - crop_w), rng.uniform(0, photo.height - crop_h)
    image = photo.resize(size, Image.Resampling.BILINEAR, (left, top, left + crop_w, top + crop_h))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not keep_colors and rng.random() < 0.6:
        channels = image.split()
        image = Image.merge("RGB", [channels[i] for i in rng.sample(range(3), 3)])
        table = [int(v * rng.uniform(0.9, 1.0)) for v in range(256)] if rng.random() < 0.7 else list(range(255, -1, -1))
        image = image.point(table * 3)
    return image


@cache
def _photo(name: str) -> Image.Image:
    with Image.open(ASSETS / "photos" / f"{name}.jpg") as image:
        return image.convert("RGB")


def _draw(image: Image.Image, thing: Thing, rng: random.Random) -> None:
    """Draw a thing with a dark rim, which tells it from any background."""
    if thing.text:
        _draw_sign(image, thing)
        return
    rim, body = _masks(thing.shape, round((thing.box[2] - thing.box[0]) / 2.2))
    corner = (int(thing.x) - rim.width // 2, int(thing.y) - rim.height // 2)
    image.paste(INK, corner, rim)
    image.paste(tuple(v + rng.randint(-8, 5) for v in COLORS[thing.color]), corner, body)


def _draw_sign(image: Image.Image, sign: Thing) -> None:
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (int(v) for v in sign.box)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=PAPER, outline=INK, width=2)
    pitch, points = (28, 38) if sign.text.isdigit() else (21, 28)
    for i, letter in enumerate(sign.text):
        x = sign.x + pitch * (i - (len(sign.text) - 1) / 2)
        draw.text((x, sign.y), letter, fill=INK, font=_font(points), anchor="mm")


@cache
def _font(points: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Bold as matplotlib ships it; found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), points, layout_engine=ImageFont.Layout.BASIC)


@cache
def _masks(shape: str, radius: int) -> tuple[Image.Image, Image.Image]:
    """Return the smooth masks of a shape with its two-pixel rim and without."""
    fine, side = 4, 2 * radius + 8
    outline = [((x * radius + side / 2) * fine, (y * radius + side / 2) * fine) for x, y in _outline(shape)]
    body = Image.new("L", (side * fine, side * fine), 0)
    ImageDraw.Draw(body).polygon(outline, fill=255)
    rim = body.copy()
    ImageDraw.Draw(rim).line([*outline, outline[0], outline[1]], fill=255, width=4 * fine, joint="curve")
    small = (side, side)
    return rim.resize(small, Image.Resampling.BOX), body.resize(small, Image.Resampling.BOX)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape of radius one about the origin, y downwards."""
    if shape == "circle":
        return [(math.cos(a * math.pi / 24), math.sin(a * math.pi / 24)) for a in range(48)]
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "star":
        rays = [(1.1 if i % 2 == 0 else 0.48, math.pi * (i / 5 - 0.5)) for i in range(10)]
        return [(r * math.cos(a), r * math.sin(a)) for r, a in rays]
    w = 0.36
    quarter = [(w, -1), (w, -w), (1, -w)]
    turns = [quarter]
    for _ in range(3):
        turns.append([(-y, x) for x, y in turns[-1]])
    return [corner for turn in turns for corner in turn]
