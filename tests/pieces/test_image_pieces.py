"""Pieces of image methods: exact counts on every grid, and what each word says, on tokens made by hand."""

from dataclasses import replace

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.pieces import (
    AnchorsAround,
    AttentionSum,
    BestOfEach,
    Chain,
    Cls,
    ClsAcrossHeads,
    Coverage,
    Dedup,
    DistinctInGroups,
    Dpp,
    EvenGrid,
    Features,
    Keys,
    LocalVariety,
    MaxMin,
    NearestMean,
    NearestToWords,
    Norm,
    Quota,
    Read,
    Runs,
    Saliency,
    Selection,
    StandingOut,
    Sum,
    Surroundings,
    TextCoverage,
    TextRelevance,
    TopK,
    Unexplained,
    VisionReceived,
    Windows,
)
from foveate.pieces.aggregate import place_of
from foveate.pieces.seen import Attention
from foveate.pieces.vision import patch_attention
from foveate.tokens import Grid, VisualTokens


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(grid, b=2, d=6, seed=0, signals=None):
    """Random tokens with every reading that the pieces ask for; `signals` replace some by hand."""
    attention = draw(b, grid.n, seed=seed + 1).softmax(1)
    read = {
        Cls(): attention,
        VisionReceived(): draw(b, grid.n, seed=seed + 2).softmax(1),
        Features(): draw(b, grid.n, 5, seed=seed + 3),
        Keys(heads="all"): draw(b, grid.n, 8, seed=seed + 4),
    }
    read |= signals or {}
    return VisualTokens.of(draw(b, grid.n, d, seed=seed), grid, signals=read, text=draw(b, 3, d, seed=seed + 5))


def cut(t, kept):
    """What is left of tokens after a cut: every tensor at the kept places."""

    def at(x):
        return x[:, kept]

    return replace(t, x=at(t.x), where=at(t.where), size=at(t.size), signal=lambda r: at(t.signal(r)))


SELECTS = [
    Quota(), Quota(Windows(3)), Quota(Runs(4), LocalVariety()), Quota(Runs(5), Norm()), BestOfEach(),
    BestOfEach(Windows(2)), AnchorsAround(), AnchorsAround(share=0.5), Coverage(), Coverage(2.0, centre=True),
    TextCoverage(), Dpp(), Dpp(0.5, centre=True), Unexplained(), Unexplained(3, None), Dedup(), Dedup(0.3),
    DistinctInGroups(), DistinctInGroups(0.9), NearestToWords(), Chain(), Chain(NearestToWords(2), MaxMin(), 0.4, 0.1),
    Chain(TopK(), Dedup()), Chain(Quota(), TopK(), score=Norm()), Chain(EvenGrid(), TopK(), 0.3),
]  # fmt: skip
GRIDS = [Grid(1, 1, 1), Grid(1, 1, 2), Grid(1, 5, 7), Grid(1, 12, 3), Grid(2, 3, 3), Grid(3, 1, 5)]


