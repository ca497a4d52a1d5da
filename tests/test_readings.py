"""What the engine offers beyond attention rows: states, sums over layers, raters, text, blocks, bias, caches."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from foveate import Card, Method, With, compress, get_method
from foveate.errors import InvalidValue, UnsupportedInput, UnsupportedModel
from foveate.families import families
from foveate.families.llava import Llava
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.pieces import (
    Budget,
    DistanceBias,
    Norm,
    Raters,
    Read,
    Reading,
    Score,
    SizeBias,
    TextRows,
    VisionReceived,
)
from foveate.plan import Layer, Projector, Step, Vision, make_plan
from foveate.testing import NEW, Case, generate, removal_equals_masking, tiny
from foveate.tokens import Grid

QWEN, LLAVA, ONEVISION = (
    next(f for f in families().values() if isinstance(f, c)) for c in (Qwen25VL, Llava, LlavaOnevision)
)
ALL = pytest.mark.parametrize("family", [QWEN, LLAVA, ONEVISION], ids=lambda f: f.title)
TWO = [[(5, 6)], [(5, 6)]]


@dataclass(frozen=True)
class Steps(Method):
    """The steps it is given."""

    each: tuple = ()
    keep: float = 0.5
    bias: object = None
    positions: str | None = None

    card = Card("steps", "for tests")

    def steps(self, model):
        yield from self.each


class Spy(Score):
    """Ranks by norm and remembers what it could see."""

    def __init__(self, *readings, text=False):
        self.reads, self.needs_text, self.seen = readings, text, []

    def __call__(self, tokens):
        values = [tokens.signal(r) for r in self.reads] + ([tokens.text()] if self.needs_text else [])
        self.seen.append((tokens, values))
        return Norm()(tokens)

    def flops(self, of):
        return 0


@dataclass(frozen=True)
class Change(Reading):
    """Length of what a layer adds to the residual stream."""

    since: int | None = None
    place = "previous"
    sees: ClassVar[str] = "states"

    def __call__(self, states):
        return (states.after - states.before).norm(dim=-1)

    def flops(self, of):
        return 0


@dataclass(frozen=True)
class Parts(Reading):
    """What a layer's two halves add, taken together."""

    place = "previous"
    sees: ClassVar[str] = "states"

    def __call__(self, states):
        return (states.attention_out + states.ffn_out - (states.after - states.before)).norm(dim=-1)

    def flops(self, of):
        return 0


def hidden_states(model, inputs):
    return model(**inputs, output_hidden_states=True).hidden_states


def visual(inputs):
    return inputs["input_ids"] == 10


@ALL
def test_states_are_the_residual_stream_before_and_after_a_layer(family):
    model = tiny(family)
    inputs = family.tiny_inputs(model, TWO, seed=3)
    states = hidden_states(model, inputs)
    spy = Spy(Change(), Parts())
    with compress(model, Steps((Step(Layer(3), 0.5, spy, per="prompt"),))) as run:
        model(**inputs)
    for tokens, (change, nothing) in spy.seen:
        for i in range(len(change)):
            columns = [c for s in run.trace.cuts[i].spans for c in s.columns()] if len(change) > 1 else None
            columns = columns or [c for s in run.trace.cuts[0].spans for c in s.columns()]
            expected = (states[3] - states[2]).norm(dim=-1)[i, columns]
            torch.testing.assert_close(change[i], expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(tokens.x[i], states[3][i, columns], atol=1e-5, rtol=1e-4)
        assert nothing.abs().max() < 1e-5


@ALL
def test_sums_over_layers_follow_the_survivors_of_earlier_cuts(family):
    """Layers 1 to 4 are summed; a cut before layer 3 takes the sums of its survivors along."""
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(5, 6)], [(4, 5)]], seed=3)
    one, two, three = Spy(), Spy(Change(since=1)), Spy(Change(), Change(since=1))
    whole = Spy(Change(since=1))
    with compress(model, Steps((Step(Layer(3), 0.5, whole, per="prompt"),))):
        model(**inputs)
    steps = (Step(Layer(3), 0.5, one, per="prompt"), Step(Layer(4), 0.4, three, per="prompt"),
             Step(Layer(5), 0.3, two, per="prompt"))  # fmt: skip
    with compress(model, Steps(steps)) as run:
        model(**inputs)
    by_rows = lambda spy, i: [v for _, values in spy.seen for v in values[i]]
    cuts = {layer: [c for c in run.trace.cuts if c.step.at.layer == layer] for layer in (3, 4, 5)}
    for row, before in enumerate(by_rows(whole, 0)):
        at_four = before[cuts[3][row].reduction.kept[0]] + by_rows(three, 0)[row]
        torch.testing.assert_close(by_rows(three, 1)[row], at_four, atol=1e-5, rtol=1e-4)
        assert (by_rows(two, 0)[row] > at_four[cuts[4][row].reduction.kept[0]]).all()


