"""Does the cost model tell the time? Predicted against measured prefill, three models by three keeps.

The device is calibrated (`foveate cost calibrate`), then random Qwen2.5-VL models of three sizes answer a prompt with
one token, interleaved, without compression and with a method; then it is calibrated again, and the prediction is the
mean of both. Prefill is the whole forward pass less what the vision tower takes alone, and includes the method's own
work. The claim is 15 % for each of the nine medians. It needs an idle machine: if the two calibrations differ by more
than 10 % the result says so. Where others use the machine, `--clock cpu` (one thread, its processor time) is robust.

    python benchmarks/cost_time.py [--device cuda] [--dtype bf16] [--runs 5] [--clock cpu] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date

import torch
import transformers

import foveate
from foveate.cost.calibrate import DTYPES, calibrate
from foveate.cost.deployment import Deployment
from foveate.cost.hardware import Hardware
from foveate.cost.hf import arch_of
from foveate.cost.ledger import ledger_of
from foveate.cost.tokens import Grid, Prompt, Visual
from foveate.families.qwen2_5_vl import Qwen25VL

TOLERANCE = 0.15
#: hidden, ffn, layers, heads, key-value heads, side of the image in tokens
SIZES = {
    "cpu": ((512, 2048, 8, 8, 2, 32), (1024, 4096, 6, 16, 4, 32), (2048, 8192, 4, 16, 4, 32)),
    "cuda": ((2048, 8192, 16, 16, 4, 64), (3584, 18944, 12, 28, 4, 64), (5120, 27648, 8, 40, 8, 64)),
}
BEHIND_TOWER = ("method", "prefill", "head")


class Case:
    """One model, its prompt, and what it takes with each keep."""

    def __init__(self, size: tuple[int, ...], method: str, keeps: list[float], device: str, dtype: torch.dtype) -> None:
        hidden, ffn, layers, heads, kv_heads, side = size
        half = hidden // heads // 2
        rope = {"rope_type": "default", "mrope_section": [half - 2 * (3 * half // 8), *[3 * half // 8] * 2]}
        text = dict(
            hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, rope_parameters=rope | {"rope_theta": 1e6}, initializer_range=0.02,
        )  # fmt: skip
        family = Qwen25VL()
        self.model = family.tiny(0, **text).to(device, dtype)
        inputs = family.tiny_inputs(self.model, [[(side, side)]], text=40)
        self.inputs = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()}
        self.arch = arch_of(self.model.config.to_dict())
        image = Visual("image", (Grid(1, 2 * side, 2 * side),), (Grid(1, side, side),))
        self.prompt = Prompt((image,), inputs["input_ids"].shape[1] - side**2)
        self.methods = {keep: foveate.get_method(method, keep=keep) if keep < 1 else None for keep in keeps}
        self.parameters = sum(p.numel() for p in self.model.model.language_model.parameters())
        self.times: dict[float, list[float]] = {keep: [] for keep in keeps}
        self.tower_times: list[float] = []

    def answer(self, keep: float) -> None:
        """One prefill."""
        method = self.methods[keep]
        with torch.no_grad(), foveate.compress(self.model, method) if method else nullcontext():
            self.model(**self.inputs, use_cache=True, logits_to_keep=1)

    def tower(self) -> None:
        """The vision tower and projector alone."""
        seen = {k: self.inputs[k] for k in ("pixel_values", "image_grid_thw")}
        with torch.no_grad():
            self.model.base_model.get_image_features(**seen)

    def predicted_ms(self, hardware: Hardware, keep: float) -> float:
        """What the cost model says."""
        deployment = Deployment.of(self.arch, hardware)
        costs = deployment.costs("", self.prompt, ledger_of(self.methods[keep], self.arch, self.prompt))
        return sum(costs.parts[part].time_ms for part in BEHIND_TOWER)

    def measured_ms(self, keep: float) -> float:
        """The median, less that of the tower."""
        return 1e3 * (statistics.median(self.times[keep]) - statistics.median(self.tower_times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="fp32 on a CPU, else bf16")
    parser.add_argument("--method", default="divprune")
    parser.add_argument("--keeps", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of one thread")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    options.dtype = options.dtype or ("fp32" if options.device == "cpu" else "bf16")
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    clock = time.thread_time if options.clock == "cpu" else time.perf_counter

    sizes = SIZES["cpu" if options.device == "cpu" else "cuda"]
    cases = [Case(size, options.method, options.keeps, options.device, DTYPES[options.dtype]) for size in sizes]
    before = calibrate(options.device, options.dtype, clock=clock)
    measure(cases, options, clock)
    after = calibrate(options.device, options.dtype, clock=clock)
    report(cases, before, after, options)


def measure(cases: list[Case], options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """All cases, interleaved, after a warm-up of each."""

    def timed(call: Callable[[], None]) -> float:
        start = clock()
        call()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - start

    for run in range(options.runs + 1):
        for case in cases:
            case.tower_times.append(timed(case.tower))
            for keep in options.keeps:
                case.times[keep].append(timed(lambda: case.answer(keep)))  # noqa: B023
            if run == 0:
                case.tower_times.clear()
                case.times = {keep: [] for keep in options.keeps}
        print(f"\r{run}/{options.runs} rounds", end="", file=sys.stderr)
    print(file=sys.stderr)


def report(cases: list[Case], before: Hardware, after: Hardware, options: argparse.Namespace) -> None:
    """The table, and one JSON object as the last line."""
    rows, drifts = [], []
    print(
        f"{'parameters':>12}{'keep':>7}{'measured ms':>13}{'spread':>16}{'predicted ms':>14}{'predicted/measured':>20}"
    )
    for case in cases:
        for keep in options.keeps:
            guesses = [case.predicted_ms(hardware, keep) for hardware in (before, after)]
            drifts.append(guesses[1] / guesses[0])
            measured, predicted = case.measured_ms(keep), statistics.mean(guesses)
            spread = f"{1e3 * min(case.times[keep]):.0f}-{1e3 * max(case.times[keep]):.0f}"
            print(
                f"{case.parameters / 1e6:>10.0f} M{keep:>7g}{measured:>13.1f}{spread:>16}{predicted:>14.1f}"
                f"{predicted / measured:>20.3f}"
            )
            rows.append(
                {"parameters": case.parameters, "keep": keep, "measured_ms": measured, "predicted_ms": predicted,
                 "ratio": predicted / measured, "tower_ms": 1e3 * statistics.median(case.tower_times)}
            )  # fmt: skip
    worst, drift = max(abs(row["ratio"] - 1) for row in rows), max(abs(d - 1) for d in drifts)
    idle = drift < 0.1
    print(f"worst {worst:.1%} off, claim {TOLERANCE:.0%}: {'kept' if worst <= TOLERANCE else 'NOT kept'}")
    if not idle:
        print(f"the two calibrations differ by {drift:.0%}: the machine was not idle, measure again")
    result = {
        "date": str(date.today()), "hardware": before.title, "device": options.device, "dtype": options.dtype,
        "clock": options.clock, "threads": torch.get_num_threads(), "runs": options.runs, "method": options.method,
        "visual_tokens": cases[0].prompt.visual, "torch": torch.__version__, "transformers": transformers.__version__,
        "calibration_drift": drift, "idle": idle, "worst": worst, "rows": rows,
    }  # fmt: skip
    print(json.dumps(result))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
