"""Loading: the embedded model, planned sizes, and what is refused before weights are read."""

import json

import pytest
import torch
from PIL import Image

import foveate
from foveate.ask import ask, prepare, uncompressed
from foveate.errors import InvalidValue, UnsupportedModel
from foveate.loading import embedded_model_path, example, load_config, open_image, planned_grids


@pytest.fixture(scope="module")
def loaded():
    return foveate.load()


def test_the_embedded_model_is_an_ordinary_checkpoint(loaded):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(embedded_model_path())
    assert type(model) is type(loaded.model)
    total = sum(f.stat().st_size for f in embedded_model_path().iterdir())
    assert total < 25e6


def test_planned_grids_are_what_the_processor_makes(loaded):
    config = load_config()
    for width, height in [(336, 336), (672, 448), (100, 60), (1, 1), (900, 50)]:
        inputs = prepare(loaded, "?", [Image.new("RGB", (width, height))])
        _, h, w = inputs["image_grid_thw"][0].tolist()
        (grid,) = planned_grids(None, config, height, width)
        assert (grid.h, grid.w) == (h // 2, w // 2), (width, height)
    with pytest.raises(InvalidValue, match="cannot be planned"):
        planned_grids(None, config, 1, 1000)


def test_a_prompt_is_prepared_with_left_padding_and_the_models_dtype(loaded):
    assert loaded.processor.tokenizer.padding_side == "left"
    half = foveate.load(dtype=torch.bfloat16)
    inputs = prepare(half, "what is this?", [open_image(example()[0])])
    assert inputs["pixel_values"].dtype == torch.bfloat16
    (answer,) = ask(half, inputs, [foveate.get_method("aim")], max_new_tokens=4, runs=1)
    assert answer.kv_bytes > 0 and len(answer.tokens_per_layer) == 8


def test_answers_side_by_side(loaded):
    inputs = prepare(loaded, example()[1], [open_image(example()[0])])
    ticks = []
    both = ask(loaded, inputs, [foveate.get_method("fastv"), uncompressed()], runs=1, tick=lambda: ticks.append(1))
    assert len(ticks) == 4 and both[0].t_eq < both[1].t_eq == 144 and both[0].kv_bytes < both[1].kv_bytes


def test_models_are_refused_before_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UnsupportedModel, match="no visual tokens"):
        foveate.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidValue, match="no model at"):
        foveate.load(tmp_path)
    with pytest.raises(InvalidValue, match="no model at"):
        foveate.load("nobody/nothing")


def test_photographs_come_upright_and_in_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (40, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("L", (40, 20)).save(tmp_path / "b.jpg", exif=exif)
    assert open_image(tmp_path / "a.png").mode == "RGB"
    assert open_image(tmp_path / "b.jpg").size == (20, 40)
