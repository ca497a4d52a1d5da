"""Linkage: clusters of a graph, joined along its strongest edges until exactly as many are left as wanted."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def components(u: Int[Tensor, "B E"], v: Int[Tensor, "B E"], there: Bool[Tensor, "B E"], n: int) -> Int[Tensor, "B n"]:
    """The lowest node of the connected component of each of n nodes; edges (u, v) count where they are `there`.

    Cost: log2 n rounds over the edges, on the device.
    """
    strength = torch.arange(u.shape[1], 0, -1, device=u.device).expand_as(u)
    return _grow(u, v, torch.where(there, strength, 0), n)[0]


def single_linkage(
    u: Int[Tensor, "B E"], v: Int[Tensor, "B E"], strength: Float[Tensor, "B E"], joins: Int[Tensor, " B"], n: int
) -> Int[Tensor, "B n"]:
    """Clusters of n nodes after so many joins, each along the strongest edge between two clusters: their lowest node.

    The `joins` strongest edges of the maximum spanning forest, so that every join leaves one cluster less; a row whose
    graph has fewer such edges uses them all. Ties go to the lower edge. Cost: log2 n rounds over the edges, twice, on
    the device.
    """
    edges = u.shape[1]
    order = strength.sort(dim=1, descending=True, stable=True).indices
    rank = order.argsort(1)
    _, forest = _grow(u, v, edges - rank, n)
    # of the edges by strength, those of the forest, the first `joins` of them
    before = forest.gather(1, order).long().cumsum(1).gather(1, rank)
    return components(u, v, forest & (before <= joins[:, None]), n)


def _grow(
    u: Int[Tensor, "B E"], v: Int[Tensor, "B E"], priority: Int[Tensor, "B E"], n: int
) -> tuple[Int[Tensor, "B n"], Bool[Tensor, "B E"]]:
    """Components, each named by its lowest node, and the edges of the forest of highest priority that spans them.

    Priorities are distinct numbers from 1 up to E; 0 where there is no edge. Boruvka: every component takes its best
    edge to another one, so that at least half of those that can still grow are gone after each round.
    """
    b, edges = u.shape
    nodes = torch.arange(n, device=u.device).expand(b, n)
    label, forest = nodes, torch.zeros_like(u, dtype=torch.bool)
    by_priority = torch.zeros(b, edges + 1, dtype=torch.long, device=u.device)
    by_priority.scatter_(1, priority, torch.arange(edges, device=u.device).expand_as(u))
    rounds = (n - 1).bit_length() if edges else 0
    for done in range(rounds):
        cu, cv = label.gather(1, u), label.gather(1, v)
        open_edge = torch.where(cu == cv, 0, priority)
        best = torch.zeros_like(nodes).scatter_reduce(1, cu, open_edge, "amax").scatter_reduce(1, cv, open_edge, "amax")
        chosen = (best.gather(1, cu) == open_edge) | (best.gather(1, cv) == open_edge)
        forest = forest | (chosen & (open_edge > 0))
        edge = by_priority.gather(1, best)
        parent = torch.where(best > 0, cu.gather(1, edge) + cv.gather(1, edge) - nodes, nodes)
        # two that chose each other: the lower one becomes the root
        parent = torch.where((parent.gather(1, parent) == nodes) & (nodes < parent), nodes, parent)
        for _ in range(rounds - done):
            parent = parent.gather(1, parent)
        label = parent.gather(1, label)
    lowest = torch.full_like(nodes, n).scatter_reduce(1, label, nodes, "amin")
    return lowest.gather(1, label), forest
