"""Every piece states the FLOPs that torch counts when it is called."""

import pytest

from foveate import pieces
from foveate.cost.counter import counted_flops
from foveate.pieces import Adaptive, Complexity, Extent, Hybrid, MaxMin, PageRank, Piece, Read

# pieces whose constructor needs something
EXAMPLES = {"Adaptive": Adaptive(Complexity(), 0.2, 0.5)}
EXTENTS = (
    Extent(n=20, count=7, width=12, heads=4, kv_heads=2, head_dim=8, columns=31, text=9, tower=10),
    Extent(n=6, count=5, width=40, heads=2, kv_heads=2, head_dim=16, columns=300, text=1, tower=24),
)
CLASSES = {
    n: c for n, c in vars(pieces).items() if isinstance(c, type) and issubclass(c, Piece) and not c.__abstractmethods__
}


@pytest.mark.parametrize("extent", EXTENTS, ids=("short", "over-a-chunk"))
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_stated_flops_are_the_counted_ones(name, extent):
    piece = EXAMPLES.get(name) or CLASSES[name]()
    assert piece.flops(extent) == counted_flops(piece, extent)


def test_there_are_pieces_to_check():
    assert {"LastQuery", "Hybrid", "MaxMin", "BipartiteMerge", "Complexity"} <= set(CLASSES)


def test_a_piece_made_of_pieces_adds_up():
    extent = EXTENTS[0]
    both = Hybrid(Read(PageRank(iterations=3)), Hybrid())
    assert both.flops(extent) == counted_flops(both, extent)
    assert both.other_flops(extent) == Hybrid().other_flops(extent)


def test_farthest_points_count_each_pick_where_similarities_are_not_kept(monkeypatch):
    from foveate.ops import select

    monkeypatch.setattr(select, "KEPT", 100)
    extent = Extent(n=20, count=7, width=9)
    assert MaxMin().flops(extent) == counted_flops(MaxMin(), extent)


def test_a_piece_cannot_forget_its_cost():
    class Forgetful(pieces.Score):
        def __call__(self, tokens):
            return tokens.x[..., 0]

    with pytest.raises(TypeError, match="flops"):
        Forgetful()
