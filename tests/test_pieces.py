"""Scores, selectors and mergers: what each promises, on tokens made by hand."""

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.pieces import (
    Adaptive,
    BipartiteMerge,
    Complexity,
    ContextualMean,
    DensityPeaks,
    DominantContextual,
    Drop,
    EvenGrid,
    GridCells,
    Hybrid,
    Keys,
    MaxMin,
    NearestMean,
    Norm,
    Random,
    Saliency,
    Selection,
    TopK,
    WindowMean,
)
from foveate.pieces.selects import cells
from foveate.tokens import Grid, Reduction, VisualTokens


def tokens(b=2, n=12, d=4, grid=None, seed=0, **signals):
    x = torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))
    plain = VisualTokens.of(x, grid or Grid(1, 3, 4))
    signal = {type(k): v for k, v in signals.items()}
    return VisualTokens(
        x, plain.grid, plain.where, plain.size, lambda r: signals[type(r).__name__.lower()] if signal else x
    )


SELECTS = [TopK(), EvenGrid(), MaxMin(), MaxMin(centre=True), DensityPeaks(), DominantContextual(0.5)]


@pytest.mark.parametrize("select", SELECTS, ids=str)
@pytest.mark.parametrize("count", [1, 5, 11])
def test_a_selector_gives_exactly_the_count_ascending(select, count):
    t = tokens()
    kept, receives = select(t, Norm()(t), count)
    assert kept.shape == receives.shape == (2, count)
    assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < 12


@pytest.mark.parametrize("merge", [Drop(), NearestMean(), BipartiteMerge(), ContextualMean()], ids=str)
def test_a_merger_keeps_the_books(merge):
    t = tokens(keys=torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1)))
    selection = DominantContextual(0.5)(t, Norm()(t), 4)
    r = merge(t, selection)
    assert r.kept.shape == (2, 4) and r.source.shape == (2, 12)
    rank = torch.arange(4).expand(2, 4)
    assert torch.equal(r.source.gather(1, r.kept), rank)
    counted = torch.zeros(2, 5).scatter_add(1, r.source + 1, torch.ones(2, 12))
    assert torch.equal(counted[:, 1:], r.size)
    if not isinstance(merge, Drop):
        assert (r.source >= 0).all()


def test_merging_twice_weighs_what_the_first_merge_weighed():
    t = tokens()
    first = NearestMean()(t, TopK()(t, Norm()(t), 6))
    left = VisualTokens(first.x, t.grid, first.kept, first.size, t.signal)
    both = first.then(NearestMean()(left, TopK()(left, Norm()(left), 2)))
    assert both.size.sum().item() == 24 and (both.source >= 0).all()


def test_reductions_compose():
    a = Reduction(torch.tensor([[0, 2, 4]]), torch.tensor([[0, 0, 1, -1, 2, 2]]), torch.tensor([[2.0, 1.0, 2.0]]))
    b = Reduction(torch.tensor([[0, 2]]), torch.tensor([[0, 1, 1]]), torch.tensor([[2.0, 3.0]]))
    c = a.then(b)
    assert c.kept.tolist() == [[0, 4]] and c.source.tolist() == [[0, 0, 1, -1, 1, 1]] and c.size.tolist() == [[2, 3]]


def test_visionzip_targets_are_spread_over_the_rest_in_raster_order():
    t = tokens(b=1)
    score = torch.tensor([[0.0, 9, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0]])
    kept, receives = DominantContextual(0.5)(t, score, 6)
    assert kept[0][~receives[0]].tolist() == [1, 4, 8]
    assert kept[0][receives[0]].tolist() == [2, 6, 10]


def test_contextual_mean_faithful_adds_and_default_averages():
    x = torch.tensor([[[1.0], [2.0], [4.0], [100.0]]])
    keys = torch.tensor([[[1.0, 0], [1, 0], [1, 0.1], [0, 1]]])
    t = VisualTokens.of(x)
    t = VisualTokens(x, t.grid, t.where, t.size, lambda r: {Keys(): keys}[r])
    selection = Selection(torch.tensor([[0, 3]]), torch.tensor([[True, False]]))
    assert ContextualMean()(t, selection).x[0, :, 0].tolist() == pytest.approx([7 / 3, 100])
    assert ContextualMean(faithful=True)(t, selection).x[0, :, 0].tolist() == pytest.approx([4.0, 100])


@pytest.mark.parametrize("grid", [Grid(1, 12, 12), Grid(1, 7, 5), Grid(3, 4, 6)], ids=str)
@pytest.mark.parametrize("keep", [0.5, 0.25, 0.1])
def test_pooling_cells_fit_the_grid(grid, keep):
    wanted = max(1, round(keep * grid.n))
    rows, columns = cells(wanted, grid)
    assert 1 <= rows <= grid.h and 1 <= columns <= grid.w
    t = tokens(1, grid.n, grid=grid)
    count = GridCells().possible(wanted, grid, grid.n)
    assert count == grid.t * rows * columns
    r = WindowMean()(t, GridCells()(t, None, count))
    assert r.kept.shape[1] == count and r.size.sum() == grid.n
    torch.testing.assert_close((r.x * r.size[..., None]).sum(1), t.x.sum(1), atol=1e-4, rtol=1e-4)


def test_a_quarter_of_a_square_pools_two_by_two():
    assert cells(36, Grid(1, 12, 12)) == (6, 6)


def test_random_is_the_same_for_every_row_and_nested():
    t = tokens()
    score = Random()(t)
    assert torch.equal(score[0], score[1])
    left = VisualTokens(t.x[:, ::2], t.grid, t.where[:, ::2], t.size[:, ::2], t.signal)
    assert torch.equal(Random()(left), score[:, ::2])
    assert not torch.equal(Random(1)(t), score)


def test_hybrid_weighs_what_it_is_told():
    t = tokens()
    assert torch.equal(Hybrid(Norm(), Saliency(), 1.0)(t).argmax(1), Norm()(t).argmax(1))
    assert torch.equal(Hybrid(Norm(), Saliency(), 0.0)(t).argmax(1), Saliency()(t).argmax(1))
    assert Hybrid(Norm(), Saliency())(t).amax() <= 1
    with pytest.raises(InvalidValue):
        Hybrid(weight=1.5)


def test_hybrid_of_equal_scores_is_no_nan():
    x = torch.ones(1, 4, 3)
    assert torch.isfinite(Hybrid(Norm(), Saliency())(VisualTokens.of(x))).all()


def test_adaptive_budgets_lie_between_their_bounds():
    flat, rich = torch.ones(1, 40, 8), torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    rule = Adaptive(Complexity(), 0.1, 0.5)
    low, high = rule.keep(VisualTokens.of(flat))[0], rule.keep(VisualTokens.of(rich))[0]
    assert low == pytest.approx(0.1) and 0.3 < high <= 0.5
    with pytest.raises(InvalidValue):
        Adaptive(Complexity(), 0.5, 0.1)
