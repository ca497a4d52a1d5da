"""A short measured run on the present device: what it reaches, as an entry for the hardware table.

Each figure is the median of repeated calls: of linear layers and scaled dot-product attention, whose rates depend on
size, and of small decoders of transformers, for what is between them and for launching. Takes about a minute on an idle
machine. The only module of the cost model's path that imports torch.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import date

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidValue, unknown_name
from .count import operations
from .hardware import Efficiency, Hardware, OperandType, all_hardware
from .hf import arch_of
from .ledger import Ledger
from .ops import Op
from .precision import Precision
from .roofline import Roofline
from .tokens import Prompt

DTYPES: dict[OperandType, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: the least time given to each figure
BUDGET_S = 0.1
ROWS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048)
LENGTHS = (64, 128, 256, 512, 1024, 2048)
#: hidden width, layers, tokens of the decoders from which elementwise operations are told
DECODERS = ((512, 4, 64), (512, 4, 256), (1024, 2, 256), (1024, 2, 1024), (2048, 2, 1024), (2048, 2, 2048))
#: bytes of weights that no cache holds
COLD = 256 << 20
#: numbers that are copied to learn the bandwidth
STREAM = 64 << 20
WIDTHS = ((512, 512), (1024, 1024), (1024, 4096), (4096, 1024), (2048, 2048), (2048, 8192))


class Stopwatch:
    """Median seconds of a call on a device, each call waited for."""

    def __init__(self, device: torch.device, budget_s: float, clock: Callable[[], float]) -> None:
        self.device = device
        self.budget_s = budget_s
        self.clock = clock

    def __call__(self, call: Callable[[], object], least: int = 5) -> float:
        for _ in range(2):
            call()
        self._wait()
        times: list[float] = []
        end = self.clock() + self.budget_s
        while len(times) < least or self.clock() < end:
            start = self.clock()
            call()
            self._wait()
            times.append(self.clock() - start)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def calibrate(
    device: str = "cpu",
    dtype: str = "fp32",
    name: str | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Hardware:
    """Measure this device and return its entry: the peaks of its data sheet where it is known, else what was reached.

    clock  what counts as time; `time.thread_time`, with one thread, is robust where others use the machine

    Raises InvalidValue for a device or type that is not there.
    """
    place = _device(device)
    chosen = next((t for t in DTYPES if t == dtype), None)
    if chosen is None:
        raise unknown_name("dtype to measure", dtype, DTYPES)
    with torch.inference_mode():
        return _measured(place, chosen, name or place.type, Stopwatch(place, BUDGET_S, clock))


def _measured(device: torch.device, dtype: OperandType, name: str, watch: Stopwatch) -> Hardware:
    kind = DTYPES[dtype]
    gemm = {rows: [_gemm(watch, device, kind, rows, *shape) for shape in WIDTHS] for rows in ROWS}
    causal, full = ({n: _attention(watch, device, kind, n, causal=c) for n in LENGTHS} for c in (True, False))
    streams = [_copy(watch, device), *(rate / 2 * kind.itemsize for rate in gemm[1])]
    known = _known(device)
    peak = known.flops[dtype] if known and dtype in known.flops else max(map(max, gemm.values()))
    bandwidth = known.bandwidth if known else statistics.median(streams)
    efficiency = Efficiency.model_validate(
        dict(
            gemm=_curve({rows: statistics.median(rates) for rows, rates in gemm.items()}, peak),
            attention=_curve(full, peak),
            causal=_curve(causal, peak),
            vector=1.0,
            memory=_fraction(statistics.median(streams), bandwidth),
            elementwise=1,
            source=f"measured {date.today()}, torch {torch.__version__}, {dtype}, {torch.get_num_threads()} threads",
        )
    )
    found = known or Hardware(
        name=name,
        title=_title(device),
        flops={dtype: _digits(peak)},
        vector=_digits(peak),
        bandwidth=_digits(bandwidth),
        memory=_digits(_memory(device)),
        cache=_cache(),
        efficiency=efficiency,
        source="what the calibration reached at best",
    )
    launch = round(_launch(watch, device, kind) * 1e6, 1)
    found = found.model_copy(update=dict(name=name, aliases=(), efficiency=efficiency, launch_us=launch))
    rest = _curve(dict(_elementwise(watch, device, kind, found)), bandwidth)
    reached = Efficiency.model_validate(efficiency.model_dump() | {"elementwise": rest})
    return found.model_copy(update={"efficiency": reached})


# ── what is timed; all return FLOP/s, bytes/s or seconds ─────────────────────────────────────────────────────────


def _gemm(watch: Stopwatch, device: torch.device, kind: torch.dtype, rows: int, inputs: int, outputs: int) -> float:
    """With other weights each time, as in a model, so that no cache holds them."""
    x = _random(device, kind, rows, inputs)
    copies = max(2, min(16, COLD // (inputs * outputs * kind.itemsize)))
    weights = itertools.cycle([_random(device, kind, outputs, inputs) for _ in range(copies)])
    return 2 * rows * inputs * outputs / watch(lambda: F.linear(x, next(weights)))


def _attention(watch: Stopwatch, device: torch.device, kind: torch.dtype, n: int, *, causal: bool) -> float:
    """Mean of heads 64 and 128 wide, 16 of them."""
    rates = []
    for width in (64, 128):
        q, k, v = (_random(device, kind, 1, 16, n, width) for _ in range(3))
        pairs = n * (n + 1) // 2 if causal else n * n
        seconds = watch(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))  # noqa: B023
        rates.append(4 * 16 * width * pairs / seconds)
    return statistics.mean(rates)


def _copy(watch: Stopwatch, device: torch.device) -> float:
    big = torch.ones(STREAM, device=device)
    other = torch.ones_like(big)
    return 2 * big.nbytes / watch(lambda: other.copy_(big))


def _launch(watch: Stopwatch, device: torch.device, kind: torch.dtype) -> float:
    """Seconds an operation takes that has nothing to do: a tiny decoder over the operations counted in it."""
    run, ops = _decoder(device, kind, hidden=64, layers=4, n=8)
    return watch(run) / sum(op.repeat for op in ops)


def _elementwise(
    watch: Stopwatch, device: torch.device, kind: torch.dtype, found: Hardware
) -> Iterable[tuple[int, float]]:
    """For each size of an operation the rate of norms, adds, activations and rotations in a decoder.

    They are what its time leaves when matmuls, attention and launches are taken off: in a model, where memory is
    allocated for each result, they are much slower than alone.
    """
    roofline = Roofline(found, Precision.of(found))
    for hidden, layers, n in DECODERS:
        run, ops = _decoder(device, kind, hidden, layers, n)
        times = roofline.times(ops)
        rest = [(op.repeat, t) for op, t in zip(ops, times, strict=True) if op.kind not in ("matmul", "attention")]
        moved = sum(t.bytes for _, t in rest)
        others = sum(t.seconds for t in times) - sum(t.memory_s for _, t in rest)
        seconds = max(watch(run) - others, moved / found.bandwidth)
        mean = sum(t.bytes**2 / repeat for repeat, t in rest) / moved
        yield round(mean), moved / seconds


def _decoder(
    device: torch.device, kind: torch.dtype, hidden: int, layers: int, n: int
) -> tuple[Callable[[], object], tuple[Op, ...]]:
    """A forward pass of n text tokens through a random Qwen2.5-VL, and the operations in it."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    width = min(64, hidden // 4)
    text = dict(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, vocab_size=256, bos_token_id=1,
        num_attention_heads=hidden // width, num_key_value_heads=hidden // width // 4, eos_token_id=2,
        rope_parameters={"rope_type": "default", "mrope_section": [width // 8, *[width * 3 // 16] * 2]},
    )  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, image_token_id=1, video_token_id=2, vision_start_token_id=3)
    config.vision_config.depth, config.vision_config.out_hidden_size = 1, hidden
    model = Qwen2_5_VLForConditionalGeneration(config).to(device, kind).eval()
    ids = torch.full((1, n), 9, device=device)
    ops = operations(arch_of(config.to_dict()), Prompt((), n), Ledger((0,) * layers, n))
    return lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1), ops


