"""FrameFusion's cascade against its rule on lists of tokens, one layer after the other."""

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.pieces import Change, CostRule, Drop, LastQuery, MergeThenPrune, RunMean, RunMeanThenDrop, TopK
from foveate.tokens import Grid, VisualTokens

LAYERS, PLACES = 12, 6


def video(t, noise, seed=0):
    """A still scene whose tokens tremble, each place by another amount."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, PLACES, 16, generator=generator)
    tremble = torch.randn(t, PLACES, 16, generator=generator) * torch.linspace(0.1, noise, PLACES)[:, None]
    return (still + tremble).view(1, t * PLACES, 16)


def attention(total):
    return torch.rand(1, total, generator=torch.Generator().manual_seed(total))


def brute_force(x, cost, threshold, stop):
    """What each layer runs on, and the tokens that are left: (where, feature)."""
    tokens = list(enumerate(x[0].double()))
    total = len(tokens)
    history, stopped = [], False
    for layer in range(LAYERS):
        n, left = len(tokens), LAYERS * cost * total - sum(history)
        affordable = max(1, int(left / (LAYERS - layer) + 1e-9))
        if n > affordable and layer and (stopped or left - n < LAYERS - layer - 1):
            by_attention = sorted(tokens, key=lambda token: -attention(total)[0, token[0]])
            tokens = sorted(by_attention[:affordable], key=lambda token: token[0])
        elif n > affordable:
            gone = most_alike(tokens, threshold, n - affordable)
            stopped = len(gone) < stop * n
            tokens = merged(tokens, gone)
        history.append(len(tokens))
    return history, tokens


def most_alike(tokens, threshold, most):
    """Tokens that resemble the one before them at their place, the most alike first, at most so many."""
    last, alike = {}, []
    for i, (where, feature) in enumerate(tokens):
        if where % PLACES in last:
            cosine = float(torch.cosine_similarity(feature, last[where % PLACES], dim=0))
            alike += [(-cosine, i)] if cosine >= threshold else []
        last[where % PLACES] = feature
    return {i for _, i in sorted(alike)[:most]}


def merged(tokens, gone):
    """Each that goes joins the run of the last one before it that stays."""
    runs, open_run = [], {}
    for i, (where, feature) in enumerate(tokens):
        if i not in gone:
            open_run[where % PLACES] = (where, [])
            runs.append(open_run[where % PLACES])
        open_run[where % PLACES][1].append(feature)
    return [(where, torch.stack(members).mean(0)) for where, members in runs]


def run(x, t, cost, threshold, stop):
    """The same with the pieces, as the engine calls them."""
    rule = CostRule(LAYERS, cost, threshold, stop)
    grid, total = Grid(t, 2, 3), x.shape[1]
    where, size, history = torch.arange(total)[None], torch.ones(1, total), ()
    for layer in range(LAYERS):
        weight = attention(total).gather(1, where)
        tokens = VisualTokens(x, grid, where, size, {LastQuery(): weight}.__getitem__, grids=(grid,), history=history)
        count = round(rule.keep(tokens)[0] * total)
        if count < x.shape[1]:
            score = Change() if layer == 0 else MergeThenPrune(rule)
            merge = RunMean() if layer == 0 else RunMeanThenDrop(rule)
            reduction = merge(tokens, TopK()(tokens, score(tokens), count))
            x, where, size = reduction.gather(x), where.gather(1, reduction.kept), reduction.size
        history = (*history, x.shape[1])
    return history, where[0].tolist(), x[0]


CASES = [
    (9, 0.3, 0.3, 0.6, 0.1), (9, 2.0, 0.3, 0.6, 0.1), (9, 4.0, 0.3, 0.999, 0.1), (9, 1.0, 0.1, 0.6, 0.1),
    (7, 1.5, 0.5, 0.8, 0.0), (7, 1.0, 0.2, 0.9, 0.0), (2, 1.0, 0.3, 0.6, 0.1), (1, 1.0, 0.3, 0.6, 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("t", "noise", "cost", "threshold", "stop"), CASES)
def test_the_cascade_is_the_rule(t, noise, cost, threshold, stop):
    for seed in range(3):
        x = video(t, noise, seed)
        history, left = brute_force(x, cost, threshold, stop)
        got, where, features = run(x, t, cost, threshold, stop)
        assert list(got) == history
        assert where == [w for w, _ in left]
        torch.testing.assert_close(features, torch.stack([f for _, f in left]).float(), atol=1e-5, rtol=1e-4)


def test_the_cases_merge_once_merge_on_and_prune():
    histories = [brute_force(video(t, noise), cost, threshold, stop)[0] for t, noise, cost, threshold, stop in CASES]
    assert len(set(histories[0])) == 1, "a still video is merged to the cost at once"
    assert any(len(set(h)) > 3 for h in histories), "merging goes on over several layers"
    assert any(h[0] > 0.9 * 54 and h[1] < 0.3 * 54 for h in histories), "what does not repeat is pruned before layer 1"


@pytest.mark.parametrize("noise", [0.1, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("cost", [0.15, 0.3, 0.7])
def test_the_average_over_layers_is_the_cost(noise, cost):
    """Never above it, and below only by what rounding down leaves."""
    history = run(video(9, noise), 9, cost, 0.6, 0.1)[0]
    assert LAYERS * cost * 54 - LAYERS < sum(history) <= LAYERS * cost * 54 + 1e-6
    assert list(history) == sorted(history, reverse=True)


def test_a_cost_below_one_layer_of_all_tokens_keeps_what_it_can():
    assert run(video(3, 5.0), 3, 0.05, 0.999, 0.1)[0] == (18, *[1] * 11)


def test_its_plan_is_its_average_and_follows_what_entered():
    rule = CostRule(LAYERS, 0.3, low=0.0, high=0.5)
    assert rule.expected == pytest.approx(0.15) and CostRule().expected == pytest.approx(0.3)
    x = video(8, 5.0)[:, ::2]  # half of the tokens entered
    tokens = VisualTokens(x, Grid(8, 2, 3), torch.arange(0, 48, 2)[None], torch.ones(1, 24), lambda r: r, history=(24,))
    assert rule.phase(tokens) == "prune"
    assert rule.keep(tokens)[0] * 48 == pytest.approx(int((12 * 0.15 * 48 - 24) / 11))


def test_while_merging_no_attention_is_needed():
    rule, x = CostRule(LAYERS), video(9, 1.0)
    tokens = VisualTokens(x, Grid(9, 2, 3), torch.arange(54)[None], torch.ones(1, 54), None, history=())
    assert rule.phase(tokens) == "merge"
    assert torch.equal(MergeThenPrune(rule)(tokens), Change()(tokens))
    selection = TopK()(tokens, Change()(tokens), 30)
    assert torch.equal(RunMeanThenDrop(rule)(tokens, selection).x, RunMean()(tokens, selection).x)
    late = VisualTokens(x, tokens.grid, tokens.where, tokens.size, None, history=(54,))
    assert rule.phase(late) == "prune" and RunMeanThenDrop(rule)(late, selection).x is Drop()(late, selection).x is None


@pytest.mark.parametrize("wrong", [dict(layers=0), dict(cost=0), dict(cost=1.5), dict(stop=2)])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(InvalidValue, match="CostRule needs"):
        CostRule(**wrong)
