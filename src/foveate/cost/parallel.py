"""Tensor parallelism: which share of an operation one device does, and what devices then tell each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..errors import InvalidValue
from .arch import Arch
from .hardware import Hardware
from .ops import Op
from .precision import Precision

#: seconds for one hop between neighbours, beside the time its bytes take
HOP_S = 1e-6
#: operations by the name of their matrix: what key-value heads divide, what heads or the middle divide, and what brings
#: the shares of all devices together again
KEYS_AND_VALUES = ("k_proj", "v_proj", "k_norm", "kv_cache")
INSIDE = ("act", "rope", "q_norm")
BACK = ("o_proj", "down_proj", "experts_down")


@dataclass(frozen=True)
class Parallel:
    """`tp` devices share each matrix of the language model; vision tower, projector and method run on all alike.

    Heads and the feed-forward's middle are split, key-value heads are copied once there are fewer than devices; norms
    and residuals are done by all. An all-reduce follows the output projection and the feed-forward of every layer, an
    all-gather the LM head.
    """

    tp: int = 1
    heads: int = 1
    kv_heads: int = 1

    @classmethod
    def of(cls, arch: Arch, tp: int, hardware: Hardware) -> Parallel:
        """For this model. Raises InvalidValue for a degree it cannot be split into, or a device without a link."""
        attention = arch.language.blocks[0].attention
        if tp < 1:
            raise InvalidValue(f"tp is how many devices share the model, so at least 1, got {tp}")
        if tp > 1 and not hardware.link:
            raise InvalidValue(f"{hardware.name} has no link to other devices; use --tp 1")
        if attention.heads % tp:
            fitting = [n for n in range(1, attention.heads + 1) if attention.heads % n == 0]
            raise InvalidValue(f"{attention.heads} heads cannot be shared by tp={tp}; use one of {fitting}")
        return cls(tp, attention.heads, attention.kv_heads)

    @property
    def kv_share(self) -> float:
        """The part of keys and values that one device makes and keeps."""
        return math.ceil(self.kv_heads / self.tp) / self.kv_heads

    def share(self, op: Op) -> Op:
        """What one device does of an operation."""
        if self.tp == 1 or op.part not in ("prefill", "decode", "head"):
            return op
        if op.name in KEYS_AND_VALUES:
            return self._split(op, self.kv_share, outputs=True)
        if op.kind == "attention" or op.name in INSIDE:
            return self._split(op, 1 / self.tp, inputs=True, outputs=True)
        if op.name in BACK or op.name == "shared_down_proj":
            return self._split(op, 1 / self.tp, inputs=True)
        if op.kind == "matmul" and op.name not in ("router", "shared_gate"):
            return self._split(op, 1 / self.tp, outputs=True)
        return op

    def link_seconds(self, op: Op, hardware: Hardware, precision: Precision) -> float:
        """What follows one execution between the devices: a ring all-reduce, or the gathering of the logits."""
        if self.tp == 1:
            return 0.0
        rate = hardware.link * hardware.efficiency.link
        around = (self.tp - 1) / self.tp * op.writes * precision.bytes / rate + (self.tp - 1) * HOP_S
        if op.part in ("prefill", "decode") and op.name in BACK:
            return 2 * around
        return around if op.part == "head" and op.kind == "matmul" else 0.0

    def _split(self, op: Op, by: float, *, inputs: bool = False, outputs: bool = False) -> Op:
        return replace(
            op, flops=round(op.flops * by), flops_full=round(op.flops_full * by), weights=round(op.weights * by),
            scores=round(op.scores * by), reads=round(op.reads * (by if inputs else 1)),
            writes=round(op.writes * (by if outputs else 1)),
            kv_reads=round(op.kv_reads * self.kv_share), kv_writes=round(op.kv_writes * self.kv_share),
        )  # fmt: skip
