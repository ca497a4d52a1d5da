"""Video methods that select: each against its rule on lists, its published counts, and in a model."""

import pytest
import torch

from foveate import compress, get_method
from foveate.compose import TwoStage, With
from foveate.engine.carry import decide
from foveate.errors import InvalidValue
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.pieces import Attention, Changed, LastQuery, SinkFree
from foveate.plan import make_plan, solve
from foveate.tokens import Grid, VisualTokens

QWEN, ONEVISION = Qwen25VL(), LlavaOnevision()
SHAPE = QWEN.shape(QWEN.tiny(0).config)
SHORT, LONG = Grid(5, 2, 3), Grid(32, 14, 14)


def video(grid=SHORT, seed=0, spread=1.0):
    x = torch.randn(2, grid.n, 12, generator=torch.Generator().manual_seed(seed))
    return VisualTokens.of(1 + spread * x, grid)


def kept_by(method, tokens, **settings):
    """What the method's one step keeps, of each row."""
    (step,) = get_method(method, **settings).steps(SHAPE)
    keep = step.keep if isinstance(step.keep, float) else step.keep.keep(tokens)[0]
    return decide(step, tokens, step.count(keep, [tokens.grid], tokens.grid.n)).kept


def counts(method, grid, **settings):
    return make_plan(get_method(method, **settings).steps(SHAPE), SHAPE, grid).after


def unlike(a, b):
    return float(1 - torch.cosine_similarity(a.double(), b.double(), dim=0))


