"""Tubes: what stays at its place over the frames of a window becomes one token, then tokens join centres near them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .groups import group_sizes, top_in_groups
from .merge import Merged
from .peaks import nearest_peak, peak_scores
from .quota import largest_remainder
from .rows import rows_of
from .select import unit
from .sums import group_sum


def stays_put(x: Float[Tensor, "B F N D"], threshold: float) -> Bool[Tensor, "B f N"]:
    """Whether each place looks as in the frame before: cosine above the threshold, for the F - 1 transitions."""
    u = unit(x)
    return (u[:, 1:] * u[:, :-1]).sum(3) > threshold


def alike_throughout(x: Float[Tensor, "B F N D"], first: Int[Tensor, "B F"], threshold: float) -> Bool[Tensor, "B F N"]:
    """Whether a place looks alike in all frames of its segment: mean cosine over pairs above the threshold.

    None in segments of one frame, which has no pairs. The mean over pairs is (|sum u|^2 - W) / (W (W - 1)) for W unit
    vectors u. `first` is the first frame of each frame's segment. Source: PruneVid (arXiv 2412.16117).
    """
    b, f, n, d = x.shape
    u = unit(x).flatten(2)
    total = torch.zeros_like(u).scatter_add(1, first[..., None].expand_as(u), u).view(b, f, n, d)
    frames = group_sizes(first, f)[..., None].float()
    pairs = (total.square().sum(3) - frames) / (frames * (frames - 1)).clamp(min=1)
    alike = (pairs > threshold) & (frames > 1)
    return rows_of(alike, first)


def tube_merge(
    x: Float[Tensor, "B F N D"],
    first: Int[Tensor, "B F"],
    static: Bool[Tensor, "B F N"],
    count: int,
    *,
    score: Float[Tensor, "B F N"] | None,
    neighbours: int,
    own: float | None,
) -> Merged:
    """Exactly `count` tokens of a video: tubes and the tokens that move, each frame's share in proportion to its size.

    A tube is the mean of a static place over its window, at the window's first frame. The tubes of a window are thinned
    to density peaks, each the mean of itself and of the tubes nearest to it: its own part is `own`, or that of one
    among all (None). The moving tokens of a frame are thinned the same way, or, with a `score`, to the best ones, and
    the others are dropped. Shares are in proportion to what there is, by largest remainder. If the tubes leave fewer
    tokens than `count`, tokens that went into a tube come back as they were, again in proportion (the best, or the
    first).
    Cost: F x N x N x D. Source: HoliTom (arXiv 2505.21334), PruneVid (arXiv 2412.16117).
    """
    b, f, n, d = x.shape
    frame = torch.arange(f, device=x.device)[None, :, None].expand(b, f, n)
    place = torch.arange(n, device=x.device)
    begin = torch.where(static, first[..., None], frame)
    holder = (begin * n + place).flatten(1)  # the token that stands for each token's tube
    total, size = group_sum(x.flatten(1, 2), holder, f * n)
    tubes = (total / size.clamp(min=1)[..., None]).view(b, f, n, d)
    # candidates: tubes (0 .. F), tokens that move (F .. 2F), tokens inside a tube (2F .. 3F)
    is_tube, moves = static & (frame == begin), ~static
    group = (frame + torch.where(is_tube, 0, torch.where(moves, f, 2 * f))).flatten(1)
    peaks = peak_scores(tubes.flatten(0, 1), is_tube.flatten(0, 1), neighbours).view(b, f, n)
    drops = score is not None
    if score is None:
        moving = peak_scores(x.flatten(0, 1), moves.flatten(0, 1), neighbours).view(b, f, n)
        score = torch.where(moves, moving, 0.0)
    ranked = torch.where(is_tube, peaks, score.float()).flatten(1)
    kept = top_in_groups(ranked, group, _quota(group_sizes(group, 3 * f), count, f), count)
    chosen = torch.zeros_like(holder, dtype=torch.bool).scatter(1, kept, True).view(b, f, n)
    into = nearest_peak(tubes.flatten(0, 1), (chosen & is_tube).flatten(0, 1)).view(b, f, n)
    into = torch.where(is_tube, into, -1)
    if not drops:
        near = nearest_peak(x.flatten(0, 1), (chosen & moves).flatten(0, 1)).view(b, f, n)
        into = torch.where(moves, near, into)
    into = torch.where(chosen, place, into)
    into = torch.where(into < 0, into, into + frame * n).flatten(1)
    return _joined(torch.where(is_tube[..., None], tubes, x).flatten(1, 2), kept, holder, into, own)


def _joined(
    x: Float[Tensor, "B N D"],
    kept: Int[Tensor, "B T"],
    holder: Int[Tensor, "B N"],
    into: Int[Tensor, "B N"],
    own: float | None,
) -> Merged:
    """Survivors as means with what joins them; tokens inside a tube go where its holder goes but join nothing."""
    t = kept.shape[1]
    rank = torch.arange(t, device=x.device).expand_as(kept)
    rank_of = torch.full_like(holder, -1).scatter(1, kept, rank)
    goes = torch.where(into < 0, -1, rank_of.gather(1, into.clamp(min=0)))
    joins = goes.scatter(1, kept, -1)  # a survivor does not join itself
    members, number = group_sum(x, joins, t)
    centre = rows_of(x.float(), kept)
    share = 1 / (number + 1) if own is None else torch.where(number > 0, own, 1.0)
    mean = members / number.clamp(min=1)[..., None]
    features = share[..., None] * centre + (1 - share[..., None]) * mean
    source = torch.where(goes >= 0, goes, goes.gather(1, holder))
    size = torch.zeros(kept.shape[0], t + 1, device=x.device)
    size.scatter_add_(1, source + 1, torch.ones_like(size[:, :1]).expand_as(source))
    return Merged(kept, source, size[:, 1:], features.to(x.dtype), rank)


def _quota(size: Int[Tensor, "B G"], count: int, frames: int) -> Int[Tensor, "B G"]:
    """Shares of tubes and moving tokens, and of what went into tubes once those are all kept."""
    some, inside = size[:, : 2 * frames], size[:, 2 * frames :]
    first = some.sum(1).clamp(max=count)
    shares = (largest_remainder(s.float(), n, s) for s, n in ((some, first), (inside, count - first)))
    return torch.cat(list(shares), dim=1)
