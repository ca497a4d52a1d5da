"""Duplicates go first: rounds that drop the tokens with the nearest twin, and suppression by better ones like it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .rows import rows_of
from .select import Cosines, check_count, unit


def dedup(
    x: Float[Tensor, "B N D"], order: Int[Tensor, "B M"], count: int, step: int, *, chunk: int = 1024
) -> Int[Tensor, "B T"]:
    """What is left of the tokens in `order` after dropping near duplicates down to `count`, still in that order.

    A round splits the list into its even and odd positions, and drops the `step` even ones with the highest cosine to
    an odd one (fewer in the last round); of equals the earlier ones go. Cost: M^2 / 4 x D a round, memory chunk x M.
    Raises InvalidValue unless 1 <= count <= M and step >= 1. Source: VisPruner (arXiv 2412.01818).
    """
    check_count(count, order.shape[1])
    if step < 1:
        raise InvalidValue(f"step must be at least 1, got {step}")
    u = unit(x)
    for drop in _ladder(order.shape[1], count, step):
        even, odd = (rows_of(u, half) for half in (order[:, 0::2], order[:, 1::2]))
        nearest = torch.cat([(part @ odd.transpose(1, 2)).amax(2) for part in torch.split(even, chunk, dim=1)], dim=1)
        twins = nearest.sort(dim=1, descending=True, stable=True).indices[:, :drop]
        gone = torch.zeros_like(order, dtype=torch.bool).scatter(1, 2 * twins, True)
        stay = gone.int().sort(dim=1, stable=True).indices[:, : order.shape[1] - drop]
        order = order.gather(1, stay)
    return order


def dedup_flops(m: int, count: int, width: int, step: int) -> int:
    """FLOPs of the matmuls in `dedup`: in each round every even token with every odd one."""
    flops = 0
    for drop in _ladder(m, count, step):
        flops += 2 * (m - m // 2) * (m // 2) * width
        m -= drop
    return flops


def dedup_rounds(m: int, count: int, step: int) -> int:
    """Rounds that `dedup` takes."""
    return len(list(_ladder(m, count, step)))


def _ladder(m: int, count: int, step: int) -> Iterator[int]:
    """How many tokens each round drops."""
    while m > count:
        drop = min(step, m - count, m - m // 2)
        yield drop
        m -= drop


def suppress(
    x: Float[Tensor, "B N D"],
    score: Float[Tensor, "B N"],
    group: Int[Tensor, "B N"],
    threshold: Float[Tensor, " B"],
    *,
    chunk: int = 1024,
) -> Bool[Tensor, "B N"]:
    """Greedy non-maximum suppression within groups: who is left, best first, each silencing those too similar to it.

    A token is silenced by one of its group that is left, has a higher score (of equals, a lower index) and a cosine
    above the `threshold` of the row. Instead of one token after the other, all judge at once, again and again until
    nothing changes: after k rounds all those are right over whom at most k stand, so it ends, with the greedy result.
    Whether something changed is read on the host each round. Cost: N x N x D once, N x N a round; memory N x N bytes.
    Source: PruneSID (arXiv 2603.09480).
    """
    cosines = Cosines(unit(x), None)
    n = x.shape[1]
    index = torch.arange(n, device=x.device)
    silences = []
    for part in torch.split(index, chunk):
        similar = cosines.rows(part.expand(x.shape[0], -1)) > threshold[:, None, None]
        mine, its = score[:, part, None], score[:, None]
        better = (its > mine) | ((its == mine) & (index < part[:, None]))
        silences.append(similar & better & (group[:, part, None] == group[:, None]))
    silenced_by = torch.cat(silences, dim=1)
    left = torch.ones_like(score, dtype=torch.bool)
    while True:
        now = ~(silenced_by & left[:, None]).any(2)
        if torch.equal(now, left):
            return left
        left = now
