"""One operation as it is executed once: its FLOPs, and what it reads and writes. No units but elements and FLOPs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal["vision", "projector", "method", "prefill", "decode", "head"]
Kind = Literal["matmul", "attention", "elementwise", "gather"]
PARTS: tuple[Part, ...] = ("vision", "projector", "method", "prefill", "head", "decode")


@dataclass(frozen=True)
class Op:
    """One operation of one layer. A multiply-add is 2 FLOPs; all numbers are of one execution, for the whole batch.

    layer       index inside its part; None where it has none
    flops       as the kernel executes it: attention that is causal counts the pairs it needs
    flops_full  the same with attention counted queries x keys, as torch's FlopCounterMode does; equal elsewhere
    weights     weight elements read; bytes follow from the precision
    reads, writes         activation elements
    kv_reads, kv_writes   elements of the cache
    rows        m of the GEMM (tokens x batch)
    repeat      identical executions, one after another: decode steps, rounds of a greedy selector
    scores      attention scores that an attention which is not fused writes out and reads again
    """

    name: str
    part: Part
    layer: int | None
    kind: Kind
    flops: int
    flops_full: int
    weights: int = 0
    reads: int = 0
    writes: int = 0
    kv_reads: int = 0
    kv_writes: int = 0
    rows: int = 0
    repeat: int = 1
    scores: int = 0


def total_flops(ops: Iterable[Op], *, full: bool = False, elementwise: bool = False) -> int:
    """FLOPs of matmuls and attention (with `elementwise`, of everything), repeats included.

    `full` counts attention queries x keys: the number that torch's FlopCounterMode gives.
    """
    return sum(
        (op.flops_full if full else op.flops) * op.repeat
        for op in ops
        if elementwise or op.kind in ("matmul", "attention")
    )


def of_part(ops: Iterable[Op], *parts: Part) -> Iterator[Op]:
    """The operations of some parts."""
    return (op for op in ops if op.part in parts)
