"""What happened in the last prefill of a run: plan, tokens of each layer, what was kept, time and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from ..plan import Plan, Step
from ..tokens import Reduction, Span


@dataclass(frozen=True, eq=False)
class Cut:
    """One step as it was carried out on one unit of tokens (an image, or all images of a prompt).

    `reduction` has one row, relative to the tokens that were left before it.
    """

    step: Step
    sample: int
    spans: tuple[Span, ...]
    reduction: Reduction


@dataclass(frozen=True, eq=False)
class Recalled:
    """A choice of visual keys while decoding: what layers from `layer` on see once `after` tokens followed the prompt.

    `shown` marks, of the columns that the cuts have left of the prompt, those that are in these layers' caches.
    """

    after: int
    layer: int
    shown: Bool[Tensor, "R C"]


@dataclass
class Trace:
    """What happened in the latest prefill; empty before the first, and after a prompt without images.

    plans             the plan of each prompt of the batch
    cuts              each step on each unit, in order
    tokens_per_layer  visual tokens each LLM layer ran on, summed over the prompts of the batch
    text_tokens       all other tokens of the batch, padding included
    kv_bytes          bytes of keys and values cached by the prefill, all layers and rows
    recalled          each choice of visual keys while decoding, in order, for methods that make one
    vision_ms, selection_ms, prefill_ms   time of the vision tower, of the method's own work inside the prefill, and of
                      the language model's prefill (selection included, vision not)
    """

    plans: list[Plan] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    tokens_per_layer: list[int] = field(default_factory=list)
    text_tokens: int = 0
    kv_bytes: int = 0
    recalled: list[Recalled] = field(default_factory=list)
    vision_ms: float = 0.0
    selection_ms: float = 0.0
    prefill_ms: float = 0.0

    @property
    def plan(self) -> Plan | None:
        """The plan of the first prompt with an image."""
        return self.plans[0] if self.plans else None

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of the batch before compression."""
        return sum(p.visual_tokens for p in self.plans)

    @property
    def t_eq(self) -> float:
        """Visual tokens per layer, averaged over the layers, as they were."""
        return sum(self.tokens_per_layer) / max(1, len(self.tokens_per_layer))

    def __str__(self) -> str:
        if not self.plans:
            return "no visual tokens were seen"
        layers = " ".join(map(str, self.tokens_per_layer))
        return (
            f"{self.plan}\nvisual tokens per layer: {layers}\n"
            f"KV cache after prefill: {self.kv_bytes:,} bytes\n"
            f"vision {self.vision_ms:.1f} ms, prefill {self.prefill_ms:.1f} ms, "
            f"of which selection {self.selection_ms:.1f} ms"
        )


class Stopwatch:
    """Milliseconds between two points of a forward pass; with `synchronize` it waits for the GPU at both."""

    def __init__(self, synchronize: bool) -> None:
        self.synchronize = synchronize

    def now(self, device: torch.device) -> float:
        """Seconds, after the device has finished what it was given if that was asked for."""
        if self.synchronize and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def since(self, start: float, device: torch.device) -> float:
        """Milliseconds since `start`."""
        return (self.now(device) - start) * 1e3
