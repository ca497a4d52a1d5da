"""Selectors and mergers of methods inside the language model: who stays, who joins, exactly how many."""

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.ops.representative import representativeness
from foveate.pieces import DistanceClusters, EvenGrid, LeastLikePivots, Norm, Recycle, Selection, TopK, WithAnchors
from foveate.pieces.collapse import AlikeWindows, CollapseWindows, WindowsCollapsed
from foveate.pieces.readings import Keys
from foveate.pieces.vision import Features
from foveate.tokens import Grid, VisualTokens


def tokens(n=20, d=6, signals=None, text_signals=None, text=None, grid=None, b=2):
    x = torch.randn(b, n, d, generator=torch.Generator().manual_seed(0))
    return VisualTokens.of(x, grid, signals=signals, text=text, text_signals=text_signals)


@pytest.mark.parametrize("count", [1, 2, 5, 12, 19])
def test_recycled_clusters_take_the_places_of_the_lowest_chosen(count):
    t = tokens()
    score = Norm()
    reduction = Recycle(score)(t, TopK()(t, score(t), count))
    assert reduction.kept.shape == (2, count)
    order = score(t).sort(1, descending=True).indices
    for b in range(2):
        whole = [k for r, k in enumerate(reduction.kept[b].tolist()) if reduction.size[b, r] == 1]
        stay = 20
        for stay in range(count, -1, -1):
            if stay + (int(0.3 * (20 - stay)) + 1) // 10 + 1 <= count:
                break
        assert set(order[b, :stay].tolist()) <= set(whole)
        assert (reduction.source[b] >= 0).sum() == stay + min(20 - stay, int(0.3 * (20 - stay)) + 1)


def test_sizes_of_what_was_merged_before_add_up():
    t = tokens()
    t.size[:] = torch.arange(1.0, 21)
    for merge in (Recycle(Norm(), share=1.0), DistanceClusters(Norm(), Features(), share=1.0)):
        signals = {Features(): t.x}
        held = VisualTokens(t.x, t.grid, t.where, t.size, signals.__getitem__, grids=t.grids)
        reduction = merge(held, EvenGrid()(held, None, 4))
        assert reduction.size.sum(1).tolist() == [210.0, 210.0]


def test_pivots_stay_and_the_rest_is_shared_out():
    keys, words = torch.zeros(2, 20), torch.zeros(2, 3)
    keys[:, 7], keys[:, 2], words[:, 1] = 3.0, 2.0, 1.0
    pick = LeastLikePivots(visual=2, text=1)
    t = tokens()
    text = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    given = {"signals": {pick.keys: keys, pick.features: t.x}, "text_signals": {pick.keys: words, pick.features: text}}
    kept = pick(tokens(text=text, **given), None, 9).kept  # 7 to choose: 3 for the first pivot, 2 for the others
    for b in range(2):
        chosen = [7, 2]
        for pivot, count in ((t.x[b, 7], 3), (t.x[b, 2], 2), (text[b, 1], 2)):
            like = torch.cosine_similarity(t.x[b], pivot[None], dim=-1).tolist()
            chosen += sorted((i for i in range(20) if i not in chosen), key=lambda i: like[i])[:count]
        assert kept[b].tolist() == sorted(chosen)
    assert pick(tokens(text=text, **given), None, 1).kept.tolist() == [[7], [7]]


def test_anchors_are_the_most_representative_of_the_rest_and_alone_receive():
    t = tokens()
    score = Norm()(t)
    selection = WithAnchors(TopK(), share=0.5)(t, score, 5)
    stands = representativeness(t.x)
    for b in range(2):
        own = set(score[b].topk(3).indices.tolist())
        rest = sorted((i for i in range(20) if i not in own), key=lambda i: -stands[b, i].item())[:2]
        assert selection.kept[b].tolist() == sorted(own | set(rest))
        assert [k for k, r in zip(*(x[b].tolist() for x in selection), strict=True) if r] == sorted(rest)
    assert WithAnchors(TopK(), share=0.0)(t, score, 5).receives.all()


@pytest.mark.parametrize(("grid", "wanted", "got"), [
    (Grid(1, 6, 6), 36, 36), (Grid(1, 6, 6), 21, 20), (Grid(1, 6, 6), 1, 4), (Grid(2, 4, 7), 30, 32),
    (Grid(1, 2, 9), 3, 18),
])  # fmt: skip
def test_counts_that_windows_reach(grid, wanted, got):
    assert WindowsCollapsed().possible(wanted, grid, grid.n) == got


def test_windows_collapse_to_what_is_planned_and_alike_ones_first():
    grid = Grid(1, 6, 6)
    x = torch.randn(1, 36, 4, generator=torch.Generator().manual_seed(0))
    corner = [r * 6 + c for r in range(3) for c in range(3, 6)]
    metric = torch.randn(1, 36, 3, generator=torch.Generator().manual_seed(1))
    metric[0, corner] = 1.0
    t = VisualTokens.of(x, grid, signals={Features(0): metric})
    reduction = CollapseWindows()(t, WindowsCollapsed()(t, None, 28))
    assert reduction.kept[0].tolist() == [i for i in range(36) if i not in corner or i == 10]
    assert AlikeWindows(threshold=0.9).keep(t) == [28 / 36]
    assert AlikeWindows(threshold=0.9, low=0.9).keep(t) == [0.9]
    assert CollapseWindows()(t, WindowsCollapsed()(t, None, 36)).kept.shape == (1, 36)


@pytest.mark.parametrize("wrong", [
    lambda: Recycle(share=2), lambda: Recycle(each=0), lambda: DistanceClusters(share=-1),
    lambda: DistanceClusters(keys=Keys(), reach=-1), lambda: LeastLikePivots(0, 0), lambda: WithAnchors(share=1.5),
    lambda: WindowsCollapsed(1), lambda: AlikeWindows(low=0), lambda: CollapseWindows(side=0),
])  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InvalidValue):
        wrong()


def test_windows_need_the_whole_grid():
    with pytest.raises(InvalidValue, match="whole grid"):
        WindowsCollapsed().possible(10, Grid(1, 6, 6), 20)


def test_a_selection_without_receivers_is_still_one():
    assert Selection.of(torch.tensor([[0, 3]])).receives.all()
