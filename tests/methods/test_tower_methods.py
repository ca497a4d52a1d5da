"""Methods that cut inside the vision tower: scores and shares by brute force, counts per block, what is refused."""

from dataclasses import replace

import pytest
import torch

from foveate import compress, get_method
from foveate.errors import InvalidValue
from foveate.families import families
from foveate.ops import spread as op
from foveate.pieces import Attention, Cls, ClsOverPatches, MeanAttention, Norm, Selection, Spread, WeakestLower
from foveate.plan import Block, ModelShape, check_steps, make_plan
from foveate.testing import tiny
from foveate.tokens import Grid, VisualTokens

LLAVA = ModelShape(
    "llava", layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32064,
    vision_blocks=24, vision_features=22, vision_global=tuple(range(24)), has_cls=True, patch_tokens=True,
)  # fmt: skip


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(values):
    powers = [2.718281828459045**v for v in values]
    return [p / sum(powers) for p in powers]


# ── the pieces, against their rules written with loops ───────────────────────────────────────────────────────────


def test_mean_attention_is_that_of_each_head():
    q, k = random(2, 3, 5, 4), random(2, 3, 5, 4, seed=1)
    got = MeanAttention()(Attention(q, k, 0.5))
    for b in range(2):
        for i in range(5):
            heads = [softmax([0.5 * float(q[b, h, i] @ k[b, h, j]) for j in range(5)]) for h in range(3)]
            assert got[b, i].tolist() == pytest.approx([sum(h[j] for h in heads) / 3 for j in range(5)], abs=1e-6)


def seen(n, columns, where=None, grid=None, seed=0):
    """Tokens with both signals of FiCoCo-V, as the tower gives them: rows without the CLS token, columns with it."""
    every = random(2, n, columns, seed=seed).mul(4).softmax(-1)
    cls = random(2, n, seed=seed + 1).softmax(-1)
    tokens = VisualTokens.of(random(2, n, 6, seed=seed + 2), grid, signals={Cls(): cls, MeanAttention(): every})
    tokens = replace(tokens, size=random(2, n, seed=seed + 3).abs() + 1)
    return (tokens if where is None else replace(tokens, where=where)), cls, every


def test_score_is_cls_attention_less_what_patches_pay():
    tokens, cls, every = seen(6, 7)
    got = ClsOverPatches()(tokens)
    for b in range(2):
        received = [sum(float(every[b, i, j + 1]) for i in range(6)) / 6 for j in range(6)]
        a, r = (sum(v * v for v in x) ** 0.5 for x in (cls[b].tolist(), received))
        expected = [0.35 * float(cls[b, j]) / a - 0.65 * received[j] / r for j in range(6)]
        assert got[b].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_lowest_of_each_square_is_lowered():
    """A 3 x 4 grid of which one square is left with one token, and one with two equal ones."""
    where = torch.tensor([[0, 1, 4, 2, 3, 6, 8, 10]])
    score = torch.tensor([[3.0, 1, 2, 5, -1, -2, -4, 6]])
    x = torch.zeros(1, 8, 1)

    class Given(Norm):
        def __call__(self, tokens):
            return score

    tokens = replace(VisualTokens.of(x, Grid(1, 3, 4)), where=where)
    # 8 and 10 are alone in the squares of the last row; of the upper right square 2, 3 and 6 are left
    assert WeakestLower(Given())(tokens).tolist() == [[3, 0.5, 2, 5, -1, -4, -4, 6]]
    equal = op.lower_weakest(torch.tensor([[2.0, 2, 2, -1, -1, 0]]), torch.tensor([[0, 0, 1, 2, 2, 1]]), 3)
    assert equal.tolist() == [[2, 1, 2, -1, -2, 0]]


