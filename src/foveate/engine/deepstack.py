"""DeepStack under compression: visual features that early decoder layers add, for the tokens that are left.

The decoder is given one feature per visual token of the full prompt for each of its first layers, and adds it to that
layer's output. Here it is added where its token is now, whenever it was cut; a dropped token's feature is dropped with
it, and a token made of several takes its representative's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .cut import Columns


def add_to_what_is_left(decoder: nn.Module, columns: Callable[[], Columns | None], undo: ExitStack) -> None:
    """Until `undo` closes, the decoder adds to the columns that `columns()` tells, or to all when it tells None.

    The instance gets an attribute in front of the class's method; removing it brings the method back.
    """
    add = decoder._deepstack_process

    @functools.wraps(add)
    def added(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        now = columns()
        if now is None:
            return add(hidden_states, visual_pos_masks, visual_embeds)
        return hidden_states + features_left(visual_embeds, visual_pos_masks, now).to(hidden_states)

    decoder._deepstack_process = added
    undo.callback(delattr, decoder, "_deepstack_process")


def features_left(features: Float[Tensor, "V D"], visual: Bool[Tensor, "R L"], now: Columns) -> Float[Tensor, "R C D"]:
    """What each column that is left gets, zero for text; columns that pad a row get anything, nothing sees them.

    `visual` marks the visual tokens of the full prompt, whose features follow each other row by row.
    """
    index, visual = now.index.to(features.device), visual.to(features.device)
    number = (visual.flatten().cumsum(0) - 1).clamp(min=0).view_as(visual)
    return torch.where(visual.gather(1, index)[..., None], features[number.gather(1, index)], 0)
