"""Biases: what is added to the attention logits of later layers so that merged or sparse tokens keep their weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue


class Bias(ABC):
    """An additive bias in every layer of the language model behind the first cut, in prefill and decoding; frozen.

    It needs an attention that takes a float mask: SDPA or eager, not FlashAttention.
    """

    #: True when it looks at `decay`
    needs_decay: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, size: Float[Tensor, "R 1 K"], decay: Float[Tensor, "R Q K"] | None) -> Float[Tensor, "R q K"]:
        """What is added to the logits, q being Q or 1.

        `size` is how many original tokens each key stands for, 1 for text; `decay` is the mean cosine of the rotary
        angles between query and key, 1 at distance 0.
        """


@dataclass(frozen=True)
class SizeBias(Bias):
    """log size: a token that stands for four weighs like four (proportional attention of ToMe, arXiv 2210.09461)."""

    def __call__(self, size: Float[Tensor, "R 1 K"], decay: Float[Tensor, "R Q K"] | None) -> Float[Tensor, "R 1 K"]:
        return size.log()


@dataclass(frozen=True)
class DistanceBias(Bias):
    """log(size (c - decay)): makes up for the rotary decay towards tokens left far apart (RESTORE, ICML 2026).

    With c = 2 the factor is at least `size`, and `size` itself at distance 0.
    """

    c: float = 2.0
    needs_decay = True

    def __post_init__(self) -> None:
        if self.c <= 1:
            raise InvalidValue(f"c must be over 1, or the bias of a token at distance 0 is no number; got {self.c}")

    def __call__(self, size: Float[Tensor, "R 1 K"], decay: Float[Tensor, "R Q K"] | None) -> Float[Tensor, "R Q K"]:
        assert decay is not None, "the engine gives the decay to a bias that needs it"
        return (size * (self.c - decay)).log()
