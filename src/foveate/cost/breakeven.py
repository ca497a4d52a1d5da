"""Where compression pays: what it could save at most, and from how many tokens on a method saves more than it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from .count import prefill
from .ledger import AimParameters, Compression, Ledger, ledger_of
from .report import BreakEven, Costs
from .tokens import Grid, Prompt, Visual

if TYPE_CHECKING:
    from .deployment import Deployment

#: sides, in tokens, of the square images that are tried
SIDES = range(2, 129)
#: the share saved from which on compression is called worth its while
WORTH = 0.05


def break_even(deployment: Deployment, prompt: Prompt, whole: Costs, method: Compression = None) -> BreakEven:
    """Shares and ceilings of this prompt, whose costs without compression are `whole`, and the method's break-even."""
    nothing = Ledger((0,) * len(whole.tokens_per_layer), prompt.others)
    bare = deployment.costs("no visual tokens", prompt, nothing)
    before = whole.parts["vision"].time_ms + whole.parts["projector"].time_ms
    shares = BreakEven(before / whole.ttft_ms, whole.ttft_ms / bare.ttft_ms, whole.flops / bare.flops)
    if method is None or isinstance(method, Sequence | AimParameters):
        return shares  # no work of its own, or none that follows the tokens

    @cache
    def saved(side: int) -> float:
        return _saved(deployment, method, side, prompt)

    def first(least: float) -> int | None:
        return _first(lambda side: saved(side) > least)

    return replace(shares, tokens=first(0.0), worth_tokens=first(WORTH), searched=SIDES[-1] ** 2)


def _first(pays: Callable[[int], bool]) -> int | None:
    """Tokens of the smallest square for which it pays, if it does for all that are larger."""
    low, high = 0, len(SIDES) - 1
    if not pays(SIDES[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(SIDES[middle]) else (middle + 1, high)
    return SIDES[low] ** 2


def _saved(deployment: Deployment, method: Compression, side: int, prompt: Prompt) -> float:
    """The share of what follows the tower that the method saves for one square image of side x side tokens."""
    merge = deployment.arch.projector.merge
    image = Visual("image", (Grid(1, side * merge, side * merge),), (Grid(1, side, side),))
    square = replace(prompt, visuals=(image,))

    def seconds(what: Compression) -> float:
        ledger = ledger_of(what, deployment.arch, square)
        ops = (*ledger.method_ops, *prefill(deployment.arch, square, ledger))
        return sum(t.seconds for t in deployment.roofline.times(ops))

    return 1 - seconds(method) / seconds(None)
