"""Methods inside the language model and the tower, and add-ons: published counts, stages and settings."""

from types import SimpleNamespace

import pytest
import torch

from foveate import compress, get_method
from foveate.compose import With
from foveate.errors import InvalidValue
from foveate.families import families
from foveate.families.base import text_shape
from foveate.ops.merge import bipartite_merge
from foveate.pieces import (
    BipartiteMerge,
    DistanceBias,
    EvenGrid,
    Keys,
    NearestMean,
    Read,
    SizeBias,
    VisionReceived,
    WithAnchors,
)
from foveate.plan import Block, Projector, make_plan, solve
from foveate.recipe import Recipe
from foveate.testing import generate, tiny
from foveate.tokens import Grid, VisualTokens

LLAVA, QWEN = (next(f for f in families().values() if f.title == t) for t in ("LLaVA-1.5", "Qwen2.5-VL"))
IMAGE = Grid(1, 24, 24)
NAMES = ("dart", "mustdrop", "pact", "restore", "sparsevlm", "sparsevlm+", "tome", "transprune", "v2drop", "vtw")


def shape(layers=32, **changes):
    """LLaVA-1.5-7B, of which CLIP runs 23 blocks."""
    config = SimpleNamespace(
        num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=32, head_dim=128, hidden_size=4096,
        intermediate_size=11008, vocab_size=32064,
    )  # fmt: skip
    given = dict(vision_blocks=24, vision_features=22, has_cls=True, patch_tokens=True) | changes
    return text_shape("llava", config, **given)


def plan(method, layers=32, **changes):
    return make_plan(method.steps(shape(layers, **changes)), shape(layers, **changes), IMAGE)


def cuts(made):
    return [(s.at.layer, n) for s, n in zip(made.steps, made.after, strict=True)]


@pytest.mark.parametrize(("name", "counts"), [
    ("sparsevlm", (300, 200, 110)), ("sparsevlm", (303, 110, 36)), ("sparsevlm", (238, 48, 26)),
    ("sparsevlm", (66, 30, 17)), ("sparsevlm+", (300, 200, 118)), ("sparsevlm+", (238, 108, 60)),
    ("sparsevlm+", (246, 54, 28)), ("sparsevlm+", (66, 34, 20)),
])  # fmt: skip
def test_sparsevlm_keeps_the_published_counts(name, counts):
    made = plan(get_method(name, keep=counts[-1] / 576))
    assert cuts(made) == [(3, counts[0]), (7, counts[1]), (16, counts[2])]


def test_sparsevlm_defaults_are_the_largest_published_budgets():
    assert plan(get_method("sparsevlm")).after == (300, 200, 110)
    assert plan(get_method("sparsevlm+")).after == (300, 200, 118)
    assert plan(get_method("sparsevlm")).t_eq == pytest.approx(202.75)


def test_v2drop_halves_twice_and_leaves_one():
    made = plan(get_method("v2drop"))
    assert cuts(made) == [(3, 288), (17, 144), (22, 1)]
    assert made.t_eq == pytest.approx((3 * 576 + 14 * 288 + 5 * 144 + 10) / 32)


def test_transprune_has_the_published_stages():
    made = plan(get_method("transprune"))
    assert cuts(made) == [(7, 504), (9, 360), (12, 72)]
    assert made.t_eq == pytest.approx(236.25)
    assert [r.since for r in made.steps[0].reads if r.place == "previous"] == [6]


def test_vtw_withdraws_all_from_the_middle_on():
    made = plan(get_method("vtw"))
    assert cuts(made) == [(16, 0)] and made.t_eq == 288
    assert plan(get_method("vtw", keep=0.25)).t_eq == 144
    assert plan(get_method("vtw", keep=1.0)).t_eq == 576


def test_dart_pact_and_mustdrop_cut_where_they_are_published():
    assert cuts(plan(get_method("dart"))) == [(2, 128)]
    assert cuts(plan(get_method("pact"))) == [(4, 144)]
    assert cuts(plan(get_method("mustdrop")))[1] == (2, 128)


def test_tome_merges_as_many_between_all_blocks():
    made = plan(get_method("tome", keep=(576 - 22 * 16) / 576))
    assert [s.at.block for s in made.steps] == list(range(1, 23))
    assert made.after == tuple(576 - 16 * b for b in range(1, 23))
    assert all(s.merge == BipartiteMerge(metric=Keys()) for s in made.steps)


def test_tome_goes_behind_the_projector_where_the_tower_cannot_be_cut_or_it_is_asked_to():
    for made in (plan(get_method("tome"), patch_tokens=False), plan(get_method("tome", stage="projector"))):
        assert [s.at for s in made.steps] == [Projector()] and made.after == (144,)
    with pytest.raises(InvalidValue, match="tower"):
        plan(get_method("tome", stage="tower"), patch_tokens=False)
    assert isinstance(next(iter(get_method("tome").steps(shape()))).at, Block)


