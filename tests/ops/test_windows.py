"""Where tokens are: windows, neighbours, places in groups; local variance and principal groups."""

import pytest
import torch

from foveate.ops.groups import group_sizes, local_variance, principal_groups, rank_in_group, top_in_groups
from foveate.ops.quota import largest_remainder
from foveate.ops.windows import around, stretched, windows
from foveate.tokens import Grid


def random_x(b, n, d=4, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [Grid(1, 24, 24), Grid(1, 7, 5), Grid(3, 4, 6)], ids=str)
def test_windows_are_rectangles_of_a_frame(grid):
    rows, columns = min(4, grid.h), min(4, grid.w)
    of = windows(grid.t, grid.h, grid.w, rows, columns).view(grid.t, grid.h, grid.w)
    for i in range(grid.t * rows * columns):
        f, y, x = (of == i).nonzero().unbind(1)
        assert len(f.unique()) == 1 and len(y) == len(y.unique()) * len(x.unique())
        assert y.max() - y.min() + 1 == len(y.unique()) and x.max() - x.min() + 1 == len(x.unique())
    if grid == Grid(1, 24, 24):
        assert (of.flatten().bincount() == 36).all()  # VScan: 16 windows of 6 x 6


def test_neighbours_do_not_wrap_around():
    near = around(2, 3, 4)
    assert near[0].tolist() == [0, 4, 0, 1]  # above, below, left, right of a corner
    assert near[3].tolist() == [3, 7, 2, 3] and near[4].tolist() == [0, 8, 4, 5]
    assert near[12].tolist() == [12, 16, 12, 13]  # the second frame does not look at the first
    assert near.shape == (24, 4)


def test_maps_stretch_to_another_size():
    flat = stretched(torch.ones(2, 6), 2, 3, 5, 4)
    assert flat.shape == (2, 20) and torch.allclose(flat, torch.ones(2, 20))
    ramp = stretched(torch.tensor([[0.0, 1.0]]), 1, 2, 1, 4)
    assert ramp.tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_places_and_tops_of_groups():
    g = torch.Generator().manual_seed(0)
    score, group = torch.randint(0, 5, (3, 20), generator=g).float(), torch.randint(0, 4, (3, 20), generator=g)
    place = rank_in_group(score, group)
    for row in range(3):
        for i in range(4):
            members = [j for j in range(20) if group[row, j] == i]
            ordered = sorted(members, key=lambda j: (-score[row, j], j))
            assert [place[row, j].item() for j in ordered] == list(range(len(members)))
    quota = largest_remainder(torch.tensor([1.0, 5.0, 0.0, 2.0]).expand(3, 4), 9, group_sizes(group, 4))
    kept = top_in_groups(score, group, quota, 9)
    for row in range(3):
        expected = [j for j in range(20) if place[row, j] < quota[row, group[row, j]]]
        assert kept[row].tolist() == expected


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("part", [1, 3, 5, 20])
def test_local_variance_is_that_of_the_cosines_with_the_others(n, part):
    x = random_x(2, n, seed=n)
    u = torch.nn.functional.normalize(x.double(), dim=-1)
    for row in range(2):
        for i in range(n):
            start = i // part * part
            others = [float(u[row, i] @ u[row, j]) for j in range(start, min(start + part, n)) if j != i]
            mean = sum(others) / max(1, len(others))
            expected = sum((o - mean) ** 2 for o in others) / max(1, len(others))
            assert local_variance(x, part)[row, i].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(9, 30), (30, 9), (12, 12)])
def test_principal_groups_are_the_largest_entry_of_the_singular_vectors(n, d):
    x = random_x(2, n, d)
    for groups in (1, 3, 5):
        for row in range(2):
            a = x[row].double().sigmoid()
            a = a - a.mean(1, keepdim=True)
            v = torch.linalg.svd(a.T, full_matrices=False).Vh[:groups]
            assert torch.equal(principal_groups(x, groups)[row], v.abs().argmax(0))


def test_directions_beyond_the_rank_are_nobodys():
    x = random_x(1, 30, 4)[:, :, :2].repeat(1, 1, 2)  # rank 1 after centring: two channels, twice
    assert principal_groups(x, 4).unique().tolist() == [0]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"columns must lie in 1\.\.3, got 0"):
        windows(1, 3, 3, 1, 0)
    with pytest.raises(ValueError, match="at least 1 group, got 0"):
        principal_groups(random_x(1, 4), 0)
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        local_variance(random_x(1, 4), 0)
