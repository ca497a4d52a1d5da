"""Figures as SVG: score against cost, and the tokens of each layer. Colours are the page's, so both themes fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .entry import Entry, Number

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 38
COLOURS = 10
#: controls, not methods: grey, each with a mark of its own
CONTROLS = ("random", "uniform", "pool", "resolution", "frames")
#: in units of a mark's radius, around its middle
SHAPES = {
    "square": "M-.9-.9h1.8v1.8h-1.8z",
    "diamond": "M0-1.25L1.25 0 0 1.25-1.25 0z",
    "up": "M0-1.2L1.15.9h-2.3z",
    "down": "M0 1.2L1.15-.9h-2.3z",
    "cross": "M-.4-1.2h.8v.8h.8v.8h-.8v.8h-.8v-.8h-.8v-.8h.8z",
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0",
}


@dataclass(frozen=True)
class Mark:
    """How a method looks in every figure: a colour of the page and a shape."""

    colour: str
    shape: str

    def at(self, x: float, y: float, radius: float = 5) -> Markup:
        """Drawn."""
        place = f"translate({x:.1f} {y:.1f}) scale({radius})"
        return Markup('<path class="mark" fill="var(--{})" d="{}" transform="{}"/>').format(
            self.colour, SHAPES[self.shape], place
        )


def marks_of(methods: Iterable[str]) -> dict[str, Mark]:
    """A mark for each method, the same in all figures of a study."""
    found: dict[str, Mark] = {}
    shapes = list(SHAPES)
    for method in dict.fromkeys(methods):
        if method == "uncompressed":
            found[method] = Mark("ink", "circle")
        elif method in CONTROLS:
            found[method] = Mark("quiet", shapes[CONTROLS.index(method)])
        else:
            n = sum(mark.colour.startswith("c") for mark in found.values())
            found[method] = Mark(f"c{n % COLOURS}", shapes[-1 - n // COLOURS % len(shapes)])
    return found


def score_against(
    cost: str, title: str, entries: Sequence[Entry], best: Sequence[Entry], marks: dict[str, Mark], score: str
) -> Markup:
    """Each entry with the intervals of both numbers; a step line through those nobody beats, which are named.

    Budgets of one method are joined by a thin line.
    """
    some = [e for e in entries if cost in e.numbers]
    xs, ys = [e.numbers[cost] for e in some], [e.numbers["score"] for e in some]
    frame = Frame.around([*_ends(xs), 0.0], _ends(ys))
    parts = [frame.drawn(title, score)]
    parts.append(_front([(e.numbers[cost].value, e.numbers["score"].value) for e in best], frame))
    for method in dict.fromkeys(e.method for e in some):
        mine = sorted((e.numbers[cost].value, e.numbers["score"].value) for e in some if e.method == method)
        if len(mine) > 1 and all(e.state is None for e in some):  # trials are no series
            line = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in mine)
            parts.append(Markup('<path class="thin" stroke="var(--{})" d="M{}"/>').format(marks[method].colour, line))
    for e, x, y in zip(some, xs, ys, strict=True):
        parts.append(_point(e, x, y, frame, marks[e.method]))
    parts += _labels(best, cost, frame)
    return _svg(WIDTH, HEIGHT, parts, f"{score} against {title}")


def layers(entry: Entry, plain: float, mark: Mark) -> Markup:
    """Visual tokens of each layer as steps, under an outline of the uncompressed count."""
    width, height = 150, 70
    n = len(entry.per_layer)
    top = max(plain, *entry.per_layer, 1.0)
    y = [height - 2 - (height - 6) * v / top for v in entry.per_layer]
    steps = "".join(f"L{width * i / n:.1f} {y[i]:.1f}H{width * (i + 1) / n:.1f}" for i in range(n))
    whole = height - 2 - (height - 6) * plain / top
    path = '<path fill="var(--{})" opacity="0.8" d="M0 {}{}V{}z"/><path class="whole" d="M0 {:.1f}H{}"/>'
    inside = Markup(path).format(mark.colour, height - 2, Markup(steps), height - 2, whole, width)
    counts = " ".join(f"{v:.0f}" for v in entry.per_layer)
    return _svg(width, height, [inside], f"visual tokens of each layer: {counts}")


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Frame:
    """Axes: what lies between which values."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> Frame:
        """With room for marks at the rim."""
        x, y = (max(v) - min(v) or 1.0 for v in (xs, ys))
        return cls(min(xs), max(xs) + 0.05 * x, min(ys) - 0.05 * y, max(ys) + 0.07 * y)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def drawn(self, x_title: str, y_title: str) -> Markup:
        """Grid lines, numbers, titles."""
        parts = []
        for v in ticks(self.y_low, self.y_high):
            line = '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
            y = f"{self.y(v):.1f}"
            parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, f"{self.y(v) + 4:.1f}", f"{v:g}"))
        for v in ticks(self.x_low, self.x_high):
            text = '<text x="{}" y="{}" text-anchor="middle">{}</text>'
            parts.append(Markup(text).format(f"{self.x(v):.1f}", HEIGHT - BOTTOM + 16, f"{v:g}"))
        titles = '<text x="{}" y="{}" text-anchor="end">{}</text><text x="2" y="12">{}</text>'
        parts.append(Markup(titles).format(WIDTH - RIGHT, HEIGHT - 4, x_title, y_title))
        return Markup("").join(parts)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values inside a range, at most about so many."""
    rough = (high - low) / most
    scale = 10 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    found = [round(i * step, 10) for i in range(first, first + 3 * most)]
    return [v for v in found if v <= high + 1e-9 * step]


def _ends(numbers: Iterable[Number]) -> list[float]:
    return [v for n in numbers for v in (n.value, n.low, n.high) if v is not None]


def _point(e: Entry, x: Number, y: Number, frame: Frame, mark: Mark) -> Markup:
    px, py = frame.x(x.value), frame.y(y.value)
    bars = ""
    if x.low is not None and x.high is not None:
        bars += f"M{frame.x(x.low):.1f} {py:.1f}H{frame.x(x.high):.1f}"
    if y.low is not None and y.high is not None:
        bars += f"M{px:.1f} {frame.y(y.low):.1f}V{frame.y(y.high):.1f}"
    said = f"{e.name}: {y.value:.3f}, {x.value:.4g}"
    return Markup(
        '<a href="#recipe-{}" data-name="{}"><title>{}</title><path class="bar-line" stroke="var(--{})" d="{}"/>{}</a>'
    ).format(e.number, e.name, said, mark.colour, bars, mark.at(px, py))


def _front(points: Sequence[tuple[float, float]], frame: Frame) -> Markup:
    if not points:
        return Markup("")
    some = sorted(points)
    path = f"M{frame.x(some[0][0]):.1f} {frame.y(some[0][1]):.1f}"
    path += "".join(f"H{frame.x(x):.1f}V{frame.y(y):.1f}" for x, y in some[1:])
    return Markup('<path class="front" d="{}"/>').format(path)


def _labels(best: Sequence[Entry], cost: str, frame: Frame) -> list[Markup]:
    """Names of the best, those that would lie over another left out."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for e in sorted(best, key=lambda e: -e.numbers["score"].value):
        x, y = frame.x(e.numbers[cost].value), frame.y(e.numbers["score"].value) - 9
        width = 6.2 * len(e.name)
        start = min(max(x - width / 2, LEFT + 2), WIDTH - RIGHT - width)
        if any(abs(y - v) < 13 and start < b and a < start + width for a, b, v in taken):
            continue
        taken.append((start, start + width, y))
        found.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(f"{start:.1f}", f"{y:.1f}", e.name))
    return found


def _svg(width: int, height: int, parts: Iterable[Markup], label: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, escape(label), Markup("").join(parts)
    )
