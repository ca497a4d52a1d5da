"""What a piece says of its own cost: FLOPs as a function of the numbers it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """How much one call of a piece works on; of its batch one row: one image, frame or prompt.

    n         tokens in; count: tokens that stay; frames: of the grid they come from
    width     features of each token: of the language model, or of the tower for a reading in it
    heads, kv_heads, head_dim   of the attention that a reading watches; of a piece that asks for readings the first's
    columns   keys of that attention: all tokens of the prompt at a layer; patches, and the CLS token, of one picture
              or window in the tower
    text      rows behind the last visual token; none in a tower
    tower     features of each patch in the vision tower, for a piece that compares those
    """

    n: int = 0
    count: int = 0
    frames: int = 1
    width: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    columns: int = 0
    text: int = 0
    tower: int = 0


class Piece(ABC):
    """Anything a step is made of: it can be called on tensors, and tells what a call costs."""

    @abstractmethod
    def flops(self, of: Extent) -> int:
        """FLOPs of its own matmuls for one row, 2 per multiply-add: what torch's FlopCounterMode sees in a call.

        What it only asks for (a reading) counts itself; a piece made of pieces adds up theirs.
        """

    def other_flops(self, of: Extent) -> int:
        """Leading term of its work that is no matmul, where that is not negligible: factorisations, work per pick."""
        return 0

    def rounds(self, of: Extent) -> int:
        """Passes that wait for one another: one for each pick of a greedy selector. Each costs kernel launches."""
        return 1
