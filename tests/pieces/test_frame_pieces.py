"""Frames: where tokens lie in time, also after cuts and over several grids, and what each frame gets."""

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.pieces import (
    AnchorFrames,
    Attended,
    Curvature,
    EqualFrames,
    FrameOrMore,
    LastQuery,
    Norm,
    PerFrame,
    ReleasedWindows,
    Uniqueness,
    WholeFrames,
)
from foveate.pieces.frames import frame_means, frames_of
from foveate.tokens import Grid, VisualTokens


def video(t=5, h=2, w=3, b=2, d=8, seed=0, signals=None):
    x = torch.randn(b, t * h * w, d, generator=torch.Generator().manual_seed(seed))
    return VisualTokens.of(x, Grid(t, h, w), signals=signals)


def cut(tokens, kept):
    """What an earlier step left."""
    kept = torch.tensor(kept).expand(tokens.x.shape[0], -1)
    x = tokens.x.gather(1, kept[..., None].expand(-1, -1, tokens.x.shape[2]))
    return VisualTokens(x, tokens.grid, kept, torch.ones(kept.shape), tokens.signal, grids=tokens.grids)


def per_frame(kept, n):
    return (kept // n).bincount(minlength=0).tolist()


def test_frames_of_a_video_an_image_and_both_together():
    frames = frames_of(video(2, 1, 3))
    assert frames.of[0].tolist() == [0, 0, 0, 1, 1, 1] and frames.place[0].tolist() == [0, 1, 2, 0, 1, 2]
    assert frames_of(video(1, 2, 2)).numbers == (0,)
    both = VisualTokens.of(torch.zeros(1, 10, 2), grids=(Grid(1, 2, 2), Grid(3, 1, 2)))
    frames = frames_of(both)
    assert frames.of[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert frames.place[0].tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 4, 5]
    assert frames.numbers == (0, 0, 1, 2) and frames.places == 6


def test_after_a_cut_tokens_know_their_frame_and_place():
    tokens = video(3, 1, 4)
    left = cut(tokens, [1, 4, 6, 7])
    frames = frames_of(left)
    assert frames.of[0].tolist() == [0, 1, 1, 1] and frames.place[0].tolist() == [1, 0, 2, 3]
    assert frames.left[0].tolist() == [1, 3, 0]
    means = frame_means(left, frames, left.x)
    torch.testing.assert_close(means[:, 1], tokens.x[:, [4, 6, 7]].mean(1))
    assert not means[:, 2].any()


def test_whole_and_cut_frames_have_the_same_means():
    tokens = video()
    whole, regrouped = frame_means(tokens, frames_of(tokens), tokens.x), cut(tokens, list(range(29)))
    torch.testing.assert_close(whole[:, :4], frame_means(regrouped, frames_of(regrouped), regrouped.x)[:, :4])


WEIGHTS = [EqualFrames(), AnchorFrames(), AnchorFrames(4), Curvature(), Uniqueness()]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("t", [1, 2, 5, 7])
@pytest.mark.parametrize("least", [0, 1])
def test_budgets_are_exact_whatever_the_weights(weights, t, least):
    tokens = video(t)
    for count in range(1, t * 6 + 1):
        kept = PerFrame(weights, least)(tokens, Norm()(tokens), count).kept
        assert kept.shape == (2, count) and (kept.diff(dim=1) > 0).all()
        for row in kept:
            got = per_frame(row, 6) + [0] * t
            assert max(got) <= 6 and (count < t * least or min(got[:t]) >= least)


def test_after_a_cut_no_frame_is_asked_for_more_than_it_has():
    left = cut(video(3, 1, 4), [0, 4, 5, 6, 7, 9])
    kept = PerFrame(EqualFrames(), 1)(left, Norm()(left), 5).kept
    assert [((kept >= a) & (kept < b)).sum(1).tolist() for a, b in ((0, 1), (1, 5), (5, 6))] == [[1, 1], [3, 3], [1, 1]]


def test_in_each_frame_the_best_stay():
    tokens = video()
    score = Norm()(tokens)
    kept = PerFrame()(tokens, score, 12).kept  # 2 or 3 of each frame of 6
    for row, scores in zip(kept, score, strict=True):
        for f, n in enumerate(per_frame(row, 6)):
            mine = [i for i in row.tolist() if i // 6 == f]
            assert mine == sorted((scores[6 * f : 6 * f + 6].topk(n).indices + 6 * f).tolist())


def test_anchor_frames_are_filled_before_any_other():
    tokens = video(7, 2, 2)
    counts = [per_frame(PerFrame(AnchorFrames(4))(tokens, Norm()(tokens), n).kept[0], 4) for n in (4, 8, 13, 23)]
    assert counts == [[2, 0, 0, 0, 2], [4, 0, 0, 0, 4], [4, 1, 1, 1, 4, 1, 1], [4, 3, 3, 3, 4, 3, 3]]


def test_frames_that_are_attended_get_their_share():
    weight = torch.tensor([0.0, 4.0, 1.0, 3.0, 0.0]).repeat_interleave(6).expand(2, -1)
    tokens = video(signals={LastQuery(): weight})
    select = PerFrame(Attended())
    assert select.reads == (LastQuery(),)
    assert per_frame(select(tokens, Norm()(tokens), 8).kept[0], 6) == [0, 4, 1, 3]
    full = per_frame(select(tokens, Norm()(tokens), 15).kept[0], 6)  # the second is full at 6, the others go on 1 : 3
    assert full == [0, 6, 3, 6]


@pytest.mark.parametrize(
    ("t", "count", "frames"),
    [(8, 48, range(8)), (8, 24, [0, 2, 4, 6]), (8, 8, [3]), (8, 9, [1, 5]), (5, 12, [1, 3]), (3, 6, [1])],
)
def test_whole_frames_are_evenly_spread(t, count, frames):
    tokens, select = video(t), WholeFrames()
    possible = select.possible(count, tokens.grid, tokens.grid.n)
    kept = select(tokens, None, possible).kept[0]
    assert sorted(set((kept // 6).tolist())) == list(frames) and len(kept) == 6 * len(frames)


def test_of_less_than_a_frame_the_middle_one_is_thinned():
    tokens, select = video(3, 4, 4), WholeFrames()
    assert select.possible(4, tokens.grid, 48) == 4
    kept = select(tokens, None, 4).kept[0] - 16
    assert len({k // 8 for k in kept.tolist()}) == 2 and len({k % 4 // 2 for k in kept.tolist()}) == 2


#: what the released code keeps, in percent, by the arithmetic of its loops over frames of 196 tokens
@pytest.mark.parametrize(
    ("t", "drop", "percent"),
    [
        (32, 0.5, 64.1),
        (32, 0.7, 49.4),
        (32, 0.9, 35.1),
        (32, 1.0, 28.1),
        (64, 0.7, 48.3),
        (64, 0.9, 33.7),
        (64, 1.0, 26.6),
    ],
)
def test_released_windows_keep_what_was_published(t, drop, percent):
    grid = Grid(t, 14, 14)
    assert 100 * ReleasedWindows(drop).possible(0, grid, grid.n) / grid.n == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(
    ("t", "quota"),
    [
        (1, [6]),
        (2, [6, 1]),
        (4, [6, 1, 6, 1]),
        (5, [6, 1, 1, 1]),
        (6, [6, 1, 1, 1, 6, 1]),
        (8, [6, 1, 1, 1, 6, 1, 6, 1]),
    ],
)
def test_the_last_window_and_an_odd_last_frame_are_as_released(t, quota):
    tokens, select = video(t), ReleasedWindows(0.7)
    count = select.possible(0, tokens.grid, tokens.grid.n)
    assert per_frame(select(tokens, Norm()(tokens), count).kept[0], 6) == quota


def test_serving_engines_keep_one_frame_at_least():
    grid = Grid(4, 2, 3)
    assert [FrameOrMore().possible(n, grid, 24) for n in (1, 6, 13)] == [6, 6, 13]
    assert FrameOrMore().possible(3, Grid(1, 2, 2), 4) == 4


def test_what_needs_the_whole_grid_says_so():
    for select in (WholeFrames(), ReleasedWindows()):
        with pytest.raises(InvalidValue, match="whole grid"):
            select.possible(3, Grid(2, 2, 2), 5)


@pytest.mark.parametrize(
    "wrong",
    [lambda: AnchorFrames(0), lambda: Curvature(0), lambda: PerFrame(least=-1), lambda: ReleasedWindows(2)],
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(InvalidValue):
        wrong()
