"""The picture tells what the trace tells."""

import pytest
from PIL import Image

from foveate import compress, get_method
from foveate.errors import InvalidValue
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.overlay import draw, panels
from foveate.testing import Case, answer, tiny

QWEN, ONEVISION = Qwen25VL(), LlavaOnevision()


def height(path):
    with Image.open(path) as picture:
        return picture.height


@pytest.mark.parametrize("method", ["aim", "visionzip", "pyramiddrop", "pool"])
def test_panels_follow_the_cuts(method):
    case = Case(QWEN, get_method(method, keep=0.25))
    _, run = answer(case, case.inputs([[(6, 8), (4, 5)]]))
    states = panels(run.trace)
    last = sum(1 for span, s in states.items() for i, o in enumerate(s[-1].owner) if o == (span, i))
    assert last == run.trace.tokens_per_layer[-1]
    for span, steps in states.items():
        for step in steps:
            assert len(step.owner) == span.grid.n
            assert all(o is None or step.owner[o[1]] == o for o in step.owner if o is None or o[0] == span)


def test_an_image_and_a_film_strip_are_drawn(tmp_path):
    case = Case(QWEN, get_method("aim"))
    _, run = answer(case, case.inputs([[(6, 8), (3, 4, 4)]]))
    frames = [Image.new("RGB", (64, 64), c) for c in ("white", "red", "green", "blue")]
    assert height(draw(run.trace, frames, tmp_path / "p.png")) > 4 * 336


def test_both_views_of_an_anyres_image_are_drawn(tmp_path):
    case = Case(ONEVISION, get_method("divprune"))
    _, run = answer(case, case.inputs([[(6, 8)]]))
    assert height(draw(run.trace, [Image.new("RGB", (80, 60))], tmp_path / "p.png")) > 2 * 336


def test_what_cannot_be_drawn_says_why(tmp_path):
    with compress(tiny(QWEN), "aim") as run, pytest.raises(InvalidValue, match="no visual tokens"):
        draw(run.trace, [], tmp_path / "p.png")
    _, run = answer(Case(QWEN, get_method("aim")), Case(QWEN, get_method("aim")).inputs([[(6, 8), (4, 5)]]))
    with pytest.raises(InvalidValue, match="only 1 images"):
        draw(run.trace, [Image.new("RGB", (8, 8))], tmp_path / "p.png")
