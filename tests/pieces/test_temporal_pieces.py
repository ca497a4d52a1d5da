"""Change over time, runs of it, and places that always draw attention."""

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.pieces import Change, Changed, Norm, RunMean, Selection, SinkFree, TopK
from foveate.pieces.outliers import FrameOutlier, GaussianOutlier, Uniqueness
from foveate.tokens import Grid, VisualTokens


def video(t=5, h=2, w=3, b=2, d=8, seed=0):
    x = torch.randn(b, t * h * w, d, generator=torch.Generator().manual_seed(seed))
    return VisualTokens.of(x, Grid(t, h, w))


def unlike(a, b):
    return float(1 - torch.cosine_similarity(a.double(), b.double(), dim=0))


def test_change_is_against_the_frame_before_and_the_first_comes_first():
    tokens = video()
    change = Change()(tokens)
    for i in range(6, 30):
        assert change[0, i].item() == pytest.approx(unlike(tokens.x[0, i], tokens.x[0, i - 6]), abs=1e-5)
    assert change[:, :6].min() > 2 and len(set(change[0, :6].tolist())) == 6


def test_windows_compare_as_dycoke_pairs_frames():
    tokens = video(7)
    change = Change(window=4)(tokens)
    for frame, against in ((1, 0), (2, 0), (3, 2), (5, 4), (6, 4)):
        for place in range(6):
            expected = unlike(tokens.x[1, frame * 6 + place], tokens.x[1, against * 6 + place])
            assert change[1, frame * 6 + place].item() == pytest.approx(expected, abs=1e-5)
    assert change[:, [*range(6), *range(24, 30)]].min() > 2


def test_after_a_cut_change_is_against_what_is_still_there():
    tokens = video(3, 1, 3)
    kept = torch.tensor([[0, 2, 4, 6, 8]]).expand(2, -1)
    x = tokens.x.gather(1, kept[..., None].expand(-1, -1, 8))
    left = VisualTokens(x, tokens.grid, kept, torch.ones(2, 5), tokens.signal)
    change = Change()(left)
    assert (change[:, [0, 1, 2]] > 2).all()
    assert change[0, 3].item() == pytest.approx(unlike(x[0, 3], x[0, 0]), abs=1e-5)
    assert change[0, 4].item() == pytest.approx(unlike(x[0, 4], x[0, 1]), abs=1e-5)
    window = Change(window=2)(left)  # frame 2 opens a window; of frame 1 the place is new
    assert (window > 2).all()


def test_the_published_threshold_keeps_what_changed_and_the_first_frame():
    tokens = VisualTokens.of(1 + video(4, seed=1).x, Grid(4, 2, 3))
    expected = sum(i < 6 or unlike(tokens.x[0, i], tokens.x[0, i - 6]) >= 0.5 for i in range(24))
    share = Changed(0.5).keep(tokens)[0]
    assert share == pytest.approx(expected / 24) and 6 < expected < 24
    kept = TopK()(tokens, Change()(tokens), expected).kept[0].tolist()
    assert kept == [i for i in range(24) if i < 6 or unlike(tokens.x[0, i], tokens.x[0, i - 6]) >= 0.5]
    assert Changed(0.5, low=0.9, high=1.0).keep(tokens)[0] == 0.9


def test_runs_become_the_mean_of_their_survivor():
    tokens = video(4, 1, 2, b=1)
    survivors = Selection.of(torch.tensor([[0, 1, 5]]))  # place 0: 0 2 4 6, place 1: 1 3 | 5 7
    merged = RunMean()(tokens, survivors)
    assert merged.source.tolist() == [[0, 1, 0, 1, 0, 2, 0, 2]] and merged.size.tolist() == [[4.0, 2.0, 2.0]]
    torch.testing.assert_close(merged.x[0, 0], tokens.x[0, [0, 2, 4, 6]].mean(0))
    torch.testing.assert_close(merged.x[0, 2], tokens.x[0, [5, 7]].mean(0))


def test_what_has_no_survivor_before_it_is_dropped():
    merged = RunMean()(video(3, 1, 1, b=1), Selection.of(torch.tensor([[1]])))
    assert merged.source.tolist() == [[-1, 0, 0]] and merged.size.tolist() == [[2.0]]


def test_sinks_lose_what_they_drew_in_every_frame():
    tokens = video()
    score, free = Norm()(tokens), SinkFree(Norm(), 0.5, 2.0)(tokens)
    total = score.view(2, 5, 6).sum(1) ** 2
    level = (total - total.amin(1, keepdim=True)) / (total.amax(1, keepdim=True) - total.amin(1, keepdim=True))
    torch.testing.assert_close(free, score - 0.5 * level.repeat(1, 5))
    assert SinkFree(Norm()).reads == () and SinkFree().reads[0].place == "vision"


def brute_outliers(x, t, share=0.5):
    """VidCom2 in the open: similarity to the video's and to the frame's centre, of one row."""
    x = x.double()
    calm = x.var(0).argsort(stable=True)[: max(1, int(share * x.shape[1]))].sort().values
    u = torch.nn.functional.normalize(x[:, calm], dim=1)
    frames = u.view(t, -1, u.shape[1])
    kernel = lambda x, c: sum((-((x - c) ** 2).sum(-1) / (2 * a)).exp() for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))
    return kernel(u, u.mean(0)).view(t, -1), kernel(frames, frames.mean(1, keepdim=True))


@pytest.mark.parametrize("t", [1, 2, 5])
def test_gaussian_outliers_are_the_definition(t):
    tokens = video(t, seed=2)
    score = GaussianOutlier()(tokens)
    for b in range(2):
        like_video, like_frame = brute_outliers(tokens.x[b], t)
        torch.testing.assert_close(score[b], -(like_video + like_frame).flatten().float(), atol=1e-5, rtol=1e-5)


def test_unusual_frames_get_up_to_twice_their_share():
    tokens = video(seed=3)
    weights = Uniqueness()(tokens)
    for b in range(2):
        unique = -brute_outliers(tokens.x[b], 5)[0].mean(1)
        p = ((unique - unique.max()) / 0.01).softmax(0)
        torch.testing.assert_close(weights[b], (1 + p - 1 / 5).float(), atol=1e-4, rtol=1e-4)
    assert weights.min() >= 1 - 1 / 5 - 1e-6 and weights.max() <= 2 - 1 / 5 + 1e-6


def test_frame_outliers_are_far_from_the_mean_or_long():
    tokens = video(3)
    score = FrameOutlier()(tokens)
    for b in range(2):
        for f in range(3):
            mine = tokens.x[b, 6 * f : 6 * f + 6]
            length = mine.norm(dim=1)
            scaled = (length - length.min()) / (length.max() - length.min())
            expected = [unlike(x, mine.mean(0)) + float(s) for x, s in zip(mine, scaled, strict=True)]
            assert score[b, 6 * f : 6 * f + 6].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Change(window=3), lambda: Change(window=1), lambda: Changed(low=0.5, high=0.1),
        lambda: SinkFree(weight=-1), lambda: GaussianOutlier(0), lambda: Uniqueness(temperature=0),
    ],
)  # fmt: skip
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(InvalidValue):
        wrong()
