"""Index algebra of cuts: which columns of the sequence are left, in every row, and where the visual tokens are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tokens import Grid, Reduction, Span


@dataclass(frozen=True, eq=False)
class Columns:
    """What is left of the prompt at some depth.

    index    original prompt column of each column that is left, [R, C]; 0 where the row is padded
    valid    real columns [R, C]; None when all are
    lengths  columns left of each row before padding rows to a common length, known on the host
    shift    how much lower the positions of later tokens are than in the full prompt, [R]; None for 0 everywhere
    size     how many original tokens each column stands for, [R, C], 0 throughout a row of which nothing was cut;
             None where no bias asks for it
    rotary   cos and sin of each column's position; None where no bias asks for it
    """

    index: Int[Tensor, "R C"]
    valid: Bool[Tensor, "R C"] | None
    lengths: tuple[int, ...]
    shift: Int[Tensor, " R"] | None = None
    size: Float[Tensor, "R C"] | None = None
    rotary: tuple[Float[Tensor, "R C d"], Float[Tensor, "R C d"]] | None = None

    @property
    def real(self) -> Bool[Tensor, "R C"]:
        """The columns that are there, without those that only bring a row to the common length."""
        width, device = self.index.shape[1], self.index.device
        first = torch.tensor([width - n for n in self.lengths], device=device)[:, None]
        return torch.arange(width, device=device) >= first

    @classmethod
    def full(cls, mask: Tensor | None, rows: int, length: int, device: torch.device) -> Columns:
        """The whole prompt; `mask` is the 2-D attention mask of the prompt, if there is one."""
        index = torch.arange(length, device=device).expand(rows, length)
        return cls(index, None if mask is None else mask.bool(), (length,) * rows)

    def without_last(self, n: int) -> Columns:
        """All but the last `n` columns, which every row must have."""
        valid = None if self.valid is None else self.valid[:, :-n]
        size = None if self.size is None else self.size[:, :-n]
        rotary = None if self.rotary is None else (self.rotary[0][:, :-n], self.rotary[1][:, :-n])
        return Columns(self.index[:, :-n], valid, tuple(x - n for x in self.lengths), self.shift, size, rotary)


@dataclass(eq=False)
class Unit:
    """The tokens that compete with each other in one step: those of one span, of an image's views, or of a prompt.

    After a cut over several spans which of them a token came from depends on content, so they stay one unit.

    sample   which prompt it belongs to (a prompt may fill several rows: beams)
    columns  where its tokens are in the current sequence
    where    their raster index in the uncut grids, laid end to end
    size     how many original tokens each stands for
    history  how many of its tokens each LLM layer so far ran on
    """

    spans: tuple[Span, ...]
    sample: int
    columns: Int[Tensor, " N"]
    where: Int[Tensor, " N"]
    size: Float[Tensor, " N"]
    history: tuple[int, ...] = ()

    @classmethod
    def whole(cls, span: Span, sample: int, device: torch.device) -> Unit:
        """One span before any cut."""
        n = span.grid.n
        columns = torch.tensor(span.columns(), device=device)
        return cls((span,), sample, columns, torch.arange(n, device=device), torch.ones(n, device=device))

    @property
    def count(self) -> int:
        """Tokens left."""
        return self.columns.shape[0]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grids of its spans."""
        return tuple(s.grid for s in self.spans)

    @property
    def grid(self) -> Grid:
        """The grid, or a line of all tokens where there are several."""
        return self.grids[0] if len(self.spans) == 1 else Grid(1, 1, sum(g.n for g in self.grids))

    def keep(self, reduction: Reduction, row: int) -> None:
        """Only the survivors are left, still at their old columns."""
        kept = reduction.kept[row]
        self.columns, self.where, self.size = self.columns[kept], self.where[kept], reduction.size[row]