@pytest.mark.parametrize("select", SELECTS, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_exactly_the_count_on_every_grid_and_a_batch_equals_its_rows(select, grid):
    t = tokens(grid)
    score = t.signal(Cls())
    for count in sorted({1, 2, grid.n // 4, grid.n // 2, grid.n - 1, grid.n} & set(range(1, grid.n + 1))):
        kept = select(t, score, count).kept
        assert kept.shape == (2, count)
        assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < grid.n
        for i in range(2):
            alone = replace(
                t, x=t.x[i : i + 1], where=t.where[i : i + 1], size=t.size[i : i + 1],
                signal=lambda r, i=i: t.signal(r)[i : i + 1], text=lambda i=i: t.text()[i : i + 1],
            )  # fmt: skip
            assert torch.equal(select(alone, score[i : i + 1], count).kept[0], kept[i])


@pytest.mark.parametrize("select", SELECTS, ids=str)
def test_exactly_the_count_of_what_an_earlier_cut_left(select):
    left = cut(tokens(Grid(1, 5, 7)), [0, 1, 4, 9, 10, 11, 17, 20, 26, 30, 31, 34])
    for count in (1, 4, 11):
        kept = select(left, left.signal(Cls()), count).kept
        assert kept.shape == (2, count) and (kept.diff(dim=1) > 0).all() and kept.max() < 12


def test_windows_share_by_size_and_the_best_of_each_stays():
    t, score = tokens(Grid(1, 4, 4), b=1), torch.arange(16.0)[None]
    assert Quota(Windows(2))(t, score, 4).kept.tolist() == [[5, 7, 13, 15]]
    assert BestOfEach(Windows(side=2))(t, score, 4).kept.tolist() == [[5, 7, 13, 15]]
    assert BestOfEach(Windows(side=2))(t, score, 2).kept.tolist() == [[13, 15]]  # the best of the four candidates
    assert BestOfEach(Windows(side=2))(t, score, 6).kept.tolist() == [[6, 7, 12, 13, 14, 15]]  # two of each


def test_runs_are_equal_stretches_of_a_frame():
    group, number = Runs(16)(tokens(Grid(1, 24, 24), b=1))
    assert number == 16 and group[0].bincount().tolist() == [36] * 16 and (group[0].diff() >= 0).all()
    group, number = Runs(3)(tokens(Grid(2, 2, 5), b=1))
    assert group[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5] and number == 6


def test_shares_follow_the_weight():
    t, score = tokens(Grid(1, 1, 8), b=1), torch.arange(8.0)[None]
    weight = Read(Cls())
    t = replace(t, signal=lambda r: torch.tensor([[3.0, 0, 0, 0, 1, 0, 0, 0]]))
    assert Quota(Runs(2), weight)(t, score, 4).kept.tolist() == [[1, 2, 3, 7]]


def test_variety_is_scaled_to_the_attention():
    t = tokens(Grid(1, 2, 6), b=1)
    attention = t.signal(Cls())
    variety = LocalVariety(alpha=1.0, runs=Runs(3))(t) - attention
    assert variety.mean().item() == pytest.approx(attention.mean().item())
    assert torch.equal(LocalVariety(alpha=0.0)(t), attention)
    same = tokens(Grid(1, 2, 6), b=1, signals={Features(): torch.ones(1, 12, 5)})
    assert torch.allclose(LocalVariety()(same), same.signal(Cls()))


def test_anchors_bring_their_neighbours():
    """The anchor of a 4 x 4 grid is token 5; its neighbours are 1, 9, 4 and 6."""
    middle = torch.zeros(1, 16).scatter(1, torch.tensor([[5]]), 1)
    t = tokens(Grid(1, 4, 4), b=1, signals={VisionReceived(): middle})
    score = torch.arange(16.0)[None]
    assert AnchorsAround(share=1 / 7)(t, score, 7).kept.tolist() == [[1, 4, 5, 6, 9, 14, 15]]
    assert AnchorsAround(share=1 / 3)(t, score, 3).kept.tolist() == [[5, 6, 9]]  # the best of the neighbours
    assert AnchorsAround(share=0.0)(t, score, 3).kept.tolist() == [[13, 14, 15]]
    left = cut(t, [2, 5, 6, 8, 15])  # of the neighbours only 6 is left
    assert AnchorsAround(share=1 / 2)(left, score[:, :5], 2).kept.tolist() == [[1, 2]]


def test_a_chain_keeps_what_the_first_took():
    t, score = tokens(Grid(1, 1, 12), b=1), torch.arange(12.0)[None]
    assert Chain(TopK(), TopK(), 0.5, score=Norm())(t, score, 6).kept[0].tolist() == sorted(
        {*(first := Norm()(t)[0].topk(3).indices.tolist()), *[i for i in range(11, -1, -1) if i not in first][:3]}
    )
    begun = Chain(TopK(), MaxMin(), 0.5)(t, score, 6).kept[0]
    assert {9, 10, 11} <= set(begun.tolist())
    assert set(TopK()(t, score, 3).kept[0].tolist()) <= set(Chain(TopK(), Dedup(), 0.5)(t, score, 6).kept[0].tolist())


def test_a_chain_asks_for_what_its_words_ask_for():
    chain = Chain(NearestToWords(), MaxMin(), score=Read(Cls(3)))
    assert chain.needs_text and not chain.needs_score and chain.reads == (Cls(3),)
    assert Chain(TopK(), MaxMin()).needs_score and not Chain(TopK(), MaxMin(), score=Norm()).needs_score
    assert Chain(TopK(), Dedup()).reads == (Features(),)
    with pytest.raises(InvalidValue, match="share and fixed"):
        Chain(share=1.5)


def test_duplicates_of_the_rest_go_before_distinct_tokens():
    """Tokens 2 to 9 are twins in pairs; token 0 and 1 are taken by score."""
    x = torch.eye(6)[[0, 1, 2, 2, 3, 3, 4, 4, 5, 5]][None]
    t = tokens(Grid(1, 1, 10), b=1, signals={Features(): x})
    score = torch.arange(10.0, 0, -1)[None]
    kept = Chain(TopK(), Dedup(0.1), 1 / 3)(t, score, 6).kept[0].tolist()
    assert kept[:2] == [0, 1] and {i // 2 for i in kept[2:]} == {1, 2, 3, 4}


def test_basis_tokens_stay_and_so_do_those_they_cannot_explain():
    x = torch.cat([torch.eye(4)[[0, 2, 1, 3, 0, 1]], torch.zeros(2, 4), 10 * torch.eye(4)[:2]])[None]
    t = tokens(Grid(1, 1, 10), b=1, d=4, signals={Features(): x})
    assert Unexplained(2)(t, None, 4).kept.tolist() == [[1, 3, 8, 9]]
    assert Unexplained(2)(t, None, 2).kept.tolist() == [[8, 9]]
    assert Unexplained(2)(t, None, 1).kept.shape == (1, 1)
    assert torch.equal(Unexplained(3, None)(t, None, 5).kept, Unexplained(3)(_as_features(t), None, 5).kept)


def _as_features(t):
    return replace(t, signal=lambda r: t.x)


def test_relevance_is_the_mean_cosine_with_the_words():
    t = tokens(Grid(1, 3, 4))
    u, w = (torch.nn.functional.normalize(v, dim=-1) for v in (t.x, t.text()))
    expected = (u @ w.transpose(1, 2)).mean(2)
    torch.testing.assert_close(TextRelevance(scaled=False)(t), expected)
    scaled = TextRelevance()(t)
    assert torch.equal(scaled.argsort(1), expected.argsort(1)) and scaled.amin() > 0 and scaled.amax() == 1


def test_words_bring_their_nearest_tokens_and_alignment_decides():
    x = torch.tensor([[[1.0, 0], [0.9, 0.1], [0.8, 0.2], [0.1, 1], [-1, 0.1], [0.2, 0.1]]])
    t = VisualTokens.of(x, text=torch.tensor([[[1.0, 0], [-1, 1]]]))
    assert NearestToWords(2)(t, None, 4).kept.tolist() == [[0, 1, 3, 4]]
    assert NearestToWords(1)(t, None, 2).kept.tolist() == [[0, 3]] or NearestToWords(1)(t, None, 2).kept.tolist() == [
        [0, 4]
    ]
    assert NearestToWords(1)(t, None, 3).kept[0, 0] == 0  # too few neighbours: the best aligned others follow


def test_words_are_covered_first_when_tokens_do_not_count():
    x = torch.eye(5)[None]
    t = VisualTokens.of(x, text=x[:, [3, 1]], signals={Features(): x})
    assert TextCoverage(alpha=0.0)(t, None, 2).kept.tolist() == [[1, 3]]


def test_of_twins_only_the_better_one_stays():
    """48 tokens in 24 pairs of twins, at a mean cosine near 0.5: the threshold, 1.5 times that, lies between."""
    x = (draw(1, 24, 64) + 8 * torch.eye(64)[0]).repeat_interleave(2, 1)
    t = tokens(Grid(1, 6, 8), b=1, signals={Features(): x})
    score = torch.arange(48.0)[None]
    assert DistinctInGroups()(t, score, 4).kept.tolist() == [[41, 43, 45, 47]]
    assert DistinctInGroups()(t, score, 40).kept[0, -4:].tolist() == [44, 45, 46, 47]  # a threshold no pair reaches


@pytest.mark.parametrize(
    "merge",
    [AttentionSum(), AttentionSum(neighbours=0), Surroundings(), NearestMean(), NearestMean(Features())],
    ids=str,
)
@pytest.mark.parametrize("grid", [Grid(1, 1, 1), Grid(1, 5, 7), Grid(2, 3, 4)], ids=str)
def test_mergers_keep_the_books(merge, grid):
    t = tokens(grid)
    for count in {1, max(1, grid.n // 3), grid.n}:
        selection = TopK()(t, t.signal(Cls()), count)
        r = merge(t, selection)
        assert torch.equal(r.kept, selection.kept) and r.x.shape == (2, count, 6) and torch.isfinite(r.x).all()
        assert torch.equal(r.source.gather(1, r.kept), torch.arange(count).expand(2, count))
        counted = torch.zeros(2, count + 1).scatter_add(1, r.source + 1, torch.ones(2, grid.n))
        assert torch.equal(counted[:, 1:], r.size)


@pytest.mark.parametrize("count", [8, 21])  # of 21 the quantile is the attention of one of them: a pillar
def test_pillars_stay_and_others_gather(count):
    t = tokens(Grid(1, 6, 6), b=1)
    selection = TopK()(t, t.signal(Cls()), count)
    r = Surroundings()(t, selection)
    own = t.x.gather(1, r.kept[..., None].expand(-1, -1, 6))
    stay = (r.x == own).all(2)[0]
    attention = t.signal(Cls()).gather(1, r.kept)[0]
    assert torch.equal(stay, attention >= attention.quantile(0.55)) and 0 < stay.sum() < count
    assert not torch.equal(Surroundings(faithful=True)(t, selection).x, r.x)


def test_nearest_by_features_groups_by_features():
    x, features = draw(1, 6, 4), torch.eye(3)[[0, 1, 2, 0, 1, 2]][None]
    t = tokens(Grid(1, 1, 6), b=1, d=4, signals={Features(): features})
    t = replace(t, x=x)
    r = NearestMean(Features())(t, Selection.of(torch.tensor([[0, 1, 2]])))
    assert r.source.tolist() == [[0, 1, 2, 0, 1, 2]]
    torch.testing.assert_close(r.x[0, 0], (x[0, 0] + x[0, 3]) / 2)


def test_places_count_frames_over_all_grids():
    two = VisualTokens.of(torch.zeros(1, 14, 2), Grid(1, 1, 14), grids=(Grid(2, 1, 4), Grid(1, 2, 3)))
    assert place_of(two)[0].tolist()[7:10] == [[1, 0, 3], [2, 0, 0], [2, 0, 1]]


def test_outliers_set_the_budget():
    score = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 100], [1, 1, 1, 1, 1, 1, 50, 60], [1, 2, 3, 4, 5, 6, 7, 8]])
    t = VisualTokens.of(torch.zeros(3, 8, 2), signals={Cls(): score})
    assert StandingOut().keep(t) == pytest.approx([1 / 8, 2 / 8, 0.01])
    assert StandingOut(times=4).keep(t) == pytest.approx([4 / 8, 1.0, 0.01])
    assert StandingOut(low=0.2, high=0.22).keep(t) == pytest.approx([0.2, 0.22, 0.2])
    with pytest.raises(InvalidValue, match="low <= high"):
        StandingOut(low=0.5, high=0.2)


def test_attention_across_heads_is_one_softmax_over_all_of_them():
    q, k = draw(2, 3, 7, 4), draw(2, 3, 7, 4, seed=1)
    whole_q, whole_k = (x.transpose(1, 2).reshape(2, 7, 12) for x in (q, k))
    expected = (whole_q[:, :1] @ whole_k.transpose(1, 2) / 12**0.5).softmax(2)[:, 0]
    torch.testing.assert_close(ClsAcrossHeads()(Attention(q, k, 4**-0.5)), expected)
    assert torch.equal(Keys(heads="all")(Attention(q, k, 0.5)), whole_k)


def test_sums_add_up_and_what_has_no_cls_is_read_otherwise():
    t = tokens(Grid(1, 2, 3))
    assert torch.equal(Sum((Norm(), Saliency()))(t), Norm()(t) + Saliency()(t))
    assert Sum((Read(Cls(1)), Read(Cls(2)))).reads == (Cls(1), Cls(2))
    assert patch_attention(True, 3) == Cls(3) and patch_attention(False) == VisionReceived()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows(0), "at least 1"), (lambda: Runs(0), "at least 1"), 
        (lambda: AnchorsAround(share=2.0), "share"),
        (lambda: Dpp(1.0), "theta"), (lambda: Unexplained(0), "basis"), (lambda: Dedup(0.0), "step"),
        (lambda: DistinctInGroups(0.0), "groups"), (lambda: NearestToWords(0), "neighbours"),
        (lambda: TextCoverage(temperature=0.0), "temperatures"), (lambda: AttentionSum(neighbours=-1), "neighbours"),
        (lambda: Surroundings(radius=0.0), "radius"), (lambda: Sum(()), "at least one"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InvalidValue, match=message):
        make()