@pytest.mark.parametrize("quantile", [0.998, 0.5, 0.0, 1.0])
def test_dropped_tokens_are_shared_out_by_attention(quantile):
    tokens, _, every = seen(9, 10, seed=5)
    kept = torch.tensor([[0, 2, 3, 5, 8], [1, 2, 4, 6, 7]])
    got = Spread(quantile)(tokens, Selection.of(kept))
    for b in range(2):
        stay = kept[b].tolist()
        total = {j: tokens.size[b, j].double() for j in stay}
        mean = {j: tokens.x[b, j].double() * total[j] for j in stay}
        for i in set(range(9)) - set(stay):
            paid = every[b, i, 1:][stay].double()
            bar = torch.quantile(paid, quantile)
            targets = [(j, float(p)) for j, p in zip(stay, paid, strict=True) if p >= bar - 1e-12]
            for (j, _), share in zip(targets, softmax([p for _, p in targets]), strict=True):
                total[j] = total[j] + share * tokens.size[b, i]
                mean[j] = mean[j] + share * tokens.size[b, i] * tokens.x[b, i].double()
            assert got.source[b, i] == int(paid.argmax())
        assert got.source[b, kept[b]].tolist() == list(range(5))
        torch.testing.assert_close(got.size[b].double(), torch.stack([total[j] for j in stay]))
        torch.testing.assert_close(got.x[b].double(), torch.stack([mean[j] / total[j] for j in stay]))
    torch.testing.assert_close(got.size.sum(1), tokens.size.sum(1))


@pytest.mark.parametrize(
    ("survivors", "quantile", "targets"), [(534, 0.998, 2), (114, 0.998, 1), (1, 0.998, 1), (101, 0.55, 46)]
)
def test_how_many_take_a_share_follows_the_quantile(survivors, quantile, targets):
    """Of 534 the 533rd lies above rank 531.934; 0.55 x 100 is the 56th of 101, and it counts."""
    paid = torch.arange(survivors + 1.0).expand(survivors + 1, -1)[None] / survivors
    kept, size = torch.arange(survivors)[None], torch.ones(1, survivors + 1)
    merged = op.spread(torch.ones(1, survivors + 1, 1), kept, paid, size, quantile)
    assert (merged.size[0] > 1).tolist() == [i >= survivors - targets for i in range(survivors)]


def test_settings_out_of_range_are_refused():
    for wrong in (lambda: Spread(1.1), lambda: ClsOverPatches(-0.1), lambda: get_method("ficoco", since=1.5)):
        with pytest.raises(InvalidValue, match=r"in \[0, 1\]"):
            wrong()
    with pytest.raises(InvalidValue, match="quantile"):
        op.spread(random(1, 3, 2), torch.tensor([[0]]), random(1, 3, 3), torch.ones(1, 3), -1)


# ── the method ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_forty_two_patches_leave_behind_each_block_from_the_twelfth_on():
    plan = make_plan(get_method("ficoco").steps(LLAVA), LLAVA, Grid(1, 24, 24))
    assert plan.after == tuple(576 - 42 * i for i in range(1, 12))
    assert [s.at.block - 1 for s in plan.steps] == list(range(11, 22))  # the blocks whose attention decides
    assert plan.after[-1] == 114 and set(plan.per_layer) == {114}


def test_shallow_towers_and_late_starts_still_cut():
    shallow = replace(LLAVA, vision_blocks=2, vision_features=1)
    for shape, settings in ((shallow, {}), (LLAVA, {"since": 1.0})):
        (step,) = check_steps(get_method("ficoco", keep=0.5, **settings).steps(shape), shape)
        assert step.at == Block(shape.vision_features) and step.keep == 0.5
    first, *_ = get_method("ficoco", since=0.0).steps(LLAVA)
    assert first.at == Block(1)


@pytest.mark.parametrize("family", sorted(set(families()) - {"llava"}))
def test_where_the_tower_cannot_be_cut_it_says_why(family):
    with (
        pytest.raises(InvalidValue, match="use a method that cuts after it"),
        compress(tiny(families()[family]), "ficoco"),
    ):
        pass


def test_a_tower_without_a_cls_token_is_refused():
    shape = replace(LLAVA, has_cls=False)
    with pytest.raises(InvalidValue, match="Cls needs a CLS token"):
        check_steps(get_method("ficoco").steps(shape), shape)


def test_the_tower_runs_on_fewer_patches_and_what_leaves_it_stands_for_all():
    family = families()["llava"]
    model = tiny(family)
    seen, blocks = [], model.model.vision_tower
    blocks = getattr(blocks, "vision_model", blocks).encoder.layers
    handles = [m.mlp.register_forward_hook(lambda m, a, o: seen.append(o.shape[1])) for m in blocks]
    with compress(model, "ficoco", keep=0.25, since=0.25) as run:
        model(**family.tiny_inputs(model, [[(4, 4)], [(4, 4)]]))
    for handle in handles:
        handle.remove()
    assert seen == [17, 11, 5, 5] and run.trace.tokens_per_layer[0] == 2 * 4
    for cut in run.trace.cuts:
        assert float(cut.reduction.size.sum()) == pytest.approx(16) and bool((cut.reduction.source >= 0).all())
