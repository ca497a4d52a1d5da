"""The nouns: what a step sees (VisualTokens) and what it answers (Reduction)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .ops.rows import rows_of

if TYPE_CHECKING:
    from .pieces.base import Reading


@dataclass(frozen=True)
class Grid:
    """Extent of one image (t = 1) or one video in LLM tokens, raster order (t, h, w).

    Newline and separator tokens that some families put between rows are not part of a grid: they are structure,
    never dropped, and the span that holds the grid steps over them.
    """

    t: int
    h: int
    w: int

    @property
    def n(self) -> int:
        """How many tokens the grid has."""
        return self.t * self.h * self.w

    @property
    def frame(self) -> Grid:
        """One frame of it."""
        return Grid(1, self.h, self.w)

    def __str__(self) -> str:
        return f"{self.h}x{self.w}" if self.t == 1 else f"{self.t}x{self.h}x{self.w}"


@dataclass(frozen=True)
class Span:
    """Where one grid lies in a row of the prompt: token (i, j) of frame f is at frames[f] + i*stride + j.

    Without `frames`, which may have text between them, one follows the other from `start` on.
    `image` counts the images and the videos of the row from 0; the views of one image (thumbnail and crops) share it.
    """

    start: int
    grid: Grid
    kind: str = "image"
    stride: int | None = None
    image: int = 0
    frames: tuple[int, ...] = ()

    def columns(self) -> list[int]:
        """Prompt columns of the grid's tokens, raster order."""
        t, h, w, stride = self.grid.t, self.grid.h, self.grid.w, self.stride or self.grid.w
        frames = self.frames or range(self.start, self.start + t * h * stride, h * stride)
        return [frame + i * stride + j for frame in frames for i in range(h) for j in range(w)]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of B images (or frames, or prompts) with equal grids, at one site.

    x       features at this site: embeddings after the projector, hidden states inside the language model
    grid    the extent the tokens had before any cut; of several grids that compete, a line of all their tokens
    grids   the extents of those grids, in the order of the tokens
    where   raster index in `grid` of each token; equals arange(N) before the first cut
    size    how many original tokens each one stands for
    seed    for the pieces that draw random numbers; equal for all rows, so a batch equals its rows
    signal  tensor [B, N, ...] of a reading that the step declared; any other raises KeyError
    text    features [B, r, D] at this site of the text behind the last visual token of the prompt; text(reading) is
            what a reading of the language model that the step declared gave there
    history how many of these tokens each earlier LLM layer ran on
    """

    x: Float[Tensor, "B N D"]
    grid: Grid
    where: Int[Tensor, "B N"]
    size: Float[Tensor, "B N"]
    signal: Callable[[Reading], Tensor]
    seed: int = 0
    text: Callable[..., Tensor] | None = None
    grids: tuple[Grid, ...] = ()
    history: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "B N D"],
        grid: Grid | None = None,
        *,
        signals: Mapping[Reading, Tensor] | None = None,
        text: Float[Tensor, "B r D"] | None = None,
        text_signals: Mapping[Reading, Tensor] | None = None,
        grids: tuple[Grid, ...] = (),
    ) -> VisualTokens:
        """Tokens before any cut, with signals and text given by hand; what tests and notebooks start from."""
        b, n, _ = x.shape
        grid = grid or Grid(1, 1, n)
        where = torch.arange(n, device=x.device).expand(b, n)
        read = (signals or {}).__getitem__

        def words(reading: Reading | None = None) -> Tensor:
            assert text is not None, "there is no text"
            return text if reading is None else (text_signals or {})[reading]

        return cls(
            x,
            grid,
            where,
            torch.ones(b, n, device=x.device),
            read,
            text=None if text is None else words,
            grids=grids or (grid,),
        )

    @property
    def is_whole(self) -> bool:
        """True before the first cut, when raster geometry holds without looking at `where`."""
        return self.x.shape[1] == self.grid.n


@dataclass(frozen=True, eq=False)
class Reduction:
    """A decision about N tokens: T of them stay.

    kept    index into the N tokens of each survivor, ascending, no duplicates
    source  for each of the N tokens the rank 0..T-1 of the survivor that stands for it, -1 if it was dropped
    size    how many original tokens each survivor stands for
    x       new features of the survivors; None means "as they were"
    """

    kept: Int[Tensor, "B T"]
    source: Int[Tensor, "B N"]
    size: Float[Tensor, "B T"]
    x: Float[Tensor, "B T D"] | None = None

    @classmethod
    def drop(cls, kept: Int[Tensor, "B T"], size: Float[Tensor, "B N"]) -> Reduction:
        """Keep these, forget the rest."""
        b, t = kept.shape
        rank = torch.arange(t, device=kept.device).expand(b, t)
        source = kept.new_full(size.shape, -1).scatter(1, kept, rank)
        return cls(kept, source, size.gather(1, kept))

    def gather(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B T D"]:
        """Features of the survivors, given those of all tokens."""
        if self.x is not None:
            return self.x
        return rows_of(x, self.kept)

    def then(self, later: Reduction) -> Reduction:
        """This reduction followed by a later one of its survivors, as one reduction of the N original tokens."""
        carried = later.source.gather(1, self.source.clamp(min=0))
        source = torch.where(self.source < 0, self.source, carried)
        x = later.x if later.x is not None else later.gather(self.x) if self.x is not None else None
        return Reduction(self.kept.gather(1, later.kept), source, later.size, x)

    def rows(self, start: int, stop: int) -> Reduction:
        """The decision for some of the B rows."""
        x = None if self.x is None else self.x[start:stop]
        return Reduction(self.kept[start:stop], self.source[start:stop], self.size[start:stop], x)

    def without_features(self) -> Reduction:
        """The decision alone, small enough to keep in a trace."""
        return replace(self, x=None)
