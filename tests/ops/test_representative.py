"""Representativeness against its formula."""

import pytest
import torch

from foveate.ops.representative import representativeness


@pytest.mark.parametrize("chunk", [3, 1024])
def test_it_is_the_formula(chunk):
    x = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    got = representativeness(x, chunk)
    for b in range(2):
        u = x[b] / x[b].norm(dim=-1, keepdim=True)
        cosine = u @ u.T
        total = cosine.sum(1)
        for i in range(10):
            larger = [cosine[i, j] for j in range(10) if total[j] > total[i]]
            most = max(larger) if larger else cosine[i].min()
            torch.testing.assert_close(got[b, i], total[i] * (1 - most))


def test_of_equal_tokens_the_first_stands_for_all():
    score = representativeness(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]))
    assert score[0].argmax() == 0 and score[0, 1] == pytest.approx(0, abs=1e-6)
