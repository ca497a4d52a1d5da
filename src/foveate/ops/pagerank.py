"""AIM's multi-modal PageRank over attention, from post-RoPE q and k, a chunk of rows at a time.

Shapes, masks and blocks are those of `attention`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InvalidValue
from .attention import check_chunk, chunk_attention, group_size, head_blocks, mask_, softmax_

CHUNK = 128
"""Rows walked at a time: of the square on the diagonal half is computed in vain."""


def pagerank(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B Hk L d"],
    scale: float,
    *,
    valid: Bool[Tensor, "B L"] | None = None,
    causal: bool = True,
    temperature: float = 0.1,
    iterations: int = 5,
    damping: float = 0.0,
    chunk: int = CHUNK,
) -> Float[Tensor, "B L"]:
    """AIM's importance of each token: PageRank over the attention of all tokens, root mean square over heads.

    M_h = softmax_row(logits / temperature); s starts at 1/N; `iterations` times s <- (1 - damping) s M + damping / N;
    importance = sqrt(mean_h s_h^2). A token gets the mass of the rows that attend to it. N counts valid tokens; the
    others have no mass.

    Under `causal` mass only moves to earlier columns, so that the chunks can be walked once, from the last to the
    first, with all iterations at each: logits are computed once, and the columns after a chunk never. Otherwise each
    iteration is one pass. Cost: L x L x H x d (half of it under causal; times `iterations` without); memory: one block
    of logits, or B x chunk x L where that is more. The released code takes 16 x H x N^2 bytes.

    Raises InvalidValue for temperature <= 0, iterations < 1, damping outside [0, 1), chunk < 1 or Hk not dividing H.
    Source: AIM (arXiv 2412.03248) as released; its paper prints neither the temperature nor the head aggregation.
    """
    groups = group_size(q, k)
    check_chunk(chunk)
    _check_pagerank(temperature, iterations, damping)
    b, h, n, _ = q.shape
    uniform = _uniform(b, n, valid, q.device)
    walk = _walk_once if causal else _walk_again
    rank = q.new_zeros(b, h, n, dtype=torch.float32)
    for heads, keys in head_blocks(k.device, b, h, groups, min(chunk, n), n):
        qq, kk = q[:, heads], k[:, keys].float()
        rank[:, heads] = walk(qq, kk, scale / temperature, valid, uniform, iterations, damping, chunk)
    return rank.square().mean(1).sqrt()


def pagerank_from_logits(
    logits: Float[Tensor, "B H N N"],
    *,
    valid: Bool[Tensor, "B N"] | None = None,
    causal: bool = True,
    temperature: float = 0.1,
    iterations: int = 5,
    damping: float = 0.0,
) -> Float[Tensor, "B N"]:
    """The same importance as `pagerank`, written as its formula: the reference for small N, all logits at once."""
    _check_pagerank(temperature, iterations, damping)
    b, h, n, _ = logits.shape
    logits = logits.float() / temperature
    if causal:
        logits = logits.masked_fill(torch.ones(n, n, dtype=torch.bool, device=logits.device).triu(1), -torch.inf)
    m = softmax_(mask_(logits.clone(), valid))
    uniform = _uniform(b, n, valid, logits.device)[:, None, None]
    s = uniform.expand(-1, h, -1, -1)
    for _ in range(iterations):
        s = (1 - damping) * (s @ m) + damping * uniform
    return s[:, :, 0].square().mean(1).sqrt()


def _walk_once(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B hk L d"],
    scale: float,
    valid: Bool[Tensor, "B L"] | None,
    uniform: Float[Tensor, "B L"],
    iterations: int,
    damping: float,
    chunk: int,
) -> Float[Tensor, "B h L"]:
    """Causal mass after all iterations, in one walk over the rows from the last to the first.

    s[t] at a column needs s[t - 1] at that column and later ones only, and those are complete when the walk arrives.
    """
    h, n = q.shape[1:3]
    s = (damping * uniform)[:, None, None].repeat(1, h, iterations + 1, 1)
    s[:, :, 0] = uniform[:, None]
    for start in reversed(range(0, n, chunk)):
        stop = min(start + chunk, n)
        m = chunk_attention(q[:, :, start:stop].float() * scale, k, start, valid, True)
        m = m.mul_(1 - damping)
        for t in range(iterations):
            s[:, :, t + 1, start:stop] += (s[:, :, t, None, start:stop] @ m[..., start:])[:, :, 0]
        if start:
            s[:, :, 1:, :start] += s[:, :, :-1, start:stop] @ m[..., :start]
        del m  # before the next block exists
    return s[:, :, -1]


def _walk_again(
    q: Float[Tensor, "B h L d"],
    k: Float[Tensor, "B hk L d"],
    scale: float,
    valid: Bool[Tensor, "B L"] | None,
    uniform: Float[Tensor, "B L"],
    iterations: int,
    damping: float,
    chunk: int,
) -> Float[Tensor, "B h L"]:
    """Mass after all iterations when every row attends to every column: one walk over the rows for each iteration."""
    h, n = q.shape[1:3]
    s = uniform[:, None].expand(-1, h, -1)
    for _ in range(iterations):
        after = (damping * uniform)[:, None].repeat(1, h, 1)
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            m = chunk_attention(q[:, :, start:stop].float() * scale, k, start, valid, False)
            after += (1 - damping) * (s[:, :, None, start:stop] @ m)[:, :, 0]
            del m  # before the next block exists
        s = after
    return s


def _uniform(b: int, n: int, valid: Bool[Tensor, "B N"] | None, device: torch.device) -> Float[Tensor, "B N"]:
    """1/N at the valid tokens of each row, 0 elsewhere."""
    if valid is None:
        return torch.full((b, n), 1 / n, device=device)
    return valid / valid.sum(1, keepdim=True).clamp(min=1)


def _check_pagerank(temperature: float, iterations: int, damping: float) -> None:
    if not (temperature > 0 and iterations >= 1 and 0 <= damping < 1):
        raise InvalidValue(
            "pagerank needs temperature > 0, iterations >= 1 and damping in [0, 1), "
            f"got {temperature}, {iterations}, {damping}"
        )
