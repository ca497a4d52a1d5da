"""Image methods that cut before the language model: published counts and blocks, and runs on small models."""

import pytest
import torch

from foveate import compress
from foveate.families import families
from foveate.method import all_methods, get_method
from foveate.pieces import Adaptive, Cls, Complexity, Features, Read, StandingOut, VisionReceived
from foveate.pieces.vision import ClsAcrossHeads
from foveate.plan import Layer, ModelShape, make_plan
from foveate.testing import tiny
from foveate.tokens import Grid

IMAGE = Grid(1, 24, 24)
LLAVA = ModelShape(
    "llava", layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32064,
    vision_blocks=24, vision_features=22, vision_global=tuple(range(24)), has_cls=True,
)  # fmt: skip
QWEN = ModelShape(
    "qwen2_5_vl", layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, ffn=18944, vocab=152064,
    vision_blocks=32, vision_features=31, vision_global=(7, 15, 23, 31), mrope=True,
)  # fmt: skip
MINE = (
    "apet", "cdpruner", "fastervlm", "globalcom2", "hiprune", "hired", "holov", "mmtok", "mob", "nuwa", "prumerge",
    "prumerge+", "prunesid", "scope", "vispruner", "vscan",
)  # fmt: skip
FAMILIES = {f.title: f for f in families().values()}


def steps(name, shape=LLAVA, **settings):
    return list(get_method(name, **settings).steps(shape))


def plan(name, **settings):
    return make_plan(steps(name, **settings), LLAVA, IMAGE)


@pytest.mark.parametrize(
    ("name", "default"),
    [("scope", 64), ("mmtok", 64), ("cdpruner", 64), ("vispruner", 64), ("fastervlm", 64), ("hiprune", 64),
     ("holov", 64), ("prunesid", 64), ("prumerge", 32), ("prumerge+", 144), ("hired", 115), ("globalcom2", 144)],
)  # fmt: skip
def test_defaults_are_the_published_counts_of_576(name, default):
    assert plan(name).after == (default,) and plan(name).t_eq == default
    assert plan(name, keep=192 / 576).after == (192,)


@pytest.mark.parametrize(
    ("name", "entering", "left", "t_eq"),
    [("vscan", 288, 96, 192), ("vscan", 192, 64, 128), ("vscan", 96, 32, 64), ("apet", 288, 96, 192),
     ("apet", 96, 32, 64), ("nuwa", 112, 16, 64), ("nuwa", 224, 32, 128), ("nuwa", 336, 48, 192)],
)  # fmt: skip
def test_two_cuts_have_the_published_budgets(name, entering, left, t_eq):
    both = plan(name, keep=entering / 576)
    assert both.after == (entering, left) and both.t_eq == t_eq
    assert both.per_layer == (entering,) * 16 + (left,) * 16


@pytest.mark.parametrize("name", ["vscan", "apet", "nuwa"])
def test_keeping_everything_makes_no_second_cut(name):
    assert len(steps(name, keep=1.0)) == 1 and len(steps(name, keep=0.99)) == 2
    assert [s.at.layer for s in steps(name, QWEN)] == [0, 14]


def test_mob_divides_the_count_as_published():
    for count, prompt, neighbours in ((192, 64, 8), (128, 48, 6), (64, 32, 4)):
        (step,) = steps("mob", keep=count / 576)
        assert step.at == Layer(2) and step.select.first.neighbours == neighbours
        assert step.select._begun(576, count) == prompt
    assert steps("mob", QWEN)[0].at == Layer(2)


def test_vision_blocks_are_the_published_ones():
    def reads(name, shape, **settings):
        return steps(name, shape, **settings)[0].reads

    assert VisionReceived(8) in reads("hiprune", LLAVA) and VisionReceived(15) in reads("hiprune", QWEN)
    assert Cls(5) in reads("vscan", LLAVA) and VisionReceived(7) in reads("vscan", QWEN)
    assert Cls(0) in reads("hired", LLAVA) and VisionReceived(7) in reads("hired", QWEN)
    assert reads("prumerge", LLAVA)[0] == ClsAcrossHeads(23) and reads("prumerge", QWEN)[0] == VisionReceived(None)
    assert [r.block for r in reads("nuwa", LLAVA) if isinstance(r, Features)] == list(range(15, 24))
    assert [r.block for r in reads("fastervlm", LLAVA, since=0.8)] == [18, 19, 20, 21, 22, 23]
    assert [r.block for r in reads("fastervlm", QWEN, since=0.5)] == [15, 23, 31]
    assert reads("fastervlm", LLAVA) == (Cls(None),)


