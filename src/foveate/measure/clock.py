"""Measuring one call of a model: the time, or anything else that adds up, of its parts; and the memory at its peak."""

from __future__ import annotations

import ctypes
import functools
import gc
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..families import family_of


class Gauge(ABC):
    """Something that is read at two points of a run, and the amount between them."""

    @abstractmethod
    def now(self) -> Any:
        """A reading."""

    @abstractmethod
    def between(self, start: Any, end: Any) -> float:
        """What went by between two readings; of a GPU only after it has finished."""


class HostTime(Gauge):
    """Milliseconds on a device that finishes what it is given before the call returns: a CPU."""

    def now(self) -> float:
        return time.perf_counter()

    def between(self, start: float, end: float) -> float:
        return (end - start) * 1e3


class CudaTime(Gauge):
    """Milliseconds between events on the stream: nothing waits for the GPU while it is measured."""

    def now(self) -> torch.cuda.Event:
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end))


@dataclass(frozen=True)
class Flops(Gauge):
    """What torch's counter has counted; attention is only seen by it in the MATH backend or in eager."""

    counter: FlopCounterMode

    def now(self) -> int:
        return int(self.counter.get_total_flops())

    def between(self, start: int, end: int) -> float:
        return end - start


def timer(device: torch.device) -> Gauge:
    """The clock for a device."""
    return CudaTime() if device.type == "cuda" else HostTime()


@dataclass
class Parts:
    """The amounts of the parts of one generate call, filled when the block of `parts` is left.

    vision    encoding all images, what a method reads there included
    prefill   the language model's layers on the prompt, a method's cuts included; without the LM head
    decode    for each further token: from one pass of the layers to the end of the next, LM head and sampling included;
              None where there was only one token
    total     the whole block
    """

    vision: float = 0.0
    prefill: float = 0.0
    decode: float | None = None
    total: float = 0.0


@contextmanager
def parts(model: nn.Module, gauge: Gauge) -> Iterator[Parts]:
    """Measure the parts of one `generate` inside this block, by the same means with and without a method.

    To be entered inside `foveate.compress`: its own work lies between these hooks.
    """
    family = family_of(model.config)
    core = family.core(model)
    decoder = family.decoder(core)
    found = Parts()
    seen: list[tuple[Any, Any]] = []
    passes: list[list[Any]] = []
    with ExitStack() as undo:
        for kind in family.image_token_ids(core.config):
            _wrap(core, f"get_{kind}_features", gauge, seen, undo)

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            passes.append([gauge.now()])

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            passes[-1].append(gauge.now())

        undo.callback(decoder.register_forward_pre_hook(before, prepend=True).remove)
        undo.callback(decoder.register_forward_hook(after).remove)
        start = gauge.now()
        yield found
        end = gauge.now()
    found.total = gauge.between(start, end)
    found.vision = sum((gauge.between(a, b) for a, b in seen), 0.0)
    found.prefill = gauge.between(*passes[0])
    if len(passes) > 1:
        found.decode = gauge.between(passes[0][1], passes[-1][1]) / (len(passes) - 1)


def _wrap(core: nn.Module, name: str, gauge: Gauge, seen: list[tuple[Any, Any]], undo: ExitStack) -> None:
    """Measure a method of this instance; what stood in its place, the class's method or a context's, comes back."""
    encode: Callable[..., Any] = getattr(core, name)

    @functools.wraps(encode)  # transformers looks at the arguments it takes
    def measured(*args: Any, **kwargs: Any) -> Any:
        start = gauge.now()
        features = encode(*args, **kwargs)
        seen.append((start, gauge.now()))
        return features

    if name in vars(core):
        undo.callback(setattr, core, name, encode)
    else:
        undo.callback(delattr, core, name)
    setattr(core, name, measured)


@dataclass(frozen=True)
class Spread:
    """The median of some runs, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one run or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Peak:
    """Bytes at the peak above what was there before; None where this system does not tell."""

    kind: str
    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """The most memory held at one moment inside this block, above what was held when it was entered.

    On a GPU what torch allocated there; else the resident set of this process, in pages (Linux).
    """
    if device.type == "cuda":
        peak = Peak("allocated on the GPU")
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    peak = Peak("resident set of the process")
    there = _forget_peak()
    yield peak
    highest = _status("VmHWM")
    if there is not None and highest is not None:
        peak.bytes = max(0, highest - there)


def _forget_peak() -> int | None:
    """Give freed memory back to the system and let the kernel's peak begin anew; the resident set now, if it can."""
    gc.collect(1)  # a full one takes longer than what is measured
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if Path("/proc/self/clear_refs").exists() else None
    if trim is None:
        return None
    trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    file = Path("/proc/self/status")
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
