"""Carrying a step out on tensors: the decision for one group of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pieces.base import Reading
from ..plan import Step
from ..tokens import Reduction, VisualTokens


def decide(step: Step, tokens: VisualTokens, count: int) -> Reduction:
    """Score, select, merge; per frame if the step says so."""
    b, n, d = tokens.x.shape
    if count == 0:
        return Reduction.drop(tokens.where[:, :0], tokens.size)
    t = tokens.grid.t if step.per == "frame" else 1
    if t > 1:
        tokens = _frames(tokens, t)
    selection = step.select(tokens, step.score(tokens) if step.score else None, count // t)
    reduction = step.merge(tokens, selection)
    if t == 1:
        return reduction
    # frame f's survivors and sources follow those of the frames before it
    frame = torch.arange(t, device=tokens.x.device).repeat(b)[:, None]
    source = torch.where(reduction.source < 0, reduction.source, reduction.source + frame * (count // t))
    x = None if reduction.x is None else reduction.x.reshape(b, count, d)
    kept = (reduction.kept + frame * (n // t)).reshape(b, count)
    return Reduction(kept, source.reshape(b, n), reduction.size.reshape(b, count), x)


def _frames(tokens: VisualTokens, t: int) -> VisualTokens:
    """The frames of the videos as rows."""
    b, n, d = tokens.x.shape
    frame = tokens.grid.frame
    where = tokens.where.reshape(b * t, n // t) % frame.n

    def signal(reading: Reading) -> Tensor:
        value = tokens.signal(reading)
        return value.reshape(b * t, n // t, *value.shape[2:])

    def text(reading: Reading | None = None) -> Tensor:
        assert tokens.text is not None, "the engine gives text to a step that asks for it"
        return tokens.text(reading).repeat_interleave(t, 0)

    return VisualTokens(
        tokens.x.reshape(b * t, n // t, d),
        frame,
        where,
        tokens.size.reshape(b * t, n // t),
        signal,
        tokens.seed,
        text,
        (frame,),
        tokens.history,
    )
