"""What a reading is shown: the queries and keys of an attention module, or the states that pass a layer or a block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .extent import Piece


class Raters(Piece):
    """Which text tokens have a say, decided once where the prompt enters the language model; frozen."""

    @abstractmethod
    def __call__(self, visual: Float[Tensor, "B N D"], text: Float[Tensor, "B r D"]) -> Bool[Tensor, "B r"]:
        """True for the text tokens that rate, given the embeddings of the visual tokens and of the text behind them."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Queries and keys of one attention module during prefill, after RoPE, as a reading gets them.

    q [R, H, L, d], k [R, Hk, L, d] with Hk dividing H. In a language model: `valid` [R, L] marks real columns (None:
    all), `visual` [R, L] those of visual tokens; `last` [R, 1] is the row of the last prompt token; `text` [R, r] the
    rows behind the last visual token, with `text_valid`, and `raters` which of them each `Raters` of the method chose;
    `rotate` gives rows [R, h, L, d] the rotary embedding of their columns. In a vision tower R runs over crops or
    frames, and all of those are None.
    """

    q: Float[Tensor, "R H L d"]
    k: Float[Tensor, "R Hk L d"]
    scale: float
    valid: Bool[Tensor, "R L"] | None = None
    visual: Bool[Tensor, "R L"] | None = None
    last: Int[Tensor, "R 1"] | None = None
    text: Int[Tensor, "R r"] | None = None
    text_valid: Bool[Tensor, "R r"] | None = None
    raters: Mapping[Raters, Bool[Tensor, "R r"]] = field(default_factory=dict)
    rotate: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class States:
    """What passed one layer of the language model during prefill, [R, L, D] each.

    before and after are the residual stream; the attention and the feed-forward network each come as what they were
    given (normed) and what they gave (before it was added). `visual` [R, L] marks the columns of visual tokens.
    """

    before: Float[Tensor, "R L D"]
    after: Float[Tensor, "R L D"]
    attention_in: Float[Tensor, "R L D"]
    attention_out: Float[Tensor, "R L D"]
    ffn_in: Float[Tensor, "R L D"]
    ffn_out: Float[Tensor, "R L D"]
    visual: Bool[Tensor, "R L"] | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """The residual stream where a cut is made, and the model's final norm."""

    hidden: Float[Tensor, "R L D"]
    norm: Callable[[Tensor], Tensor]
