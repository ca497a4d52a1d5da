"""What a study keeps for the report to draw: the worst samples' pictures, and what became of each token."""

import pytest
from PIL import Image

from foveate import get_method
from foveate.families.internvl import InternVL
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.measure.changes import changes
from foveate.measure.contender import AsItIs, Level
from foveate.measure.illustrate import FRAMES, MOST_OVERLAYS, illustrate, overlay
from foveate.measure.lineup import contender
from foveate.measure.samples import Picture
from foveate.measure.study import Study
from foveate.overlay import panels
from foveate.testing import Case, answer

QWEN = Qwen25VL()


def composed(row):
    """The owner of each token of all grids after the last step, cut by cut: what the page does."""
    sizes = [t * h * w for t, h, w in row["grids"]]
    alive = [[(g, i) for i in range(n)] for g, n in enumerate(sizes)]
    owner = {token: token for grid in alive for token in grid}
    for step in row["steps"]:
        for cut in step["cuts"]:
            before = [token for g in cut["of"] for token in alive[g]]
            assert len(before) == len(cut["owner"])
            now = {b: before[o] if o >= 0 else None for b, o in zip(before, cut["owner"], strict=True)}
            owner = {token: now.get(o, o) for token, o in owner.items()}
            for g in cut["of"]:
                alive[g] = [token for token in alive[g] if now[token] == token]
    return owner


@pytest.mark.parametrize("method", ["aim", "visionzip", "pyramiddrop", "pool", "framefusion"])
@pytest.mark.parametrize(
    ("family", "images"), [(QWEN, [(6, 8), (4, 5)]), (QWEN, [(3, 4, 4)]), (LlavaOnevision(), [(6, 8)])]
)
def test_the_owners_are_those_of_the_drawn_overlay(family, images, method):
    case = Case(family, get_method(method, keep=0.25))
    _, run = answer(case, case.inputs([images]))
    row = overlay(run.trace, len(images), video=False)
    states = panels(run.trace)
    spans = sorted(states, key=lambda s: s.start)
    number = {span: i for i, span in enumerate(spans)}
    expected = {
        (number[span], i): None if o is None else (number[o[0]], o[1])
        for span in spans
        for i, o in enumerate(states[span][-1].owner)
    }
    assert composed(row) == expected
    assert sum(o == t for t, o in expected.items()) == row["tokens_per_layer"][-1]


def test_each_frame_has_its_picture_and_a_long_film_is_thinned():
    case = Case(QWEN, get_method("random", keep=0.5))
    _, run = answer(case, case.inputs([[(3, 4, 4)]]))
    views = overlay(run.trace, 6, video=True)["views"]  # two frames share a grid
    assert views == [{"grid": 0, "frame": f, "picture": 2 * f} for f in range(3)]
    _, run = answer(case, case.inputs([[(30, 2, 2)]]))
    frames = [v["frame"] for v in overlay(run.trace, 30, video=True)["views"]]
    assert len(frames) == FRAMES and frames[0] == 0 and frames[-1] == 29


def test_only_the_thumbnail_of_tiles_lies_over_the_picture():
    case = Case(InternVL(), get_method("random", keep=0.5))
    _, run = answer(case, case.inputs([[(6, 8), (4, 5)]]))  # two tiles and a thumbnail; one tile
    assert [v["picture"] for v in overlay(run.trace, 2, video=False)["views"]] == [None, None, 0, 1]


class Breaks(AsItIs):
    """One that cannot be set."""

    def at(self, level, loaded, like, grids):
        raise RuntimeError("it broke")


def row(sample, method, correct, answer):
    about = {"kind": "accuracy", "method": method, "settings": {}, "budget": None, "keep": None, "sample": sample}
    return about | {"error": None, "correct": correct, "answer": answer}


def test_the_worst_are_kept_and_again_adds_nothing(embedded, small_questions, tmp_path):
    study = Study.create(tmp_path / "s", "compare")
    broken = Picture("gone", "what?", (tmp_path / "gone.png",))
    samples = [broken, *small_questions]
    for i, sample in enumerate(small_questions):
        study.append(row(sample.id, "uncompressed", True, "red"))
        if i >= 2:  # the last ones are the worst
            study.append(*(row(sample.id, f"m{n}", n >= i - 1, "red" if n >= i - 1 else "blue") for n in range(6)))
    contenders = [contender("uncompressed"), contender("fastv"), Breaks("bad", get_method("random"))]
    illustrate(embedded, samples, contenders, [Level(keep=0.5)], study)
    album = Study(study.folder / "overlays")
    rows = album.rows()
    worst = list(changes(study.rows()))
    assert worst == [q.id for q in small_questions[:1:-1]]
    assert [r["sample"] for r in rows if r["kind"] == "picture"] == worst
    drawn = [r for r in rows if r["kind"] == "overlay"]
    assert {r["sample"] for r in drawn} == set(worst[:MOST_OVERLAYS])
    assert {(r["method"], r["budget"], r["error"]) for r in drawn} == {
        ("fastv", "keep 0.5", None),
        ("bad", None, "RuntimeError: it broke"),
    }
    for r in rows:
        for name in r.get("files", {}).values():
            with Image.open(album.folder / name) as picture:
                assert picture.size == (168, 168)
    good = next(r for r in drawn if not r["error"])
    assert good["grids"] == [[1, 6, 6]] and good["visual_tokens"] == 36 and good["tokens_per_layer"][-1] == 18
    illustrate(embedded, samples, contenders, [Level(keep=0.5)], study)
    assert album.rows() == rows


def test_a_film_strip_has_the_frames_that_it_shows(watching, tmp_path):
    frames = tuple(Image.new("RGB", (112, 112), (8 * i, 0, 0)) for i in range(30))
    study = Study.create(tmp_path / "s", "bench")
    film = Picture("film", "what?", frames, video=True)
    illustrate(watching, [film], [contender("uniform")], [Level(keep=0.5)], study)
    picture, drawn = Study(study.folder / "overlays").rows()
    assert drawn["error"] is None and drawn["grids"][0][0] == 15
    assert {str(v["picture"]) for v in drawn["views"]} == set(picture["files"]) and len(drawn["views"]) == FRAMES


def test_without_changes_the_first_samples_are_drawn(embedded, small_questions, tmp_path):
    study = Study.create(tmp_path / "s", "bench")
    illustrate(embedded, small_questions, [contender("random")], [Level(share=0.5)], study)
    drawn = [r["sample"] for r in Study(study.folder / "overlays").rows() if r["kind"] == "overlay"]
    assert drawn == [q.id for q in small_questions[:MOST_OVERLAYS]]


def test_changes_of_a_fidelity_study_are_by_divergence():
    about = {"kind": "fidelity", "method": "m", "budget": "keep 0.5", "error": None, "answer": "a b"}
    some = [("a", 1, 0.1), ("b", None, 9.0), ("c", 0, 0.7)]
    rows = [about | {"sample": s, "first_divergence": f, "found_token": "c", "kl_nats": kl} for s, f, kl in some]
    found = changes(rows)
    assert list(found) == ["c", "a"] and (found["a"][0].token, found["a"][0].after) == (1, "c")
