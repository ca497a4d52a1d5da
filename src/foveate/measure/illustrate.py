"""Pictures for a study: of the samples whose answers changed most, and what each contender kept of the first few.

They are rows of their own, in STUDY/overlays, with the image files beside them:

  picture  the files of one sample by the number of the image or frame; of a video only some
  overlay  what became of each visual token of a sample under a contender at a budget. `grids` are their extents,
           `views` which picture lies under which frame of which grid; each of `steps` says where and by what it cuts,
           and its `cuts`: tokens that competed (those left of the grids in `of`), with the `owner` of each, the one
           among them that stands for it now, -1 for none. A token that owns itself was kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..engine.run import compress
from ..engine.trace import Cut, Trace
from ..errors import FoveateError
from ..loading import Loaded
from ..pieces import Drop
from ..tokens import Span
from .changes import changes
from .contender import Contender, Level
from .samples import Opened, Sample, greedy, inputs_of, visual_grids
from .study import Row, Study
from .sweep import Cell, cells_of, row_of, said

#: samples whose pictures are saved because their answers changed, and whose tokens are drawn
MOST_PICTURES, MOST_OVERLAYS = 40, 3
#: longest side of a picture in pixels, and frames of a film strip
SIDE, FRAMES = 448, 12


def illustrate(
    loaded: Loaded, samples: Sequence[Sample], contenders: Iterable[Contender], levels: Sequence[Level], study: Study
) -> None:
    """Save the pictures and overlays that are not there yet; a contender that breaks has a row with its error."""
    album = Study(study.folder / "overlays", within=study.folder)
    album.folder.mkdir(parents=True, exist_ok=True)
    have = {(r["kind"], r.get("method"), r.get("budget"), r["sample"]) for r in album.rows()}
    cells = cells_of(contenders, levels)
    worst = {name: i for i, name in enumerate(list(changes(study.rows()))[:MOST_PICTURES])}
    drawn = 0
    for sample in sorted(samples, key=lambda s: worst.get(s.id, len(worst))):  # the others stay in their order
        draws = drawn < MOST_OVERLAYS
        if not draws and sample.id not in worst:
            break
        try:
            opened = Opened.of(sample)
        except FoveateError:
            continue
        todo = [c for c in cells if draws and ("overlay", *c.key, sample.id) not in have]
        rows = _overlays(loaded, opened, todo) if todo else []
        shown = {v["picture"] for row in rows for v in row.get("views", ())} - {None}
        if shown or ("picture", None, None, sample.id) not in have:
            album.append(_picture(opened, album.folder, shown))
        if rows:
            album.append(*rows)
        drawn += draws


def _picture(opened: Opened, folder: Path, shown: set[int]) -> Row:
    """The files of a sample; of a video the frames that are shown, or some."""
    total, video = len(opened.pictures), opened.sample.video is not None
    name = hashlib.sha256(opened.sample.id.encode()).hexdigest()[:16]
    files = {}
    for i in sorted(shown) or _spread(total) if video else range(total):
        picture = opened.pictures[i].convert("RGB")
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        files[str(i)] = f"{name}-{i}.jpg"
        picture.save(folder / files[str(i)], quality=85)
    return {
        "kind": "picture", "sample": opened.sample.id, "question": opened.sample.prompt, "files": files,
        "video": video, "error": None,
    }  # fmt: skip


def _spread(total: int) -> list[int]:
    """Up to FRAMES of so many, the first and the last among them."""
    n = min(total, FRAMES)
    return [round(i * (total - 1) / max(1, n - 1)) for i in range(n)]


def _overlays(loaded: Loaded, opened: Opened, cells: Sequence[Cell]) -> list[Row]:
    try:
        grids = visual_grids(loaded, inputs_of(loaded, [opened]))
    except Exception:  # a sample that cannot be asked is counted as broken in the study's own rows
        return []
    rows = []
    for cell in cells:
        settings: dict[str, Any] = {}
        try:
            setup = cell.contender.at(cell.level, loaded, opened, grids)
            if setup.method is None:  # the model as it is, or smaller inputs: no token is kept or dropped
                continue
            settings = setup.settings
            with compress(setup.loaded.model, setup.method) as run:
                greedy(setup.loaded, inputs_of(setup.loaded, [opened]), 1)
            found = overlay(run.trace, len(opened.pictures), opened.sample.video is not None)
        except Exception as error:  # the results are there already: a picture that fails must not take them away
            found = {"error": said(error)}
        rows.append(row_of("overlay", cell, opened.sample, settings, found))
    return rows


def overlay(trace: Trace, pictures: int, video: bool) -> dict[str, Any]:
    """What a run on one prompt did to each visual token of its pictures, as fields of a row."""
    spans = sorted({s for cut in trace.cuts for s in cut.spans}, key=lambda s: s.start)
    number = {span: i for i, span in enumerate(spans)}
    steps: list[dict[str, Any]] = []
    last = None
    for cut in trace.cuts:
        if cut.step is not last:
            steps.append({"at": str(cut.step.at), "by": _words(cut), "cuts": []})
            last = cut.step
        steps[-1]["cuts"].append({"of": [number[s] for s in cut.spans], "owner": _owners(cut)})
    return {
        "grids": [[s.grid.t, s.grid.h, s.grid.w] for s in spans], "views": _views(spans, pictures, video),
        "steps": steps, "tokens_per_layer": trace.tokens_per_layer, "visual_tokens": trace.visual_tokens,
        "t_eq": trace.t_eq,
    }  # fmt: skip


def _owners(cut: Cut) -> list[int]:
    kept, source = cut.reduction.kept[0], cut.reduction.source[0]
    owner = torch.where(source < 0, source, kept[source.clamp(min=0)]) if len(kept) else source
    found: list[int] = owner.tolist()
    return found


def _words(cut: Cut) -> str:
    step = cut.step
    said = [step.score or step.select, *([step.merge] if step.merge != Drop() else [])]
    return " + ".join(map(str, said))


def _views(spans: Sequence[Span], pictures: int, video: bool) -> list[dict[str, Any]]:
    """The frames of grids to be shown, each with the picture under it: None for one tile of several."""
    frames = [(i, f) for i, span in enumerate(spans) for f in range(span.grid.t)]
    if video:
        frames = [frames[n] for n in _spread(len(frames))]
    return [{"grid": i, "frame": f, "picture": _under(i, f, spans, pictures)} for i, f in frames]


def _under(i: int, frame: int, spans: Sequence[Span], pictures: int) -> int | None:
    span = spans[i]
    if span.grid.t > 1:
        return frame * pictures // span.grid.t
    mine = [s for s in spans[i + 1 :] if (s.kind, s.image) == (span.kind, span.image) and s.stride in (None, s.grid.w)]
    return None if mine else min(span.image, pictures - 1)  # the last tile of an image shows all of it
