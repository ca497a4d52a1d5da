"""Tokens of each layer: the core object that every way of describing a compression becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import InvalidValue
from .arch import Arch
from .ops import Op
from .tokens import Prompt

if TYPE_CHECKING:
    from ..method import Method
    from .own import Cut


@dataclass(frozen=True)
class Ledger:
    """How many tokens each layer of the language model runs on in prefill, and how many stay in its cache; one prompt.

    visual      visual tokens of each layer in prefill
    cached      visual tokens that stay in the cache of each layer; empty: the same
    tower       patches of each picture that each vision block runs on, where some leave inside the tower; empty: all
    text        all others (structure such as newlines included), the same in every layer
    method_ops  the method's own work, of the whole batch
    """

    visual: tuple[int, ...]
    text: int
    method_ops: tuple[Op, ...] = ()
    cached: tuple[int, ...] = ()
    tower: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens of each layer."""
        return tuple(v + self.text for v in self.visual)

    @property
    def kept(self) -> tuple[int, ...]:
        """All tokens that the cache of each layer holds after prefill."""
        return tuple(v + self.text for v in self.cached or self.visual)

    @property
    def t_eq(self) -> float:
        """Visual tokens per layer, averaged over layers."""
        return sum(self.visual) / len(self.visual)


@dataclass(frozen=True)
class AimParameters:
    """AIM as its FLOPs tables have it: a fraction left by merging, then a line from layer `start` to none at `end`.

    timing  "paper": layer l is charged what the released code lets layer l + 1 attend to, as the paper's script does;
            "released": as that code would run if it removed tokens; "masked": as it does run, on every token
    """

    keep: float = 0.25
    start: int = 14
    end: int = 22
    timing: Literal["paper", "released", "masked"] = "paper"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InvalidValue(f"keep is the fraction left by merging and must lie in (0, 1], got {self.keep:g}")
        if not 0 <= self.start < self.end:
            raise InvalidValue(f"end must lie behind start, both from 0 on, got start={self.start}, end={self.end}")
        if self.timing not in ("paper", "released", "masked"):
            raise InvalidValue(f"timing must be 'paper', 'released' or 'masked', got {self.timing!r}")

    def per_layer(self, layers: int, merged: int) -> tuple[int, ...]:
        """Visual tokens of each layer when `merged` are left by merging, rounded down."""
        late = {"paper": 0, "released": 1, "masked": layers}[self.timing]
        return tuple(int(self._rate(layer - late) * merged) for layer in range(layers))

    def _rate(self, layer: int) -> float:
        return 1.0 if layer < self.start else max(0.0, 1 - (layer - self.start + 1) / (self.end - self.start))


#: None: nothing removed. A method, its name, the path of a recipe, the visual tokens of each layer, AIM's parameters
Compression: TypeAlias = "Method | str | Path | Sequence[int] | AimParameters | None"


def ledger_of(what: Compression, arch: Arch, prompt: Prompt) -> Ledger:
    """The ledger of a compression; of an adaptive method the one with most tokens. Raises InvalidValue for a wrong one.

    Imports torch only for methods and recipes, whose own operations it counts too.
    """
    return ledgers_of(what, arch, prompt)[1]


def ledgers_of(what: Compression, arch: Arch, prompt: Prompt) -> tuple[Ledger, Ledger]:
    """The ledgers with fewest and with most tokens; they differ only for adaptive methods."""
    layers = len(arch.language.blocks)
    if what is None or what == "none" or not prompt.visual:
        ledger = Ledger((prompt.visual,) * layers, prompt.others)
    elif isinstance(what, AimParameters):
        ledger = Ledger(what.per_layer(layers, _merged(what.keep, prompt)), prompt.others)
    elif isinstance(what, Sequence) and not isinstance(what, str):
        ledger = _listed(what, layers, prompt)
    else:
        return _of_method(method_of(what), arch, prompt)
    return ledger, ledger


def _merged(keep: float, prompt: Prompt) -> int:
    """Visual tokens left by merging each frame by itself, to the nearest whole number."""
    return sum(g.t * max(1, int(keep * g.h * g.w + 0.5)) for g in prompt.grids)


def _listed(tokens: Sequence[int], layers: int, prompt: Prompt) -> Ledger:
    visual = tuple(int(n) for n in tokens)
    if len(visual) != layers:
        raise InvalidValue(f"the model has {layers} layers, got tokens for {len(visual)}; give one number for each")
    if min(visual) < 0 or max(visual) > prompt.visual:
        raise InvalidValue(
            f"the prompt has {prompt.visual} visual tokens; those of a layer must lie in 0..{prompt.visual}"
        )
    if any(later > earlier for earlier, later in pairwise(visual)):
        raise InvalidValue("the tokens of a layer cannot be more than those of the layer before it")
    return Ledger(visual, prompt.others)


def method_of(what: Method | str | Path) -> Method:
    """A method, by its name or from a recipe file. Raises InvalidValue for a name or a file that is not there."""
    from ..method import get_method
    from ..recipe import Recipe

    if isinstance(what, Path) or (isinstance(what, str) and what.endswith((".yaml", ".yml"))):
        return Recipe.load(what).to_method()
    return get_method(what)


def _of_method(method: Method, arch: Arch, prompt: Prompt) -> tuple[Ledger, Ledger]:
    from ..pieces import Bias, Budget
    from ..plan import check_steps
    from .own import Own, resolve

    steps = check_steps(method.steps(arch.shape()), arch.shape())
    bias = method.chosen("bias")
    needs_decay = isinstance(bias, Bias) and bias.needs_decay

    def ledger(lowest: bool) -> Ledger:
        cuts = resolve(steps, prompt, lowest=lowest)
        layers = _layers(cuts, len(arch.language.blocks), prompt.visual)
        own = Own(arch, prompt, cuts, layers, needs_decay)
        tower = _tower(cuts, len(arch.tower.blocks), prompt)
        return Ledger(layers, prompt.others, tuple(own.operations()), _cached(cuts, layers), tower)

    most = ledger(False)
    return (ledger(True) if any(isinstance(s.keep, Budget) for s in steps) else most), most


def _layers(cuts: Sequence[Cut], layers: int, visual: int) -> tuple[int, ...]:
    """Visual tokens that each layer runs on."""
    at_layer = {c.step.at.layer: c.left for c in cuts}
    found = []
    for layer in range(layers):
        visual = at_layer.get(layer, visual)
        found.append(visual)
    return tuple(found)


def _tower(cuts: Sequence[Cut], blocks: int, prompt: Prompt) -> tuple[int, ...]:
    """Patches of each picture that each vision block runs on, if a step cuts inside the tower; else nothing."""
    from ..plan import Block

    at_block = {c.step.at.block: c.units[0].count for c in cuts if isinstance(c.step.at, Block)}
    left, found = prompt.grids[0].n, []
    for block in range(blocks):
        left = at_block.get(block, left)
        found.append(left)
    return tuple(found) if at_block else ()


def _cached(cuts: Sequence[Cut], layers: tuple[int, ...]) -> tuple[int, ...]:
    """Visual tokens in the cache of each layer, where a step says that earlier layers forget too; else nothing."""
    last = max((c.step.at.layer for c in cuts if c.step.cache == "all" and c.removes), default=0)
    return (layers[last],) * last + layers[last:] if last else ()
