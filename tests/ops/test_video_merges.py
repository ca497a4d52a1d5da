"""Segments, density peaks in rows, tubes and trees, each against a slow reading of its rule."""

import itertools

import pytest
import torch

from foveate.ops.peaks import nearest_peak, peak_scores
from foveate.ops.segments import (
    first_of_segment,
    runs_of,
    scenes,
    segment_lengths,
    similarity_cuts,
    static_windows,
)
from foveate.ops.trees import roots_of, strongest_links
from foveate.ops.tubes import alike_throughout, stays_put, tube_merge


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("fewest", "threshold"), [(1, -1.0), (1, 0.2), (4, -1.0), (4, 0.2), (99, 0.0)])
def test_segments_begin_where_frames_change(fewest, threshold):
    x = draw(3, 9, 5)
    got = similarity_cuts(x, fewest, threshold)
    for row, segment in zip(x, got, strict=True):
        similar = [float(torch.cosine_similarity(row[t], row[t + 1], dim=0)) for t in range(8)]
        weakest = sorted(range(8), key=lambda t: (similar[t], t))[: min(fewest - 1, 8)]
        cuts = {t for t in range(8) if similar[t] < threshold} | set(weakest)
        assert segment.tolist() == list(itertools.accumulate([0] + [int(t in cuts) for t in range(8)]))


def test_first_frames_and_lengths_of_segments():
    segment = torch.tensor([[0, 0, 1, 2, 2, 2]])
    first = first_of_segment(segment)
    assert first.tolist() == [[0, 0, 2, 3, 3, 3]]
    assert segment_lengths(first).tolist() == [[2, 2, 1, 3, 3, 3]]
    assert first_of_segment(torch.zeros(1, 1, dtype=torch.long)).tolist() == [[0]]


def best_saving(same):
    """All divisions into windows, one by one."""
    f = len(same) + 1
    best = 0
    for cuts in itertools.product([0, 1], repeat=f - 1):
        bounds = [0, *[i + 1 for i, c in enumerate(cuts) if c], f]
        saving = 0
        for s, e in itertools.pairwise(bounds):
            stay = sum(all(same[t][n] for t in range(s, e - 1)) for n in range(same.shape[1])) if e - s > 1 else 0
            saving += stay * (e - s - 1)
        best = max(best, saving)
    return best


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_windows_save_as_much_as_any_division(share):
    same = torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(1)) < share
    first = static_windows(same)
    static = runs_of(first, same)
    for row in range(4):
        length = segment_lengths(first)[row]
        saved = sum(int(static[row, t].sum()) for t in range(7) if first[row, t] != t)
        assert saved == best_saving(same[row])
        assert all(first[row, t] == t for t in range(7) if length[t] == 1)


def test_a_place_is_static_only_if_it_stays_through_the_whole_window():
    same = torch.tensor([[[True, True], [True, False], [False, True]]])
    assert runs_of(torch.tensor([[0, 0, 0, 3]]), same)[0].tolist() == [[True, False]] * 3 + [[False, False]]
    assert not runs_of(torch.tensor([[0, 1, 2, 3]]), same).any()


def test_scenes_are_contiguous_and_runs_of_one_frame_join_their_neighbours():
    a, c = torch.eye(6)[0], torch.eye(6)[3]
    frames = torch.stack([a, a, c, a, a, a, c, c, c, c])[None] + 0.01 * draw(1, 10, 6)
    first = scenes(frames, 2, 7)
    assert first.tolist() == [[0, 0, 0, 0, 0, 0, 6, 6, 6, 6]] or first.tolist() == [[0, 0, 3, 3, 3, 3, 6, 6, 6, 6]]
    assert scenes(frames[:, :1], 1, 7).tolist() == [[0]]
    for seed in range(5):
        first = scenes(draw(3, 12, 4, seed=seed), 3, 7)
        assert (first.diff(dim=1) >= 0).all() and torch.equal(first.gather(1, first), first)


def slow_peaks(x, there, k):
    n, d = x.shape
    score = torch.full((n,), -torch.inf)
    inside = [i for i in range(n) if there[i]]
    square = {(i, j): float((x[i] - x[j]).square().sum() / d) for i in inside for j in inside}
    rho = {i: sum(sorted(square[i, j] for j in inside)[:k]) / min(k, len(inside)) for i in inside}
    for i in inside:
        denser = [square[i, j] for j in inside if rho[j] < rho[i] - 1e-9 or (abs(rho[j] - rho[i]) <= 1e-9 and j < i)]
        delta = min(denser) if denser else max(square[i, j] for j in inside)
        score[i] = -rho[i] + 0.5 * torch.tensor(delta).log()
    return score