def test_budgets_may_follow_the_content():
    family = FAMILIES["LLaVA-1.5"]
    model, inputs = tiny(family), family.tiny_inputs(tiny(family), [[(4, 4)], [(4, 4)]])
    for method in (
        get_method("prumerge", keep=StandingOut(Read(ClsAcrossHeads(-1)), factor=0.0, low=2 / 16)),
        get_method("scope", keep=Adaptive(Complexity(), 0.2, 0.6)),
    ):
        with compress(model, method) as run:
            model(**inputs)
        assert all(2 <= cut.reduction.kept.shape[1] < 16 for cut in run.trace.cuts) and len(run.trace.cuts) == 2


def test_prumerge_counts_its_outliers():
    """The budget of the run is what the attention of the last block says, computed from the tower's own weights."""
    family = FAMILIES["LLaVA-1.5"]
    model, inputs = tiny(family), family.tiny_inputs(tiny(family), [[(4, 4)]], seed=4)
    with compress(model, "prumerge", keep=StandingOut(Read(ClsAcrossHeads(-1)), factor=0.5, low=1 / 16)) as run:
        model(**inputs)
    tower = model.base_model.vision_tower
    layer = getattr(tower, "vision_model", tower).encoder.layers[-1]
    hidden = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
    h = layer.layer_norm1(hidden)
    q, k = layer.self_attn.q_proj(h[:, :1]), layer.self_attn.k_proj(h)
    attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)[0, 0, 1:]
    low, high = attention.quantile(0.25), attention.quantile(0.75)
    out = (attention > high + 0.5 * (high - low)).sum().item()
    assert out >= 1 and run.trace.cuts[0].reduction.kept.shape[1] == out
    assert set(run.trace.cuts[0].reduction.kept[0].tolist()) == set(attention.topk(out).indices.tolist())


def test_hired_shares_a_real_image_between_its_views():
    family = FAMILIES["LLaVA-OneVision"]
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(8, 9)]])
    for name in ("hired", "globalcom2"):
        with compress(model, name, keep=0.4) as run:
            model(**inputs)
        (cut,) = run.trace.cuts
        thumbnail, whole = cut.spans[0].grid.n, sum(s.grid.n for s in cut.spans)
        own = int((cut.reduction.kept[0] < thumbnail).sum())
        count = cut.reduction.kept.shape[1]
        assert len(cut.spans) == 2 and count == int(0.4 * whole + 0.5)
        share = 0.5 if name == "hired" else thumbnail / whole
        assert own == pytest.approx(min(thumbnail, share * count), abs=1)


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("sizes", [[(1, 4, 5)], [(2, 3, 5)], [(3, 4, 4), (5, 4)]], ids=str)
def test_videos_are_cut_sensibly_too(name, sizes):
    family = FAMILIES["Qwen2.5-VL"]
    model = tiny(family)
    inputs = family.tiny_inputs(model, [sizes])
    with compress(model, name, keep=0.4) as run:
        model(**inputs)
    assert run.trace.tokens_per_layer[-1] < run.trace.visual_tokens
    assert tuple(run.trace.tokens_per_layer) == run.trace.plan.per_layer


@pytest.mark.parametrize("name", MINE)
def test_cards_say_where_a_method_comes_from(name):
    card = all_methods()[name].card
    assert card.paper.startswith("arXiv ") and card.signals and card.checked


def test_features_are_what_the_tower_hands_on():
    """The reading is the hidden state behind the block, without the CLS token, as the model itself takes it."""
    family = FAMILIES["LLaVA-1.5"]
    model, inputs = tiny(family), family.tiny_inputs(tiny(family), [[(4, 4)]])
    seen = {}

    class Spy(type(get_method("scope").steps(LLAVA).__next__().select)):
        def __call__(self, tokens, score, count):
            seen["x"] = tokens.signal(self.features)
            return super().__call__(tokens, score, count)

    with compress(model, "scope", select=Spy()):
        model(**inputs)
    layer = model.config.vision_feature_layer
    hidden = model.base_model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(seen["x"], hidden[:, 1:])
