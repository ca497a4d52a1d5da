"""What torch's counter sees when a piece is called: the check that the FLOPs it states are true. Imports torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InvalidValue
from ..pieces import (
    Budget,
    Extent,
    FrameWeights,
    Measure,
    Merge,
    Piece,
    Raters,
    Reading,
    Score,
    Segments,
    Select,
    Selection,
)
from ..pieces.seen import Attention, States, Stream
from ..tokens import Grid, VisualTokens


def counted_flops(piece: Piece, of: Extent, seed: int = 0) -> int:
    """FLOPs of the matmuls that a piece executes for one row of random tensors of this extent.

    Readings that it asks for are taken of random tensors beforehand, and not counted.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if isinstance(piece, Reading):
        seen = _seen(piece, of, draw)
        with _counting() as counter:
            piece(seen)
    elif isinstance(piece, Raters):
        visual, text = draw(1, of.n, of.width), draw(1, of.text, of.width)
        with _counting() as counter:
            piece(visual, text)
    else:
        tokens, selection = _tokens(piece, of, draw), _selection(of)
        with _counting() as counter:
            _call(piece, tokens, draw(1, of.n), selection)
    return int(counter.get_total_flops())


def _counting() -> AbstractContextManager[FlopCounterMode]:
    return FlopCounterMode(display=False)


def _call(piece: Piece, tokens: VisualTokens, score: Tensor, selection: Selection) -> None:
    if isinstance(piece, Score | Measure | FrameWeights | Segments):
        piece(tokens)
    elif isinstance(piece, Select):
        piece(tokens, score if piece.needs_score else None, selection.kept.shape[1])
    elif isinstance(piece, Merge):
        piece(tokens, selection)
    elif isinstance(piece, Budget):
        piece.keep(tokens)
    else:
        raise InvalidValue(f"{type(piece).__name__} is no reading, score, selector, merger, measure or budget")


def _seen(reading: Reading, of: Extent, draw: Any) -> Any:
    if reading.sees == "states":
        streams = {f.name: draw(1, of.columns, of.width) for f in fields(States) if f.name != "visual"}
        return States(**streams, visual=torch.arange(of.columns)[None] < of.n)
    if reading.sees == "output":
        return draw(1, of.columns, of.tower)
    if reading.sees == "stream":
        return Stream(draw(1, of.columns, of.width), lambda x: x)
    kv_heads = of.heads if reading.place == "vision" else of.kv_heads  # no tower shares keys between heads
    q, k = (draw(1, heads, of.columns, of.head_dim) for heads in (of.heads, kv_heads))
    if reading.place == "vision":
        return Attention(q, k, of.head_dim**-0.5)
    text = torch.arange(of.columns - of.text, of.columns)[None]
    visual = torch.arange(of.columns)[None] < of.n
    raters = {} if reading.raters is None else {reading.raters: torch.ones_like(text, dtype=torch.bool)}
    return Attention(
        q, k, of.head_dim**-0.5, None, visual, torch.tensor([[of.columns - 1]]), text,
        torch.ones_like(text, dtype=torch.bool), raters, lambda rows: rows,
    )  # fmt: skip


def _tokens(piece: Piece, of: Extent, draw: Any) -> VisualTokens:
    if of.n % of.frames:
        raise InvalidValue(f"{of.n} tokens do not fill {of.frames} equal frames")
    grid = Grid(of.frames, 1, of.n // of.frames)
    x, text = draw(1, of.n, of.width), draw(1, of.text, of.width)

    seen = replace(of, columns=of.n, text=min(of.text, of.n))
    signals = {reading: reading(_seen(reading, seen, draw)) for reading in getattr(piece, "reads", ())}
    at_text = {reading: signal[:, -seen.text :] for reading, signal in signals.items()}
    return VisualTokens.of(x, grid, signals=signals, text=text[:, : seen.text], text_signals=at_text)


def _selection(of: Extent) -> Selection:
    return Selection.of(torch.arange(of.count)[None])
