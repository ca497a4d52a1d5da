"""Schedules against the published rates, and what every schedule must do."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops.schedule import (
    SCHEDULES,
    AimSchedule,
    Cosine,
    Explicit,
    Exponential,
    Linear,
    Pyramid,
    Schedule,
    Steps,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "aim.json").read_text())["schedule"]


def of(name: str, layers: int) -> Schedule:
    """The named schedule with its defaults; explicit needs fractions."""
    kind = SCHEDULES[name]
    return kind(tuple(1 - i / layers for i in range(layers))) if kind is Explicit else kind()


@pytest.mark.parametrize("name", SCHEDULES)
@given(layers=st.integers(1, 90))
@settings(max_examples=40, deadline=None)
def test_fractions_never_grow_and_stay_in_range(name, layers):
    fractions = of(name, layers).per_layer(layers)
    assert len(fractions) == layers and all(0 <= f <= 1 for f in fractions)
    assert all(b <= a for a, b in pairwise(fractions))
    assert fractions[0] == 1
    assert fractions == Explicit(fractions).per_layer(layers)


@pytest.mark.parametrize("final_ratio", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind", [Linear, Exponential, Steps, Cosine])
def test_final_ratio_is_removed_at_the_last_layer(kind, final_ratio):
    fractions = kind(final_ratio).per_layer(28)
    assert fractions[0] == 1 and fractions[-1] == pytest.approx(1 - final_ratio, abs=1e-12)


def test_aim_equals_the_published_rates():
    s1, s2 = GOLDEN["s1_qwen2_28"]["rates"], GOLDEN["s2_vicuna_32"]["rates"]
    assert [AimSchedule().rate(layer, 28) for layer in range(28)] == s1
    assert [AimSchedule(13, 21).rate(layer, 32) for layer in range(32)] == s2
    assert list(AimSchedule().per_layer(28)) == [1.0, *s1[:-1]]


def test_aim_runs_each_layer_on_what_the_released_forward_shows_it():
    executed = GOLDEN["s3_visible_visual_1568"]["executed"]
    for schedule in (AimSchedule(), AimSchedule(14, 22)):
        assert [math.floor(1568 * f) for f in schedule.per_layer(28)] == executed


def test_aim_bounds_follow_the_depth():
    assert AimSchedule().bounds(28) == (14, 22)
    assert AimSchedule().bounds(32) == (16, 25)
    assert AimSchedule(28, 29).per_layer(28) == (1.0,) * 28
    assert AimSchedule(0.5, 22).bounds(28) == (14, 22)
    assert AimSchedule().bounds(1) == (1, 2)


def test_pyramid_cuts_where_pyramiddrop_does():
    for layers in (28, 30, 32, 33):
        fractions = Pyramid().per_layer(layers)
        cuts = [i for i in range(1, layers) if fractions[i] < fractions[i - 1]]
        assert cuts == [layers * stage // 4 for stage in (1, 2, 3)]
        assert sorted(set(fractions)) == [0.125, 0.25, 0.5, 1]
    assert sum(Pyramid().per_layer(32)) / 32 * 576 == 270


def test_shapes_differ_as_their_names_say():
    middle = {kind: kind(0.8).kept(14, 29) for kind in (Linear, Exponential, Cosine)}
    assert middle[Linear] == pytest.approx(0.6) and middle[Cosine] == pytest.approx(0.6)
    assert middle[Exponential] < 0.4
    assert Cosine(0.8).kept(7, 29) > Linear(0.8).kept(7, 29) > Cosine(0.8).kept(21, 29)
    assert sorted(set(Steps(0.6, 4).per_layer(32)), reverse=True) == pytest.approx([1, 0.8, 0.6, 0.4])


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Linear(1.5), r"final_ratio must lie in \[0, 1\], got 1.5"),
        (lambda: Cosine(-0.1), "final_ratio must lie"),
        (lambda: Linear(math.nan), "final_ratio must lie"),
        (lambda: Exponential(0.7, 0.0), "rate must be above 0, got 0.0"),
        (lambda: Steps(0.7, 1), "stages must be at least 2, got 1"),
        (lambda: Pyramid(2.0), "ratio must lie"),
        (lambda: Pyramid(0.5, 0), "stages must be at least 1, got 0"),
        (lambda: Explicit(()), "at least one layer"),
        (lambda: Explicit((1.0, 0.5, 0.6)), "must not grow, got 0.5 at layer 1 and 0.6"),
        (lambda: Explicit((1.2, 0.5)), "fractions must lie"),
        (lambda: Explicit((1.0, 0.5)).kept(0, 3), "the model has 3 layers, got 2 fractions"),
        (lambda: AimSchedule(1.5, 2.0), "start must be a layer"),
        (lambda: AimSchedule(-1, 4), "start must be a layer"),
        (lambda: AimSchedule(0.6, 0.5), "end must lie behind start"),
        (lambda: AimSchedule(20, 14), "end must lie behind start"),
        (lambda: AimSchedule(0.9, 4).per_layer(28), "in 28 layers they are 4 and 25"),
        (lambda: Linear().kept(28, 28), r"layer must lie in 0\.\.27, got 28"),
        (lambda: Linear().per_layer(0), "layers must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