@pytest.mark.parametrize("k", [1, 3, 20])
def test_peaks_of_rows_are_those_of_the_tokens_that_are_there(k):
    x = draw(4, 9, 6)
    there = torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) < 0.6
    got = peak_scores(x, there, k)
    for row in range(4):
        torch.testing.assert_close(got[row], slow_peaks(x[row], there[row], k), atol=1e-4, rtol=1e-4)
    assert torch.equal(peak_scores(x[:1], there[:1] & False, k), torch.full((1, 9), -torch.inf))


def test_rows_in_parts_are_the_same(monkeypatch):
    from foveate.ops import peaks

    x, there = draw(5, 7, 3), torch.ones(5, 7, dtype=torch.bool)
    whole = peak_scores(x, there, 2), nearest_peak(x, torch.eye(5, 7, dtype=torch.bool))
    monkeypatch.setattr(peaks, "ROOM", 50)
    assert torch.equal(whole[0], peak_scores(x, there, 2))
    assert torch.equal(whole[1], nearest_peak(x, torch.eye(5, 7, dtype=torch.bool)))


def test_each_token_goes_to_the_nearest_centre_of_its_row():
    x = draw(2, 6, 4)
    centres = torch.tensor([[True, False, True, False, False, False], [False] * 6])
    got = nearest_peak(x, centres)
    expected = [min((0, 2), key=lambda c: float((x[0, i] - x[0, c]).square().sum())) for i in range(6)]
    assert got[0].tolist() == expected and got[1].tolist() == [-1] * 6


def test_pairs_are_alike_on_average():
    x = draw(2, 5, 3, 4)
    first = torch.tensor([[0, 0, 0, 3, 4], [0, 0, 2, 2, 2]])
    got = alike_throughout(x, first, 0.1)
    for row in range(2):
        for t in range(5):
            frames = [s for s in range(5) if first[row, s] == first[row, t]]
            for n in range(3):
                pairs = [
                    float(torch.cosine_similarity(x[row, a, n], x[row, b, n], dim=0))
                    for a, b in itertools.combinations(frames, 2)
                ]
                assert bool(got[row, t, n]) == (bool(pairs) and sum(pairs) / len(pairs) > 0.1)


def still(b=2, f=4, n=6, d=5, seed=0):
    """A video of which about half stays as it is."""
    x = draw(b, f, n, d, seed=seed)
    x[:, :, : n // 2] = x[:, :1, : n // 2] + 0.02 * draw(b, f, n // 2, d, seed=seed + 1)
    return x


@pytest.mark.parametrize("count", [1, 2, 5, 11, 15, 16, 20, 23])
@pytest.mark.parametrize("by", ["score", "peaks"])
def test_tubes_keep_the_books_and_the_count(count, by):
    x = still()
    same = stays_put(x, 0.9)
    first = static_windows(same)
    score = draw(2, 4, 6, seed=9) if by == "score" else None
    got = tube_merge(x, first, runs_of(first, same), count, score=score, neighbours=3, own=0.6)
    assert got.kept.shape == (2, count) and (got.kept.diff(dim=1) > 0).all()
    rank = torch.arange(count).expand(2, count)
    assert torch.equal(got.source.gather(1, got.kept), rank)
    counted = torch.zeros(2, count + 1).scatter_add(1, got.source + 1, torch.ones(2, 24))
    assert torch.equal(counted[:, 1:], got.size)


def test_a_tube_is_the_mean_of_its_place_and_moving_tokens_are_as_they_were():
    x = still(b=1)
    same = stays_put(x, 0.9)
    first = static_windows(same)
    static = runs_of(first, same)
    assert first.tolist() == [[0, 0, 0, 0]] and static[0, :, :3].all() and not static[0, :, 3:].any()
    got = tube_merge(x, first, static, 15, score=draw(1, 4, 6), neighbours=3, own=0.6)
    assert (
        got.kept[0].tolist() == [0, 1, 2, *(t * 6 + n for t in range(4) for n in (3, 4, 5))] or len(got.kept[0]) == 15
    )
    torch.testing.assert_close(got.x[0, :3], x[0, :, :3].mean(0), atol=1e-5, rtol=1e-5)
    assert got.size[0, :3].tolist() == [4.0] * 3
    moving = got.kept[0, 3:]
    torch.testing.assert_close(got.x[0, 3:], x.flatten(1, 2)[0, moving])


def test_more_than_the_tubes_leave_brings_tokens_back():
    x = still(b=1)
    same = stays_put(x, 0.9)
    first = static_windows(same)
    got = tube_merge(x, first, runs_of(first, same), 20, score=draw(1, 4, 6), neighbours=3, own=0.6)
    back = [i for i in got.kept[0].tolist() if i >= 6 and i % 6 < 3]
    assert len(back) == 5
    rows = [got.kept[0].tolist().index(i) for i in back]
    torch.testing.assert_close(got.x[0, rows], x.flatten(1, 2)[0, back])


@pytest.mark.parametrize(("own", "part"), [(None, None), (0.6, 0.6)])
def test_centres_are_anchored_means(own, part):
    x = draw(1, 1, 6, 3)
    moves = torch.zeros(1, 1, 6, dtype=torch.bool)
    got = tube_merge(x, torch.zeros(1, 1, dtype=torch.long), moves, 2, score=None, neighbours=2, own=own)
    for rank, centre in enumerate(got.kept[0].tolist()):
        members = [i for i in range(6) if got.source[0, i] == rank and i != centre]
        mean = x[0, 0, members].mean(0) if members else x[0, 0, centre]
        share = part if part is not None and members else 1 / (1 + len(members))
        torch.testing.assert_close(got.x[0, rank], share * x[0, 0, centre] + (1 - share) * mean, atol=1e-5, rtol=1e-5)


def test_links_go_to_the_most_similar_free_token_of_the_frame_before():
    x = draw(2, 4, 5, 3)
    free = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(3)) < 0.7
    first = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0]])
    parent, strength = strongest_links(x, first, free)
    for row, t, n in itertools.product(range(2), range(4), range(5)):
        before = [m for m in range(5) if t and free[row, t - 1, m]]
        if not free[row, t, n] or first[row, t] == t or not before:
            assert strength[row, t, n] == -torch.inf
            continue
        best = max(before, key=lambda m: float(torch.cosine_similarity(x[row, t, n], x[row, t - 1, m], dim=0)))
        assert parent[row, t, n] == best


