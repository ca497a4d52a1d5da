"""Components and single linkage against Kruskal's algorithm, one edge after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops.linkage import components, single_linkage


def kruskal(n, edges, joins):
    """The lowest node of each cluster after so many joins along the strongest edges, of equals the first."""
    parent = list(range(n))

    def find(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for _, _, a, b in sorted((-strength, i, a, b) for i, (a, b, strength) in enumerate(edges)):
        a, b = sorted((find(a), find(b)))
        if joins and a != b:
            parent[b] = a
            joins -= 1
    return [find(i) for i in range(n)]


@given(st.integers(1, 30), st.integers(0, 50), st.integers(0, 2**20))
@settings(max_examples=150, deadline=None)
def test_linkage_is_kruskal_with_ties_loops_and_double_edges(n, e, seed):
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randint(0, n, (3, e), generator=generator) for _ in range(2))
    strength = torch.randint(0, 5, (3, e), generator=generator).float()
    joins = torch.randint(0, n, (3,), generator=generator)
    there = torch.rand(3, e, generator=generator) < 0.4
    linked, connected = single_linkage(u, v, strength, joins, n), components(u, v, there, n)
    for b in range(3):
        edges = list(zip(u[b].tolist(), v[b].tolist(), strength[b].tolist(), strict=True))
        assert linked[b].tolist() == kruskal(n, edges, int(joins[b]))
        some = [edge for edge, t in zip(edges, there[b].tolist(), strict=True) if t]
        assert connected[b].tolist() == kruskal(n, some, n)


@pytest.mark.parametrize("n", [2, 3, 64, 65, 1000])
def test_a_path_is_one_component_in_whatever_order_its_edges_come(n):
    """The longest chains that pointers can form."""
    u = torch.arange(n - 1)[None]
    for strength in (u.float(), -u.float(), torch.rand(1, n - 1, generator=torch.Generator().manual_seed(n))):
        assert not components(u, u + 1, torch.ones_like(u, dtype=torch.bool), n).any()
        halves = single_linkage(u, u + 1, strength, torch.tensor([n - 2]), n)[0]
        cut = int(strength[0].argmin())
        assert halves.tolist() == [0] * (cut + 1) + [cut + 1] * (n - 1 - cut)
