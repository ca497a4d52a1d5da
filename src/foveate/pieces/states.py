"""Readings of what a layer of the language model does to its tokens: no attention, any kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Reading
from .extent import Extent
from .seen import States, Stream


@dataclass(frozen=True)
class Variation(Reading):
    """Length of what the layer before the cut adds to each token (V2Drop)."""

    since: int | None = None
    place = "previous"
    sees: ClassVar[Literal["states"]] = "states"

    def __call__(self, states: States) -> Float[Tensor, "R L"]:
        length: Tensor = torch.linalg.vector_norm(states.after.float() - states.before.float(), dim=-1)
        return length

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 3 * of.columns * of.width


@dataclass(frozen=True)
class Transition(Reading):
    """How far attention and feed-forward network each turn a token, times how much longer they make it (TransPrune).

    exp(1 - cosine of what went in and what came out), as a share of the sum over all visual tokens, times the ratio of
    the lengths; summed over both halves, and with `since` over all layers from there to the cut.
    """

    since: int | None = None
    place = "previous"
    sees: ClassVar[Literal["states"]] = "states"

    def __call__(self, states: States) -> Float[Tensor, "R L"]:
        assert states.visual is not None, "the engine marks the visual columns"
        attention = _turned(states.attention_in, states.attention_out, states.visual)
        return attention + _turned(states.ffn_in, states.ffn_out, states.visual)

    def flops(self, of: Extent) -> int:
        return 0

    def other_flops(self, of: Extent) -> int:
        return 12 * of.columns * of.width


def _turned(before: Tensor, after: Tensor, visual: Tensor) -> Float[Tensor, "R L"]:
    """The transition of one half of a layer."""
    before, after = before.float(), after.float()
    tiny = torch.finfo(torch.float32).tiny
    long, longer = (torch.linalg.vector_norm(x, dim=-1).clamp(min=tiny) for x in (before, after))
    turn = (1 - (before * after).sum(-1) / long / longer).exp()
    transition: Tensor = turn / (turn * visual).sum(1, keepdim=True).clamp(min=tiny) * longer / long
    return transition


@dataclass(frozen=True)
class FinalNorm(Reading):
    """The residual stream at the cut as the model's last norm would leave it (DART)."""

    place = "here"
    sees: ClassVar[Literal["stream"]] = "stream"

    def __call__(self, stream: Stream) -> Float[Tensor, "R L D"]:
        normed: Tensor = stream.norm(stream.hidden)
        return normed

    def flops(self, of: Extent) -> int:
        return 0