@pytest.mark.parametrize("most", [0, 3, 99])
def test_trees_hang_on_their_roots(most):
    x = draw(1, 5, 4, 3)
    parent, strength = strongest_links(x, torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, 4, dtype=torch.bool))
    root = roots_of(parent, strength, 0.3, torch.tensor([most]))[0]
    flat = strength[0].flatten().tolist()
    made = sorted((i for i in range(20) if flat[i] > 0.3), key=lambda i: (-flat[i], i))[:most]
    for i in range(20):
        j = i
        while j in made:
            j = (j // 4 - 1) * 4 + int(parent[0].flatten()[j])
        assert root[i] == j


def slow_join(x, kept, receives, first, places, own):
    """One token after the other."""
    n = len(x)
    anchors = [i for i, r in zip(kept, receives, strict=True) if r]
    joined = {a: [] for a in anchors}
    source = [-1] * n
    cosine = lambda i, j: float(torch.cosine_similarity(x[i], x[j], dim=0))
    for i in range(n):
        if i in kept:
            source[i] = kept.index(i)
            continue
        mine = [a for a in anchors if first[a // places] == first[i // places]]
        for frame in sorted({a // places for a in mine}):
            joined[max((a for a in mine if a // places == frame), key=lambda a: (cosine(i, a), -a))].append(i)
        if mine:
            source[i] = kept.index(max(mine, key=lambda a: (cosine(i, a), -a)))
    out = []
    for i in kept:
        members = joined.get(i, [])
        share = max(own, 1 / (len(members) + 1)) if members else 1.0
        mean = x[members].mean(0) if members else x[i]
        out.append(share * x[i] + (1 - share) * mean)
    return torch.stack(out), source


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("own", [0.0, 0.6])
def test_tokens_join_an_anchor_of_every_anchor_frame_of_their_segment(own, chunk):
    from foveate.ops.anchors import join_every_anchor_frame

    x = draw(2, 20, 4)
    first = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 3]])
    kept = torch.tensor([[0, 3, 6, 8, 11], [1, 2, 7, 12, 13]])
    receives = torch.tensor([[True, True, True, False, True], [True, False, True, True, True]])
    got = join_every_anchor_frame(x, kept, receives, first, 5, own, chunk=chunk)
    for row in range(2):
        features, source = slow_join(x[row], kept[row].tolist(), receives[row].tolist(), first[row], 5, own)
        torch.testing.assert_close(got.x[row], features, atol=1e-5, rtol=1e-5)
        assert got.source[row].tolist() == source


@pytest.mark.parametrize("count", [5, 8, 13, 19, 20])
def test_trees_leave_the_count_and_means_of_what_hangs_together(count):
    from foveate.ops.trees import grow_trees

    x = draw(2, 4, 5, 6)
    x[:, 1:] = x[:, :-1] + 0.3 * x[:, 1:]
    picked = torch.zeros(2, 4, 5, dtype=torch.bool)
    picked[:, :, 2] = True
    first = torch.zeros(2, 4, dtype=torch.long)
    got = grow_trees(x, first, picked, 0.5, count, 3)
    assert got.kept.shape == (2, count) and (got.kept.diff(dim=1) > 0).all()
    rank = torch.arange(count).expand(2, -1)
    assert torch.equal(got.source.gather(1, got.kept), rank)
    flat = x.flatten(1, 2)
    for row in range(2):
        for r, i in enumerate(got.kept[row].tolist()):
            if picked.flatten(1)[row, i]:
                assert got.size[row, r] == 1
                torch.testing.assert_close(got.x[row, r], flat[row, i])
    if count == 19:  # room for all roots: nothing is clustered, so a survivor is the mean of its tree
        for row in range(2):
            for r in range(count):
                members = (got.source[row] == r).nonzero()[:, 0]
                torch.testing.assert_close(got.x[row, r], flat[row, members].mean(0), atol=1e-5, rtol=1e-5)


def test_weights_multiply_the_distances_of_farthest_points():
    from foveate.ops.select import max_min

    x, weight = draw(1, 9, 4), torch.rand(1, 9, generator=torch.Generator().manual_seed(4)) + 0.1
    apart = 1 - torch.cosine_similarity(x[0, :, None], x[0, None], dim=2)
    scaled = apart * weight[0]
    scaled.fill_diagonal_(torch.inf)
    picks = [int(scaled.amin(0).argmax())]
    while len(picks) < 5:
        picks.append(int(scaled[picks].amin(0).masked_fill(torch.tensor([i in picks for i in range(9)]), -1).argmax()))
    assert max_min(x, 5, weight=weight)[0].tolist() == sorted(picks)


def slow_linkage(x, there, count):
    """Join the two most similar clusters (by their most similar members) until so many are left."""
    clusters = [{i} for i in range(len(x)) if there[i]]
    while len(clusters) > count:
        pairs = itertools.combinations(range(len(clusters)), 2)
        a, b = max(
            pairs,
            key=lambda p: max(
                float(torch.cosine_similarity(x[i], x[j], dim=0)) for i in clusters[p[0]] for j in clusters[p[1]]
            ),
        )
        clusters[a] |= clusters.pop(b)
    return sorted(sorted(c) for c in clusters)


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_spanning_edges_hold_the_strongest_links(count, chunk):
    from foveate.ops.linkage import single_linkage
    from foveate.ops.spanning import spanning_edges

    x = draw(3, 11, 4)
    there = torch.rand(3, 11, generator=torch.Generator().manual_seed(5)) < 0.8
    edges = spanning_edges(x, there, chunk=chunk)
    label = single_linkage(*edges, there.sum(1) - count, 11)
    for row in range(3):
        got = sorted(
            sorted(i for i in range(11) if there[row, i] and label[row, i] == c)
            for c in {int(label[row, i]) for i in range(11) if there[row, i]}
        )
        assert got == slow_linkage(x[row], there[row], count)


def test_equal_tokens_are_no_trouble_for_spanning():
    from foveate.ops.linkage import single_linkage
    from foveate.ops.spanning import spanning_edges

    x, there = torch.ones(1, 8, 3), torch.ones(1, 8, dtype=torch.bool)
    label = single_linkage(*spanning_edges(x, there), torch.tensor([5]), 8)
    assert len(set(label[0].tolist())) == 3


@pytest.mark.parametrize("count", [1, 2, 4, 9, 15, 16])
@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.0])
def test_components_of_a_video_keep_the_books_and_the_count(count, threshold):
    from foveate.ops.connected import connected_merge

    x = draw(2, 4, 4, 5)
    x[1] = x[1, :1]
    got = connected_merge(x, count, threshold)
    assert got.kept.shape == (2, count) and (got.kept.diff(dim=1) > 0).all()
    rank = torch.arange(count).expand(2, count)
    assert torch.equal(got.source.gather(1, got.kept), rank)
    assert got.size.sum(1).tolist() == [16, 16] and torch.isfinite(got.x).all()


def test_components_within_frames_come_first():
    """Two pairs of twins in each of two frames: four anchors are the pairs, two are the pairs over time."""
    from foveate.ops.connected import connected_merge

    a, c = torch.eye(4)[0], torch.eye(4)[1]
    frame = torch.stack([a, a, c, c])
    x = (torch.stack([frame, frame])[None] + 0.01 * draw(1, 2, 4, 4)).contiguous()
    assert connected_merge(x, 4, 0.9).kept[0].tolist() == [0, 2, 4, 6]
    two = connected_merge(x, 2, 0.9)
    assert two.kept[0].tolist() == [0, 2] and two.source[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