@dataclass(frozen=True)
class Loud(Raters):
    """The longer half of the text; remembers nothing, so that it is one name."""

    def __call__(self, visual, text):
        assert visual.shape[0] == text.shape[0] == 1
        length = text.norm(dim=-1)
        return length >= length.median(1, keepdim=True).values

    def flops(self, of):
        return 0


@ALL
def test_raters_are_chosen_at_layer_0_and_only_they_rate(family):
    model = family.tiny(0)
    model.set_attn_implementation("eager")
    inputs = family.tiny_inputs(model, [[(5, 6)], [(4, 5)]], seed=3, text=9)
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    spy = Spy(TextRows(raters=Loud()))
    with compress(model, Steps((Step(Layer(3), 0.5, spy, per="prompt"),))) as run:
        model(**inputs)
    got = [v for _, values in spy.seen for v in values[0]]
    for row, cut in enumerate(run.trace.cuts):
        columns = [c for s in cut.spans for c in s.columns()]
        tail = int(visual(inputs)[row].nonzero()[-1]) + 1
        loud = Loud()(None or torch.zeros(1, 1, 1), out.hidden_states[0][row, None, tail:])[0]
        expected = out.attentions[2][row].mean(0)[tail:][loud].mean(0)[columns]
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=1e-4)


@ALL
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("at", [Projector(), Layer(0), Layer(2)], ids=str)
def test_text_is_what_stands_behind_the_image_without_padding(family, at, padding):
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(5, 6)], [(4, 5)]], seed=3, padding=padding)
    inputs["attention_mask"][1, -2:] = 0 if padding == "right" else 1
    states = hidden_states(model, inputs)[at.layer]
    spy = Spy(text=True)
    with compress(model, Steps((Step(at, 0.5, spy, per="prompt"),))):
        model(**inputs)
    rows = [t for _, values in spy.seen for t in values[-1]]
    for row, text in enumerate(rows):
        behind = torch.arange(states.shape[1]) > int(visual(inputs)[row].nonzero()[-1])
        torch.testing.assert_close(
            text, states[row][behind & inputs["attention_mask"][row].bool()], atol=1e-5, rtol=1e-4
        )


def test_text_that_was_not_asked_for_is_refused_and_so_is_none():
    model = tiny(LLAVA)

    class Sly(Score):
        def __call__(self, tokens):
            return tokens.text()

        def flops(self, of):
            return 0

    with pytest.raises(KeyError), compress(model, Steps((Step(Projector(), 0.5, Sly()),))):
        model(**LLAVA.tiny_inputs(model, [[(4, 4)]]))
    inputs = LLAVA.tiny_inputs(model, [[(4, 4)]])
    last = int(visual(inputs)[0].nonzero()[-1]) + 1
    inputs = {k: v[:, :last] if k in ("input_ids", "attention_mask") else v for k, v in inputs.items()}
    with (
        pytest.raises(UnsupportedInput, match="question after the image"),
        compress(model, Steps((Step(Projector(), 0.5, Spy(text=True)),))),
    ):
        model(**inputs)


@dataclass(frozen=True)
class Output(Reading):
    """What a vision block gives."""

    block: int | None = None
    place = "vision"
    sees: ClassVar[str] = "output"

    def __call__(self, seen):
        return seen

    def flops(self, of):
        return 0