def test_merging_twice_weighs_as_often_as_tokens_stand_for():
    """With one pair left to merge, the mean is that of the original tokens, not of the two means."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 5, generator=generator)
    once = VisualTokens.of(x)
    first = BipartiteMerge()(once, EvenGrid()(once, None, 5))
    twice = VisualTokens(first.gather(x), once.grid, first.kept, first.size, once.signal, grids=once.grids)
    second = BipartiteMerge()(twice, EvenGrid()(twice, None, 2))
    assert (first.size > 1).any() and second.size.sum(1).tolist() == [9.0, 9.0]
    whole = first.then(second)
    for b in range(2):
        for rank in range(2):
            torch.testing.assert_close(second.x[b, rank], x[b, whole.source[b] == rank].mean(0))


def test_sizes_of_earlier_merges_weigh_but_do_not_count():
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
    merged = bipartite_merge(x, 2, size=torch.tensor([[3.0, 1.0, 1.0]]))
    assert merged.x[0, 0].tolist() == [1.25, 0.0] and merged.size[0].tolist() == [2.0, 1.0]
    plain = bipartite_merge(x, 2, size=torch.tensor([[3.0, 1.0, 1.0]]), weighted=False)
    assert plain.x[0, 0].tolist() == [1.5, 0.0]


def test_pairs_are_found_by_the_metric():
    x = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    tokens = VisualTokens.of(x, signals={Keys(): keys})
    assert BipartiteMerge(metric=Keys())(tokens, EvenGrid()(tokens, None, 2)).source.tolist() == [[1, 0, 0, 1]]
    assert BipartiteMerge()(tokens, EvenGrid()(tokens, None, 2)).source.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("layers", [4, 8, 28, 32, 80])
@pytest.mark.parametrize("name", NAMES)
def test_the_average_over_layers_grows_with_keep(name, layers):
    methods = [get_method(name, keep=k) for k in (0.02, 0.1, 0.2, 0.4, 0.7, 0.9, 1.0)]
    t_eq = [plan(m, max(layers, 5 if name == "v2drop" else 1)).t_eq for m in methods]
    if name == "mustdrop":  # the first stage follows the content: what is planned for it is the most
        t_eq = t_eq[:-1]
    assert t_eq == sorted(t_eq) and t_eq[0] < t_eq[-1]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("vtw", "v2drop")])
def test_a_target_is_reached(name):
    found = solve(get_method(name), shape(), IMAGE, t_eq=200.0)
    assert plan(found).t_eq == pytest.approx(200.0, abs=2.0)


def test_restore_shares_the_places_of_any_pruner_and_keeps_positions():
    for base in ("divprune", "fastv", "holov"):
        method = get_method("restore", base=base, keep=0.5)
        inner, ours = (list(m.steps(shape())) for m in (get_method(base, keep=0.5), method))
        assert [s.at for s in ours] == [s.at for s in inner]
        for a, b in zip(inner, ours, strict=True):
            assert b.select == WithAnchors(a.select, 0.5) and b.merge == NearestMean() and b.positions == "keep"
            assert b.keep == a.keep and b.score == a.score
        assert method.chosen("bias") == DistanceBias()


def test_restore_refuses_what_merges_itself():
    with pytest.raises(InvalidValue, match="one that drops"):
        list(get_method("restore", base="visionzip").steps(shape()))
    with pytest.raises(InvalidValue, match="did you mean 'visionzip'"):
        get_method("restore", base="visionzap")


def test_restore_comes_back_from_its_recipe():
    method = get_method("restore", base="fastv", keep=0.3)
    assert Recipe.of(method).to_method() == method


def test_a_bias_and_a_merge_go_onto_any_method_by_name():
    method = get_method("fastv", merge="nearest-mean", bias="size-bias")
    assert isinstance(method, With) and method.chosen("bias") == SizeBias()
    assert [s.merge for s in method.steps(shape())] == [NearestMean()]
    plain = get_method("pact", bias=None)
    assert plain.chosen("bias") is None and get_method("pact").chosen("bias") == SizeBias()


@pytest.mark.parametrize("family", [LLAVA, QWEN], ids=lambda f: f.title)
def test_the_bias_changes_the_answer_of_merged_tokens_and_not_of_a_prompt_without_an_image(family):
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(6, 8)], []])
    logits = {}
    for bias in (None, SizeBias(), DistanceBias()):
        with compress(model, With(get_method("fastv", merge="nearest-mean"), bias=bias)):
            logits[bias] = torch.stack(generate(model, inputs).logits, 1)
    for bias in (SizeBias(), DistanceBias()):
        assert not torch.allclose(logits[bias][0, 0], logits[None][0, 0], atol=1e-3)
        torch.testing.assert_close(logits[bias][1], logits[None][1], atol=1e-5, rtol=1e-4)


def test_all_caches_of_mustdrop_hold_what_the_filter_left():
    model = tiny(QWEN)
    inputs = QWEN.tiny_inputs(model, [[(6, 8)]])
    with compress(model, "mustdrop", keep=0.25) as run:
        out = generate(model, inputs, max_new_tokens=1, min_new_tokens=1)
    text = inputs["input_ids"].shape[1] - 48
    assert {layer.keys.shape[2] for layer in out.past_key_values.layers} == {12 + text}
    assert run.trace.tokens_per_layer[-1] == 12


def test_what_vision_needs_most_is_never_filtered():
    """The 8 % with the most vision attention survive, whatever the text looks at."""
    model = tiny(QWEN)
    inputs = QWEN.tiny_inputs(model, [[(8, 8)]])
    with compress(model, "mustdrop", keep=10 / 64, threshold=1.01, protected=5 / 64) as run:
        model(**inputs)
    with compress(model, With(get_method("fastv", keep=5 / 64), score=Read(VisionReceived()))) as other:
        model(**inputs)
    must = set(run.trace.cuts[-1].reduction.kept[0].tolist())
    assert set(other.trace.cuts[-1].reduction.kept[0].tolist()) <= must and len(must) == 10