def frames_of(kept, grid=SHORT):
    return [int((kept // grid.frame.n == f).sum()) for f in range(grid.t)]


def test_evs_keeps_the_first_frame_and_what_changed_most():
    tokens = video()
    for count in (7, 12, 20, 29):
        kept = kept_by("evs", tokens, keep=count / 30)
        for b in range(2):
            changed = [(unlike(tokens.x[b, i], tokens.x[b, i - 6]), -i) for i in range(6, 30)]
            most = [-i for _, i in sorted(changed, reverse=True)[: count - 6]]
            assert kept[b].tolist() == sorted([*range(6), *most])


def test_evs_below_a_frame_thins_the_first_one_evenly():
    tokens = video(Grid(3, 4, 4))
    kept = kept_by("evs", tokens, keep=4 / 48)[0].tolist()
    assert len({(k // 8, k % 4 // 2) for k in kept}) == 4 and max(kept) < 16  # one in each quarter


@pytest.mark.parametrize(
    ("grid", "q", "count"),
    [
        (LONG, 0.7, 1881),
        (LONG, 0.75, 1568),
        (LONG, 0.99, 196),
        (Grid(2, 14, 14), 0.7, 196),
        (Grid(3, 14, 14), 0.7, 196),
    ],
)
def test_evs_in_serving_engines_keeps_a_frame_at_least(grid, q, count):
    assert counts("evs", grid, keep=1 - q, faithful=True) == (count,)
    assert counts("evs", grid, keep=1 - q) == (int(grid.n * (1 - q) + 1e-6),)


def test_vidcom2_gives_an_unusual_frame_nearly_twice_its_share():
    """A frame gets R(1 - 1/T) to R(2 - 1/T) of its tokens, at the published temperature one of them the most."""
    tokens = video(Grid(8, 5, 5), spread=0.5)
    tokens.x[:, 3 * 25 : 4 * 25] *= -1
    for row in kept_by("vidcom2", tokens, keep=0.3):
        assert frames_of(row, tokens.grid) == [7, 7, 7, 14, 7, 6, 6, 6]  # 7.5 (1 - 1/8) = 6.6, and 14.1


def test_vcast_gives_more_where_the_video_turns():
    """Eight frames that move along one line, and turn at the fifth; the cooler the softmax, the more it gets."""
    way = torch.tensor([[min(t, 4), max(0, t - 4)] for t in range(8)]).float()
    x = torch.randn(1, 8 * 25, 12, generator=torch.Generator().manual_seed(0)) * 0.01 + 4
    x[..., :2] += 0.5 * way.repeat_interleave(25, 0)
    tokens = VisualTokens.of(x, Grid(8, 5, 5))
    warm, cool = (frames_of(kept_by("vcast", tokens, keep=0.4, temperature=t)[0], tokens.grid) for t in (0.7, 0.3))
    for budgets in (warm, cool):
        assert sum(budgets) == 80 and min(budgets) >= 1
        assert budgets[4] > max(budgets[1:4]) and max(budgets[1:4]) - min(budgets[1:4]) <= 1
    assert cool[4] > warm[4]


def test_dtd_keeps_the_first_frame_and_of_each_other_the_same_share():
    tokens = video()
    kept = kept_by("dtd", tokens, keep=14 / 30)
    for b in range(2):
        assert frames_of(kept[b]) == [6, 2, 2, 2, 2]
        for f in range(1, 5):
            changed = sorted(range(6), key=lambda p: -unlike(tokens.x[b, 6 * f + p], tokens.x[b, 6 * f - 6 + p]))
            assert [k % 6 for k in kept[b].tolist() if k // 6 == f] == sorted(changed[:2])


def test_dtd_by_the_published_threshold():
    tokens = video(spread=0.8)
    kept = kept_by("dtd", VisualTokens.of(tokens.x[:1], SHORT), keep=Changed(0.5))[0].tolist()
    expected = [i for i in range(30) if i < 6 or unlike(tokens.x[0, i], tokens.x[0, i - 6]) >= 0.5]
    assert kept == expected and 6 < len(kept) < 30


def test_dycoke_keeps_one_frame_of_four_and_what_differs_from_it():
    tokens = video(Grid(7, 2, 3))
    kept = kept_by("dycoke", tokens, keep=22 / 42)
    for b in range(2):
        assert frames_of(kept[b], tokens.grid) == [6, 2, 2, 2, 6, 2, 2]
        for f, anchor in ((1, 0), (2, 0), (3, 2), (5, 4), (6, 4)):
            changed = sorted(range(6), key=lambda p: -unlike(tokens.x[b, 6 * f + p], tokens.x[b, 6 * anchor + p]))
            assert [k % 6 for k in kept[b].tolist() if k // 6 == f] == sorted(changed[:2])


def test_dycoke_counts_are_the_ideal_ones_or_those_of_the_released_code():
    assert counts("dycoke", LONG) == (round(0.475 * 6272),)  # K = 0.7
    released = [
        counts("dycoke", LONG, keep=(1 + 3 * (1 - k)) / 4, faithful=True)[0] / 6272 for k in (0.5, 0.7, 0.9, 1.0)
    ]
    assert [round(100 * share, 1) for share in released] == [64.1, 49.4, 35.1, 28.1]
    assert counts("dycoke", LONG, keep=0.1, faithful=True)[0] / 6272 == pytest.approx(0.281, abs=1e-3)  # its floor


def test_sttm_and_fewer_frames_keep_what_was_asked():
    assert counts("sttm", LONG) == (round(0.3 * 6272),)
    assert counts("fewer-frames", LONG) == (8 * 196,)
    assert frames_of(kept_by("fewer-frames", video(), keep=0.4)[0]) == [0, 6, 0, 6, 0]


@pytest.mark.parametrize("method", ["sttm", "fewer-frames"])
def test_what_needs_the_whole_grid_is_refused_behind_a_cut(method):
    both = TwoStage(get_method("random"), get_method("sttm"))
    with pytest.raises(InvalidValue, match="whole grid"):
        make_plan(both.steps(SHAPE), SHAPE, LONG)
    assert counts(method, LONG)


@pytest.mark.parametrize("method", ["evs", "dtd", "dycoke", "vidcom2", "vcast", "sttm", "framefusion", "fewer-frames"])
def test_one_solver_finds_keep_for_a_quarter_of_the_tokens(method):
    found = solve(get_method(method), SHAPE, LONG, LONG.n / 4 if method != "sttm" else LONG.n / 2)
    plan = make_plan(found.steps(SHAPE), SHAPE, LONG)
    wanted = LONG.n / 4 if method != "sttm" else LONG.n / 2
    assert abs(plan.t_eq - wanted) <= 1


# ── in a model ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model():
    return QWEN.tiny(0)


def still_video(model, frames):
    """A prompt with a video of one picture that never changes."""
    inputs = QWEN.tiny_inputs(model, [[(frames, 4, 4)]])
    picture = inputs["pixel_values_videos"][: 4 * 16]
    return inputs | {"pixel_values_videos": picture.repeat(frames, 1)}


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_framefusion_costs_what_it_says_whatever_the_video(model, still, keep):
    inputs = still_video(model, 8) if still else QWEN.tiny_inputs(model, [[(8, 4, 4)]])
    with compress(model, "framefusion", keep=keep) as run:
        model(**inputs)
    got = run.trace.tokens_per_layer
    assert keep * 128 - 1 < sum(got) / len(got) <= keep * 128 + 1e-6
    assert run.trace.plan.t_eq == round(keep * 128)
    last = run.trace.cuts[-1].reduction.size
    if still:  # all merged before the first layer
        assert set(got) == {got[0]} and last.sum() == 128
    else:  # nothing resembles what was before it: one cut, by attention
        assert got == [128, *got[1:2] * 7] and last.sum() == got[1]


def test_sttm_makes_one_picture_of_a_still_video(model):
    with compress(model, "sttm", keep=16 / 128, likeness=1.0) as run:
        model(**still_video(model, 8))
    (cut,) = run.trace.cuts
    assert cut.reduction.kept[0].tolist() == list(range(16)) and cut.reduction.size.tolist() == [[8.0] * 16]


def test_dytok_shares_follow_the_attention_that_frames_get(model):
    """Weights from the attention of eager transformers: softmax over visual keys, mean over heads, layers and frame."""
    eager = QWEN.tiny(0)
    eager.set_attn_implementation("eager")
    inputs = QWEN.tiny_inputs(eager, [[(6, 4, 4)]], seed=2)
    visual = inputs["input_ids"][0] == 11
    attentions = eager(**inputs, output_attentions=True).attentions
    paid = torch.stack([attentions[i][0, :, -1, visual] for i in (2, 3)])  # the last third of four layers, rounded up
    weight = (paid / paid.sum(-1, keepdim=True)).mean((0, 1)).view(6, 16).mean(1)
    with compress(model, "dytok", keep=0.3, depth=0.5) as run:
        model(**inputs)
    got = torch.tensor(frames_of(run.trace.cuts[0].reduction.kept[0], Grid(6, 4, 4)))
    assert got.sum() == 29 and (got - 29 * weight / weight.sum()).abs().max() < 1
    assert run.steps[0].select.reads == (LastQuery(since=2, among="visual"),)


def test_attention_among_visual_tokens_is_their_softmax():
    q, k = (torch.randn(1, 2, 7, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    visual = torch.tensor([[False, True, True, False, True, False, False]])
    seen = Attention(q, k, 0.5, None, visual, last=torch.tensor([[6]]))
    logits = (q[0, :, 6:] @ k[0].transpose(1, 2))[:, 0] * 0.5
    expected = logits[:, visual[0]].softmax(-1).mean(0)
    got = LastQuery(among="visual")(seen)[0]
    torch.testing.assert_close(got[visual[0]], expected)
    assert not got[~visual[0]].any() and LastQuery()(seen)[0].sum().item() == pytest.approx(1)


def test_stop_takes_sinks_out_of_any_attention_score():
    onevision = ONEVISION.tiny(0)
    inputs = ONEVISION.tiny_inputs(onevision, [[(4, 5, 5)]])
    plain = get_method("visionzip", contextual=0.0, keep=0.3)
    (step,) = plain.steps(ONEVISION.shape(onevision.config))
    kept = []
    for weight in (0.0, 10.0):
        with compress(onevision, With(plain, score=SinkFree(step.score, weight))) as run:
            onevision(**inputs)
        kept.append(run.trace.cuts[0].reduction.kept[0])
    with compress(onevision, plain) as run:
        onevision(**inputs)
    assert torch.equal(kept[0], run.trace.cuts[0].reduction.kept[0])
    places = run.trace.plan.grids[0].frame.n
    # with so large a weight whole places go: those that are left are the same in every frame
    assert len(set((kept[1] % places).tolist())) < len(set((kept[0] % places).tolist()))
