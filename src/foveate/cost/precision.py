"""In which formats a model's numbers are kept and multiplied, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ..errors import InvalidValue, unknown_name
from .hardware import BITS, Hardware, OperandType
from .ops import Op

#: weights below 8 bits carry a 16-bit scale for each group of so many
GROUP = 128
#: rows of a GEMM for which one unpacked tile of weights is used
TILE = 128
ALLOWED = (2, 3, 4, 6, 8, 16, 32)


@dataclass(frozen=True)
class Precision:
    """Bits of weights, activations and cache of the language model's blocks; everything else is of `dtype`.

    As quantised checkpoints are made: the vision tower, the projector, the embedding and the LM head stay in dtype.
    Weights or activations that are narrower than the type the device multiplies in are unpacked by its vector units: 2
    FLOPs an element, weights once for every 128 rows.
    """

    dtype: OperandType
    w_bits: int
    a_bits: int
    kv_bits: int

    @classmethod
    def of(
        cls,
        hardware: Hardware,
        dtype: str | None = None,
        w_bits: int | None = None,
        a_bits: int | None = None,
        kv_bits: int | None = None,
    ) -> Precision:
        """The precision asked for, the device's own where nothing is; `dtype` alone sets all bits.

        Raises InvalidValue for a type the device has no units for, and for bits that no format has.
        """
        chosen = hardware.default_type if dtype is None else _operand_type(dtype, hardware)
        bits = BITS[chosen]
        base: OperandType = chosen if bits >= 16 else hardware.default_type
        for name, value in (("w_bits", w_bits), ("a_bits", a_bits), ("kv_bits", kv_bits)):
            if value is not None and value not in ALLOWED:
                raise InvalidValue(f"{name} must be one of {', '.join(map(str, ALLOWED))}, got {value}")
        return cls(base, w_bits or bits, a_bits or bits, kv_bits or max(8, bits))

    @property
    def bytes(self) -> float:
        """Bytes of a number of dtype."""
        return BITS[self.dtype] / 8

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight of the language model's blocks, its share of a scale included."""
        return (self.w_bits + (16 / GROUP if self.w_bits < 8 else 0)) / 8

    @property
    def kv_bytes(self) -> float:
        """Bytes of an element of the cache."""
        return self.kv_bits / 8

    def quantised(self, op: Op) -> bool:
        """Whether w_bits and a_bits apply to this operation."""
        return op.kind == "matmul" and op.part in ("prefill", "decode") and op.weights > 0

    def operand(self, op: Op, hardware: Hardware) -> OperandType:
        """The type in which this operation multiplies: the narrowest the device has that holds both operands."""
        bits = max(self.w_bits, self.a_bits) if self.quantised(op) else BITS[self.dtype]
        narrow: tuple[OperandType, ...] = ("fp4", "fp8", "int8")
        fitting = [t for t in narrow if bits <= BITS[t] < BITS[self.dtype] and t in hardware.flops]
        return fitting[0] if fitting else self.dtype

    def traffic(self, op: Op) -> float:
        """Bytes one execution reads and writes."""
        quantised = self.quantised(op)
        weights = op.weights * (self.weight_bytes if quantised else self.bytes)
        reads = op.reads * (self.a_bits / 8 if quantised else self.bytes)
        return weights + reads + op.writes * self.bytes + (op.kv_reads + op.kv_writes) * self.kv_bytes

    def unpacking(self, op: Op, operand: OperandType) -> int:
        """FLOPs of bringing narrower weights, or a narrower cache, to the type that is multiplied."""
        if self.quantised(op):
            return 2 * op.weights * -(-op.rows // TILE) if self.w_bits < BITS[operand] else 0
        return 2 * op.kv_reads if self.kv_bits < BITS[operand] else 0


def _operand_type(name: str, hardware: Hardware) -> OperandType:
    known: tuple[OperandType, ...] = get_args(OperandType)
    long = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"}
    wanted = next((t for t in known if t == long.get(name.lower(), name.lower())), None)
    if wanted is None:
        raise unknown_name("dtype", name, known)
    if wanted not in hardware.flops:
        raise InvalidValue(f"{hardware.name} has no units for {wanted}; it has: {', '.join(hardware.flops)}")
    return wanted
