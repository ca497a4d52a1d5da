"""Samples: batches are made of equals, nothing is lost, and inputs are those of one sample alone."""

import pytest
import torch
from PIL import Image

from foveate.ask import prepare
from foveate.engine.run import compress
from foveate.errors import InvalidValue
from foveate.measure.samples import (
    Broken,
    Opened,
    Picture,
    answers_of,
    batches,
    embedded_samples,
    inputs_of,
    picture_samples,
    synthetic_pictures,
    visual_grids,
)
from foveate.scenes import is_correct


def sized(i, side):
    return Picture(f"{side}-{i}", "what?", (Image.new("RGB", (side, side)),))


def test_batches_hold_equal_sizes_and_lose_nobody():
    samples = [sized(i, side) for i in range(7) for side in (112, 140, 168)]
    made = list(batches(samples, 3))
    assert all(len(part) <= 3 and len({o.sizes for o in part}) == 1 for part in made)
    assert sorted(o.sample.id for part in made for o in part) == sorted(s.id for s in samples)
    again = [[o.sample.id for o in part] for part in batches(samples, 3)]
    assert again == [[o.sample.id for o in part] for part in made]


def test_pictures_of_many_sizes_do_not_all_wait_in_memory():
    living = []

    def watched():
        for i in range(60):
            living.append(i)
            yield sized(i, 112 + i)

    handed, most = 0, 0
    for part in batches(watched(), 4):
        handed += len(part)
        most = max(most, len(living) - handed)
    assert handed == 60 and most <= 16


def test_what_cannot_be_asked_comes_out_as_broken(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    Image.new("RGB", (112, 112)).save(tmp_path / "fine.png")
    (tmp_path / "notes.txt").write_text("no picture")
    samples = [*picture_samples([tmp_path, tmp_path / "gone.png"], ["what?", " "])]
    assert len(samples) == 6, "three files, two questions; the text file is none"
    made = list(batches(samples, 4))
    broken = {p.sample.id.removeprefix(f"{tmp_path}/"): p.reason for p in made if isinstance(p, Broken)}
    assert set(broken) == {"cut.png#1", "cut.png#2", "fine.png#2", "gone.png#1", "gone.png#2"}
    assert "no image" in broken["gone.png#1"] and broken["fine.png#2"] == "the question is empty"
    assert [o.sample.id for p in made if not isinstance(p, Broken) for o in p] == [f"{tmp_path}/fine.png#1"]


def test_folders_and_files_are_taken_once(tmp_path):
    Image.new("RGB", (112, 112)).save(tmp_path / "a.png")
    assert len(picture_samples([tmp_path, tmp_path / "a.png"], ["?"])) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidValue, match="holds no image files"):
        picture_samples([empty], ["?"])
    with pytest.raises(InvalidValue, match="two samples have the id"):
        list(batches([sized(0, 112), sized(0, 112)], 2))


def test_a_batch_of_inputs_is_that_of_each_alone(embedded, opened):
    batch = inputs_of(embedded, opened[:3])
    for i, one in enumerate(opened[:3]):
        alone = inputs_of(embedded, [one])
        by_ask = prepare(embedded, one.sample.prompt, list(one.pictures))
        n = alone["input_ids"].shape[1]
        assert torch.equal(alone["input_ids"], by_ask["input_ids"])
        assert torch.equal(batch["input_ids"][i, -n:], alone["input_ids"][0]), "padded on the left"
        assert not batch["attention_mask"][i, :-n].any()


def test_a_placeholder_in_the_question_is_refused(embedded):
    sample = Opened.of(Picture("x", "what <|image_pad|> is it?", (Image.new("RGB", (112, 112)),)))
    with pytest.raises(InvalidValue, match="placeholder"):
        inputs_of(embedded, [sample])


def test_grids_are_known_without_the_tower(embedded, watching, opened):
    inputs = inputs_of(embedded, opened[:2])
    with compress(embedded.model, "uniform") as run:
        embedded.model(**inputs)
    assert visual_grids(embedded, inputs) == tuple(g for plan in run.trace.plans for g in plan.grids)
    frames = tuple(synthetic_pictures(112, 140, 5))
    video = Opened.of(Picture("v", "what?", frames, video=True))
    (grid,) = visual_grids(watching, inputs_of(watching, [video]))
    assert (grid.t, grid.h, grid.w) == (3, 5, 4)


def test_answers_are_greedy_whatever_the_checkpoint_wants(embedded, opened):
    settings = embedded.model.generation_config
    plain = answers_of(embedded, opened, 8)
    assert sum(is_correct(a, o.sample.answers[0]) for a, o in zip(plain, opened, strict=True)) >= 12
    before = settings.do_sample, settings.repetition_penalty, settings.temperature
    settings.do_sample, settings.repetition_penalty, settings.temperature = True, 5.0, 3.0
    try:
        assert answers_of(embedded, opened, 8) == plain
    finally:
        settings.do_sample, settings.repetition_penalty, settings.temperature = before


def test_the_embedded_set_has_its_answers():
    samples = embedded_samples(8)
    assert len({s.id for s in samples}) == 8 and all(s.answers and s.kind for s in samples)
