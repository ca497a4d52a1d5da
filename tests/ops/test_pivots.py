"""Least like some pivots, against the greedy rule written out."""

import torch
from torch.nn.functional import cosine_similarity

from foveate.ops.pivots import least_like


def test_each_pivot_takes_the_least_like_tokens_that_are_left():
    generator = torch.Generator().manual_seed(0)
    x, pivots = torch.randn(3, 11, 5, generator=generator), torch.randn(3, 2, 5, generator=generator)
    taken = torch.zeros(3, 11, dtype=torch.bool)
    taken[:, 4] = True
    got = least_like(x, pivots, taken, [3, 2])
    for b in range(3):
        chosen = {4}
        for p, count in ((0, 3), (1, 2)):
            like = cosine_similarity(x[b], pivots[b, p, None], dim=-1).tolist()
            free = sorted((i for i in range(11) if i not in chosen), key=lambda i: like[i])
            chosen |= set(free[:count])
        assert set(got[b].nonzero()[:, 0].tolist()) == chosen


def test_ties_go_to_the_lower_index():
    x = torch.ones(1, 5, 2)
    got = least_like(x, torch.ones(1, 1, 2), torch.zeros(1, 5, dtype=torch.bool), [2])
    assert got[0].tolist() == [True, True, False, False, False]
