"""What each method's own work costs beside the prefill it shortens, at the sizes of a 7B model.

No model is loaded: the pieces of a method run on random tokens of 3,584 dimensions, its readings on queries and keys
(or states) of the shapes of Qwen2.5-VL-7B, and the prefill is that of its decoder layer with random weights, measured
in the same run and multiplied by its 28 layers. Three inputs: one image of 24 x 24 tokens, five frames of 24 x 24, and
32 of 14 x 14.

    python benchmarks/overhead.py [--methods scope mmtok] [--keep 0.25] [--runs 3] [--markdown] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foveate
from foveate.engine.carry import decide
from foveate.engine.signals import watched_layers
from foveate.errors import FoveateError
from foveate.families import families
from foveate.measure.machine import machine, versions
from foveate.pieces import Attention, Budget, EvenGrid, Reading, States, Stream
from foveate.plan import Layer, ModelShape, Step, make_plan
from foveate.tokens import Grid, VisualTokens

SHAPE = ModelShape(
    family="qwen2_5_vl", layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, ffn=18944, vocab=152064,
    vision_blocks=32, vision_features=31, vision_global=(7, 15, 23, 31), mrope=True,
)  # fmt: skip
TOWER, TOWER_HEADS, PATCHES = 1280, 16, 4
GRIDS = (Grid(1, 24, 24), Grid(5, 24, 24), Grid(32, 14, 14))
TEXT = 64


def decoder_layer() -> tuple[torch.nn.Module, Any]:
    """One decoder layer of Qwen2.5-VL-7B with random weights, and what makes its rotary embeddings."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLRotaryEmbedding

    config = Qwen2_5_VLTextConfig(
        hidden_size=SHAPE.hidden, intermediate_size=SHAPE.ffn, num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads, num_hidden_layers=1, vocab_size=8,
        rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return Qwen2_5_VLDecoderLayer(config, 0).eval(), Qwen2_5_VLRotaryEmbedding(config)


class Probe:
    """One method on random tensors of one size: what its readings, scores, choices and merges take."""

    def __init__(self, grid: Grid, layer: torch.nn.Module, rotary: Any) -> None:
        self.grid, self.layer, self.rotary = grid, layer, rotary
        self.family = families()["qwen2_5_vl"]
        self.seconds = 0.0

    def timed(self, work: Callable[[], Any]) -> Any:
        """The result of some work, its time added up."""
        start = time.perf_counter()
        result = work()
        self.seconds += time.perf_counter() - start
        return result

    def run(self, method: foveate.Method) -> float:
        """Seconds of the method's own work for one prompt."""
        self.seconds = 0.0
        where, size = torch.arange(self.grid.n)[None], torch.ones(1, self.grid.n)
        history: list[int] = []
        for step in method.steps(SHAPE):
            history += [where.shape[1]] * (step.at.layer - len(history))
            x = torch.randn(1, where.shape[1], SHAPE.hidden)
            tokens = VisualTokens(
                x, self.grid, where, size, *self.signals(step, x, where), grids=(self.grid,), history=tuple(history)
            )
            keep = (
                self.timed(lambda s=step, t=tokens: s.keep.keep(t)[0]) if isinstance(step.keep, Budget) else step.keep
            )
            count = step.count(keep, (self.grid,), where.shape[1])
            if count < where.shape[1]:
                reduction = self.timed(lambda s=step, t=tokens, c=count: decide(s, t, c))
                where, size = where.gather(1, reduction.kept), reduction.size
        return self.seconds

    def signals(self, step: Step, x: Tensor, where: Tensor) -> tuple[Callable[..., Tensor], int, Callable[..., Tensor]]:
        """What a step may ask for: a reading at the visual tokens, a seed, the text or a reading at it."""
        words, n = torch.randn(1, TEXT, SHAPE.hidden), x.shape[1]
        values = {r: self.read(step, r, x) for r in step.reads}

        def signal(reading: Reading) -> Tensor:
            return values[reading][:, where[0] if reading.place == "vision" else slice(n)]

        def text(reading: Reading | None = None) -> Tensor:
            return words if reading is None else values[reading][:, n:]

        return signal, 0, text

    def read(self, step: Step, reading: Reading, x: Tensor) -> Tensor:
        """What a reading gives, [1, rows] or [1, rows, c], in the shapes of the module it watches: text comes last."""
        if reading.place == "vision":
            return self.read_tower(reading)
        hidden = torch.cat([x, torch.randn(1, TEXT, SHAPE.hidden)], 1)
        if reading.place == "here":
            norm = torch.nn.RMSNorm(SHAPE.hidden)
            return self.timed(lambda: reading(Stream(hidden, norm)))
        if reading.sees == "states":
            visual = torch.arange(hidden.shape[1])[None] < x.shape[1]
            seen: Any = States(*(torch.randn_like(hidden) for _ in range(6)), visual=visual)
        else:
            seen = self.attention(reading, hidden)
        times = len(watched_layers(step, reading)) if reading.place == "previous" else 1
        before = self.seconds
        value = self.timed(lambda: reading(seen))
        self.seconds = before + times * (self.seconds - before)
        return value

    def attention(self, reading: Reading, hidden: Tensor) -> Attention:
        """Queries and keys of the language model; those of the layer behind the cut are computed, which counts."""
        rows = hidden.shape[1]
        at = torch.arange(rows).expand(3, 1, -1)
        cos_sin = self.rotary(hidden, at)
        if reading.place == "next":
            rotary = cos_sin if reading.rotary else None
            tail = None if reading.all_rows else TEXT
            q, k = self.timed(lambda: self.family.query_and_key(self.layer, hidden, rotary, tail))
        else:
            q = torch.randn(1, SHAPE.heads, rows, SHAPE.head_dim)
            k = torch.randn(1, SHAPE.kv_heads, rows, SHAPE.head_dim)
        columns = torch.arange(rows)[None]
        chosen = torch.ones(1, TEXT, dtype=torch.bool)
        return Attention(
            q, k, SHAPE.head_dim**-0.5, None, columns < rows - TEXT, columns[:, -1:], columns[:, -TEXT:], chosen,
            {} if reading.raters is None else {reading.raters: chosen},
            lambda rows_: self.family.rotated(self.layer, rows_, cos_sin),
        )  # fmt: skip

    def read_tower(self, reading: Reading) -> Tensor:
        """A vision reading, frame by frame as the tower runs, averaged over the patches of each token."""
        found = []
        for _ in range(self.grid.t):
            patches = self.grid.frame.n * PATCHES
            if reading.sees == "output":
                seen: Any = torch.randn(1, patches, TOWER)
            else:
                q, k = (torch.randn(1, TOWER_HEADS, patches, TOWER // TOWER_HEADS) for _ in range(2))
                seen = Attention(q, k, (TOWER // TOWER_HEADS) ** -0.5)
            value = self.timed(lambda seen=seen: reading(seen))
            found.append(value.reshape(-1, PATCHES, *value.shape[2:]).mean(1))
        return torch.cat(found)[None]


def prefill_seconds(layer: torch.nn.Module, rotary: Any, tokens: int, runs: int) -> float:
    """Seconds of an uncompressed prefill: the median of one layer, times all layers."""
    hidden = torch.randn(1, tokens, SHAPE.hidden)
    embeddings = rotary(hidden, torch.arange(tokens).expand(3, 1, -1))
    layer(hidden[:, :64], position_embeddings=tuple(e[..., :64, :] for e in embeddings))
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        layer(hidden, position_embeddings=embeddings)
        taken.append(time.perf_counter() - start)
    return SHAPE.layers * statistics.median(taken)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of prefill and of every method, per grid."""
    layer, rotary = decoder_layer()
    figures: dict[str, Any] = {"machine": machine(), "versions": versions(), "keep": options.keep, "grids": {}}
    for grid in GRIDS:
        prefill = prefill_seconds(layer, rotary, grid.n + TEXT, min(options.runs, 3))
        rows = {}
        for name in options.methods or sorted(foveate.all_methods()):
            print(f"\r{grid.n} tokens: {name:<20}", end="", file=sys.stderr)
            rows[name] = one(name, grid, layer, rotary, prefill, options)
        figures["grids"][str(grid)] = {"tokens": grid.n, "prefill_s": prefill, "methods": rows}
    print(file=sys.stderr)
    return figures


def one(name: str, grid: Grid, layer: Any, rotary: Any, prefill: float, options: argparse.Namespace) -> dict[str, Any]:
    """One method at one size: its seconds, their share of the prefill, and what it saves of that."""
    try:
        method = foveate.get_method(name).with_keep(options.keep)
        plan = make_plan(method.steps(SHAPE), SHAPE, grid)
    except FoveateError as error:
        return {"refused": str(error)}
    probe = Probe(grid, layer, rotary)
    probe.run(method)
    seconds = statistics.median(probe.run(method) for _ in range(options.runs))
    whole = make_plan((Step(Layer(0), 1.0, select=EvenGrid()),), SHAPE, grid)
    saved = 1 - plan.lm_flops(TEXT) / whole.lm_flops(TEXT)
    return {"ms": seconds * 1e3, "share": seconds / prefill, "saves": saved, "t_eq": plan.t_eq}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        figures = measure(options)
    show(figures, options.markdown)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


def show(figures: dict[str, Any], markdown: bool) -> None:
    """One row a method: milliseconds, and their share of the uncompressed prefill, at each size."""
    grids = list(figures["grids"].values())
    head = ["method", *(f"{g['tokens']:,} tokens ({g['prefill_s']:.0f} s prefill)" for g in grids)]
    last = grids[-1]["methods"]
    names = sorted(last, key=lambda n: last[n].get("ms", float("inf")))
    rows = [[n, *(cell(g["methods"][n]) for g in grids)] for n in names]
    if markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    for row in [head, *rows]:
        print(f"{row[0]:<16}" + "".join(f"{c:>34}" for c in row[1:]))


def cell(row: dict[str, Any]) -> str:
    """Milliseconds and share, or that the method does not run on this model."""
    return "not on this model" if "refused" in row else f"{row['ms']:,.0f} ms, {100 * row['share']:.2f} %"


if __name__ == "__main__":
    main()
