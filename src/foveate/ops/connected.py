"""Connected components of a video: within frames first, then of what those leave, and every token to the nearest."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .linkage import components, single_linkage
from .merge import Merged
from .select import unit
from .spanning import spanning_edges
from .sums import group_sum


def connected_merge(x: Float[Tensor, "B F N D"], count: int, threshold: float, *, chunk: int = 1024) -> Merged:
    """Exactly `count` anchors: components of each frame, then components of their means, along the strongest edges.

    Within a frame tokens with a cosine above the threshold are joined, the strongest first and only while `count` can
    still be met; over all frames the means of those components are joined until `count` are left. An anchor is the mean
    of the means of its component; every token goes to the anchor most like it, and an anchor becomes the mean of itself
    and of them. Its representative is its first token, which stays with it. Cost: F x N x N x D and (F x N)^2 x D.
    Source: LLaVA-Scissor (arXiv 2506.21862), which thresholds both times and samples nodes.
    """
    b, f, n, _ = x.shape
    flat, nodes = x.flatten(1, 2), torch.arange(f * n, device=x.device).expand(b, -1)
    everyone = torch.ones(b * f, n, dtype=torch.bool, device=x.device)
    inside = spanning_edges(x.flatten(0, 1), everyone, chunk=chunk)
    offset = (torch.arange(f, device=x.device) * n).repeat(b)[:, None]
    u, v, strength = (e.reshape(b, -1) for e in ((inside[0] + offset), (inside[1] + offset), inside[2]))
    alike = components(u, v, strength > threshold, f * n)
    joins = (f * n - (alike == nodes).sum(1)).clamp(max=f * n - count)
    label = single_linkage(u, v, strength, joins, f * n)
    total, size = group_sum(flat, label, f * n)
    means = total / size.clamp(min=1)[..., None]
    is_mean = label == nodes
    across = spanning_edges(means, is_mean, chunk=chunk)
    joined = single_linkage(*across, is_mean.sum(1) - count, f * n)
    kept = torch.where(is_mean & (joined == nodes), 0, 1).sort(dim=1, stable=True).indices[:, :count]
    rank = torch.arange(count, device=x.device).expand(b, -1)
    rank_of = torch.full_like(nodes, -1).scatter(1, kept, rank)
    of = torch.where(is_mean, rank_of.gather(1, joined), -1)
    total, size = group_sum(means, of, count)
    anchors = total / size.clamp(min=1)[..., None]
    source = _nearest(flat, anchors, chunk).scatter(1, kept, rank)
    members, number = group_sum(flat, source, count)
    features = (anchors + members) / (number + 1)[..., None]
    return Merged(kept, source, number, features.to(x.dtype), rank)


def _nearest(x: Float[Tensor, "B N D"], anchors: Float[Tensor, "B T D"], chunk: int) -> Int[Tensor, "B N"]:
    """Index of the most similar anchor, the lowest of equals."""
    targets, rank = unit(anchors).transpose(1, 2), torch.arange(anchors.shape[1], device=x.device)
    found = []
    for part in torch.split(unit(x), chunk, dim=1):
        cosine = part @ targets
        found.append(torch.where(cosine == cosine.amax(2, keepdim=True), rank, len(rank)).amin(2))
    return torch.cat(found, dim=1)
