"""Trees through time: each token may hang on the most similar one of the frame before; a tree becomes one token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .groups import top_in_groups
from .merge import Merged
from .peaks import nearest_peak, peak_scores
from .quota import largest_remainder
from .select import unit
from .sums import group_sum


def strongest_links(
    x: Float[Tensor, "B F N D"], first: Int[Tensor, "B F"], free: Bool[Tensor, "B F N"]
) -> tuple[Int[Tensor, "B F N"], Float[Tensor, "B F N"]]:
    """For each token the place of the free token of the frame before that is most similar, and that cosine.

    Minus infinity for tokens that are not free and at the first frame of a segment (`first` tells it for each frame).
    Ties go to the lower place. Cost: F x N x N x D, memory B x N x N. Source: FlashVID.
    """
    b, f, n, _ = x.shape
    u = unit(x)
    parent = torch.zeros(b, f, n, dtype=torch.long, device=x.device)
    strength = torch.full((b, f, n), -torch.inf, device=x.device)
    place = torch.arange(n, device=x.device)
    for t in range(1, f):
        cosine = (u[:, t] @ u[:, t - 1].transpose(1, 2)).masked_fill(~free[:, t - 1, None], -torch.inf)
        best = cosine.amax(2)
        parent[:, t] = torch.where(cosine == best[..., None], place, n).amin(2).clamp(max=n - 1)
        linked = free[:, t] & (first[:, t] < t)[:, None]
        strength[:, t] = torch.where(linked, best, -torch.inf)
    return parent, strength


def roots_of(
    parent: Int[Tensor, "B F N"], strength: Float[Tensor, "B F N"], threshold: float, most: Int[Tensor, " B"]
) -> Int[Tensor, "B M"]:
    """The root, in raster order of all frames, of each token's tree when the strongest links are made.

    Links above the threshold are made, the strongest first, at most `most` of them in each row; ties go to the earlier
    token.
    """
    b, f, n = parent.shape
    flat = strength.flatten(1)
    rank = flat.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    made = (flat > threshold) & (rank < most[:, None])
    here = torch.arange(f * n, device=parent.device).expand(b, -1)
    frame = here // n
    root = torch.where(made, (frame - 1) * n + parent.flatten(1), here)
    for _ in range(f.bit_length()):  # follow the links, twice as far each time
        root = root.gather(1, root)
    return root


def grow_trees(
    x: Float[Tensor, "B F N D"],
    first: Int[Tensor, "B F"],
    picked: Bool[Tensor, "B F N"],
    threshold: float,
    count: int,
    neighbours: int,
) -> Merged:
    """The picked tokens as they are, and of the others exactly count - picked means of trees, clustered where needed.

    Tokens that were not picked hang on the most similar one of the frame before, above the threshold, as long as enough
    roots are left; a root becomes the mean of its tree. Where more roots are left than the count allows, each frame's
    are thinned to density peaks, in proportion to how many it has and at least one where possible; a peak becomes the
    mean of the roots nearest to it. Picks must be equally many in every row. Cost: 3 x F x N x N x D.
    Source: FlashVID (arXiv 2602.08024).
    """
    b, f, n, d = x.shape
    free = ~picked
    others = f * n - int(picked[0].sum()) if b else 0
    wanted = count - (f * n - others)
    parent, strength = strongest_links(x, first, free)
    most = torch.full((b,), others - wanted, device=x.device)
    root = roots_of(parent, strength, threshold, most)
    total, size = group_sum(x.flatten(1, 2), root, f * n)
    trees = (total / size.clamp(min=1)[..., None]).view(b, f, n, d)
    here = torch.arange(f * n, device=x.device).expand(b, -1)
    is_root = (root == here).view(b, f, n) & free
    frame = here // n
    held = is_root.sum(2)
    quota = largest_remainder(held.float(), wanted, held, min(1, wanted // f))
    peaks = peak_scores(trees.flatten(0, 1), is_root.flatten(0, 1), neighbours).view(b, f * n)
    centres = top_in_groups(peaks, frame, quota, wanted) if wanted else here[:, :0]
    is_centre = torch.zeros_like(root, dtype=torch.bool).scatter(1, centres, True)
    into = nearest_peak(trees.flatten(0, 1), is_centre.view(b * f, n)).view(b, f * n)
    into = torch.where(is_root.flatten(1) & (into >= 0), into + frame * n, torch.where(is_root.flatten(1), -1, here))
    kept = (~(is_centre | picked.flatten(1))).int().sort(dim=1, stable=True).indices[:, :count]
    goes = into.gather(1, root)  # a token goes where its root goes; a picked one is its own root
    rank = torch.arange(count, device=x.device).expand(b, -1)
    rank_of = torch.full_like(root, -1).scatter(1, kept, rank)
    source = torch.where(goes < 0, -1, rank_of.gather(1, goes.clamp(min=0)))
    joins = torch.where(is_root.flatten(1) | picked.flatten(1), source, -1)
    sums, number = group_sum(torch.where(is_root[..., None], trees, x).flatten(1, 2), joins, count)
    counted = torch.zeros(b, count + 1, device=x.device).scatter_add_(1, source + 1, torch.ones_like(here).float())
    return Merged(kept, source, counted[:, 1:], (sums / number.clamp(min=1)[..., None]).to(x.dtype), rank)
