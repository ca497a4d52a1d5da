"""What methods read is what the model computes: every reading against the attention weights of eager transformers."""

from dataclasses import dataclass

import pytest
import torch

from foveate import Card, Method, compress
from foveate.families.llava import Llava
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.pieces import Cls, Keys, LastQuery, Read, Received, Score, TextRows, VisionReceived
from foveate.plan import Layer, Step, Vision

QWEN, LLAVA, ONEVISION = Qwen25VL(), Llava(), LlavaOnevision()
ALL = pytest.mark.parametrize("family", [QWEN, LLAVA, ONEVISION], ids=lambda f: f.title)


class Spy(Score):
    """Remembers what it was given."""

    def __init__(self, reading):
        self.reads = (reading,)
        self.seen = []

    def __call__(self, tokens):
        value = tokens.signal(self.reads[0])
        self.seen.append(value)
        return value.float() if value.ndim == 2 else value.float().sum(-1)

    def flops(self, of):
        return 0


@dataclass(frozen=True)
class OneCut(Method):
    """One step, as given."""

    step: Step

    card = Card("one-cut", "for tests")

    def steps(self, model):
        yield self.step


def spied(family, model, inputs, at, reading):
    spy = Spy(reading)
    with compress(model, OneCut(Step(at, 0.5, spy, per="prompt" if isinstance(at, Layer) else "image"))):
        model(**inputs)
    return [row for group in spy.seen for row in group]


@pytest.fixture(scope="module")
def eager():
    models = {}
    for family in (QWEN, LLAVA, ONEVISION):
        model = family.tiny(0)
        model.set_attn_implementation("eager")
        models[family] = model
    return models


@ALL
@pytest.mark.parametrize("place", ["previous", "next"])
@pytest.mark.parametrize("reading", [LastQuery, TextRows, Received])
def test_llm_readings_are_the_attention_of_the_layer(family, reading, place, eager):
    model = eager[family]
    inputs = family.tiny_inputs(model, [[(5, 6)], [(5, 6)]], seed=3)
    attentions = model(**inputs, output_attentions=True).attentions[2 if place == "previous" else 3].mean(1)
    visual = inputs["input_ids"] == 10
    for row in range(2):
        weights = attentions[row]
        last = int(visual[row].nonzero()[-1])
        if family is ONEVISION:  # its spans leave the newline tokens out
            continue
        rows = {LastQuery: weights[-1:], TextRows: weights[last + 1 :], Received: weights}[reading]
        expected = rows.mean(0)[visual[row]]
        got = spied(family, model, inputs, Layer(3), reading(place=place))[row]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_llm_readings_of_anyres_leave_newlines_out(eager):
    model = eager[ONEVISION]
    inputs = ONEVISION.tiny_inputs(model, [[(5, 6)]], seed=3)
    weights = model(**inputs, output_attentions=True).attentions[2].mean(1)[0, -1]
    with compress(model, "fastv", layer=3) as run:
        model(**inputs)
    columns = [c for span in run.trace.cuts[0].spans for c in span.columns()]
    order = weights[columns].sort(descending=True, stable=True).indices[: len(columns) // 2]
    kept = run.trace.cuts[0].reduction.kept[0]
    assert set(kept.tolist()) >= set(order.tolist()) - {int(order[-1])}
    assert len(columns) < int((inputs["input_ids"] == 10).sum())


def test_qwen_vision_readings_come_back_in_raster_order(eager):
    """Patches run permuted by windows and in groups of four; the readings must not."""
    model, inputs = eager[QWEN], QWEN.tiny_inputs(eager[QWEN], [[(5, 6), (3, 4)]], seed=1)
    visual = model.model.visual
    got = torch.cat(spied(QWEN, model, inputs, Vision(), Keys()))
    # a second path: make the merger hand out, for each LLM token, the mean key of its four patches
    keys = {}

    def grab(module, args, kwargs):
        _, k, _ = module.qkv(args[0] if args else kwargs["hidden_states"]).view(-1, 3, module.num_heads, 16).unbind(1)
        cos, sin = kwargs["position_embeddings"]
        half = torch.cat((-k[..., 8:], k[..., :8]), -1)
        keys["k"] = (k * cos[:, None] + half * sin[:, None]).mean(1)

    class Merger(torch.nn.Module):
        def forward(self, hidden):
            return keys["k"].view(-1, 4, 16).mean(1)

    handle, merger = visual.blocks[3].attn.register_forward_pre_hook(grab, with_kwargs=True), visual.merger
    visual.merger = Merger()
    try:
        expected = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    finally:
        visual.merger = merger
        handle.remove()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("reading", "row"), [(Cls(), 0), (VisionReceived(), None)])
def test_clip_readings_are_its_attention(reading, row, eager):
    model, inputs = eager[LLAVA], LLAVA.tiny_inputs(eager[LLAVA], [[(4, 4)]])
    weights = model.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions[2].mean(1)[0]
    expected = (weights[0] if row == 0 else weights.mean(0))[1:]
    got = spied(LLAVA, model, inputs, Vision(), reading)[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_anyres_readings_are_packed_like_the_features(eager):
    """The views' scores follow the model's own packing: thumbnail first, then the stitched, unpadded grid."""
    model, core = eager[ONEVISION], eager[ONEVISION].model
    size = torch.tensor([[84, 140]])
    crops = _crops(model, size[0])
    marks = torch.arange(crops * 25.0).view(crops, 25, 1)
    arguments = {"image_sizes": size, "batch_num_images": torch.tensor([1])}
    views = ONEVISION.to_llm(core, "image", arguments, [marks])
    layout = ONEVISION.layouts("image", core, arguments)[0]
    assert [len(v) for v in views] == [v.grid.n for v in layout.views]
    assert torch.equal(views[0], marks[0])
    packed, lengths = core.pack_image_features([marks.expand(-1, -1, 64)], size, image_newline=core.image_newline)
    assert int(lengths[0]) == layout.length
    grid = layout.views[1].grid
    stitched = packed[0][25:, 0].view(grid.h, grid.w + 1)[:, :-1]
    assert torch.equal(views[1][:, 0], stitched.flatten())


def test_the_layout_of_every_size_has_the_length_of_the_features():
    model = ONEVISION.tiny(0)
    for height in (10, 70, 84, 133, 140, 300):
        for width in (10, 69, 71, 140, 500):
            size = torch.tensor([[height, width]])
            layout = ONEVISION.layouts("image", model.model, {"image_sizes": size})[0]
            crops = sum(1 for _ in range(_crops(model, size[0])))
            features = torch.zeros(crops, 25, 64)
            _, length = model.model.pack_image_features([features], size, image_newline=model.model.image_newline)
            assert layout.length == int(length[0]), (height, width)


def _crops(model, size):
    from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

    return image_size_to_num_patches(size, model.config.image_grid_pinpoints, model.config.vision_config.image_size)


def test_a_reading_that_was_not_declared_is_refused():
    class Undeclared(Score):
        def __call__(self, tokens):
            return tokens.signal(LastQuery())

        def flops(self, of):
            return 0

    model = LLAVA.tiny(0)
    with pytest.raises(KeyError), compress(model, OneCut(Step(Layer(3), 0.5, Undeclared(), per="prompt"))):
        model(**LLAVA.tiny_inputs(model, [[(4, 4)]]))
    assert Read().reads == (LastQuery(),)