def test_outputs_of_vision_blocks_reach_the_tokens():
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, [[(4, 4)], [(4, 4)]])
    states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    spy = Spy(Output(), Output(0), VisionReceived(block=1))
    with compress(model, Steps((Step(Layer(2), 0.5, spy),))):
        model(**inputs)
    (_, (features, first, received)) = spy.seen[0]
    torch.testing.assert_close(features, states[-2][:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first, states[1][:, 1:], atol=1e-5, rtol=1e-4)
    assert received.shape == features.shape[:2]


def test_qwen_block_outputs_are_averaged_over_merged_patches_in_raster_order():
    model, inputs = tiny(QWEN), QWEN.tiny_inputs(tiny(QWEN), [[(5, 6), (3, 4)]], seed=1)
    tower, kept = model.model.visual, {}

    class Merger(torch.nn.Module):
        def forward(self, hidden):
            kept["merged"] = hidden.view(-1, 4, hidden.shape[-1]).mean(1)
            return kept["merged"]

    merger, tower.merger = tower.merger, Merger()
    try:
        expected = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    finally:
        tower.merger = merger
    spy = Spy(Output())
    with compress(model, Steps((Step(Vision(), 0.5, spy),))):
        model(**inputs)
    torch.testing.assert_close(torch.cat([v for _, x in spy.seen for v in x[0]]), expected, atol=1e-5, rtol=1e-4)


def test_views_of_one_image_compete_together_and_images_do_not():
    model = tiny(ONEVISION)
    inputs = ONEVISION.tiny_inputs(model, [[(5, 6)], [(6, 5)]], seed=3)
    spy = Spy()
    with compress(model, Steps((Step(Projector(), 0.3, spy, per="views"),))) as run:
        model(**inputs)
    assert [len(c.spans) for c in run.trace.cuts] == [2, 2]
    for (tokens, _), plan in zip(spy.seen, run.trace.plans, strict=True):
        assert len(tokens.grids) == 2 and sum(g.n for g in tokens.grids) == tokens.x.shape[1]
        assert plan.after == (int(0.3 * tokens.x.shape[1] + 0.5),)
    mixed = ONEVISION.tiny_inputs(model, [[(5, 6), (3, 5, 5)]], seed=3)
    with compress(model, Steps((Step(Projector(), 0.3, Spy(), per="views"),))) as run:
        model(**mixed)
    assert sorted(len(c.spans) for c in run.trace.cuts) == [1, 2]
    assert run.trace.tokens_per_layer[0] == sum(run.trace.plan.after)


def test_views_share_a_count_in_the_plan():
    step, shape = Step(Projector(), 0.5, Norm(), per="views"), LLAVA.shape(tiny(LLAVA).config)
    grids = [Grid(1, 3, 3), Grid(1, 3, 3), Grid(1, 5, 1)]
    assert make_plan((step,), shape, grids, images=[0, 0, 1]).after == (9 + 3,)
    assert make_plan((step,), shape, grids).after == (5 + 5 + 3,)
    with pytest.raises(InvalidValue, match="per prompt"):
        make_plan((Step(Projector(), 0.5, Norm(), per="prompt"), Step(Layer(1), 0.4, Norm())), shape, grids)


@ALL
def test_all_layers_can_forget(family):
    """cache="all": decoding sees the survivors in every layer, and the prefill is as it would be without."""
    method = Steps((Step(Layer(3), 0.5, Norm(), per="prompt", cache="all"),))
    case = Case(family, method)
    inputs = case.inputs([[(6, 8)], [(4, 5)]])
    with compress(case.model, method) as run:
        out = generate(case.model, inputs)
    lengths = {layer.keys.shape[2] for layer in out.past_key_values.layers}
    assert len(lengths) == 1
    assert run.trace.tokens_per_layer[0] > run.trace.tokens_per_layer[-1]
    with compress(case.model, Steps((Step(Layer(3), 0.5, Norm(), per="prompt"),))) as run:
        plain = generate(case.model, inputs)
    assert torch.equal(plain.logits[0], out.logits[0]) and not torch.equal(plain.logits[1], out.logits[1])
    removal_equals_masking(case)


@ALL
def test_budgets_see_what_earlier_layers_ran_on(family):
    seen = []

    @dataclass(frozen=True)
    class Half(Budget):
        low: float = 0.1
        high: float = 0.5

        def keep(self, tokens):
            seen.append(tokens.history)
            return [self.low + 0.2] * len(tokens.x)

        def flops(self, of):
            return 0

    model = tiny(family)
    steps = (Step(Layer(2), Half(), Norm(), per="prompt"), Step(Layer(4), Half(0.05, 0.2), Norm(), per="prompt"))
    with compress(model, Steps(steps)) as run:
        model(**family.tiny_inputs(model, [[(5, 6)]]))
    whole = run.trace.plan.visual_tokens
    first = int(0.3 * whole + 0.5)
    assert seen == [(whole, whole), (whole, whole, first, first)]


@ALL
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("bias", [SizeBias(), DistanceBias()], ids=str)
def test_a_bias_is_added_behind_the_cut_in_prefill_and_decoding(family, bias, implementation):
    """Against one masked forward with the same bias; merges before and inside the language model."""
    model = tiny(family)
    model.set_attn_implementation(implementation)
    try:
        for method in (get_method("pool", keep=0.25), get_method("fastv", merge="nearest-mean", keep=0.4)):
            removal_equals_masking(Case(family, With(method, bias=bias)))
    finally:
        model.set_attn_implementation("sdpa")


def test_a_bias_changes_the_answer_and_nothing_before_the_first_cut():
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, [[(4, 4)]], seed=2)
    logits = []
    for bias in (None, SizeBias()):
        with compress(model, With(get_method("pool", keep=0.25), bias=bias)):
            logits.append(generate(model, inputs).logits[0])
    assert not torch.allclose(*logits, atol=1e-4)
    plain = generate(model, inputs)
    with compress(model, With(get_method("pool", keep=1.0), bias=DistanceBias())):
        assert all(map(torch.equal, plain.logits, generate(model, inputs).logits))


