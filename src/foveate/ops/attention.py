"""Attention read-outs from post-RoPE q and k: only the rows that are needed, never heads x N x N.

All take q [B, H, Q, d] and k [B, Hk, L, d] where Hk divides H (grouped-query attention: the query heads that share a
key head are stacked as rows, so keys are never repeated), and return float32 whatever the dtype. `scale` multiplies the
logits. `valid` marks the real columns of a padded row: the others get no attention. A row of which every key is masked
contributes zeros, never NaN. Softmax runs in blocks of heads of 2 MB (CPU) or 32 MB, so memory grows with chunk x L.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue

BLOCK = {"cpu": 2**19}
"""Logits computed at a time, by the device, where one head of one chunk allows it: 2 MB in float32, which a CPU's cache
still holds (more takes twice as long); see ROOM for others."""
ROOM = 2**23
"""The same for devices that BLOCK does not name: 32 MB, so that there are few kernels to launch."""


def rows_attention(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B Hk L d"],
    rows: Int[Tensor, "B r"],
    scale: float,
    *,
    row_valid: Bool[Tensor, "B r"] | None = None,
    valid: Bool[Tensor, "B L"] | None = None,
    causal: bool = True,
) -> Float[Tensor, "B L"]:
    """Attention that the chosen query rows pay to each key, mean over heads and over the rows that are valid.

    A row with itself listed twice counts twice. Without a valid row the result is zero. Cost: r x L x H x d.
    Raises InvalidValue when Hk does not divide H.
    """
    return _paid(q, k, rows, scale, row_valid, valid, causal, None).mean(1)


def salient_heads_attention(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B Hk L d"],
    rows: Int[Tensor, "B r"],
    scale: float,
    heads: int,
    among: Bool[Tensor, "B L"],
    *,
    divisor: Float[Tensor, "B r L"] | None = None,
    row_valid: Bool[Tensor, "B r"] | None = None,
    valid: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L"]:
    """Attention that the chosen query rows pay to each key, mean over the `heads` heads that pay most to `among`.

    `divisor` divides the logits before the softmax. Of heads that pay the same the lower come first. Cost: r x L x H x
    d. Raises InvalidValue when Hk does not divide H. Source: SparseVLM+ (arXiv 2410.04417, second version).
    """
    paid = _paid(q, k, rows, scale, row_valid, valid, True, divisor)
    most = (paid * among[:, None]).sum(2).sort(dim=1, descending=True, stable=True).indices[:, :heads]
    return paid.gather(1, most[..., None].expand(-1, -1, paid.shape[2])).mean(1)


def _paid(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B Hk L d"],
    rows: Int[Tensor, "B r"],
    scale: float,
    row_valid: Bool[Tensor, "B r"] | None,
    valid: Bool[Tensor, "B L"] | None,
    causal: bool,
    divisor: Float[Tensor, "B r L"] | None,
) -> Float[Tensor, "B H L"]:
    """Attention that the chosen rows pay to each key in each head, mean over the valid rows."""
    if row_valid is None:
        row_valid = torch.ones_like(rows, dtype=torch.bool)
    weight = row_valid / row_valid.sum(1, keepdim=True).clamp(min=1)
    paid = q.new_zeros(*q.shape[:2], k.shape[2], dtype=torch.float32)
    for heads, part, p in _of_rows(q, k, rows, scale, valid, causal, divisor):
        paid[:, heads] += p.mul_(weight[:, None, part, None]).sum(2)
        del p  # before the next block exists
    return paid


def _of_rows(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B Hk L d"],
    rows: Int[Tensor, "B r"],
    scale: float,
    valid: Bool[Tensor, "B L"] | None,
    causal: bool,
    divisor: Float[Tensor, "B r L"] | None = None,
) -> Iterator[tuple[slice, slice, Float[Tensor, "B h c L"]]]:
    """Attention of the chosen rows: a block of heads, a chunk of the rows, and what those pay to all keys."""
    groups = _groups(q, k)
    b, h, _, d = q.shape
    chunk = min(256, max(1, rows.shape[1]))
    for heads, keys in _head_blocks(k.device, b, h, groups, chunk, k.shape[2]):
        kk = k[:, keys].float()
        for start in range(0, rows.shape[1], chunk):
            part = slice(start, start + chunk)
            at = rows[:, part]
            picked = q[:, heads].gather(2, at[:, None, :, None].expand(-1, heads.stop - heads.start, -1, d))
            logits = _logits(picked.float() * scale, kk)
            if divisor is not None:
                logits /= divisor[:, None, part]
            if causal:
                future = torch.arange(k.shape[2], device=k.device) > at[..., None]
                logits.masked_fill_(future[:, None], -torch.inf)
            yield heads, part, _softmax_(_mask_(logits, valid))
            del logits  # before the next block exists


def peak_attention(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B Hk L d"],
    rows: Int[Tensor, "B r"],
    scale: float,
    *,
    row_valid: Bool[Tensor, "B r"] | None = None,
    valid: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L"]:
    """The most attention, mean over heads, that any valid one of the chosen rows pays to each key; causal.

    Cost: r x L x H x d, memory r x L. Raises InvalidValue when Hk does not divide H.
    Source: MustDrop (arXiv 2411.10803).
    """
    paid = q.new_zeros(*rows.shape, k.shape[2], dtype=torch.float32)
    for _, part, p in _of_rows(q, k, rows, scale, valid, True):
        paid[:, part] += p.sum(1)
        del p  # before the next block exists
    if row_valid is not None:
        paid.masked_fill_(~row_valid[..., None], 0)
    return paid.amax(1) / q.shape[1]


def last_query_attention(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B Hk L d"],
    scale: float,
    *,
    valid: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L"]:
    """Attention that the last query row pays to each key, mean over heads; sums to 1.

    The last row sees every key, so Q may be anything from 1 to L. Cost: L x H x d. Raises InvalidValue when Hk does not
    divide H. Source: FastV (arXiv 2403.06764, released code: the last row), PyramidDrop (arXiv 2410.17247).
    """
    groups = _groups(q, k)
    b, h = q.shape[:2]
    paid = q.new_zeros(b, h, k.shape[2], dtype=torch.float32)
    for heads, keys in _head_blocks(k.device, b, h, groups, 1, k.shape[2]):
        logits = _logits(q[:, heads, -1:].float() * scale, k[:, keys].float())
        paid[:, heads] = _softmax_(_mask_(logits, valid))[:, :, 0]
    return paid.mean(1)


def pooled_query_attention(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B Hk L d"],
    scale: float,
    members: Bool[Tensor, "B L"],
) -> Float[Tensor, "B L"]:
    """Attention that the mean query of the members pays to the keys of the members, mean over heads; sums to 1.

    A row without members gets zeros. Cost: L x H x d. Raises InvalidValue when Hk does not divide H.
    Source: PACT (arXiv 2504.08966), which takes q and k before RoPE.
    """
    groups = _groups(q, k)
    b, h, n, d = q.shape
    share = (members / members.sum(1, keepdim=True).clamp(min=1))[:, None, :, None]
    paid = q.new_zeros(b, h, n, dtype=torch.float32)
    for heads, keys in _head_blocks(k.device, b, h, groups, d, n):
        mean = (q[:, heads].float() * share).sum(2, keepdim=True)
        logits = _logits(mean * scale, k[:, keys].float())
        paid[:, heads] = _softmax_(_mask_(logits, members))[:, :, 0]
    return paid.mean(1)


def received_attention(
    q: Float[Tensor, "B H L d"],
    k: Float[Tensor, "B Hk L d"],
    scale: float,
    *,
    valid: Bool[Tensor, "B L"] | None = None,
    causal: bool = False,
    chunk: int = 256,
) -> Float[Tensor, "B L"]:
    """Attention each key receives, mean over heads and over the valid queries; sums to 1 over L.

    Cost: L x L x H x d (half of it under `causal`), memory chunk x L. Raises InvalidValue when Hk does not divide H or
    chunk < 1. Source: the column mean that stands in for a CLS row, as in HiPrune (arXiv 2508.00553).
    """
    groups = _groups(q, k)
    _check_chunk(chunk)
    b, h, n, _ = q.shape
    rows = q.new_ones(b, n, dtype=torch.bool) if valid is None else valid
    weight = rows / rows.sum(1, keepdim=True).clamp(min=1)
    received = q.new_zeros(b, h, n, dtype=torch.float32)
    for heads, keys in _head_blocks(k.device, b, h, groups, min(chunk, n), n):
        qq, kk = q[:, heads], k[:, keys].float()
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            p = _chunk_attention(qq[:, :, start:stop].float() * scale, kk, start, valid, causal)
            received[:, heads, : p.shape[-1]] += p.mul_(weight[:, None, start:stop, None]).sum(2)
            del p  # before the next block exists
    return received.mean(1)


def mean_key(k: Float[Tensor, "B Hk L d"]) -> Float[Tensor, "B L d"]:
    """Keys averaged over heads, in the dtype of the keys: the metric VisionZip (arXiv 2412.04467) merges by."""
    return k.mean(1, dtype=torch.float32).to(k.dtype)


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
    chunk: int = 256,
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
    groups = _groups(q, k)
    _check_chunk(chunk)
    _check_pagerank(temperature, iterations, damping)
    b, h, n, _ = q.shape
    uniform = _uniform(b, n, valid, q.device)
    walk = _walk_once if causal else _walk_again
    rank = q.new_zeros(b, h, n, dtype=torch.float32)
    for heads, keys in _head_blocks(k.device, b, h, groups, min(chunk, n), n):
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
    m = _softmax_(_mask_(logits.clone(), valid))
    uniform = _uniform(b, n, valid, logits.device)[:, None, None]
    s = uniform.expand(-1, h, -1, -1)
    for _ in range(iterations):
        s = (1 - damping) * (s @ m) + damping * uniform
    return s[:, :, 0].square().mean(1).sqrt()


def causal_area(n: int, chunk: int = 256) -> int:
    """Logits that a causal walk over n rows computes: every chunk of rows up to the column of its last."""
    return sum((min(start + chunk, n) - start) * min(start + chunk, n) for start in range(0, n, chunk))


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
        m = _chunk_attention(q[:, :, start:stop].float() * scale, k, start, valid, True)
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
            m = _chunk_attention(q[:, :, start:stop].float() * scale, k, start, valid, False)
            after += (1 - damping) * (s[:, :, None, start:stop] @ m)[:, :, 0]
            del m  # before the next block exists
        s = after
    return s


def _chunk_attention(
    q: Float[Tensor, "B h c d"],
    k: Float[Tensor, "B hk L d"],
    start: int,
    valid: Bool[Tensor, "B L"] | None,
    causal: bool,
) -> Float[Tensor, "B h c m"]:
    """Softmax rows of the scaled queries start .. start + c - 1; under `causal` without the columns after the chunk."""
    c = q.shape[2]
    if not causal:
        if valid is None:  # no row can be empty: torch's fused softmax will do, and is half again as fast
            return _logits(q, k).softmax(-1)
        return _softmax_(_mask_(_logits(q, k), valid))
    logits = _logits(q, k[:, :, : start + c])
    future = torch.ones(c, c, dtype=torch.bool, device=q.device).triu(1)
    logits[..., start:].masked_fill_(future, -torch.inf)
    return _softmax_(_mask_(logits, valid))


def _logits(q: Float[Tensor, "B h r d"], k: Float[Tensor, "B hk m d"]) -> Float[Tensor, "B h r m"]:
    """q k^T with the query heads of one key head stacked as rows."""
    b, h, r, d = q.shape
    hk, m = k.shape[1:3]
    return (q.reshape(b, hk, h // hk * r, d) @ k.transpose(-1, -2)).view(b, h, r, m)


def _mask_(logits: Float[Tensor, "B h r m"], valid: Bool[Tensor, "B L"] | None) -> Float[Tensor, "B h r m"]:
    """The logits with invalid columns at -inf, in place."""
    return logits if valid is None else logits.masked_fill_(~valid[:, None, None, : logits.shape[-1]], -torch.inf)


def _softmax_(logits: Float[Tensor, "*s m"]) -> Float[Tensor, "*s m"]:
    """Softmax over the last axis in place, so that no second block exists; a row of -inf becomes zeros."""
    logits -= logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    logits.exp_()
    logits /= logits.sum(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
    return logits


def _uniform(b: int, n: int, valid: Bool[Tensor, "B N"] | None, device: torch.device) -> Float[Tensor, "B N"]:
    """1/N at the valid tokens of each row, 0 elsewhere."""
    if valid is None:
        return torch.full((b, n), 1 / n, device=device)
    return valid / valid.sum(1, keepdim=True).clamp(min=1)


def _head_blocks(
    device: torch.device, b: int, h: int, groups: int, rows: int, columns: int
) -> Iterator[tuple[slice, slice]]:
    """Slices of query heads, each with its key heads, of about a block of logits: whole groups, or part of one."""
    fit = max(1, BLOCK.get(device.type, ROOM) // (b * rows * columns))
    if fit >= groups:
        step = fit // groups
        for key in range(0, h // groups, step):
            stop = min(key + step, h // groups)
            yield slice(key * groups, stop * groups), slice(key, stop)
        return
    for key in range(h // groups):
        for head in range(key * groups, (key + 1) * groups, fit):
            yield slice(head, min(head + fit, (key + 1) * groups)), slice(key, key + 1)


def _groups(q: Float[Tensor, "B H Q d"], k: Float[Tensor, "B Hk L d"]) -> int:
    """Query heads per key head."""
    if q.shape[1] % k.shape[1]:
        raise InvalidValue(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads; it must divide evenly")
    return q.shape[1] // k.shape[1]


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise InvalidValue(f"chunk must be at least 1, got {chunk}")


def _check_pagerank(temperature: float, iterations: int, damping: float) -> None:
    if not (temperature > 0 and iterations >= 1 and 0 <= damping < 1):
        raise InvalidValue(
            "pagerank needs temperature > 0, iterations >= 1 and damping in [0, 1), "
            f"got {temperature}, {iterations}, {damping}"
        )