# ── the device ───────────────────────────────────────────────────────────────────────────────────────────────────


def _random(device: torch.device, kind: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, device=device, dtype=kind)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidValue(f"cannot use device {name!r}: {str(error).splitlines()[0]}") from error
    return device


def _known(device: torch.device) -> Hardware | None:
    """The entry of the table that this GPU's name says it is."""
    if device.type != "cuda":
        return None
    name, total = torch.cuda.get_device_name(device).lower(), _memory(device)
    for entry in all_hardware().values():
        words = [w for w in entry.title.lower().replace("geforce", "").split() if w not in ("gb", "sxm")]
        named = all(w in name for w in words if not w.isdigit() or int(w) > 200)
        if named and abs(entry.memory / total - 1) < 0.1:
            return entry
    return None


def _title(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _cache() -> float:
    """Bytes of the last level of a CPU's cache, or a megabyte where the system does not say."""
    known = "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names
    return float(max(os.sysconf("SC_LEVEL3_CACHE_SIZE") if known else 0, 1 << 20))


def _curve(rates: dict[int, float], peak: float) -> list[list[float]]:
    return [[size, _fraction(rate, peak)] for size, rate in sorted(rates.items())]


def _fraction(rate: float, peak: float) -> float:
    return min(1.0, max(1e-4, round(rate / peak, 4)))


def _digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