@ALL
def test_the_decay_is_the_mean_cosine_of_rotary_angles(family):
    from foveate.engine.masks import decay

    model = tiny(family)
    decoder = model.base_model.language_model
    at = torch.arange(7)[None]
    rotary = decoder.rotary_emb(torch.zeros(1, 7, 64), at.expand(3, -1, -1) if family is QWEN else at)
    rotary = family.rotary(decoder.layers[0], rotary)
    got = decay(rotary, 3)
    width = rotary[0].shape[-1]
    theta = 1 / 10000 ** (torch.arange(0, width, 2) / width)
    distance = (at[0, -3:, None] - at[0]).float()
    expected = (distance[..., None] * theta).cos().mean(-1)
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-4)


@ALL
def test_a_distance_bias_decodes_as_it_forces(family):
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(5, 6)], [(4, 5)]], seed=2)
    method = get_method("fastv", layer=2, keep=0.5, bias="distance-bias")
    assert isinstance(method, With) and method.bias == DistanceBias()
    with compress(model, method):
        out = generate(model, inputs)
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    full = dict(
        inputs, input_ids=out.sequences, attention_mask=torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1)
    )
    if "mm_token_type_ids" in full:
        full["mm_token_type_ids"] = torch.cat([full["mm_token_type_ids"], torch.zeros_like(new).int()], 1)
    with compress(model, method):
        forced = model(**full, logits_to_keep=NEW + 1).logits[:, :-1]
    torch.testing.assert_close(torch.stack(out.logits, 1), forced, atol=2e-4, rtol=1e-3)


def test_a_bias_is_refused_where_attention_takes_none():
    from foveate.engine.run import _refuse_bias

    class Config:
        _attn_implementation = "flash_attention_2"

    with pytest.raises(UnsupportedModel, match="sdpa"):
        _refuse_bias(SizeBias(), Config())
    with pytest.raises(InvalidValue):
        DistanceBias(c=1.0)


def test_words_of_any_method_can_be_swapped_by_name():
    model = tiny(LLAVA)
    method = get_method("fastv", score="random", merge="nearest-mean", keep=0.3)
    assert isinstance(method, With)
    (step,) = method.steps(LLAVA.shape(model.config))
    assert step.words() == ("layer 2", "0.3", "Random(seed=0)", "TopK()", "NearestMean(metric=None)")
    with compress(model, "divprune", select="even-grid", keep=0.5) as run:
        generate(model, LLAVA.tiny_inputs(model, [[(4, 4)]]))
    assert run.trace.cuts[0].reduction.kept[0].numel() == 8
    with pytest.raises(InvalidValue, match="nearest-mean"):
        get_method("fastv", merge="nearest-men")
    assert get_method("fastv", score="random").with_keep(0.1).method.keep == 0.1


def test_readings_that_cannot_be_taken_are_refused():
    shape = LLAVA.shape(tiny(LLAVA).config)
    for step, match in (
        (Step(Projector(), 0.5, Read(Change())), "put it at a Layer"),
        (Step(Layer(0), 0.5, Read(Change())), "none before layer 0"),
        (Step(Layer(2), 0.5, Read(Change(since=2))), "cut later"),
        (Step(Layer(2), 0.5, Read(Output(block=9))), "blocks 0 to 3"),
    ):
        with pytest.raises(InvalidValue, match=match):
            make_plan((step,), shape, Grid(1, 4, 4))


def test_the_vision_block_of_a_depth_is_one_that_sees_everything():
    qwen = QWEN.shape(tiny(QWEN).config)
    assert qwen.vision_global == (1, 3) and qwen.vision_features == 3
    assert [qwen.vision_block(d) for d in (0.0, 0.3, 0.5, 1.0)] == [1, 1, 1, 3]
    llava = LLAVA.shape(tiny(LLAVA).config)
    assert llava.vision_features == 2 and [llava.vision_block(d) for d in (0, 0.5, 1)] == [0, 1, 2]
