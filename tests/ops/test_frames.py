"""Curvature by its formula, and the order that spreads."""

import pytest
import torch

from foveate.ops.frames import curvature, dither


def test_curvature_is_the_turn_between_steps_of_unit_centres():
    centres = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    bend = curvature(centres)
    for b in range(2):
        f = [c / c.norm() for c in centres[b].double()]
        for t in range(7):
            if t in (0, 6):
                expected = 1.0
            else:
                back, on = f[t] - f[t - 1], f[t + 1] - f[t]
                expected = float(1 - back @ on / (back.norm() * on.norm()))
            assert bend[b, t].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_still_frames_and_ends_have_curvature_one(frames):
    assert curvature(torch.ones(1, frames, 4)).tolist() == [[1.0] * frames]


def test_going_there_and_back_is_the_sharpest_turn():
    there = torch.tensor([1.0, 0.0])
    back = torch.tensor([0.0, 1.0])
    assert curvature(torch.stack([there, back, there])[None])[0, 1].item() == pytest.approx(2)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (5, 3), (8, 8), (14, 14), (6, 17)])
def test_dither_ranks_every_position_once(h, w):
    assert sorted(dither(h, w).tolist()) == list(range(h * w))


@pytest.mark.parametrize("side", [8, 16])
def test_every_beginning_of_the_order_is_spread_evenly(side):
    """A quarter of a square is one token in each 2 x 2 cell, a sixteenth one in each 4 x 4 cell, half a chessboard."""
    rank = dither(side, side).view(side, side)
    black = (torch.arange(side)[:, None] + torch.arange(side)) % 2 == 0
    assert torch.equal(rank < side * side // 2, black)
    for cell in (2, 4):
        first = (rank < side * side // cell**2).float()
        assert torch.equal(
            first.unfold(0, cell, cell).unfold(1, cell, cell).sum((2, 3)), torch.ones(side // cell, side // cell)
        )


def test_on_other_shapes_halves_of_the_frame_get_about_as_much():
    rank = dither(14, 10).view(14, 10)
    for count in (20, 35, 70):
        first = rank < count
        assert abs(int(first[:7].sum()) - count / 2) <= 4 and abs(int(first[:, :5].sum()) - count / 2) <= 4
