"""Dropping near duplicates in rounds, and suppression within groups, against brute force of their rules."""

import pytest
import torch

from foveate.ops.dedup import dedup, dedup_rounds, suppress


def random_x(b, n, d=4, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def cosines(x):
    u = torch.nn.functional.normalize(x.double(), dim=-1)
    return (u @ u.T).tolist()


def brute_force_dedup(x, order, count, step):
    cosine, order = cosines(x), list(order)
    while len(order) > count:
        even, odd = order[0::2], order[1::2]
        nearest = [max(cosine[i][j] for j in odd) for i in even]
        drop = min(step, len(order) - count, len(even))
        twins = sorted(range(len(even)), key=lambda k: (-nearest[k], k))[:drop]
        order = [i for i in order if i not in {even[k] for k in twins}]
    return order


def brute_force_suppress(x, score, group, threshold):
    cosine, n = cosines(x), len(score)
    left = []
    for i in sorted(range(n), key=lambda i: (-score[i], i)):
        if not any(group[i] == group[j] and cosine[i][j] > threshold for j in left):
            left.append(i)
    return [i in left for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("step", [1, 3, 8])
def test_dedup_is_its_rounds(n, step):
    x = random_x(2, n, seed=n)
    order = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    for count in range(1, n + 1):
        expected = [brute_force_dedup(r, o.tolist(), count, step) for r, o in zip(x, order, strict=True)]
        assert dedup(x, order, count, step, chunk=2).tolist() == expected


def test_dedup_looks_at_the_listed_tokens_only():
    x = random_x(1, 20)
    order = torch.tensor([[3, 17, 5, 11, 2, 19, 7]])
    assert dedup(x, order, 3, 2).tolist() == [brute_force_dedup(x[0], order[0].tolist(), 3, 2)]


def test_dedup_rounds_are_the_published_ones():
    assert dedup_rounds(576 - 64, 64, 8) == 56  # 128 tokens of 576, half of them by attention


@pytest.mark.parametrize("groups", [1, 3])
def test_suppression_is_greedy(groups):
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        x = random_x(2, 15, 3, seed)
        score = torch.randint(0, 6, (2, 15), generator=g).float()
        group = torch.randint(0, groups, (2, 15), generator=g)
        threshold = torch.tensor([0.2, 0.7])
        expected = [
            brute_force_suppress(x[i], score[i].tolist(), group[i].tolist(), threshold[i].item()) for i in range(2)
        ]
        assert suppress(x, score, group, threshold, chunk=4).tolist() == expected


def test_a_chain_of_twins_keeps_every_second_one():
    angle = torch.arange(9) * 0.5
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    left = suppress(x, -torch.arange(9.0)[None], torch.zeros(1, 9, dtype=torch.long), torch.tensor([0.8]))
    assert left[0].nonzero()[:, 0].tolist() == [0, 2, 4, 6, 8]  # each is like the next (0.88), not like the one after
    assert suppress(x, -torch.arange(9.0)[None], torch.zeros(1, 9, dtype=torch.long), torch.tensor([1.5])).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        dedup(random_x(1, 4), torch.arange(4)[None], 2, 0)
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.4"):
        dedup(random_x(1, 4), torch.arange(4)[None], 0, 1)
