"""What an estimate says: costs part by part, with and without compression, as numbers, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .hardware import Hardware
from .memory import Memory
from .ops import PARTS, Op, Part
from .precision import Precision
from .roofline import Kernel, Timed
from .tokens import Inputs, Prompt

FORMAT = 1
#: parts that come before the first token
BEFORE_FIRST: tuple[Part, ...] = ("vision", "projector", "method", "prefill", "head")


@dataclass(frozen=True)
class PartCost:
    """One part of a run, all its operations together.

    flops         of matmuls and attention as kernels execute them, over all devices (2 for a multiply-add)
    flops_full    the same with attention counted queries x keys
    bytes         moved to and from memory on one device
    time_ms       milliseconds at what the device reaches;  ideal_ms  at the peaks of its data sheet
    compute_ms, memory_ms, launch_ms, link_ms   what the milliseconds would be of each alone
    operations    how many are launched
    """

    part: Part
    flops: int
    flops_full: int
    bytes: float
    time_ms: float
    ideal_ms: float
    compute_ms: float
    memory_ms: float
    launch_ms: float
    link_ms: float
    operations: int

    @classmethod
    def of(cls, part: Part, rows: list[Row]) -> PartCost:
        """The sum of some rows."""
        counted = [(row.op.flops * row.op.repeat, row.op.flops_full * row.op.repeat) for row in rows if row.counts]
        reached = [row.reached for row in rows]
        return cls(
            part,
            flops=sum(flops for flops, _ in counted),
            flops_full=sum(full for _, full in counted),
            bytes=sum(t.bytes for t in reached),
            time_ms=1e3 * sum(t.seconds for t in reached),
            ideal_ms=1e3 * sum(row.ideal.seconds for row in rows),
            compute_ms=1e3 * sum(t.compute_s for t in reached),
            memory_ms=1e3 * sum(t.memory_s for t in reached),
            launch_ms=1e3 * sum(t.launch_s for t in reached),
            link_ms=1e3 * sum(t.link_s for t in reached),
            operations=sum(row.op.repeat for row in rows),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One operation with its time: as reached, and at the peaks."""

    op: Op
    reached: Timed
    ideal: Timed

    @property
    def counts(self) -> bool:
        """Whether its FLOPs are of matmuls or attention."""
        return self.op.kind in ("matmul", "attention")


@dataclass(frozen=True)
class Costs:
    """One run of a prompt: without compression, or with a method.

    tokens_per_layer   visual tokens each layer of the language model runs on
    kept_per_layer     tokens of all kinds in each layer's cache after prefill
    other_tokens       all that are not visual
    parts              costs of each part, in order
    memory             bytes on one device
    rows               the operations themselves
    """

    method: str
    tokens_per_layer: tuple[int, ...]
    kept_per_layer: tuple[int, ...]
    other_tokens: int
    parts: dict[Part, PartCost]
    memory: Memory
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def t_eq(self) -> float:
        """Visual tokens per layer, averaged over layers."""
        return sum(self.tokens_per_layer) / len(self.tokens_per_layer)

    @property
    def flops(self) -> int:
        """FLOPs before the first token, attention as executed."""
        return sum(self.parts[p].flops for p in BEFORE_FIRST)

    @property
    def flops_full(self) -> int:
        """FLOPs before the first token, attention counted queries x keys."""
        return sum(self.parts[p].flops_full for p in BEFORE_FIRST)

    @property
    def language_flops(self) -> int:
        """FLOPs of the language model in prefill with its head: what most papers count."""
        return self.parts["prefill"].flops + self.parts["head"].flops

    @property
    def ttft_ms(self) -> float:
        """Milliseconds to the first token, as the device reaches them."""
        return sum(self.parts[p].time_ms for p in BEFORE_FIRST)

    @property
    def ideal_ttft_ms(self) -> float:
        """Milliseconds to the first token at the peaks of the data sheet."""
        return sum(self.parts[p].ideal_ms for p in BEFORE_FIRST)

    @property
    def decode_ms(self) -> float:
        """Milliseconds for all tokens after the first."""
        return self.parts["decode"].time_ms

    @property
    def total_ms(self) -> float:
        """Milliseconds for the whole answer."""
        return self.ttft_ms + self.decode_ms

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the single operations; units in the names, bytes and FLOPs whole."""
        parts = {part: asdict(cost) for part, cost in self.parts.items()}
        memory = asdict(self.memory) | {"peak_bytes": self.memory.peak_bytes, "fits": self.memory.fits}
        return {
            "method": self.method, "t_eq": self.t_eq, "flops": self.flops, "flops_full": self.flops_full,
            "language_flops": self.language_flops, "ttft_ms": self.ttft_ms, "ideal_ttft_ms": self.ideal_ttft_ms,
            "decode_ms": self.decode_ms, "total_ms": self.total_ms, "tokens_per_layer": list(self.tokens_per_layer),
            "kept_per_layer": list(self.kept_per_layer), "other_tokens": self.other_tokens, "memory": memory,
            "parts": parts,
        }  # fmt: skip


@dataclass(frozen=True)
class BreakEven:
    """Where compression pays, and how much it could.

    vision_share    of the time to the first token without compression, spent before the language model
    ceiling         times faster to the first token if every visual token vanished at no cost (Amdahl)
    flops_ceiling   the same in FLOPs
    tokens          visual tokens from which on the method saves more time than it takes; None: never, up to `searched`
    worth_tokens    visual tokens from which on what follows the tower takes 5 % less time with it; None: never
    searched        0 where there is no method, or none that depends on the tokens
    """

    vision_share: float
    ceiling: float
    flops_ceiling: float
    tokens: int | None = None
    worth_tokens: int | None = None
    searched: int = 0


@dataclass(frozen=True)
class Capacity:
    """What fits into the device's memory: equal prompts at once, and frames of the video that was given (0: none)."""

    largest_batch: int
    most_frames: int


