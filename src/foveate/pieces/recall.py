"""Recall: how many visual keys later layers look at while decoding, and when they are chosen anew (DyCoke)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidValue


@dataclass(frozen=True)
class Recall:
    """While decoding, layers behind `depth` look at the `keep` of the visual tokens that get most attention.

    Those are chosen anew when the attention of the layer just before them has moved on: when its cosine with that of
    the token before falls below `similarity`. Whoever is left out can come back. It changes nothing in a run that cuts
    nothing; keep=1 is the same as none.

    depth  the first of those layers as a fraction of all, at least layer 1; 3/28 is layer 3 of 28
    """

    depth: float = 3 / 28
    keep: float = 0.3
    similarity: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.depth < 1:
            raise InvalidValue(f"depth is a fraction of the layers in [0, 1), got {self.depth:g}")
        if not 0 < self.keep <= 1:
            raise InvalidValue(f"keep is a fraction of the visual tokens in (0, 1], got {self.keep:g}")
        if not -1 <= self.similarity <= 1:
            raise InvalidValue(f"similarity is a cosine and must lie in [-1, 1], got {self.similarity:g}")

    def layer(self, layers: int) -> int:
        """The first layer that looks at fewer; the one before it is read."""
        return min(max(1, round(self.depth * layers)), layers - 1)

    def count(self, tokens: int) -> int:
        """How many of so many visual tokens are looked at."""
        # 1e-9: 0.29 * 50 must count as 14.5, not as 14.499999999999998
        return min(tokens, max(1, math.floor(self.keep * tokens + 0.5 + 1e-9)))
