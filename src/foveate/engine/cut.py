"""Index algebra of cuts: which columns of the sequence are left, in every row, and where the visual tokens are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """

    index: Int[Tensor, "R C"]
    valid: Bool[Tensor, "R C"] | None
    lengths: tuple[int, ...]
    shift: Int[Tensor, " R"] | None = None

    @classmethod
    def full(cls, mask: Tensor | None, rows: int, length: int, device: torch.device) -> Columns:
        """The whole prompt; `mask` is the 2-D attention mask of the prompt, if there is one."""
        index = torch.arange(length, device=device).expand(rows, length)
        return cls(index, None if mask is None else mask.bool(), (length,) * rows)

    def without_last(self, n: int) -> Columns:
        """All but the last `n` columns, which every row must have."""
        valid = None if self.valid is None else self.valid[:, :-n]
        return Columns(self.index[:, :-n], valid, tuple(x - n for x in self.lengths), self.shift)


@dataclass(eq=False)
class Live:
    """One span on its way through the model: what is left of it.

    sample   which prompt it belongs to (a prompt may fill several rows: beams)
    columns  where its tokens are in the current sequence
    where    their raster index in the uncut grid
    size     how many original tokens each stands for
    """

    span: Span
    sample: int
    columns: Int[Tensor, " N"]
    where: Int[Tensor, " N"]
    size: Float[Tensor, " N"]

    @property
    def count(self) -> int:
        """Tokens left."""
        return self.columns.shape[0]

    @classmethod
    def whole(cls, span: Span, sample: int, device: torch.device) -> Live:
        """Before any cut."""
        n = span.grid.n
        columns = torch.tensor(span.columns(), device=device)
        return cls(span, sample, columns, torch.arange(n, device=device), torch.ones(n, device=device))


@dataclass(eq=False)
class Unit:
    """The tokens that compete with each other in one step: those of one span, or of all spans of a prompt.

    After a cut over a whole prompt which image a token came from depends on content, so the spans stay one unit.
    """

    parts: list[Live]
    sample: int
    columns: Int[Tensor, " N"] = field(init=False)
    where: Int[Tensor, " N"] = field(init=False)
    size: Float[Tensor, " N"] = field(init=False)
    grids: tuple[Grid, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.grids = tuple(p.span.grid for p in self.parts)
        self.columns = torch.cat([p.columns for p in self.parts])
        self.size = torch.cat([p.size for p in self.parts])
        offsets = [0]
        for g in self.grids:
            offsets.append(offsets[-1] + g.n)
        self.where = torch.cat([p.where + o for p, o in zip(self.parts, offsets, strict=False)])

    @property
    def count(self) -> int:
        """Tokens left."""
        return self.columns.shape[0]

    @property
    def grid(self) -> Grid:
        """The grid, or a line of all tokens where there are several."""
        return self.grids[0] if len(self.grids) == 1 else Grid(1, 1, sum(g.n for g in self.grids))

    def keep(self, reduction: Reduction, row: int) -> None:
        """Only the survivors are left, still at their old columns."""
        kept = reduction.kept[row]
        self.columns, self.where, self.size = self.columns[kept], self.where[kept], reduction.size[row]


def units_of(spans: Sequence[Sequence[Span]], per: str, device: torch.device) -> list[Unit]:
    """Uncut units of all prompts: one per span, or one per prompt."""
    units = []
    for sample, row in enumerate(spans):
        parts = [Live.whole(span, sample, device) for span in row]
        if per == "prompt":
            units += [Unit(parts, sample)] if parts else []
        else:
            units += [Unit([p], sample) for p in parts]
    return units


def joined(units: list[Unit]) -> list[Unit]:
    """The same tokens, one unit per prompt."""
    by_sample: dict[int, list[Unit]] = {}
    for u in units:
        by_sample.setdefault(u.sample, []).append(u)
    result = []
    for sample, group in by_sample.items():
        first = Unit([p for u in group for p in u.parts], sample)
        offset, where = 0, []
        for u in group:
            where.append(u.where + offset)
            offset += u.grid.n
        first.columns = torch.cat([u.columns for u in group])
        first.where = torch.cat(where)
        first.size = torch.cat([u.size for u in group])
        result.append(first)
    return result


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
    return source, target, Columns(now.index.gather(1, source), valid, tuple(lengths), now.shift)


def take(x: Tensor, source: Int[Tensor, "R M"]) -> Tensor:
    """Columns of a tensor [..., R or 1, C, D]: `source` rows pick along C."""
    rows, new = source.shape
    x = x.expand(*x.shape[:-3], rows, *x.shape[-2:])
    index = source[..., None].expand(*x.shape[:-3], rows, new, x.shape[-1])
    return x.gather(-2, index)


def take_rows(x: Tensor, rows: int, copies: int) -> Tensor:
    """Every `copies`-th of `rows` rows of a tensor [..., rows or 1, C, D]."""
    return x.expand(*x.shape[:-3], rows, *x.shape[-2:])[..., ::copies, :, :]