@dataclass(frozen=True)
class CostReport:
    """An estimate: nothing in it was measured, unless the hardware's efficiency was.

    costs          with the method
    uncompressed   without any
    least          with the fewest tokens, where the method's budget follows the content; `costs` are then of the most
    """

    model: str
    hardware: Hardware
    precision: Precision
    tp: int
    attention: Kernel
    inputs: Inputs
    prompt: Prompt
    settings: dict[str, str]
    costs: Costs
    uncompressed: Costs
    least: Costs | None
    break_even: BreakEven
    capacity: Capacity
    uncompressed_capacity: Capacity

    @property
    def compressed(self) -> bool:
        """Whether there is a method at all."""
        return self.costs is not self.uncompressed

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "format": FORMAT, "model": self.model, "hardware": self.hardware.name, "tp": self.tp,
            "efficiency": self.hardware.efficiency.source, "precision": asdict(self.precision),
            "attention": self.attention, "inputs": asdict(self.inputs), "settings": self.settings,
            "visual_tokens": self.prompt.visual, "other_tokens": self.prompt.others,
            "costs": self.costs.to_dict(), "uncompressed": self.uncompressed.to_dict(),
            "least": self.least and self.least.to_dict(), "break_even": asdict(self.break_even),
            "capacity": asdict(self.capacity), "uncompressed_capacity": asdict(self.uncompressed_capacity),
        }  # fmt: skip

    def to_csv(self) -> str:
        """Every operation of both runs, one a line; times of all repeats together."""
        text = io.StringIO()
        lines = list(self._lines())
        writer = csv.DictWriter(text, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def _lines(self) -> Iterator[dict[str, Any]]:
        for costs in (self.costs, self.uncompressed) if self.compressed else (self.uncompressed,):
            for row in costs.rows:
                reached = row.reached
                yield {"run": costs.method, **asdict(row.op)} | {
                    "bytes": round(reached.bytes), "compute_ms": 1e3 * reached.compute_s,
                    "memory_ms": 1e3 * reached.memory_s, "launch_ms": 1e3 * reached.launch_s,
                    "link_ms": 1e3 * reached.link_s, "time_ms": 1e3 * reached.seconds,
                    "ideal_ms": 1e3 * row.ideal.seconds, "bound": reached.bound,
                }  # fmt: skip


def parts_of(rows: tuple[Row, ...]) -> dict[Part, PartCost]:
    """Each part's costs; a part without operations costs nothing."""
    return {part: PartCost.of(part, [row for row in rows if row.op.part == part]) for part in PARTS}
