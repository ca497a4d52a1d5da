"""`foveate.cost.estimate`: what a prompt costs on a device with and without a method, from a config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .breakeven import break_even
from .deployment import Deployment
from .hardware import Hardware
from .ledger import AimParameters, Compression, ledger_of, ledgers_of, method_of
from .report import CostReport
from .tokens import Inputs, prompt_of

if TYPE_CHECKING:
    from ..method import Method

#: a compression whose name has become a method
Resolved: TypeAlias = "Method | Sequence[int] | AimParameters | None"


def estimate(
    config: Any,
    inputs: Inputs,
    method: Compression = None,
    hardware: str | Hardware = "a100-80gb",
    *,
    hardware_file: str | Path | None = None,
    dtype: str | None = None,
    w_bits: int | None = None,
    a_bits: int | None = None,
    kv_bits: int | None = None,
    tp: int = 1,
    attention: str = "fused",
) -> CostReport:
    """FLOPs, bytes, milliseconds and gigabytes of a prompt, part by part, with a method and without.

    config     name of a bundled model, folder, config.json, its content, a transformers config, or a hub id
    inputs     sizes of images and videos in pixels, text tokens, batch, new tokens
    method     a method of foveate or its name, a recipe, tokens per layer, AIM's parameters; None: no compression
    hardware   name of a device of the table or of `hardware_file`; the figures of one that was calibrated are measured
    dtype      bf16, fp16, fp8, int8, fp4 or fp32; by default what 16-bit models run in on that device
    w_bits, a_bits, kv_bits   bits of weights, activations and cache of the language model
    tp         devices that share the language model;  attention  "fused" or "eager"

    Raises InvalidValue and UnsupportedModel with one line that says what is allowed.
    """
    deployment = Deployment.of(
        config, hardware, hardware_file=hardware_file, dtype=dtype, w_bits=w_bits, a_bits=a_bits, kv_bits=kv_bits,
        tp=tp, attention=attention,
    )  # fmt: skip
    return report(deployment, inputs, method)


def report(deployment: Deployment, inputs: Inputs, method: Compression = None) -> CostReport:
    """The same for a deployment that is there already."""
    chosen = named(method)
    prompt = prompt_of(deployment.arch, inputs)
    plain = ledger_of(None, deployment.arch, prompt)
    whole = deployment.costs("uncompressed", prompt, plain, inputs.new_tokens)
    whole_capacity = deployment.capacity(None, inputs, prompt, plain)
    costs, least, capacity = whole, None, whole_capacity
    name, settings = described(chosen)
    if chosen is not None:
        low, high = ledgers_of(chosen, deployment.arch, prompt)
        costs = deployment.costs(name, prompt, high, inputs.new_tokens)
        least = None if low == high else deployment.costs(name, prompt, low, inputs.new_tokens)
        capacity = deployment.capacity(chosen, inputs, prompt, high)
    r = deployment.roofline
    return CostReport(
        deployment.arch.name, r.hardware, r.precision, r.parallel.tp, r.attention, inputs, prompt, settings,
        costs, whole, least, break_even(deployment, prompt, whole, chosen), capacity, whole_capacity,
    )  # fmt: skip


def named(method: Compression) -> Resolved:
    """A method for a name or the path of a recipe, anything else as it is."""
    if isinstance(method, str | Path):
        return None if method == "none" else method_of(method)
    return method


def described(method: Resolved) -> tuple[str, dict[str, str]]:
    """What a report calls it, and its settings."""
    if method is None:
        return "uncompressed", {}
    if isinstance(method, AimParameters):
        return "AIM's parameters", {name: str(value) for name, value in asdict(method).items()}
    if isinstance(method, Sequence):
        return "tokens per layer", {}
    return method.card.name, {name: _written(value) for name, value in method.settings().items()}


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
