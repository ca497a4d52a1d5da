"""Attention read-outs from post-RoPE q and k: only the rows that are needed, never heads x N x N.

All take q [B, H, Q, d] and k [B, Hk, L, d] where Hk divides H (grouped-query attention: the query heads that share a
key head are stacked as rows, so keys are never repeated), and return float32 whatever the dtype. `scale` multiplies the
logits. `valid` marks the real columns of a padded row: the others get no attention. A row of which every key is masked
contributes zeros, never NaN. Softmax runs in blocks of heads of 4 MB (CPU) or 32 MB, so memory grows with chunk x L.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .rows import rows_of

BLOCK = {"cpu": 2**20}
"""Logits computed at a time, by the device, where one head of one chunk allows it: 4 MB in float32, the fastest on CPUs
(fewer cost calls, more fall out of the cache); see ROOM for others."""
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
    return rows_of(paid, most).mean(1)


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
    groups = group_size(q, k)
    b, h, _, d = q.shape
    chunk = min(256, max(1, rows.shape[1]))
    for heads, keys in head_blocks(k.device, b, h, groups, chunk, k.shape[2]):
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
            yield heads, part, softmax_(mask_(logits, valid))
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
    groups = group_size(q, k)
    b, h = q.shape[:2]
    paid = q.new_zeros(b, h, k.shape[2], dtype=torch.float32)
    for heads, keys in head_blocks(k.device, b, h, groups, 1, k.shape[2]):
        logits = _logits(q[:, heads, -1:].float() * scale, k[:, keys].float())
        paid[:, heads] = softmax_(mask_(logits, valid))[:, :, 0]
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
    groups = group_size(q, k)
    b, h, n, d = q.shape
    share = (members / members.sum(1, keepdim=True).clamp(min=1))[:, None, :, None]
    paid = q.new_zeros(b, h, n, dtype=torch.float32)
    for heads, keys in head_blocks(k.device, b, h, groups, d, n):
        mean = (q[:, heads].float() * share).sum(2, keepdim=True)
        logits = _logits(mean * scale, k[:, keys].float())
        paid[:, heads] = softmax_(mask_(logits, members))[:, :, 0]
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
    groups = group_size(q, k)
    check_chunk(chunk)
    b, h, n, _ = q.shape
    rows = q.new_ones(b, n, dtype=torch.bool) if valid is None else valid
    weight = rows / rows.sum(1, keepdim=True).clamp(min=1)
    received = q.new_zeros(b, h, n, dtype=torch.float32)
    if not causal:
        chunk = min(chunk, max(32, _room(k.device) // (b * n)))
    plain = _exp_is_safe(q, k, scale)
    for heads, keys in head_blocks(k.device, b, h, groups, min(chunk, n), n):
        qq, kk = q[:, heads], k[:, keys].float()
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            p = _chunk_logits(qq[:, :, start:stop].float() * scale, kk, start, valid, causal)
            share = weight[:, None, start:stop]
            if plain:
                p.exp_()
                share = share / p.sum(-1).clamp(min=torch.finfo(p.dtype).tiny)
            else:
                p = p.softmax(-1)
            received[:, heads, : p.shape[-1]] += (share[:, :, None] @ p)[:, :, 0]
            del p  # before the next block exists
    return received.mean(1)


def mean_key(k: Float[Tensor, "B Hk L d"]) -> Float[Tensor, "B L d"]:
    """Keys averaged over heads, in the dtype of the keys: the metric VisionZip (arXiv 2412.04467) merges by."""
    return k.mean(1, dtype=torch.float32).to(k.dtype)


def causal_area(n: int, chunk: int = 256) -> int:
    """Logits that a causal walk over n rows computes: every chunk of rows up to the column of its last."""
    return sum((min(start + chunk, n) - start) * min(start + chunk, n) for start in range(0, n, chunk))


def chunk_attention(
    q: Float[Tensor, "B h c d"],
    k: Float[Tensor, "B hk L d"],
    start: int,
    valid: Bool[Tensor, "B L"] | None,
    causal: bool,
) -> Float[Tensor, "B h c m"]:
    """Softmax rows of the scaled queries start .. start + c - 1; under `causal` without the columns after the chunk."""
    return _chunk_logits(q, k, start, valid, causal).softmax(-1)


def _chunk_logits(
    q: Float[Tensor, "B h c d"],
    k: Float[Tensor, "B hk L d"],
    start: int,
    valid: Bool[Tensor, "B L"] | None,
    causal: bool,
) -> Float[Tensor, "B h c m"]:
    """Masked logits of the scaled queries start .. start + c - 1; under `causal` without the columns after the chunk.

    Invalid keys are the lowest finite number: a row that has no others is no valid row and weighs nothing, but must not
    become NaN, as -inf would in torch's softmax (which is twice as fast as its parts).
    """
    c = q.shape[2]
    logits = _logits(q, k[:, :, : start + c] if causal else k)
    if causal:
        future = torch.ones(c, c, dtype=torch.bool, device=q.device).triu(1)
        logits[..., start:].masked_fill_(future, -torch.inf)
    return mask_(logits, valid, torch.finfo(logits.dtype).min)


def _exp_is_safe(q: Float[Tensor, "B H L d"], k: Float[Tensor, "B Hk L d"], scale: float) -> bool:
    """Whether no logit can overflow exp, and no row of them its sum, so that the maximum need not be taken off first.

    On a CPU that saves a third of the time; a GPU's softmax is one kernel, and asking it for a number costs more.
    """
    if k.device.type != "cpu":
        return False
    longest = [torch.linalg.vector_norm(x.float(), dim=-1).amax() for x in (q, k)]
    return bool(longest[0] * longest[1] * scale <= 70)  # the product bounds every logit; float32 ends at exp(88)


def _logits(q: Float[Tensor, "B h r d"], k: Float[Tensor, "B hk m d"]) -> Float[Tensor, "B h r m"]:
    """q k^T with the query heads of one key head stacked as rows."""
    b, h, r, d = q.shape
    hk, m = k.shape[1:3]
    return (q.reshape(b, hk, h // hk * r, d) @ k.transpose(-1, -2)).view(b, h, r, m)


def mask_(
    logits: Float[Tensor, "B h r m"], valid: Bool[Tensor, "B L"] | None, low: float = -torch.inf
) -> Float[Tensor, "B h r m"]:
    """The logits with invalid columns at `low`, in place."""
    return logits if valid is None else logits.masked_fill_(~valid[:, None, None, : logits.shape[-1]], low)


def softmax_(logits: Float[Tensor, "*s m"]) -> Float[Tensor, "*s m"]:
    """Softmax over the last axis in place, so that no second block exists; a row of -inf becomes zeros."""
    logits -= logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    logits.exp_()
    logits /= logits.sum(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
    return logits


def head_blocks(
    device: torch.device, b: int, h: int, groups: int, rows: int, columns: int
) -> Iterator[tuple[slice, slice]]:
    """Slices of query heads, each with its key heads, of about a block of logits: whole groups, or part of one."""
    fit = max(1, _room(device) // (b * rows * columns))
    if fit >= groups:
        step = fit // groups
        for key in range(0, h // groups, step):
            stop = min(key + step, h // groups)
            yield slice(key * groups, stop * groups), slice(key, stop)
        return
    for key in range(h // groups):
        for head in range(key * groups, (key + 1) * groups, fit):
            yield slice(head, min(head + fit, (key + 1) * groups)), slice(key, key + 1)


def _room(device: torch.device) -> int:
    return BLOCK.get(device.type, ROOM)


def group_size(q: Float[Tensor, "B H Q d"], k: Float[Tensor, "B Hk L d"]) -> int:
    """Query heads per key head."""
    if q.shape[1] % k.shape[1]:
        raise InvalidValue(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads; it must divide evenly")
    return q.shape[1] // k.shape[1]


def check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise InvalidValue(f"chunk must be at least 1, got {chunk}")
