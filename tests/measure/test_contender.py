"""Contenders: what a person writes, equal T_eq for all, and smaller inputs beside the methods."""

import pytest
from PIL import Image

from foveate import TwoStage
from foveate.errors import InvalidValue
from foveate.families import family_of
from foveate.loading import Loaded
from foveate.measure.contender import AsItIs, Level, Reduced
from foveate.measure.lineup import BASELINES, contender, from_recipe, line_up, of_method
from foveate.measure.samples import Opened, Picture, inputs_of, synthetic_pictures, visual_grids
from foveate.method import get_method
from foveate.pieces import Adaptive, Complexity
from foveate.plan import make_plan
from foveate.recipe import Recipe

METHODS = ("aim", "divprune", "fastv", "pool", "pyramiddrop", "random", "uniform", "visionzip")


def placed(contender_, level, loaded, one):
    grids = visual_grids(loaded, inputs_of(loaded, [one]))
    return contender_.at(level, loaded, one, grids), grids


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("level", [Level(share=0.5), Level(t_eq=50)])
def test_every_method_comes_to_the_same_t_eq(name, level, embedded, opened):
    setup, grids = placed(contender(name), level, embedded, opened[0])
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    plan = make_plan(setup.method.steps(shape), shape, grids)
    wanted = 72 if level.share else 50
    # pool has only grids, visionzip and fastv one count for several layers
    assert abs(plan.t_eq - wanted) <= (4 if name == "pool" else 1)
    assert Recipe(method=name, settings=setup.settings).to_method() == setup.method


def test_what_is_out_of_reach_says_what_is_not(embedded, opened):
    with pytest.raises(InvalidValue, match=r"t_eq=14\.4 is out of reach: .* 36\.8 to 144"):
        placed(contender("fastv"), Level(share=0.1), embedded, opened[0])


def test_a_budget_above_the_image_keeps_it_whole(embedded, opened):
    setup, grids = placed(contender("divprune"), Level(t_eq=500), embedded, opened[0])
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    assert make_plan(setup.method.steps(shape), shape, grids).t_eq == 144
    setup, _ = placed(contender("resolution"), Level(t_eq=500), embedded, opened[0])
    assert setup.settings == {"scale": 1.0}


@pytest.mark.parametrize(("share", "tokens"), [(1.0, 144), (0.5, 64), (0.25, 36), (0.1, 16)])
def test_smaller_pictures_have_about_as_many_tokens(share, tokens, embedded, opened):
    """Grids of 8, 6 and 4 squared are the nearest that a square picture can have; the processor's least is 16."""
    setup, _ = placed(contender("resolution"), Level(share=share), embedded, opened[0])
    grids = visual_grids(setup.loaded, inputs_of(setup.loaded, opened[:3]))
    assert [g.n for g in grids] == [tokens] * 3 and setup.method is None
    assert setup.settings["scale"] * 336 >= 28 * tokens**0.5, "no smaller than it must be"


def test_smaller_pictures_that_the_processor_makes_large_again_are_out_of_reach(embedded):
    small = Opened.of(Picture("s", "what?", (Image.new("RGB", (112, 112)),)))
    with pytest.raises(InvalidValue, match="comes no nearer than 16"):
        placed(contender("resolution"), Level(t_eq=4), embedded, small)


def test_fewer_frames_have_about_as_many_tokens(watching):
    frames = tuple(synthetic_pictures(112, 112, 8))
    video = Opened.of(Picture("v", "what?", frames, video=True))
    setup, grids = placed(contender("frames"), Level(share=0.5), watching, video)
    assert grids[0].n == 64 and setup.settings == {"frames": 4}
    (left,) = visual_grids(setup.loaded, inputs_of(setup.loaded, [video]))
    assert (left.t, left.n) == (2, 32)
    seen = []
    stub = Loaded(watching.model, setup.loaded.processor.__class__(lambda **k: seen.append(k), frames=None))
    kept = setup.loaded.processor.frames(list(range(8)))
    assert kept == [1, 3, 5, 7], "the middles of equal parts"
    stub.processor(videos=[[1, 2]])
    assert seen == [{"videos": [[1, 2]]}]


def test_images_have_no_frames(embedded, opened):
    with pytest.raises(InvalidValue, match="no frames"):
        placed(contender("frames"), Level(share=0.5), embedded, opened[0])


def test_what_a_person_writes(tmp_path):
    assert contender("visionzip:contextual=0.2:keep=0.5").method == get_method("visionzip", contextual=0.2, keep=0.5)
    twin = contender("twin=visionzip:contextual=0.2")
    assert (twin.label, twin.method.contextual) == ("twin", 0.2)
    Recipe.of(get_method("fastv", layer=3)).save(tmp_path / "mine.yaml")
    mine = contender(f"{tmp_path}/mine.yaml")
    assert (mine.label, mine.method.layer) == ("mine", 3)
    assert contender(f"x={tmp_path}/mine.yaml:layer=4").method.layer == 4
    assert contender("small=resolution").label == "small" and contender("uncompressed").budgeted is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastvee", "did you mean 'fastv'"),
        ("fastv:layer", "NAME=VALUE"),
        ("fastv:nose=1", "nose"),
        ("fastv:layer={", "cannot read the value"),
        ("none.yaml", "cannot read the recipe"),
    ],
)
def test_what_is_written_wrongly_is_named(text, message):
    with pytest.raises(InvalidValue, match=message):
        contender(text)


def test_a_method_that_follows_the_content_has_no_budget():
    method = get_method("divprune", keep=Adaptive(Complexity(), 0.1, 0.4))
    assert isinstance(of_method("a", method), AsItIs) and isinstance(of_method("b", get_method("aim")), Reduced)
    assert isinstance(of_method("c", TwoStage(merge=method, prune=get_method("fastv"))), AsItIs)


def test_two_stages_come_to_a_budget_by_the_first(embedded, opened):
    both = of_method("both", TwoStage(merge=get_method("divprune"), prune=get_method("fastv", keep=0.5)))
    setup, grids = placed(both, Level(t_eq=50), embedded, opened[0])
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    assert abs(make_plan(setup.method.steps(shape), shape, grids).t_eq - 50) < 1 and setup.method.prune.keep == 0.5
    own, _ = placed(both, Level(keep=0.3), embedded, opened[0])
    assert own.method.merge.keep == 0.3


def test_the_baselines_are_always_there_once():
    labels = [c.label for c in line_up(["random", "aim"])]
    assert labels == ["uncompressed", "random", "aim", "uniform", "pool", "resolution"]
    assert set(BASELINES) < set(labels) and "frames" in [c.label for c in line_up(["aim"], videos=True)]
    with pytest.raises(InvalidValue, match="two contenders are called 'aim'"):
        line_up(["aim", "aim"])


@pytest.mark.parametrize("text", ["aim", "twin=fastv:layer=3", "resolution", "frames", "uncompressed"])
def test_a_recipe_gives_the_contender_back(text):
    one = contender(text)
    assert from_recipe(one.label, one.recipe()) == one


@pytest.mark.parametrize("wrong", [{}, {"share": 0.5, "keep": 0.5}, {"share": 0}, {"keep": 1.5}, {"t_eq": 0}])
def test_a_budget_is_one_number_in_its_range(wrong):
    with pytest.raises(InvalidValue):
        Level(**wrong)
    assert [str(Level(share=0.25)), str(Level(keep=0.25)), str(Level(t_eq=64))] == ["T_eq 25%", "keep 0.25", "T_eq 64"]
