"""Spanning: the strongest links that hold many tokens together, found without listing all pairs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .linkage import components
from .select import Cosines


def spanning_edges(
    x: Float[Tensor, "B N D"], there: Bool[Tensor, "B N"], *, chunk: int = 1024
) -> tuple[Int[Tensor, "B E"], Int[Tensor, "B E"], Float[Tensor, "B E"]]:
    """Edges (u, v) with their cosines among which a maximum spanning tree of the tokens that are there is found.

    E = N x ceil(log2 N): in each round of Boruvka's algorithm every token's strongest edge to another component, which
    for at least one token of a component is the component's. Where there is none the edge leads to itself, with minus
    infinity. Ties go to the lower index. Cost: N x N x D, then N x N a round (N x N x D where the cosines are too many
    to keep); memory chunk x N beside those.
    """
    b, n, _ = x.shape
    cosines = Cosines.of(x)
    nodes = torch.arange(n, device=x.device).expand(b, n)
    label, found = nodes, []
    for _ in range(max(1, (n - 1).bit_length())):
        to, strength = [], []
        for part in torch.split(nodes[0], chunk):
            rows = cosines.rows(part.expand(b, -1))
            same = label[:, part, None] == label[:, None]
            rows = rows.masked_fill_(same | ~there[:, None] | ~there[:, part, None], -torch.inf)
            best = rows.amax(2)
            first = torch.where(rows == best[..., None], nodes[:, None], n).amin(2)
            to.append(torch.where(best.isinf(), part, first))
            strength.append(best)
        v, s = torch.cat(to, dim=1), torch.cat(strength, dim=1)
        found.append((nodes, v, s))
        # a component grows along the strongest edge of its tokens only
        top = torch.full_like(s, -torch.inf).scatter_reduce(1, label, s, "amax").gather(1, label)
        label = components(
            torch.cat([nodes, nodes], 1), torch.cat([v, label], 1), torch.cat([(s == top) & s.isfinite(), there], 1), n
        )
    u, v, s = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return u, v, s


def spanning_flops(n: int, width: int) -> int:
    """FLOPs of the matmuls in `spanning_edges`, where the cosines are kept."""
    return 2 * n * n * width
