"""Windows: which there are, how alike their tokens are, and what collapsing makes of them."""

import itertools

import torch
from torch.nn.functional import cosine_similarity

from foveate.ops.collapse import collapse, likeness, whole_windows


def test_windows_that_fit_are_squares_of_the_grid():
    windows = whole_windows(2, 4, 7, 3)
    assert windows.shape == (4, 9)
    assert windows[1].tolist() == [3, 4, 5, 10, 11, 12, 17, 18, 19]
    assert windows[2, 0] == 28
    assert whole_windows(1, 2, 9, 3).shape == (0, 9)


def test_likeness_is_the_mean_cosine_of_pairs():
    x = torch.randn(2, 36, 5, generator=torch.Generator().manual_seed(0))
    windows = whole_windows(1, 6, 6, 3)
    got = likeness(x, windows)
    for b, w in itertools.product(range(2), range(4)):
        pairs = [cosine_similarity(x[b, i], x[b, j], dim=0) for i, j in itertools.combinations(windows[w].tolist(), 2)]
        torch.testing.assert_close(got[b, w], torch.stack(pairs).mean())


def test_the_most_alike_windows_become_their_mean_in_the_middle():
    x = torch.randn(1, 36, 5, generator=torch.Generator().manual_seed(0))
    windows = whole_windows(1, 6, 6, 3)
    merged = collapse(x, windows, torch.tensor([[0.1, 0.9, 0.3, 0.8]]), 2)
    gone = {i for w in (1, 3) for i in windows[w].tolist()} - {10, 28}
    assert merged.kept[0].tolist() == [i for i in range(36) if i not in gone]
    for w, middle in ((1, 10), (3, 28)):
        rank = merged.kept[0].tolist().index(middle)
        torch.testing.assert_close(merged.x[0, rank], x[0, windows[w]].mean(0))
        assert (merged.source[0, windows[w]] == rank).all() and merged.size[0, rank] == 9
    assert torch.equal(merged.x[0, 0], x[0, 0]) and merged.size.sum() == 36
