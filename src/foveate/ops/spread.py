"""Drops spread over the picture, and each dropped token spread over survivors that it attends to (FiCoCo)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .groups import group_sizes
from .merge import Merged
from .rows import rows_of


def mean_attention(q: Float[Tensor, "B H N d"], k: Float[Tensor, "B H N d"], scale: float) -> Float[Tensor, "B N N"]:
    """Attention that each token pays to each, mean over heads, without a mask; rows sum to 1.

    Heads have keys of their own, as in vision towers; one is done at a time. Cost: N x N x H x d, memory B x N x N.
    """
    mean = q.new_zeros(q.shape[0], q.shape[2], k.shape[2], dtype=torch.float32)
    for head in range(q.shape[1]):
        logits = (q[:, head].float() * scale) @ k[:, head].float().transpose(1, 2)
        mean += logits.softmax(-1)
    return mean.div_(q.shape[1])


def lower_weakest(score: Float[Tensor, "B N"], group: Int[Tensor, "B N"], groups: int) -> Float[Tensor, "B N"]:
    """Scores in which the lowest of each group is lower still: a positive one halved, a negative one doubled.

    Of equals the last. A token alone in its group is not lowered: where one is left, the next drops are to come from
    elsewhere. Source: FiCoCo (arXiv 2411.17686).
    """
    empty = score.new_zeros(score.shape[0], groups)
    lowest = empty.scatter_reduce(1, group, score, "amin", include_self=False).gather(1, group)
    index = torch.arange(score.shape[1], device=score.device).expand_as(group)
    candidates = torch.where(score == lowest, index, -1)
    last = torch.zeros_like(empty, dtype=index.dtype).scatter_reduce(1, group, candidates, "amax", include_self=False)
    weakest = (index == last.gather(1, group)) & (group_sizes(group, groups).gather(1, group) > 1)
    return torch.where(weakest, torch.where(score > 0, score / 2, score * 2), score)


def spread(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    attention: Float[Tensor, "B N N"],
    size: Float[Tensor, "B N"],
    quantile: float,
) -> Merged:
    """Each dropped token is shared out among the survivors that it pays most attention to.

    Those at or above this quantile of what it pays to all survivors (interpolated between ranks) are its targets, of
    equals the lower ranks; shares are the softmax of that attention over them. A survivor becomes the mean of itself
    and its shares, by the sizes that `size` gives; sizes are shared out alike, so that their sum stays. The largest
    share is the `source`. Cost: (N - T) x T x D. Raises InvalidValue unless 0 <= quantile <= 1.
    Source: FiCoCo (arXiv 2411.17686).
    """
    if not 0 <= quantile <= 1:
        raise InvalidValue(f"quantile must lie in [0, 1], got {quantile:g}")
    b, n, _ = x.shape
    t = kept.shape[1]
    rank = torch.arange(t, device=x.device).expand(b, t)
    source = kept.new_full((b, n), -1).scatter(1, kept, rank)
    gone = (source >= 0).int().sort(dim=1, stable=True).indices[:, : n - t]
    paid = rows_of(attention.float(), gone).gather(2, kept[:, None].expand(-1, n - t, -1))
    # 1e-9: 0.55 * 100 must count as 55, not as 55.00000000000001
    targets = t - math.ceil(quantile * (t - 1) - 1e-9)
    ranked = paid.sort(dim=2, descending=True, stable=True)
    share = ranked.values[..., :targets].softmax(2) * size.float().gather(1, gone)[..., None]
    shares = torch.zeros_like(paid).scatter(2, ranked.indices[..., :targets], share).transpose(1, 2)
    own = size.float().gather(1, kept)
    total = own + shares.sum(2)
    features = (own[..., None] * rows_of(x.float(), kept) + shares @ rows_of(x.float(), gone)) / total[..., None]
    source = source.scatter(1, gone, ranked.indices[..., 0])
    return Merged(kept, source, total, features.to(x.dtype), rank)
