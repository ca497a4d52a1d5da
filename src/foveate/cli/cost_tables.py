"""How an estimate looks in a terminal: parts side by side with and without compression, then what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..errors import unknown_name
from .show import bars, out, ratio, size

if TYPE_CHECKING:
    from ..cost.deployment import Deployment
    from ..cost.hardware import Hardware
    from ..cost.report import CostReport, Costs, PartCost

TITLES = {
    "vision": "vision tower", "projector": "projector", "method": "method itself", "prefill": "prefill",
    "head": "LM head", "decode": "decode",
}  # fmt: skip
PROFILES = ("llm-viewer",)


def show(report: CostReport, viewed: dict[str, Any] | None, written: dict[str, str]) -> None:
    """The whole report."""
    _head(report)
    out.print(_parts(report))
    out.print()
    out.print(_totals(report))
    out.print()
    for line in _sentences(report):
        out.print(line)
    if viewed:
        out.print(f"\n{viewed['sentence']}")
    for name, path in written.items():
        out.print(f"{name}: {path}", soft_wrap=True)


def _head(report: CostReport) -> None:
    p, costs = report.precision, report.costs
    bits = f", {p.w_bits}-bit weights, {p.a_bits}-bit activations, {p.kv_bits}-bit cache"
    bits *= {p.w_bits, p.a_bits, p.kv_bits} != {8 * p.bytes}
    devices = f"{report.tp} x " * (report.tp > 1)
    out.print(f"[bold]{report.model}[/bold] on {devices}{report.hardware.title}, {p.dtype}{bits}")
    out.print("[dim]computed from the config; nothing was run[/dim]")
    out.print(f"\n{report.prompt.visual} visual and {report.prompt.others} other tokens", end="")
    if report.inputs.batch > 1:
        out.print(f", {report.inputs.batch} such prompts at once", end="")
    out.print(f"; {report.inputs.new_tokens} to be generated")
    if report.compressed:
        settings = ", ".join(f"{name}={value}" for name, value in report.settings.items() if value != "None")
        out.print(f"{costs.method}: {settings}\n" if settings else f"{costs.method}\n", markup=False)
        out.print(bars(costs.tokens_per_layer, report.prompt.visual))
    out.print()


def _parts(report: CostReport) -> Table:
    both, table = report.compressed, Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("TFLOPs", "GB moved", "ms", "at peak", "limit", *("without", "ms") * both):
        table.add_column(column, justify="right")
    for part, cost in report.costs.parts.items():
        other = report.uncompressed.parts[part]
        if not (cost.operations or other.operations):
            continue
        if part == "decode":
            _first_token(table, report)
        title = f"{TITLES[part]}, {report.inputs.new_tokens - 1} tokens" if part == "decode" else TITLES[part]
        table.add_row(title, *_numbers(cost), *([f"{_tera(other.flops)} T", _ms(other.time_ms)] if both else []))
    if not report.costs.parts["decode"].operations:
        _first_token(table, report)
    return table


def _first_token(table: Table, report: CostReport) -> None:
    costs, other = report.costs, report.uncompressed
    row = [_tera(costs.flops), "", _ms(costs.ttft_ms), _ms(costs.ideal_ttft_ms), ""]
    beside = [f"{_tera(other.flops)} T", _ms(other.ttft_ms)] if report.compressed else []
    table.add_row("first token", *row, *beside, style="bold")


def _numbers(cost: PartCost) -> tuple[str, str, str, str, str]:
    limits = {"compute": cost.compute_ms, "memory": cost.memory_ms, "launch": cost.launch_ms, "link": cost.link_ms}
    limit = max(limits, key=lambda name: limits[name]) if cost.operations else ""
    return _tera(cost.flops), f"{cost.bytes / 1e9:.3g}", _ms(cost.time_ms), _ms(cost.ideal_ms), limit


def _totals(report: CostReport) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("", report.costs.method, *("uncompressed", "") * report.compressed):
        table.add_column(column, justify="right" if column else "left")
    runs = (report.costs, report.uncompressed) if report.compressed else (report.costs,)
    for title, values, text in _rows(report, runs):
        compared = [ratio(values[1], values[0]) if values[0] != values[-1] else "the same"] if report.compressed else []
        table.add_row(title, *map(text, values), *compared)
    return table


def _rows(report: CostReport, runs: tuple[Costs, ...]) -> list[tuple[str, list[float], Any]]:
    capacities = (report.capacity, report.uncompressed_capacity)[: len(runs)]
    rows: list[tuple[str, list[float], Any]] = [
        ("T_eq, visual tokens a layer", [c.t_eq for c in runs], lambda v: f"{v:.1f}"),
        ("FLOPs to the first token, causal attention", [c.flops for c in runs], _tera_unit),
        ("  with attention counted in full", [c.flops_full for c in runs], _tera_unit),
        ("  of the language model alone", [c.language_flops for c in runs], _tera_unit),
        ("time to the first token", [c.ttft_ms for c in runs], _ms_unit),
        ("time of the whole answer", [c.total_ms for c in runs], _ms_unit),
        ("KV cache at the end", [c.memory.kv_bytes for c in runs], lambda v: size(int(v))),
        ("weights", [c.memory.weights_bytes for c in runs], lambda v: size(int(v))),
        ("memory at the peak", [c.memory.peak_bytes for c in runs], lambda v: size(int(v))),
        ("largest batch that fits", [c.largest_batch for c in capacities], lambda v: f"{v:,.0f}"),
    ]
    if report.inputs.videos:
        rows.append(("most frames that fit", [c.most_frames for c in capacities], _frames))
    if report.inputs.new_tokens < 2:
        rows = [row for row in rows if row[0] != "time of the whole answer"]
    return rows


def _sentences(report: CostReport) -> list[str]:
    b, name = report.break_even, report.costs.method
    lines = [
        f"Without compression the vision tower and projector take {b.vision_share:.0%} of the time to the first token: "
        f"no method can make that more than {b.ceiling:.2f}x faster here ({b.flops_ceiling:.2f}x in FLOPs)."
    ]
    if b.searched:
        worth = "never" if b.worth_tokens is None else f"from {b.worth_tokens:,} on"
        lines.append(
            f"{name} saves more than it takes from {b.tokens:,} visual tokens on, 5 % of the rest's time {worth}."
            if b.tokens is not None
            else f"{name} does not pay here: its own work costs more than it saves, up to {b.searched:,} visual tokens."
        )
    if report.least is not None:
        lines.append(f"Its budget follows the content; with the least it may keep, {report.least.ttft_ms:.1f} ms.")
    if not report.costs.memory.fits:
        lines.append(f"This does not fit: the model is given 90 % of {size(report.costs.memory.device_bytes)}.")
    return [*lines, f"[dim]Efficiency: {report.hardware.efficiency.source}.[/dim]"]


def viewed(profile: str, deployment: Deployment, report: CostReport) -> dict[str, Any]:
    """What another tool would say of the language model's prefill, beside ours."""
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    from ..cost.profile import llm_viewer

    def says(costs: Costs) -> dict[str, float]:
        tokens = [n + costs.other_tokens for n in costs.tokens_per_layer]
        seen = llm_viewer(deployment.arch.language, tokens)
        return {"tflops": seen.flops / 1e12, "prefill_ms": seen.prefill_ms}

    with_it, without = says(report.costs), says(report.uncompressed)
    sentence = (
        f"LLM-Viewer would say {with_it['tflops']:.2f} TFLOPs and {with_it['prefill_ms']:.2f} ms on its A100 "
        f"(uncompressed {without['tflops']:.2f} and {without['prefill_ms']:.2f}): the language model alone, without "
        "vision tower, projector and the method's own work."
    )
    return {"name": profile, "costs": with_it, "uncompressed": without, "sentence": sentence}


