"""A picture of what a run kept: after each step kept tokens in colour, merged groups in one hue, the rest pale."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .engine.trace import Trace
from .errors import InvalidValue
from .pieces import Drop
from .tokens import Grid, Span

PANEL = 336
GAP = 16
MOST_PANELS = 6
INK, PAPER = (25, 28, 33), (255, 255, 255)
#: A visual token: its span and its raster index there.
Token = tuple[Span, int]


@dataclass(frozen=True)
class Panel:
    """The state of one span after a step: for each token of its grid the survivor that stands for it, if any."""

    title: str
    owner: list[Token | None]


def draw(trace: Trace, images: Sequence[Image.Image], path: str | Path, sample: int = 0) -> Path:
    """Write a PNG with a row per image of one prompt: the image, then what is left after each step.

    `images` are those of the prompt, in order; a video is given by its frames, of which up to six are shown.
    Raises InvalidValue when the trace saw no visual tokens or there are too few images.
    """
    if not trace.plans:
        raise InvalidValue("nothing to draw: the last prompt had no visual tokens")
    if not any(cut.sample == sample for cut in trace.cuts):
        raise InvalidValue("nothing to draw: nothing was cut")
    states = panels(trace, sample)
    rows = [
        row for span, pictures in _pairs(trace, images, sample) for row in _rows(trace, span, pictures, states[span])
    ]
    width = max(len(row) for row in rows)
    line = PANEL + 44
    sheet = Image.new("RGB", (GAP + width * (PANEL + GAP), GAP + len(rows) * (line + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (title, picture) in enumerate(row):
            at = GAP + x * (PANEL + GAP), GAP + y * (line + GAP)
            pen.multiline_text(at, title, fill=INK, font=ImageFont.load_default(15), spacing=3)
            sheet.paste(picture, (at[0], at[1] + 44))
    path = Path(path)
    sheet.save(path)
    return path


def _pairs(trace: Trace, images: Sequence[Image.Image], sample: int) -> list[tuple[Span, list[Image.Image]]]:
    """Each span with its picture, or with the frames of its video."""
    spans = _spans(trace, sample)
    pairs: list[tuple[Span, list[Image.Image]]] = []
    left = list(images)
    for span in spans:
        need = 1 if span.grid.t == 1 else min(span.grid.t, len(left))
        if span.stride not in (None, span.grid.w) and pairs:  # the stitched view of an image seen before
            pairs.append((span, pairs[-1][1]))
            continue
        if len(left) < need or not left:
            raise InvalidValue(f"the prompt has {len(spans)} grids, and only {len(images)} images were given")
        pairs.append((span, left[:need]))
        left = left[need:]
    return pairs


def _spans(trace: Trace, sample: int) -> list[Span]:
    seen: dict[Span, None] = {}
    for cut in trace.cuts:
        if cut.sample == sample:
            seen |= dict.fromkeys(cut.spans)
    return sorted(seen, key=lambda s: s.start)


def panels(trace: Trace, sample: int = 0) -> dict[Span, list[Panel]]:
    """For each span of a prompt what is left after each step that touched it, at most MOST_PANELS, the last always."""
    spans = _spans(trace, sample)
    owner: dict[Token, Token | None] = {(s, i): (s, i) for s in spans for i in range(s.grid.n)}
    alive = {s: [(s, i) for i in range(s.grid.n)] for s in spans}
    result: dict[Span, list[Panel]] = {s: [] for s in spans}
    for cut in trace.cuts:
        if cut.sample != sample:
            continue
        before = [token for span in cut.spans for token in alive[span]]
        survivors = [before[i] for i in cut.reduction.kept[0].tolist()]
        stands_for = {
            b: survivors[r] if r >= 0 else None for b, r in zip(before, cut.reduction.source[0].tolist(), strict=True)
        }
        owner = {token: stands_for.get(o, o) if o else None for token, o in owner.items()}
        by = [cut.step.score or cut.step.select, *([cut.step.merge] if cut.step.merge != Drop() else [])]
        for span in cut.spans:
            alive[span] = [token for token in survivors if token[0] == span]
            title = f"{cut.step.at}: {len(alive[span])} of {span.grid.n} tokens\n{_short(' + '.join(map(str, by)))}"
            result[span].append(Panel(title, [owner[span, i] for i in range(span.grid.n)]))
    return {span: _thinned(states) for span, states in result.items()}


def _thinned(states: list[Panel]) -> list[Panel]:
    if len(states) <= MOST_PANELS:
        return states
    return [states[round(i * (len(states) - 1) / (MOST_PANELS - 1))] for i in range(MOST_PANELS)]


def _short(text: str) -> str:
    text = re.sub(r"\([^)]*\)", "", text)  # names without their settings
    return text if len(text) <= 44 else text[:41] + "..."


def _rows(
    trace: Trace, span: Span, pictures: list[Image.Image], states: list[Panel]
) -> list[list[tuple[str, Image.Image]]]:
    """The pictures of one image, or of up to six frames of a video, with their titles."""
    grid = span.grid
    frames = [round(i * (grid.t - 1) / max(1, min(grid.t, 6) - 1)) for i in range(min(grid.t, 6))]
    rows = []
    for f in frames:
        picture = pictures[min(f, len(pictures) - 1)]
        base = picture.convert("RGB").resize(_fit(grid), Image.Resampling.BICUBIC)
        name = f"{picture.width}x{picture.height} pixels, {grid} tokens"
        first = f"frame {f}: {name}" if grid.t > 1 else name
        alone = len(trace.plans) == 1
        whole = f"{trace.visual_tokens} visual tokens, T_eq {trace.t_eq:.1f}" if alone else "one prompt of a batch"
        row = [(f"{first}\n{whole}", _boxed(_ruled(base, grid)))]
        size = grid.h * grid.w
        for state in states:
            row.append((state.title, _boxed(_painted(base, span, state.owner, f * size))))
        rows.append(row)
    return rows


def _fit(grid: Grid) -> tuple[int, int]:
    cell = max(1, PANEL // max(grid.h, grid.w))
    return grid.w * cell, grid.h * cell


def _boxed(picture: Image.Image) -> Image.Image:
    """On a square of the size of a panel, at the top left."""
    square = Image.new("RGB", (PANEL, PANEL), PAPER)
    square.paste(picture)
    return square


def _ruled(base: Image.Image, grid: Grid) -> Image.Image:
    """The picture with a thin grid."""
    lines = base.copy()
    pen = ImageDraw.Draw(lines, "RGBA")
    cell = base.width // grid.w
    for x in range(0, base.width + 1, cell):
        pen.line([(x, 0), (x, base.height)], fill=(255, 255, 255, 70))
    for y in range(0, base.height + 1, cell):
        pen.line([(0, y), (base.width, y)], fill=(255, 255, 255, 70))
    return lines


def _painted(base: Image.Image, span: Span, owner: list[Token | None], first: int) -> Image.Image:
    """Kept tokens clear, merged ones tinted like their survivor, dropped ones grey and pale."""
    grid, cell = span.grid, base.width // span.grid.w
    groups = {o for i, o in enumerate(owner) if o is not None and o != (span, i)}
    result = Image.blend(ImageOps.grayscale(base).convert("RGB"), Image.new("RGB", base.size, PAPER), 0.72)
    pen = ImageDraw.Draw(result, "RGBA")
    for i in range(grid.h * grid.w):
        o = owner[first + i]
        if o is None:
            continue
        x, y = i % grid.w * cell, i // grid.w * cell
        box = (x, y, x + cell - 1, y + cell - 1)
        survives, tint = o == (span, first + i), _hue(o)
        if survives:
            result.paste(base.crop((x, y, x + cell, y + cell)), (x, y))
            pen.rectangle(box, outline=(*(tint if o in groups else INK), 255), width=2)
        else:
            pen.rectangle(box, fill=(*tint, 95))
    return result


def _hue(token: Token) -> tuple[int, int, int]:
    # the golden ratio spreads neighbours over the circle
    r, g, b = colorsys.hsv_to_rgb(token[1] * 0.61803398875 % 1, 0.75, 0.85)
    return round(r * 255), round(g * 255), round(b * 255)
