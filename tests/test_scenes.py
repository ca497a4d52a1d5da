"""The synthetic world: the same everywhere, balanced, and right by construction."""

from collections import Counter

import numpy as np
import pytest

from foveate import scenes

SIZES = [(336, 336), (224, 224), (392, 196)]
GOLDEN = [
    ("What color is the cross?", "red"),
    ("What color is the star?", "purple"),
    ("What shape is the purple thing?", "star"),
    ("What shape is the green thing?", "circle"),
]


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.make_scene(seed, SIZES[seed % 3], ("train", "test")[seed % 2]) for seed in range(120)]


def test_a_seed_always_draws_the_same_scene() -> None:
    first, again = scenes.make_scene(11), scenes.make_scene(11)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert first.things == again.things and first.questions == again.questions
    assert scenes.make_scene(12).things != first.things


def test_the_questions_of_a_seed_are_the_same_on_every_machine() -> None:
    assert [(q.text, q.answer) for q in scenes.make_scene(4).questions][:4] == GOLDEN


def test_splits_share_no_photograph_and_no_scene() -> None:
    assert not set(scenes.PHOTOS["train"]) & set(scenes.PHOTOS["test"])
    assert scenes.make_scene(3, split="train").things != scenes.make_scene(3, split="test").things


def test_boxes_lie_inside_the_image_and_do_not_touch(many: list[scenes.Scene]) -> None:
    for scene in many:
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert left >= 0 and top >= 0 and right <= scene.image.width and bottom <= scene.image.height
            others = [t.box for t in scene.things if t is not thing]
            assert all(right < o[0] or o[2] < left or bottom < o[1] or o[3] < top for o in others)
        assert {box for q in scene.questions for box in q.boxes} <= {t.box for t in scene.things}


def test_a_shape_has_its_color_at_its_centre(many: list[scenes.Scene]) -> None:
    for scene in many:
        for thing in scene.things:
            if thing.color:
                pixel = np.asarray(scene.image)[round(thing.y), round(thing.x)].astype(int)
                assert np.abs(pixel - scenes.COLORS[thing.color]).max() <= 10


def test_answers_follow_from_what_is_there(many: list[scenes.Scene]) -> None:
    for scene in many:
        named = {t.name: t for t in scene.things}
        for q in scene.questions:
            subject = q.text.rstrip("?").split()
            if q.kind == "count":
                count = sum(scenes.plural(t.shape) == subject[2] for t in scene.things)
                assert q.answer == str(count) and len(q.boxes) == count
            elif q.kind == "exist":
                there = " ".join(subject[-2:]) in named
                assert q.answer == ("yes" if there else "no") and bool(q.boxes) is there
            elif q.kind == "at":
                thing = named[q.answer]
                place = scenes.PLACES[scenes.place_of(thing.x, thing.y, scene.image.size)]
                assert place == q.text.removeprefix("What is at the ").rstrip("?")
            elif q.kind in ("color", "shape"):
                matches = [t for t in scene.things if subject[-1] == t.shape or subject[-2] == t.color]
                assert [getattr(t, q.kind) for t in matches] == [q.answer]


def test_the_evaluation_set_is_balanced_and_repeats() -> None:
    samples = scenes.evaluation_set(70)
    assert set(Counter(s.kind for s in samples).values()) == {10}
    assert [(s.question, s.answer) for s in samples] == [(s.question, s.answer) for s in scenes.evaluation_set(70)]
    assert {s.image.size for s in samples} == {(336, 336)}
    exist = Counter(s.answer for s in scenes.evaluation_set(280) if s.kind == "exist")
    assert 10 <= exist["yes"] <= 30


@pytest.mark.parametrize(("said", "truth", "right"), [(" Red.", "red", True), ("red", "blue", False), ("", "0", False)])
def test_case_and_a_full_stop_do_not_matter(said: str, truth: str, right: bool) -> None:
    assert scenes.is_correct(said, truth) is right


def test_a_scene_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="112x112"):
        scenes.make_scene(0, (100, 200))
