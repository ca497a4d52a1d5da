"""Carrying a step out on tensors: the decision for one group of tokens, and the mask that fits what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..pieces.base import Reading
from ..plan import Step
from ..tokens import Reduction, VisualTokens

if TYPE_CHECKING:
    from .run import Run


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

    return VisualTokens(
        tokens.x.reshape(b * t, n // t, d), frame, where, tokens.size.reshape(b * t, n // t), signal, tokens.seed
    )


def causal_mask(
    run: Run, hidden: Tensor, valid: Tensor | None, cache: Any = None, layer: int | None = None
) -> Tensor | None:
    """The mask that the model's own attention implementation wants for these columns."""
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(run.decoder.config, hidden, valid, cache, layer_idx=layer)