@dataclass(eq=False)
class Removal:
    """What a cut leaves, noted group by group while all features are still in place.

    stay     the columns that stay, [R, C]
    lengths  how many stay in each row, known on the host
    merged   rows [B, 1], columns [B, T] before the cut, and features [B, T, D] of tokens that others were folded into
    """

    stay: Bool[Tensor, "R C"]
    lengths: list[int]
    merged: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, columns: Columns) -> Removal:
        """Nothing is removed yet."""
        return cls(columns.real, list(columns.lengths), [])

    def add(self, units: list[Unit], copies: int, reduction: Reduction) -> None:
        """The decision for a group of units, which still have all their tokens; row i of it is that of unit i."""
        columns = torch.stack([u.columns for u in units])
        kept = columns.gather(1, reduction.kept)
        for copy in range(copies):
            of = [u.sample * copies + copy for u in units]
            rows = torch.tensor(of, device=columns.device)[:, None]
            self.stay[rows, columns] = False
            self.stay[rows, kept] = True
            if reduction.x is not None:
                self.merged.append((rows, kept, reduction.x))
            for row in of:
                self.lengths[row] -= columns.shape[1] - kept.shape[1]

    def left_of(self, hidden: Tensor, source: Int[Tensor, "R M"], target: Int[Tensor, "R C"]) -> Tensor:
        """The features of what stays, given where each new column comes from and where each old one goes."""
        hidden = take(hidden, source)
        for rows, kept, x in self.merged:
            hidden[rows, target[rows, kept]] = x.to(hidden.dtype)
        return hidden


def competing(units: list[Unit], per: str) -> list[list[Unit]]:
    """The units whose tokens compete in a step: all of a prompt, all "views" of an image, or each alone."""
    together: dict[tuple, list[Unit]] = {}
    for i, u in enumerate(units):
        span = u.spans[0]
        key = {"prompt": (u.sample,), "views": (u.sample, span.kind, span.image)}.get(per, (i,))
        together.setdefault(key, []).append(u)
    return list(together.values())


def joined(units: list[Unit], per: str) -> list[Unit]:
    """The same tokens, those that compete with each other as one unit."""
    return [group[0] if len(group) == 1 else _one(group) for group in competing(units, per)]


def _one(group: list[Unit]) -> Unit:
    offsets = [0]
    for u in group:
        offsets.append(offsets[-1] + u.grid.n)
    return Unit(
        spans=tuple(s for u in group for s in u.spans),
        sample=group[0].sample,
        columns=torch.cat([u.columns for u in group]),
        where=torch.cat([u.where + offset for u, offset in zip(group, offsets, strict=False)]),
        size=torch.cat([u.size for u in group]),
        history=tuple(map(sum, zip(*(u.history for u in group), strict=True))),
    )


def close_gaps(
    now: Columns, stay: Bool[Tensor, "R C"], lengths: Sequence[int]
) -> tuple[Int[Tensor, "R M"], Int[Tensor, "R C"], Columns]:
    """Remove the columns that do not stay; shorter rows are padded on the left so that the last tokens line up.

    Returns the source column of each new column, the new column of each old one (of those that stay), and the new
    Columns. `lengths` is how many columns of each row stay; no value is read back from the device.
    """
    rows, columns = stay.shape
    longest = max(lengths)
    offset = torch.tensor([longest - n for n in lengths], device=stay.device)[:, None]
    target = stay.long().cumsum(1) - 1 + offset
    # dropped columns are sent to one column too many, which is cut off
    source = torch.zeros(rows, longest + 1, dtype=torch.long, device=stay.device)
    here = torch.arange(columns, device=stay.device).expand(rows, columns)
    source.scatter_(1, torch.where(stay, target, longest), here)
    source = source[:, :longest]
    valid = None if now.valid is None else now.valid.gather(1, source)
    if min(lengths) < longest:
        real = torch.arange(longest, device=stay.device) >= offset
        valid = real if valid is None else valid & real
    size = None if now.size is None else now.size.gather(1, source)
    rotary = None if now.rotary is None else (take(now.rotary[0], source), take(now.rotary[1], source))
    return source, target, Columns(now.index.gather(1, source), valid, tuple(lengths), now.shift, size, rotary)


def take(x: Tensor, source: Int[Tensor, "R M"]) -> Tensor:
    """Columns of a tensor [..., R or 1, C, D]: `source` rows pick along C."""
    rows = source.shape[0]
    x = x.expand(*x.shape[:-3], rows, *x.shape[-2:])
    if rows == 1:
        return x.index_select(-2, source[0])
    return x[..., torch.arange(rows, device=x.device)[:, None], source, :]


def take_rows(x: Tensor, rows: int, copies: int) -> Tensor:
    """Every `copies`-th of `rows` rows of a tensor [..., rows or 1, C, D]."""
    return x.expand(*x.shape[:-3], rows, *x.shape[-2:])[..., ::copies, :, :]
