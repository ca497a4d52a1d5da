"""Thumbnail and crops: shares and scores by hand."""

import pytest
import torch

from foveate.errors import UnsupportedInput
from foveate.pieces import Cls, Crops, GlobalShare, HiredShare, LocalAndGlobal, Quota, Read
from foveate.tokens import Grid, VisualTokens

THUMBNAIL, VIEW = Grid(1, 2, 2), Grid(1, 4, 4)


def views(attention, grids=(THUMBNAIL, VIEW), **more):
    n = sum(g.n for g in grids)
    signals = {Cls(): attention} | more
    line = grids[0] if len(grids) == 1 else Grid(1, 1, n)
    return VisualTokens.of(torch.zeros(attention.shape[0], n, 2), line, signals=signals, grids=grids)


def test_crops_are_rectangles_as_large_as_the_thumbnail():
    group, number = Crops()(views(torch.zeros(1, 20)))
    assert number == 5
    assert group[0].tolist() == [0] * 4 + [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
    group, number = Crops()(views(torch.zeros(1, 9 + 45), (Grid(1, 3, 3), Grid(1, 5, 9))))  # 1.7 rows make two
    assert number == 7 and group[0, 9:18].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3] and group[0, -1] == 6


def test_an_image_without_a_thumbnail_has_a_group_for_each_view():
    assert Crops()(views(torch.zeros(1, 4), (THUMBNAIL,)))[1] == 1
    group, number = Crops()(views(torch.zeros(1, 12), (THUMBNAIL,) * 3))  # tiles: who knows how they lie
    assert number == 3 and group[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for score in (HiredShare(), GlobalShare()):
        many = views(torch.rand(1, 12), (THUMBNAIL,) * 3, **{})
        assert torch.equal(score(many), torch.ones(1, 12))
        assert torch.equal(LocalAndGlobal()(many), many.signal(Cls()))


def test_hired_gives_the_parts_what_catches_the_eye_of_the_thumbnail():
    """The top half of the thumbnail by its shallow map lies in the upper right and the lower left part."""
    shallow = torch.zeros(1, 20)
    shallow[0, :4] = torch.tensor([0.1, 0.4, 0.3, 0.2])
    t = views(torch.rand(1, 20), **{})
    signals = {Cls(): t.signal(Cls()), Cls(0): shallow}
    t = VisualTokens.of(t.x, t.grid, signals=signals, grids=t.grids)
    weight = HiredShare()(t)[0]
    per_view = [weight[:4].sum(), *(weight[4:][_part(i)].sum() for i in range(4))]
    assert torch.stack(per_view).tolist() == pytest.approx([0.5, 0, 0.25, 0.25, 0])
    kept = Quota(Crops(), HiredShare())(t, t.signal(Cls()), 4).kept[0]
    of = Crops()(t)[0][0][kept]
    assert of.bincount(minlength=5).tolist() == [2, 0, 1, 1, 0]
    kept = Quota(Crops(), HiredShare(alpha=0.9))(t, t.signal(Cls()), 8).kept[0]  # 7 of 8 do not fit a thumbnail of 4
    assert Crops()(t)[0][0][kept].bincount(minlength=5).tolist() == [4, 0, 4, 0, 0]


def test_globalcom2_shares_by_the_attention_on_each_part():
    attention = torch.zeros(1, 20)
    attention[0, :4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    weight = GlobalShare(temperature=0.5)(views(attention))[0]
    p = (attention[0, :4] / 0.5).softmax(0)
    expected = 1 + p - p.mean()
    assert torch.equal(weight[:4], torch.ones(4))
    for i in range(4):
        assert weight[4:][_part(i)].tolist() == pytest.approx([expected[i].item()] * 4)
    flat = GlobalShare()(views(attention))[0]  # temperature 10: near equal
    assert (flat - 1).abs().max() < 0.01


def test_globalcom2_ranks_by_both_views_at_equal_length():
    attention = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    score = LocalAndGlobal()(views(attention))
    assert torch.equal(score[:, :4], attention[:, :4])
    laid_over = torch.nn.functional.interpolate(attention[:, :4].view(2, 1, 2, 2), size=(4, 4), mode="bilinear")
    for i in range(4):
        own, whole = attention[:, 4:][:, _part(i)], laid_over.flatten(1)[:, _part(i)]
        expected = own / own.norm(dim=1, keepdim=True) + whole / whole.norm(dim=1, keepdim=True)
        torch.testing.assert_close(score[:, 4:][:, _part(i)], expected)


def test_shares_need_whole_views():
    t = views(torch.rand(1, 20))
    left = VisualTokens(t.x[:, :7], t.grid, t.where[:, :7], t.size[:, :7], t.signal, grids=t.grids)
    with pytest.raises(UnsupportedInput, match="before other cuts"):
        LocalAndGlobal()(left)
    assert Quota(Crops(), None)(left, torch.rand(1, 7), 3).kept.shape == (1, 3)


def test_a_share_reads_what_it_needs():
    assert Quota(Crops(), HiredShare(shallow=Cls(2))).reads == (Cls(2),) and Quota(Crops(), Read(Cls(1))).reads == (
        Cls(1),
    )


def _part(i):
    """Tokens of a quarter of the 4 x 4 view."""
    rows, columns = divmod(i, 2)
    return [(2 * rows + r) * 4 + 2 * columns + c for r in range(2) for c in range(2)]