def show_lists(models: list[str], devices: list[Hardware]) -> None:
    """Bundled models and known devices."""
    out.print("[bold]models[/bold]")
    out.print(", ".join(models))
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("hardware", "", "16-bit TFLOP/s", "GB/s", "GB", "other types"):
        table.add_column(column, justify="right" if column[:1] in "1G" and column else "left")
    for d in devices:
        table.add_row(
            d.name, d.title, f"{d.flops[d.default_type] / 1e12:,.4g}", f"{d.bandwidth / 1e9:,.4g}",
            f"{d.memory / 1e9:.4g}", ", ".join(t for t in d.flops if t not in ("bf16", "fp16")),
        )  # fmt: skip
    out.print()
    out.print(table)


def device_lines(device: Hardware) -> str:
    """One device in a few lines."""
    reached = device.efficiency
    curve = ", ".join(f"{size:g}: {by:.0%}" for size, by in reached.gemm.points)
    kind, peak = next(iter(device.flops.items()))
    return (
        f"{device.name}: {device.title}\n"
        f"  {kind} matmuls  {peak / 1e9:,.0f} GFLOP/s; of it with so many rows {curve}\n"
        f"  memory  {device.bandwidth / 1e9:.1f} GB/s; an operation takes at least {device.launch_us:g} us\n"
        f"  {reached.source}"
    )


def _tera(flops: float) -> str:
    tera = flops / 1e12
    return f"{tera:.3f}" if tera >= 0.01 or not tera else f"{tera:.2g}"


def _tera_unit(flops: float) -> str:
    return f"{flops / 1e12:.3f} T" if flops >= 1e11 else f"{flops / 1e9:.3f} G"


def _ms(ms: float) -> str:
    return f"{ms:.2f}" if ms < 100 else f"{ms:,.1f}"


def _ms_unit(ms: float) -> str:
    return f"{_ms(ms)} ms"


def _frames(frames: float) -> str:
    from ..cost.deployment import FRAMES

    return f"{frames:,.0f}" + " or more" * (frames >= FRAMES)
