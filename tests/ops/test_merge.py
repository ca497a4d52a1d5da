"""Mergers against the goldens of the published code, brute force, and what any merge must conserve."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops.merge import bipartite_merge, contextual_mean, nearest_mean, window_mean

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "aim.json").read_text())["merge"]
CASES = [name for name, case in GOLDEN.items() if "out" in case]


def random_x(b, n, d=6, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def published(merged):
    return merged.x.gather(1, merged.order[..., None].expand_as(merged.x))


def check(merged, x, plain=True):
    """What every merge promises; with plain=True also that features are means of all tokens of a group."""
    kept, source, size, features, order = merged
    b = x.shape[0]
    t = kept.shape[1]
    assert (kept[:, 1:] > kept[:, :-1]).all()
    assert torch.equal(source.gather(1, kept), torch.arange(t).expand(b, t))
    assert torch.equal(order.sort(1).values, torch.arange(t).expand(b, t))
    assert features.dtype == x.dtype and features.shape == (b, t, x.shape[2])
    for row in range(b):
        counts = torch.bincount(source[row][source[row] >= 0], minlength=t)
        assert torch.equal(size[row], counts.float())
        for rank in range(t if plain else 0):
            torch.testing.assert_close(features[row, rank], x[row][source[row] == rank].mean(0))


@pytest.mark.parametrize("name", CASES)
def test_bipartite_merge_equals_the_published_code(name):
    case = GOLDEN[name]
    x, r = torch.tensor(case["x"]), case["r"]
    expected = torch.tensor(case["out"])
    merged = bipartite_merge(x, None, rounds=r if isinstance(r, list) else [r], weighted=False)
    torch.testing.assert_close(published(merged), expected, atol=1e-5, rtol=0)
    by_count = bipartite_merge(x, expected.shape[1], weighted=False)
    torch.testing.assert_close(published(by_count), expected, atol=1e-5, rtol=0)
    check(merged, x, plain=False)


def test_partial_round_puts_unmerged_tokens_first_by_similarity():
    case = GOLDEN["m2_partial_r1"]
    merged = bipartite_merge(torch.tensor(case["x"]), 7, weighted=False)
    first = merged.kept.gather(1, merged.order)[:, :3]
    assert first.tolist() == case["unmerged_source_positions"]
    best = case["A_order_by_sim"][0][0]
    assert merged.source[0, 2 * best] == merged.source[0, 2 * case["best_B_of_A"][0][best] + 1]


def test_first_of_two_rounds_and_its_size_weighted_contrast():
    case = GOLDEN["m6_two_rounds_unweighted"]
    x = torch.tensor(case["x"])
    one = bipartite_merge(x, 4, weighted=False)
    torch.testing.assert_close(published(one), torch.tensor(case["out_round1"]), atol=1e-5, rtol=0)
    weighted = bipartite_merge(x, 2)
    torch.testing.assert_close(weighted.x, torch.tensor(case["size_weighted_for_contrast"]), atol=1e-5, rtol=0)
    check(weighted, x)


@pytest.mark.parametrize(
    "ladder, rounds",
    [
        ("ladder_196", None),
        ("ladder_196_then_24_for_37p5", [98, 24]),
        ("ladder_576", None),
        ("image_43p75", [288, 36]),
        ("ladder_64", None),
        ("ladder_729", None),
    ],
)
def test_counts_of_the_published_ladders(ladder, rounds):
    counts = GOLDEN["m11_counts"][ladder]
    x = random_x(1, counts[0], 4)
    rounds = rounds or [counts[0] // 2**i for i in range(1, len(counts))]
    for i, count in enumerate(counts):
        by_ladder = bipartite_merge(x, None, rounds=rounds[:i], weighted=False)
        assert by_ladder.kept.shape[1] == count
        assert torch.equal(by_ladder.x, bipartite_merge(x, count, weighted=False).x)


@given(st.integers(1, 40), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_any_count_is_exact_and_conserves_tokens(n, weighted, data):
    count = data.draw(st.integers(1, n))
    x = random_x(2, n, seed=n)
    merged = bipartite_merge(x, count, weighted=weighted)
    assert merged.kept.shape == (2, count)
    check(merged, x, plain=weighted)
    if weighted:
        assert torch.equal(merged.order, torch.arange(count).expand(2, -1))
        torch.testing.assert_close((merged.x * merged.size[..., None]).sum(1), x.sum(1), atol=1e-4, rtol=1e-4)
    if count == n:
        assert torch.equal(merged.x, x)


def test_no_rounds_and_rounds_of_zero_are_the_identity():
    x = random_x(2, 9)
    for rounds in ([], [0], [0, 0]):
        merged = bipartite_merge(x, None, rounds=rounds)
        assert torch.equal(merged.x, x) and torch.equal(merged.kept, torch.arange(9).expand(2, -1))


def test_two_full_rounds_leave_every_fourth_token():
    merged = bipartite_merge(random_x(1, 64), 16)
    assert merged.kept.tolist() == [list(range(3, 64, 4))]


def test_the_metric_decides_and_is_merged_along():
    x, metric = random_x(1, 16), random_x(1, 16, 3, seed=7)
    for weighted in (True, False):
        by_metric = bipartite_merge(x, 5, metric=metric, weighted=weighted)
        alone = bipartite_merge(metric, 5, weighted=weighted)
        assert torch.equal(by_metric.source, alone.source) and torch.equal(by_metric.order, alone.order)
        assert not torch.equal(by_metric.source, bipartite_merge(x, 5, weighted=weighted).source)


def test_zero_vectors_and_ties_merge_without_nan_to_the_lower_index():
    merged = bipartite_merge(torch.zeros(1, 8, 3), 6)
    assert merged.x.isfinite().all()
    assert merged.kept.tolist() == [[1, 3, 4, 5, 6, 7]] and merged.source.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_come_back_in_their_dtype(dtype):
    x = random_x(2, 12).to(dtype)
    kept = torch.tensor([[1, 5, 8], [0, 2, 11]])
    receives = torch.ones(2, 3, dtype=torch.bool)
    assert bipartite_merge(x, 5).x.dtype == dtype
    assert nearest_mean(x, kept).x.dtype == dtype
    assert contextual_mean(x, kept, receives, metric=x).x.dtype == dtype
    assert window_mean(x, 1, 3, 4, 2, 2).x.dtype == dtype
    assert torch.equal(bipartite_merge(x, 5).source, bipartite_merge(x.float(), 5).source)


def test_a_batch_equals_its_rows():
    x = random_x(3, 50, 32)
    kept = torch.arange(0, 50, 4).expand(3, -1)
    receives = torch.arange(13).expand(3, -1) % 2 == torch.tensor([[0], [1], [0]])
    for merge in (
        lambda i: bipartite_merge(x[i], 13), lambda i: bipartite_merge(x[i], 13, weighted=False),
        lambda i: nearest_mean(x[i], kept[i], receives=receives[i]),
        lambda i: contextual_mean(x[i], kept[i], receives[i], metric=x[i]),
        lambda i: window_mean(x[i], 1, 5, 10, 2, 3),
    ):  # fmt: skip
        whole = merge(slice(0, 3))
        for i in range(3):
            for a, b in zip(whole, merge(slice(i, i + 1)), strict=True):
                assert torch.equal(a[i : i + 1], b)


def test_nearest_mean_is_the_mean_of_each_group():
    x = random_x(2, 15)
    kept = torch.tensor([[0, 4, 9, 14], [1, 2, 3, 7]])
    merged = nearest_mean(x, kept)
    check(merged, x)
    assert (merged.source >= 0).all()
    u = torch.nn.functional.normalize(x, dim=-1)
    best = (u @ u.gather(1, kept[..., None].expand(-1, -1, 6)).transpose(1, 2)).argmax(2)
    assert torch.equal(merged.source, best)


def test_survivors_that_do_not_receive_stay_as_they_are():
    x = random_x(1, 15)
    kept = torch.tensor([[0, 4, 9, 14]])
    receives = torch.tensor([[True, False, True, False]])
    for merged in (nearest_mean(x, kept, receives=receives), contextual_mean(x, kept, receives, metric=x)):
        check(merged, x)
        assert merged.size[0, [1, 3]].tolist() == [1, 1] and torch.equal(merged.x[0, [1, 3]], x[0, [4, 14]])
    nobody = torch.zeros(1, 4, dtype=torch.bool)
    for merged in (nearest_mean(x, kept, receives=nobody), contextual_mean(x, kept, nobody, metric=x)):
        check(merged, x)
        assert torch.equal(merged.x, x[:, kept[0]]) and int((merged.source < 0).sum()) == 11


def test_faithful_contextual_mean_adds_the_mean_of_the_group():
    x, metric = random_x(1, 15), random_x(1, 15, 3, seed=3)
    kept, receives = torch.tensor([[0, 4, 9, 14]]), torch.tensor([[False, True, True, True]])
    merged = contextual_mean(x, kept, receives, metric=metric, faithful=True)
    for rank, index in enumerate(kept[0].tolist()):
        group = [i for i in range(15) if merged.source[0, i] == rank and i != index]
        expected = x[0, index] + (x[0, group].mean(0) if group else 0)
        torch.testing.assert_close(merged.x[0, rank], expected)


def test_everything_kept_changes_nothing():
    x = random_x(2, 7)
    kept = torch.arange(7).expand(2, -1)
    every = torch.ones(2, 7, dtype=torch.bool)
    for merged in (
        nearest_mean(x, kept), contextual_mean(x, kept, every, metric=x, faithful=True), window_mean(x, 1, 1, 7, 1, 7),
        contextual_mean(x, kept, every, metric=x), bipartite_merge(x, 7),
    ):  # fmt: skip
        assert torch.equal(merged.x, x) and torch.equal(merged.source, kept) and torch.equal(merged.kept, kept)


@pytest.mark.parametrize(
    "t, h, w, rows, columns", [(1, 12, 8, 4, 4), (3, 6, 6, 2, 3), (1, 5, 7, 1, 1), (2, 4, 4, 4, 4)]
)
def test_window_mean_is_adaptive_pooling_when_cells_divide_the_grid(t, h, w, rows, columns):
    x = random_x(2, t * h * w)
    merged = window_mean(x, t, h, w, rows, columns)
    frames = x.view(2 * t, h, w, 6).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.adaptive_avg_pool2d(frames, (rows, columns))
    torch.testing.assert_close(merged.x, pooled.permute(0, 2, 3, 1).reshape(2, -1, 6))
    check(merged, x)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_window_cells_partition_any_grid(t, h, w, data):
    rows, columns = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    x = random_x(1, t * h * w)
    merged = window_mean(x, t, h, w, rows, columns)
    assert merged.kept.shape == (1, t * rows * columns) and (merged.source >= 0).all()
    check(merged, x)
    bounds = [i * h // rows for i in range(rows + 1)]
    cell = (merged.source[0].view(t, h, w)[0, :, 0] // columns).tolist()
    assert cell == [i for i in range(rows) for _ in range(bounds[i], bounds[i + 1])]


def test_impossible_arguments_are_refused():
    x = random_x(1, 6)
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"count must lie in 1..6, the number of tokens, got {count}"):
            bipartite_merge(x, count)
    with pytest.raises(ValueError, match="rounds must not be negative"):
        bipartite_merge(x, None, rounds=[2, -1])
    with pytest.raises(ValueError, match="give one of them"):
        bipartite_merge(x, None)
    with pytest.raises(ValueError, match="6 tokens do not fill a grid of 1 x 2 x 2"):
        window_mean(x, 1, 2, 2, 1, 1)
    with pytest.raises(ValueError, match=r"1\.\.2 rows and 1\.\.3 columns, got 3 and 1"):
        window_mean(x, 1, 2, 3, 3, 1)
