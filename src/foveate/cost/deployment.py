"""A model on a device, ready to price prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..errors import InvalidValue
from .arch import Arch
from .count import operations
from .hardware import Hardware, get_hardware
from .hf import arch_of
from .ledger import Compression, Ledger, ledger_of
from .memory import MemoryModel, most
from .parallel import Parallel
from .precision import Precision
from .report import Capacity, Costs, Row, parts_of
from .roofline import Kernel, Roofline
from .tokens import Inputs, Prompt, prompt_of

#: frames up to which the longest video is searched
FRAMES = 1 << 14


@dataclass(frozen=True)
class Deployment:
    """A model on a device, ready to price prompts."""

    arch: Arch
    roofline: Roofline

    @classmethod
    def of(
        cls,
        config: Any,
        hardware: str | Hardware = "a100-80gb",
        *,
        hardware_file: str | Path | None = None,
        dtype: str | None = None,
        w_bits: int | None = None,
        a_bits: int | None = None,
        kv_bits: int | None = None,
        tp: int = 1,
        attention: str = "fused",
    ) -> Deployment:
        """From names, as `estimate` takes them."""
        arch = config if isinstance(config, Arch) else arch_of(config)
        device = hardware if isinstance(hardware, Hardware) else get_hardware(hardware, hardware_file)
        kernel = next((k for k in get_args(Kernel) if k == attention), None)
        if kernel is None:
            raise InvalidValue(f"attention is 'fused' or 'eager', got {attention!r}")
        precision = Precision.of(device, dtype, w_bits, a_bits, kv_bits)
        return cls(arch, Roofline(device, precision, Parallel.of(arch, tp, device), kernel))

    @property
    def memory(self) -> MemoryModel:
        """How its memory is counted."""
        r = self.roofline
        return MemoryModel(self.arch, r.precision, r.parallel, r.attention, r.hardware.memory)

    def costs(self, name: str, prompt: Prompt, ledger: Ledger, new_tokens: int = 1) -> Costs:
        """A prompt whose layers run on the ledger's tokens."""
        ops = operations(self.arch, prompt, ledger, new_tokens=new_tokens)
        times = zip(ops, self.roofline.times(ops), self.roofline.ideal().times(ops), strict=True)
        rows = tuple(Row(*row) for row in times)
        return Costs(
            name, ledger.visual, ledger.kept, ledger.text, parts_of(rows),
            self.memory.of(prompt, ledger, new_tokens), rows,
        )  # fmt: skip

    def capacity(self, method: Compression, inputs: Inputs, prompt: Prompt, ledger: Ledger) -> Capacity:
        """The largest batch of this prompt, and the most frames of its first video, that fit.

        A list of tokens per layer says nothing of longer videos, so of frames neither.
        """
        new = inputs.new_tokens

        def batch_fits(batch: int) -> bool:
            return self.memory.of(replace(prompt, batch=batch), ledger, new).fits

        def frames_fit(pairs: int) -> bool:
            first = inputs.videos[0]._replace(frames=2 * pairs)
            longer = prompt_of(self.arch, replace(inputs, videos=(first, *inputs.videos[1:])))
            return self.memory.of(longer, ledger_of(method, self.arch, longer), new).fits

        frames = 2 * most(frames_fit, FRAMES // 2) if inputs.videos and not isinstance(method, Sequence) else 0
        return Capacity(most(batch_fits), frames)
