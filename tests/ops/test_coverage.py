"""Greedy coverage and greedy determinantal selection against brute force of their rules."""

import pytest
import torch

from foveate.ops import coverage as op
from foveate.ops import select
from foveate.ops.coverage import by_tokens, coverage, each_other
from foveate.ops.dpp import dpp


def random_x(b, n, d=6, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def random_weight(b, n, seed=1):
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed))


def cosines(x):
    u = torch.nn.functional.normalize(x.double(), dim=-1)
    return u @ u.T


def first(values):
    """The index of the largest value, the lowest of equals."""
    best = max(values.values())
    return min(i for i, v in values.items() if v >= best - 1e-9)


def brute_force_coverage(value, count, weight):
    """The rule in the open: for every pick, for every token, what it would add to every row."""
    rows, n = value.shape
    best, picks = [0.0] * rows, []
    while len(picks) < count:
        adds = {
            i: weight[i].item() * sum(max(0.0, value[r, i].item() - best[r]) for r in range(rows))
            for i in range(n)
            if i not in picks
        }
        picks.append(first(adds))
        best = [max(best[r], value[r, picks[-1]].item()) for r in range(rows)]
    return sorted(picks)


def brute_force_dpp(x, count, quality):
    """The rule in the open: for every pick, the determinant that each token would give."""
    kernel = quality.double()[:, None] * cosines(x) * quality.double()
    picks = []
    while len(picks) < count:
        gains = {}
        for i in range(len(kernel)):
            if i not in picks:
                chosen = [*picks, i]
                gains[i] = torch.linalg.det(kernel[chosen][:, chosen]).item()
        best = max(gains.values())
        picks.append(min(i for i, v in gains.items() if v >= best * (1 - 1e-9)))
    return sorted(picks)


@pytest.fixture(params=["dense", "kept", "computed"])
def memory(request, monkeypatch):
    """All values walked over at each pick; only the rows that change; those computed anew in chunks."""
    if request.param != "dense":
        monkeypatch.setattr(op, "DENSE", 0)
        monkeypatch.setattr(op, "CHUNK", 3)
    if request.param == "computed":
        monkeypatch.setattr(select, "fits", lambda n, width: False)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_coverage_is_the_greedy_rule(n, memory):
    x, weight = random_x(3, n, seed=n), random_weight(3, n)
    for count in range(1, n + 1):
        expected = [brute_force_coverage(cosines(r).clamp(min=0), count, w) for r, w in zip(x, weight, strict=True)]
        assert coverage([each_other(x)], count, weight).tolist() == expected


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_coverage_of_words_and_tokens_is_the_greedy_rule(n, memory):
    x, words, seen = random_x(2, n, seed=n), random_x(2, 4, seed=50), random_x(2, n, 3, seed=n + 100)
    for count in range(1, n + 1):
        expected = []
        for i in range(2):
            text = torch.nn.functional.normalize(words[i].double(), dim=-1)
            text = text @ torch.nn.functional.normalize(x[i].double(), dim=-1).T
            p = (text / 0.1).softmax(1) / 4
            q = 0.5 * (cosines(seen[i]) / 0.3).softmax(1) / n
            expected.append(brute_force_coverage(torch.cat([p, q]), count, torch.ones(n)))
        got = coverage([by_tokens(words, x, 0.1, 1 / 4), each_other(seen, 0.3, 0.5 / n)], count)
        assert got.tolist() == expected


def test_covered_tokens_add_nothing_so_the_lowest_are_next(memory):
    axes = torch.eye(3).repeat(3, 1)[None]
    assert coverage([each_other(axes)], 3).tolist() == [[0, 1, 2]]
    assert coverage([each_other(axes)], 5).tolist() == [[0, 1, 2, 3, 4]]
    assert coverage([each_other(torch.zeros(1, 4, 2))], 2).tolist() == [[0, 1]]


def test_all_ways_choose_the_same(monkeypatch):
    x, weight = random_x(2, 60, 16), random_weight(2, 60)
    dense = coverage([each_other(x, 0.2)], 20, weight)
    monkeypatch.setattr(op, "DENSE", 0)
    monkeypatch.setattr(op, "CHUNK", 7)
    assert torch.equal(coverage([each_other(x, 0.2)], 20, weight), dense)
    monkeypatch.setattr(select, "fits", lambda n, width: False)
    assert torch.equal(coverage([each_other(x, 0.2)], 20, weight), dense)


def test_centring_is_subtracting_the_mean():
    x = random_x(2, 20) + 30
    centred = x - x.mean(1, keepdim=True)
    assert torch.equal(coverage([each_other(x, centre=True)], 6), coverage([each_other(centred)], 6))
    assert torch.equal(dpp(x, 4, centre=True), dpp(centred, 4))
    assert not torch.equal(coverage([each_other(x, centre=True)], 6), coverage([each_other(x)], 6))


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_dpp_is_the_greedy_rule(n, memory):
    x, quality = random_x(3, n, 12, seed=n), random_weight(3, n) + 0.1
    for count in range(1, n + 1):
        expected = [brute_force_dpp(r, count, q) for r, q in zip(x, quality, strict=True)]
        assert dpp(x, count, quality).tolist() == expected


def test_dpp_goes_on_by_quality_when_all_directions_are_taken():
    x = torch.eye(2).repeat(4, 1)[None] * 5
    quality = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.5]])
    assert dpp(x, 2, quality).tolist() == [[4, 5]]
    assert dpp(x, 4, quality).tolist() == [[4, 5, 6, 7]]
    assert dpp(torch.zeros(1, 3, 2), 2).tolist() == [[0, 1]]
    many = random_x(1, 40, 5)
    assert dpp(many, 40).tolist() == [list(range(40))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_rows(dtype, memory):
    x, weight = random_x(4, 51, 33).to(dtype), random_weight(4, 51)
    for select_ in (lambda x, w: coverage([each_other(x)], 17, w), lambda x, w: dpp(x, 17, w)):
        alone = [select_(row[None], w[None]) for row, w in zip(x, weight, strict=True)]
        assert torch.equal(select_(x, weight), torch.cat(alone))


def test_what_makes_no_sense_is_refused():
    x = random_x(1, 5)
    for select_ in (lambda: coverage([each_other(x)], 6), lambda: dpp(x, 0)):
        with pytest.raises(ValueError, match=r"count must lie in 1\.\.5"):
            select_()
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        each_other(x, 0.0)
    with pytest.raises(ValueError, match="temperature must be above 0, got -1"):
        by_tokens(x, x, -1.0)
