"""Published lists of stages brought to another depth and another budget."""

from __future__ import annotations

import math
from itertools import pairwise

from ..errors import InvalidValue


def layers_at(layers: int, *of_32: int) -> list[int]:
    """Layers given for a depth of 32 as those of a model of `layers`: at the same depth, distinct, behind layer 0."""
    at: list[int] = []
    for layer in of_32:
        at.append(max(at[-1] + 1 if at else 1, math.floor(layer / 32 * layers + 0.5)))
    return at


def stages_at(keep: float, *lists: tuple[float, ...]) -> tuple[float, ...]:
    """The fractions of all stages when the last is `keep`, from published lists of fractions, each of which is met.

    Between two lists it is linear in `keep`; below the smallest and above the largest the ratios between the stages
    stay as they are, and no stage keeps more than everything. Raises InvalidValue for a keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise InvalidValue(f"keep must lie in (0, 1], got {keep}")
    known = sorted(lists, key=lambda fractions: fractions[-1])
    for low, high in pairwise(known):
        if low[-1] <= keep <= high[-1]:
            share = (keep - low[-1]) / (high[-1] - low[-1])
            return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))
    nearest = known[0] if keep < known[0][-1] else known[-1]
    return tuple(min(1.0, keep * fraction / nearest[-1]) for fraction in nearest)
