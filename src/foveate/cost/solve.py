"""The keep that meets a target: tokens, FLOPs, milliseconds or gigabytes, found by bisection on the estimate itself."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InvalidValue, unknown_name
from ..method import Method
from ..plan import solve as solve_t_eq
from ..tokens import Grid
from .deployment import Deployment
from .ledger import ledger_of
from .report import Costs
from .tokens import Inputs, prompt_of

#: what can be asked for, and where it stands in the costs
TARGETS: dict[str, Callable[[Costs], float]] = {
    "t_eq": lambda c: c.t_eq,
    "tflops": lambda c: c.flops / 1e12,
    "language_tflops": lambda c: c.language_flops / 1e12,
    "ttft_ms": lambda c: c.ttft_ms,
    "total_ms": lambda c: c.total_ms,
    "kv_mb": lambda c: c.memory.kv_bytes / 1e6,
    "memory_gb": lambda c: c.memory.peak_bytes / 1e9,
}


def solve(deployment: Deployment, inputs: Inputs, method: Method, target: str, value: float) -> Method:
    """The method with the `keep` that brings `target` nearest to `value`.

    t_eq          visual tokens a layer, on average
    tflops        TFLOPs to the first token, vision tower included; language_tflops: of the language model alone
    ttft_ms       milliseconds to the first token;  total_ms  to the last
    kv_mb         megabytes of the cache;  memory_gb  gigabytes at the peak

    Raises InvalidValue for a target that is not one of these, a method without a keep, a value out of reach.
    """
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    if "keep" not in method.settings():
        raise InvalidValue(f"{method.card.name} has no keep to solve for; its settings: {', '.join(method.settings())}")
    prompt = prompt_of(deployment.arch, inputs)
    if not prompt.visual:
        raise InvalidValue("there are no visual tokens, so no keep to solve for; give an image or a video")
    if target == "t_eq":
        return solve_t_eq(method, deployment.arch.shape(), [Grid(*g) for g in prompt.grids], value)

    def reached(keep: float) -> float:
        ledger = ledger_of(method.replaced(keep=keep), deployment.arch, prompt)
        return TARGETS[target](deployment.costs(method.card.name, prompt, ledger, inputs.new_tokens))

    return method.replaced(keep=_bisect(reached, value, 1 / (2 * prompt.visual), f"{target}={value:g}"))


def _bisect(reached: Callable[[float], float], value: float, low: float, asked: str) -> float:
    """The keep in [low, 1] at which a growing function is nearest to the value."""
    high = 1.0
    least, most = reached(low), reached(high)
    if not least <= value <= most:
        raise InvalidValue(f"{asked} is out of reach: this method, model and input allow {least:.4g} to {most:.4g}")
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < value else (low, middle)
    return min((low, high), key=lambda keep: abs(reached(keep) - value))
