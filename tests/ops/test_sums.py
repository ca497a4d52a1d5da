"""Sums and ranges of groups against a loop over groups."""

import torch

from foveate.ops.sums import group_sum, unit_range_in


def random_case(seed=0, n=23, groups=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 3, generator=generator), torch.randint(-1, groups, (2, n), generator=generator)


def test_sums_are_those_of_the_groups_and_minus_one_is_none():
    x, to = random_case()
    total, size = group_sum(x, to, 6)  # the last group is empty
    for b in range(2):
        for g in range(6):
            assert size[b, g] == (to[b] == g).sum()
            torch.testing.assert_close(total[b, g], x[b, to[b] == g].sum(0))


def test_weights_multiply_each_token():
    x, to = random_case(seed=2)
    weight = torch.rand(to.shape)
    total, size = group_sum(x, to, 6, weight)
    weighted, same_size = group_sum(x * weight[..., None], to, 6)
    torch.testing.assert_close(total, weighted)
    assert torch.equal(size, same_size)


def test_half_precision_is_summed_in_float32():
    ones = torch.full((1, 1000, 1), 1.0, dtype=torch.bfloat16)  # in bfloat16 the sum would stop at 256
    assert group_sum(ones, torch.zeros(1, 1000, dtype=torch.long), 1)[0].item() == 1000


def test_scores_reach_from_0_to_1_in_each_group():
    x, to = random_case(seed=1)
    group = to.clamp(min=0)
    scaled = unit_range_in(x[..., 0], group, 5)
    for b in range(2):
        for g in range(5):
            mine = x[b, group[b] == g, 0]
            expected = (mine - mine.min()) / (mine.max() - mine.min())
            torch.testing.assert_close(scaled[b, group[b] == g], expected)
    assert not unit_range_in(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.long), 2).any()
