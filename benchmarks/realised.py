"""Is the speed-up on paper the speed-up on the clock? (prefill time without / with) / (FLOPs without / with).

A random Qwen2.5-VL of 0.73 B parameters in 12 layers answers a prompt of 4,096 visual tokens with one token; methods
and baseline run interleaved, after a warm-up, and medians are compared. Prefill is the whole call of `generate` less
what the vision tower takes without any method, measured in the same rounds: the tower is the same for all and toy-sized
here, but what a method adds inside it (VisionZip reads attention there) counts, as does all its own work. FLOPs are
torch's count of the same call, less the tower's, under the math attention backend, which the counter sees. A ratio near
1 means that what is saved on paper is saved on the clock. With fewer tokens (--tokens 1024) CPU kernels run on too few
rows to be efficient, and the ratio falls; with fewer layers what a method adds outside them weighs more.

    python benchmarks/realised.py [--runs 3] [--family qwen] [--tokens 4096] [--layers 12] [--keep 0.25] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from contextlib import nullcontext

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import foveate
from foveate.families.base import Family
from foveate.families.llava import Llava
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.method import Method


def model_and_inputs(family: str, tokens: int, layers: int) -> tuple[torch.nn.Module, dict]:
    """A random model 2,048 wide (0.06 B parameters a layer) and a prompt of about `tokens` visual tokens."""
    side = round(tokens**0.5)
    text = dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=4, initializer_range=0.02,
    )  # fmt: skip
    if family == "qwen":
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        adapter: Family = Qwen25VL()
        model = adapter.tiny(0, **text, rope_parameters=rope)
    else:
        adapter = Llava()
        config = adapter.tiny(0, **text).config
        config.vision_config.image_size = 14 * side
        model = transformers.LlavaForConditionalGeneration(config).eval()
    return model, adapter.tiny_inputs(model, [[(side, tokens // side)]], text=40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--family", choices=("qwen", "llava"), default="qwen", help="tower without or with CLS")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="+", default=["aim", "fastv", "divprune", "visionzip"])
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    model, inputs = model_and_inputs(options.family, options.tokens, options.layers)
    methods: dict[str, Method | None] = {"none": None}
    methods |= {name: foveate.get_method(name, keep=options.keep) for name in options.methods}

    def answer(method: Method | None) -> None:
        with torch.no_grad(), foveate.compress(model, method) if method else nullcontext():
            model.generate(**inputs, max_new_tokens=1, do_sample=False)

    def tower() -> None:
        with torch.no_grad():
            seen = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
            model.base_model.get_image_features(**seen)

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower()
    tower_flops, tower_times = counter.get_total_flops(), []
    flops, times = {}, {name: [] for name in methods}
    for name, method in methods.items():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            answer(method)
        flops[name] = counter.get_total_flops() - tower_flops
        answer(method)  # warm-up with the kernels that are timed
    for _ in range(options.runs):
        start = time.perf_counter()
        tower()
        tower_times.append(time.perf_counter() - start)
        for name, method in methods.items():
            start = time.perf_counter()
            answer(method)
            times[name].append(time.perf_counter() - start)
            print(f"\r{sum(map(len, times.values()))}/{options.runs * len(methods)} runs", end="", file=sys.stderr)
    print(file=sys.stderr)
    off = statistics.median(tower_times)
    times = {name: [t - off for t in rows] for name, rows in times.items()}
    report(model, inputs, methods, flops, times, options)


def report(
    model: torch.nn.Module, inputs: dict, methods: dict, flops: dict, times: dict, options: argparse.Namespace
) -> None:
    """The table, and one JSON object as the last line."""
    median = {name: statistics.median(t) for name, t in times.items()}
    visual = int((inputs["input_ids"] == model.config.image_token_id).sum())
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e9:.2f} B random parameters in {options.layers} layers, {visual} visual tokens, "
        f"keep {options.keep:g}, {torch.get_num_threads()} threads"
    )
    print(f"{'method':<12}{'GFLOPs':>10}{'FLOPs x':>10}{'prefill ms':>12}{'spread':>16}{'time x':>8}{'realised':>10}")
    rows = {}
    for name in methods:
        saved, faster = flops["none"] / flops[name], median["none"] / median[name]
        rows[name] = {
            "flops": flops[name], "flops_ratio": saved, "time_ms": median[name] * 1e3,
            "time_ms_min": min(times[name]) * 1e3, "time_ms_max": max(times[name]) * 1e3,
            "time_ratio": faster, "realised": faster / saved,
        }  # fmt: skip
        spread = f"{min(times[name]) * 1e3:.0f}-{max(times[name]) * 1e3:.0f}"
        print(
            f"{name:<12}{flops[name] / 1e9:>10.1f}{saved:>10.2f}{median[name] * 1e3:>12.0f}{spread:>16}"
            f"{faster:>8.2f}{faster / saved:>10.2f}"
        )
    result = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "runs": options.runs,
        "torch": torch.__version__, "transformers": transformers.__version__, "parameters": parameters,
        "layers": options.layers, "visual_tokens": visual, "keep": options.keep, "methods": rows,
    }  # fmt: skip
    print(json.dumps(result))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
