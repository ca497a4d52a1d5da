"""Recipes: what is written is what is read, and mistakes are named."""

import pytest

from foveate import TwoStage, all_methods, get_method
from foveate.errors import InvalidValue
from foveate.ops.schedule import Explicit
from foveate.pieces import Adaptive, Complexity, Hybrid
from foveate.recipe import Recipe

METHODS = [
    *(cls() for cls in all_methods().values()),
    TwoStage(merge=get_method("pool"), prune=get_method("fastv", importance=Hybrid())),
    get_method("aim", schedule=Explicit((1.0, 0.5)), keep=Adaptive(Complexity(), 0.1, 0.4), positions="keep"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.card.name)
def test_a_recipe_gives_back_the_method(method, tmp_path):
    Recipe.of(method, prompt="why?", dtype="bfloat16").save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    assert again.to_method() == method and again.prompt == "why?" and again.dtype == "bfloat16"
    assert again.versions["transformers"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: fastv\nkeeep: 1", "keeep"),
        ("[1, 2]", "holds no recipe"),
        ("method: {", "no YAML"),
        ("settings: {}", "method"),
        ("method: fastv\nmax_new_tokens: many", "max_new_tokens"),
    ],
)
def test_a_wrong_file_names_the_mistake(text, message, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InvalidValue, match=message):
        Recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(method="fastvv"), "did you mean 'fastv'"),
        (Recipe(method="fastv", settings={"nose": 1}), "nose"),
        (Recipe(method="fastv", settings={"importance": {"name": "Nose"}}), "no such piece"),
        (Recipe(method="fastv", settings={"importance": {"name": "Hybrid", "fields": {"x": 1}}}), "takes the fields"),
        (Recipe(method="fastv", settings={"importance": {"name": "Hybrid", "fields": [3]}}), "takes the fields"),
        (Recipe(method="fastv", settings={"layer": [1, 2]}), "layer takes int"),
        (Recipe(method="fastv", settings={"importance": {"name": "LastQuery"}}), "importance takes Score"),
    ],
)
def test_a_wrong_method_names_the_mistake(recipe, message):
    with pytest.raises(InvalidValue, match=message):
        recipe.to_method()


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InvalidValue, match="cannot read the recipe"):
        Recipe.load(tmp_path / "none.yaml")
