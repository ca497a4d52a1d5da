"""How long operations take on a device: the roofline, with what is really reached of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Literal

from .hardware import Hardware
from .ops import Op
from .parallel import Parallel
from .precision import Precision

Kernel = Literal["fused", "eager"]
Bound = Literal["compute", "memory", "launch", "link"]

#: all of an operation but its layer
NUMBERS = attrgetter(*(f.name for f in fields(Op) if f.name != "layer"))
#: how often eager attention moves each score: product out; scale, mask, two casts and softmax in and out; product in
EAGER_MOVES = 16
#: kernels of eager attention
EAGER_KERNELS = 7


@dataclass(frozen=True, slots=True)
class Timed:
    """An operation on a device, all its repeats together: FLOPs, bytes and seconds of one of the devices that share it.

    It takes the longer of compute and memory, then what it costs to launch and to exchange.
    """

    flops: int
    bytes: float
    compute_s: float
    memory_s: float
    launch_s: float
    link_s: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(self.compute_s, self.memory_s) + self.launch_s + self.link_s

    @property
    def bound(self) -> Bound:
        """What most of the time goes to."""
        parts: dict[Bound, float] = {
            "compute": self.compute_s, "memory": self.memory_s, "launch": self.launch_s, "link": self.link_s
        }  # fmt: skip
        return max(parts, key=lambda name: parts[name])

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Roofline:
    """Time of operations: max(FLOPs / rate, bytes / bandwidth) + launch, each rate a fraction of the device's peak.

    Matmuls run at the peak of their type times a curve over their rows, attention over the keys of a query; everything
    else at the vector peak. Fused attention reads q, k and v and writes its output, nothing else; eager attention moves
    every score 16 times besides, as the transformers implementation does.
    """

    hardware: Hardware
    precision: Precision
    parallel: Parallel = field(default_factory=Parallel)
    attention: Kernel = "fused"

    def ideal(self) -> Roofline:
        """The same at the peaks of the data sheet."""
        return Roofline(self.hardware.ideal(), self.precision, self.parallel, self.attention)

    def time(self, op: Op) -> Timed:
        """One operation."""
        mine = self.parallel.share(op)
        eager = self.attention == "eager" and mine.kind == "attention"
        moved = self.precision.traffic(mine) + (EAGER_MOVES * mine.scores * self.precision.bytes if eager else 0)
        link = self.parallel.link_seconds(op, self.hardware, self.precision)
        kernels = EAGER_KERNELS if eager else 1
        return Timed(
            flops=mine.repeat * mine.flops,
            bytes=mine.repeat * moved,
            compute_s=mine.repeat * self._compute(mine),
            memory_s=mine.repeat * moved / self._bandwidth(mine, moved),
            launch_s=mine.repeat * kernels * self.hardware.launch_us * 1e-6,
            link_s=mine.repeat * link,
        )

    def times(self, ops: Iterable[Op]) -> tuple[Timed, ...]:
        """Each operation; equal ones, as layers mostly have, are worked out once."""
        known: dict[tuple[object, ...], Timed] = {}
        found = []
        for op in ops:
            numbers = NUMBERS(op)
            if numbers not in known:
                known[numbers] = self.time(op)
            found.append(known[numbers])
        return tuple(found)

    def _compute(self, op: Op) -> float:
        device, reached = self.hardware, self.hardware.efficiency
        vector = device.vector * reached.vector
        if op.kind not in ("matmul", "attention"):
            return op.flops / vector
        operand = self.precision.operand(op, device)
        flops, by = op.flops, reached.gemm.at(op.rows)
        if op.kind == "attention":
            keys = op.flops_full / (4 * op.writes)  # of each query: 4 FLOPs for a key and a feature of the output
            full = self.attention == "eager" or op.flops == op.flops_full
            flops = op.flops_full if full else op.flops
            by = (reached.attention if full else reached.causal).at(keys)
        return flops / (device.flops[operand] * by) + self.precision.unpacking(op, operand) / vector

    def _bandwidth(self, op: Op, moved: float) -> float:
        reached = self.hardware.efficiency
        by = reached.memory if op.kind in ("matmul", "attention") else reached.elementwise.at(moved)
        return self.hardware.bandwidth * by
