"""Boxes of one colour: a quadtree over each frame, its boxes linked over time, to an exact number (STTM)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InvalidValue
from .linkage import single_linkage
from .merge import Merged
from .select import check_count, unit
from .sums import group_sum


def quadtree_merge(
    x: Float[Tensor, "B N D"],
    t: int,
    h: int,
    w: int,
    count: int,
    *,
    likeness: float = 0.8,
    root: int = 1,
    weighted: bool = False,
) -> Merged:
    """A (t, h, w) grid merged into exactly `count` tokens: boxes within frames, then equal boxes of adjacent frames.

    Boxes: level by level 2 x 2 tokens become their mean (at an odd side the first row or column stands alone). From
    `root` levels below the whole frame downwards, a box is kept whole if its mean has a cosine of at least `likeness`
    with each of its parts, and otherwise looked at part by part (a box of one part is what that is). Links: boxes of
    adjacent frames of which one contains the other are joined in the order of their cosine, best first, until `count`
    clusters are left; the cosine of the last link is the threshold over time that the paper sets by hand. A cluster is
    the mean of its boxes (`weighted`: of their tokens), and its representative the first token of its first box.

    Where no links can make it exact, `likeness` gives way: up, where the boxes are fewer than `count`; down, where they
    would be too many with every link in place. What even that leaves over is joined with the box beside it, the most
    similar first. Ties go to the lower position. Cost: N x D, and log2 N rounds over 3 N links. Raises InvalidValue
    unless N = t * h * w, 1 <= count <= N, -1 <= likeness <= 1 and root >= 0. Source: STTM (arXiv 2507.07990).
    """
    n = x.shape[1]
    if n != t * h * w:
        raise InvalidValue(f"{n} tokens do not fill a grid of {t} x {h} x {w} = {t * h * w}")
    check_count(count, n)
    if not -1 <= likeness <= 1 or root < 0:
        raise InvalidValue(f"likeness must lie in [-1, 1] and root be at least 0, got {likeness} and {root}")
    frame = _Frame.of(t, h, w, root, x.device)
    tree = _Tree.of(x, frame)
    head, box, area = frame.boxes(tree.levels(tree.threshold(count, likeness)))
    index = torch.arange(n, device=x.device).expand_as(head)
    is_head = head == index
    a, b, like = tree.links(box)
    cluster = single_linkage(head[:, a], head[:, b], like, is_head.sum(1) - count, n).gather(1, head)
    stays = cluster == index
    kept = (~stays).long().sort(dim=1, stable=True).indices[:, :count]
    source = (stays.long().cumsum(1) - 1).gather(1, cluster)
    weight = (area if weighted else torch.ones_like(area))[..., None]
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    of_boxes = torch.where(is_head, source, -1)
    total, _ = group_sum(torch.cat([tree.mean[rows, box] * weight, weight], dim=2), of_boxes, count)
    _, size = group_sum(weight, source, count)
    rank = torch.arange(count, device=x.device).expand_as(kept)
    return Merged(kept, source, size, (total[..., :-1] / total[..., -1:]).to(x.dtype), rank)


@dataclass(frozen=True, eq=False)
class _Frame:
    """How a frame divides into boxes, from single tokens (level 0) to the root level; for each level and position:

    cell    the box it lies in; `around` gives for each box of a level but the last the one it lies in
    corner  the first position of that box
    area    how many positions the box has
    first   where the boxes of a level begin, those of all levels and frames laid end to end
    """

    t: int
    h: int
    w: int
    cell: Int[Tensor, "levels n"]
    corner: Int[Tensor, "levels n"]
    area: Int[Tensor, "levels n"]
    around: list[Tensor]
    first: tuple[int, ...]

    @classmethod
    def of(cls, t: int, h: int, w: int, root: int, device: torch.device) -> _Frame:
        """Sides halve until one token is left; an odd one leaves its first row or column alone."""
        rows, columns, sides = [torch.arange(h)], [torch.arange(w)], [(h, w)]
        while sides[-1] != (1, 1):
            r, c = sides[-1]
            rows.append((rows[-1] + r % 2) // 2)
            columns.append((columns[-1] + c % 2) // 2)
            sides.append(((r + 1) // 2, (c + 1) // 2))
        sides = sides[: max(1, len(sides) - root)]
        cell = torch.stack([(y[:, None] * n + x).flatten() for y, x, (_, n) in zip(rows, columns, sides, strict=False)])
        corner = torch.full_like(cell, h * w).scatter_reduce(1, cell, torch.arange(h * w).expand_as(cell), "amin")
        area = torch.zeros_like(cell).scatter_add(1, cell, torch.ones_like(cell))
        around = [
            torch.zeros(r * c, dtype=torch.long).scatter(0, inner, outer).to(device)
            for (r, c), (inner, outer) in zip(sides, pairwise(cell), strict=False)
        ]
        first = tuple(accumulate((t * r * c for r, c in sides), initial=0))
        corner, area = (at.gather(1, cell).to(device) for at in (corner, area))
        return cls(t, h, w, cell.to(device), corner, area, around, first)

    def boxes(self, level: Int[Tensor, "B N"]) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"], Float[Tensor, "B N"]]:
        """For each position the first one of its box, which of all boxes that is, and how many tokens it has."""
        frame = torch.arange(self.t, device=level.device)[:, None]
        head = self.corner[:, None] + frame * (self.h * self.w)
        cells = [(end - start) // self.t for start, end in pairwise(self.first)]
        box = torch.stack([c + frame * n + at for c, n, at in zip(self.cell, cells, self.first, strict=False)])
        area = self.area[:, None].expand_as(box)
        position = torch.arange(level.shape[1], device=level.device)
        head, box, area = (table.flatten(1)[level, position] for table in (head, box, area))
        return head, box, area.float()


@dataclass(frozen=True, eq=False)
class _Tree:
    """The boxes of all frames.

    mean    features of each box, level after level, frame after frame; `unit` the same at unit length
    closes  of each level from 1 up the likeness up to which each box is kept whole, or lies in one that is
    """

    frame: _Frame
    mean: Float[Tensor, "B M D"]
    unit: Float[Tensor, "B M D"]
    closes: list[Tensor]

    @classmethod
    def of(cls, x: Float[Tensor, "B N D"], frame: _Frame) -> _Tree:
        """All means, and how alike the parts of each box are."""
        mean = [x.float().reshape(x.shape[0], frame.t, frame.h, frame.w, -1)]
        closes: list[Tensor] = []
        alike = torch.full_like(mean[0][..., 0], torch.inf)
        for _ in frame.around:
            parent, alike = _pooled(mean[-1], alike)
            mean.append(parent)
            closes.append(alike.flatten(2))
        for i in reversed(range(len(closes) - 1)):  # what lies in a box that is kept whole is not looked at
            closes[i] = torch.maximum(closes[i], closes[i + 1][..., frame.around[i + 1]])
        table = torch.cat([m.flatten(1, 3) for m in mean], dim=1)
        return cls(frame, table, unit(table), closes)

    def threshold(self, count: int, likeness: float) -> Float[Tensor, "B 1"]:
        """The likeness nearest to the given one at which links can bring the boxes down to `count`.

        With every link in place there are as many clusters as boxes in one frame whose boxes are as whole as they are
        in any frame.
        """
        if not self.closes:
            return torch.full_like(self.mean[:, :1, 0], torch.inf)
        n = self.frame.h * self.frame.w
        at, clusters = self._numbers([c.amax(1, keepdim=True) for c in self.closes], n)
        low = torch.where(clusters <= count, at, at[:, :1]).amax(1, keepdim=True)
        at, boxes = self._numbers(self.closes, self.frame.t * n)
        high = torch.where(boxes >= count, at, torch.inf).amin(1, keepdim=True)
        return torch.maximum(low.clamp(max=likeness), high)

    def _numbers(self, closes: list[Tensor], tokens: int) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B C"]]:
        """Every likeness at which the number of boxes changes, ascending, and the number up to it.

        A box counts if it is whole and the one around it is not.
        """
        own = torch.cat([c.flatten(1) for c in closes], dim=1).sort(dim=1).values
        outer = torch.cat([c[..., a].flatten(1) for c, a in zip(closes, self.frame.around, strict=True)], dim=1)
        outer = outer.sort(dim=1).values
        at = torch.cat([own, torch.full_like(own[:, :1], torch.inf)], dim=1)
        whole, hidden = (c.shape[1] - torch.searchsorted(c, at) for c in (own, outer))
        return at, tokens + whole - hidden

    def levels(self, threshold: Float[Tensor, "B 1"]) -> Int[Tensor, "B N"]:
        """The level of the box that each position lies in."""
        f = self.frame
        level = torch.zeros(self.mean.shape[0], f.t * f.h * f.w, dtype=torch.long, device=self.mean.device)
        for closes, cell in zip(self.closes, f.cell[1:], strict=True):
            level += closes[..., cell].flatten(1) >= threshold
        return level

    def links(
        self, box: Int[Tensor, "B N"], chunk: int = 1024
    ) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"], Float[Tensor, "B E"]]:
        """Pairs of positions whose boxes meet, and how alike those are: over time, then side by side (4 less).

        Boxes of one quadtree lie apart or one in the other: where one contains the other, they share a position.
        """
        f = self.frame
        at = torch.arange(box.shape[1], device=box.device).view(f.t, f.h, f.w)
        pairs = [(at[:-1], at[1:]), (at[:, :, :-1], at[:, :, 1:]), (at[:, :-1], at[:, 1:])]
        a, b = (torch.cat([p[i].flatten() for p in pairs]) for i in (0, 1))
        rows = torch.arange(box.shape[0], device=box.device)[:, None]
        like = [self.mean.new_zeros(box.shape[0], 0)]
        for i in range(0, a.shape[0], chunk):
            one, other = (self.unit[rows, box[:, side[i : i + chunk]]] for side in (a, b))
            like.append((one * other).sum(2))
        beside = torch.arange(a.shape[0], device=a.device) >= pairs[0][0].numel()
        return a, b, torch.cat(like, dim=1) - 4 * beside


def _pooled(
    parts: Float[Tensor, "B t h w D"], alike: Float[Tensor, "B t h w"]
) -> tuple[Float[Tensor, "B t r c D"], Float[Tensor, "B t r c"]]:
    """Means of 2 x 2 parts, and the lowest cosine of each with its parts; at an odd side the first line is alone.

    A box of one part is as much alike as that part, which `alike` says.
    """
    h, w = parts.shape[2:4]

    def paired(x: Tensor) -> Tensor:
        even = pad(x, (0, 0, w % 2, 0, h % 2, 0))
        return even.reshape(*x.shape[:2], (h + 1) // 2, 2, (w + 1) // 2, 2, -1)

    there = paired(torch.ones_like(parts[:1, :1, ..., :1]))
    mean = paired(parts).sum((3, 5)) / there.sum((3, 5))
    cosine = (unit(mean)[:, :, :, None, :, None] * paired(unit(parts))).sum(-1)
    lowest = cosine.masked_fill(there[..., 0] == 0, torch.inf).amin((3, 5))
    only = paired(alike[..., None])[..., 0].sum((3, 5))
    return mean, torch.where(there.sum((3, 5))[..., 0] == 1, only, lowest)
