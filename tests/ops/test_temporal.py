"""What happens along time against loops over tokens, also after a cut."""

import math

import pytest
import torch

from foveate.ops.temporal import (
    change,
    earlier_survivor,
    find,
    gaussian_similarity,
    predecessors,
    sink_level,
    steadiest_channels,
)


def random_x(b, n, d=6, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def random_places(n=30, places=6, seed=0):
    return torch.randint(0, places, (2, n), generator=torch.Generator().manual_seed(seed))


def test_predecessors_are_the_last_before_at_the_place():
    place = random_places()
    for row, got in zip(place.tolist(), predecessors(place).tolist(), strict=True):
        for i, p in enumerate(row):
            assert got[i] == max((j for j in range(i) if row[j] == p), default=-1)


def test_in_a_whole_video_that_is_one_frame_back():
    place = torch.arange(4).repeat(3)[None]
    assert predecessors(place).tolist() == [[-1] * 4 + list(range(8))]


def test_find_gives_where_a_position_is_or_minus_one():
    where = torch.tensor([[1, 4, 5, 9], [0, 2, 3, 8]])
    wanted = torch.tensor([[4, 0, -1, 9], [8, 8, 1, -5]])
    assert find(where, wanted, 10).tolist() == [[1, -1, -1, 3], [3, 3, -1, -1]]


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_change_is_one_minus_the_cosine(chunk):
    x, place = random_x(2, 30), random_places()
    before = predecessors(place)
    got = change(x, before, chunk=chunk)
    expected = 1 - torch.cosine_similarity(
        x.double(), x.gather(1, before.clamp(min=0)[..., None].expand_as(x)).double(), -1
    )
    torch.testing.assert_close(got, torch.where(before < 0, 2.0, expected.float()), atol=1e-6, rtol=1e-5)


def test_equal_tokens_have_not_changed_at_all():
    x = random_x(1, 5, 1000).repeat(1, 2, 1)
    assert change(x, predecessors(torch.arange(5).repeat(2)[None]))[0, 5:].tolist() == [0.0] * 5
    assert change(torch.zeros(1, 2, 4), torch.tensor([[-1, 0]])).tolist() == [[2.0, 0.0]]


def test_each_joins_the_survivor_before_it_at_its_place():
    place = random_places(seed=3)
    kept = torch.stack(
        [torch.randperm(30, generator=torch.Generator().manual_seed(s))[:9].sort().values for s in (0, 1)]
    )
    got = earlier_survivor(place, kept)
    for b in range(2):
        ranks = {int(k): r for r, k in enumerate(kept[b])}
        for i in range(30):
            before = [j for j in range(i + 1) if place[b, j] == place[b, i] and j in ranks]
            assert got[b, i] == (ranks[before[-1]] if before else -1)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_the_steadiest_channels_have_the_least_variance(share):
    x = random_x(2, 40, 11) * torch.arange(1, 12).flip(0) + 3
    got = steadiest_channels(x, share, chunk=7)
    for b in range(2):
        count = max(1, math.floor(share * 11))
        calm = sorted(x[b].double().var(0).argsort(stable=True)[:count].tolist())
        assert torch.equal(got[b], x[b][:, calm])


def test_of_equal_channels_the_lower_ones_are_taken():
    x = random_x(1, 9, 1) * torch.tensor([1.0, -1, -1, 1, 1, -1])
    assert torch.equal(steadiest_channels(x, 0.5), x[..., :3])


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_gaussian_similarity_sums_five_widths(chunk):
    x, centres = random_x(2, 12), random_x(2, 3, seed=1)
    group = random_places(12, 3)
    got = gaussian_similarity(x, centres, group, chunk=chunk)
    for b in range(2):
        for i in range(12):
            squared = float(((x[b, i] - centres[b, group[b, i]]).double() ** 2).sum())
            expected = sum(math.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))
            assert got[b, i].item() == pytest.approx(expected, rel=1e-5)
    assert gaussian_similarity(centres, centres, torch.arange(3).expand(2, 3)).tolist() == [[5.0] * 3] * 2


def test_sinks_are_places_that_draw_attention_in_every_frame():
    attention = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    place = torch.arange(4).repeat(3).expand(2, 12)
    level = attention.view(2, 3, 4).sum(1) ** 1.1
    level = (level - level.amin(1, keepdim=True)) / (level.amax(1, keepdim=True) - level.amin(1, keepdim=True))
    torch.testing.assert_close(sink_level(attention, place, 4, 1.1), level.repeat(1, 3))
    assert not sink_level(torch.ones(1, 12), place[:1], 4, 1.1).any()


@pytest.mark.parametrize("share", [0, 1.5])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="share of channels"):
        steadiest_channels(random_x(1, 3), share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_rows(dtype):
    x, place = random_x(3, 30, 33).to(dtype), random_places().repeat(2, 1)[:3]
    for op in (
        lambda x, p: change(x, predecessors(p), chunk=8),
        lambda x, p: gaussian_similarity(x, x[:, :6].float(), p),
        lambda x, p: steadiest_channels(x, 0.4),
        lambda x, p: sink_level(x[..., 0].float(), p, 6, 1.1),
    ):
        rows = torch.cat([op(x[i : i + 1], place[i : i + 1]) for i in range(3)])
        assert torch.equal(op(x, place), rows)
