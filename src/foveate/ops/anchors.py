"""Anchors: chosen tokens of chosen frames that draw in the others of their segment."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .merge import Merged
from .rows import rows_of
from .select import unit


def join_every_anchor_frame(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    receives: Bool[Tensor, "B T"],
    first: Int[Tensor, "B F"],
    places: int,
    own: float,
    *,
    chunk: int = 1024,
) -> Merged:
    """Every dropped token joins, in each anchor frame of its segment, the receiving survivor most like it by cosine.

    A token so joins as many survivors as its segment has anchor frames. With m joined, a survivor becomes w of itself
    and 1 - w of their mean, w = max(own, 1 / (m + 1)). `source` is the most similar of those a token joined, -1 where
    its segment has no receiving survivor. `first` is the first frame of each frame's segment, `places` the tokens of a
    frame. Ties go to the lower rank. Cost: 2 x N x T x D, memory chunk x T. Source: FastVID (arXiv 2503.11187).
    """
    b, n, d = x.shape
    t, f = kept.shape[1], first.shape[1]
    u, wide = unit(x), x.float()
    targets = rows_of(u, kept).transpose(1, 2)
    frame = kept // places
    segment_of_target = first.gather(1, frame)
    dropped = torch.ones(b, n, dtype=torch.bool, device=x.device).scatter(1, kept, False)
    rank = torch.arange(t, device=x.device)
    total, number = wide.new_zeros(b, t, d), wide.new_zeros(b, t)
    source = []
    for start in range(0, n, chunk):
        here = torch.arange(start, min(start + chunk, n), device=x.device)
        cosine = u[:, here] @ targets
        allowed = receives[:, None] & (first[:, here // places, None] == segment_of_target[:, None])
        cosine = cosine.masked_fill_(~(allowed & dropped[:, here, None]), -torch.inf)
        of_frame = frame[:, None].expand_as(cosine)
        best = cosine.new_full((b, len(here), f), -torch.inf).scatter_reduce(2, of_frame, cosine, "amax")
        is_best = (cosine == best.gather(2, of_frame)) & cosine.isfinite()
        lowest = torch.full((b, len(here), f), t, device=x.device)
        lowest = lowest.scatter_reduce(2, of_frame, torch.where(is_best, rank, t), "amin")
        joins = (rank == lowest.gather(2, of_frame)).float()
        total += joins.transpose(1, 2) @ wide[:, here]
        number += joins.sum(1)
        top = cosine.amax(2, keepdim=True)
        nearest = torch.where(cosine == top, rank, t).amin(2).clamp(max=t - 1)
        source.append(torch.where(top[..., 0].isinf(), -1, nearest))
    sources = torch.cat(source, dim=1).scatter(1, kept, rank.expand_as(kept))
    centre = rows_of(wide, kept)
    share = torch.where(number > 0, (1 / (number + 1)).clamp(min=own), 1.0)[..., None]
    features = share * centre + (1 - share) * total / number.clamp(min=1)[..., None]
    size = torch.zeros(b, t + 1, device=x.device).scatter_add_(1, sources + 1, torch.ones(b, n, device=x.device))
    return Merged(kept, sources, size[:, 1:], features.to(x.dtype), rank.expand_as(kept))
