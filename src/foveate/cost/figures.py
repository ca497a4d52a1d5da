"""One picture of an estimate: roofline, parts, layers, and a sweep over keep, frames or image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InvalidValue
from .deployment import Deployment
from .estimate import Resolved
from .ledger import AimParameters, ledger_of
from .ops import Part
from .report import BEFORE_FIRST, CostReport, Costs
from .tokens import prompt_of

COLOURS: dict[Part, str] = {
    "vision": "#4c78a8", "projector": "#72b7b2", "method": "#e45756", "prefill": "#f2a541", "head": "#9d755d",
    "decode": "#b8b0ac",
}  # fmt: skip
KINDS = {"matmul": "#f2a541", "attention": "#4c78a8", "elementwise": "#b8b0ac", "gather": "#d8d3d0"}
KEEPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)


def draw(deployment: Deployment, report: CostReport, method: Resolved, path: str | Path) -> None:
    """Write all four as one PNG."""
    figure = Figure(figsize=(12, 8.5), layout="constrained", dpi=130)
    (a, b), (c, d) = figure.subplots(2, 2)
    with_method = f"{report.costs.method}, " * report.compressed
    figure.suptitle(
        f"{report.model} on {report.hardware.title}: {with_method}{report.prompt.visual} visual and "
        f"{report.prompt.others} other tokens (computed)",
        fontsize=11,
    )
    roofline(a, report)
    parts(b, report)
    layers(c, report)
    sweep(d, deployment, report, method)
    for axes in (a, b, c, d):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    try:
        figure.savefig(path)
    except OSError as error:
        raise InvalidValue(f"cannot write {path}: {error.strerror}") from error


def roofline(axes: Axes, report: CostReport) -> None:
    """Each operation of the run: FLOPs a byte against FLOP/s, under the device's roof."""
    device, operand = report.hardware, report.precision.dtype
    peak = device.flops[operand]
    ridge = peak / device.bandwidth
    roof = (min(0.1, ridge / 100), ridge, max(1e4, 20 * ridge))
    axes.plot(roof, [min(peak, x * device.bandwidth) for x in roof], color="0.3", lw=1.2)
    axes.annotate(f"{peak / 1e12:.4g} TFLOP/s {operand}", (roof[-1], peak), ha="right", va="bottom", fontsize=8)
    axes.annotate(f"{device.bandwidth / 1e9:,.0f} GB/s", (ridge / 30, peak / 30), ha="right", va="bottom", fontsize=8)
    for part, colour in COLOURS.items():
        rows = [r for r in report.costs.rows if r.op.part == part and r.reached.flops and r.reached.bytes]
        points = {(r.reached.intensity, r.reached.flops / r.reached.seconds) for r in rows}
        if points:
            xs, ys = zip(*sorted(points), strict=True)
            axes.scatter(xs, ys, s=16, color=colour, alpha=0.75, label=part, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="FLOP/s reached")
    _titled(axes, "Roofline")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def parts(axes: Axes, report: CostReport) -> None:
    """Time to the first token by part, with the method and without."""
    runs = [report.uncompressed, report.costs] if report.compressed else [report.uncompressed]
    left = [0.0] * len(runs)
    for part in BEFORE_FIRST:
        widths = [run.parts[part].time_ms for run in runs]
        if any(widths):
            axes.barh([run.method for run in runs], widths, left=left, color=COLOURS[part], label=part, height=0.5)
        left = [x + w for x, w in zip(left, widths, strict=True)]
    for i, total in enumerate(left):
        axes.text(total, i, f" {total:,.1f} ms", va="center", fontsize=8)
    axes.set(xlabel="milliseconds", xlim=(0, 1.2 * max(left)), ylim=(-1, len(runs)))
    _titled(axes, "Time to the first token")
    axes.legend(fontsize=8, frameon=False, ncols=5, loc="upper left", handlelength=1, columnspacing=1)


def layers(axes: Axes, report: CostReport) -> None:
    """Prefill time of each layer by kind of operation; the outline is without compression."""
    count = len(report.costs.tokens_per_layer)
    bottom = [0.0] * count
    for kind, colour in KINDS.items():
        heights = _layer_ms(report.costs, count, kind)
        axes.bar(range(count), heights, bottom=bottom, color=colour, label=kind, width=0.8)
        bottom = [x + h for x, h in zip(bottom, heights, strict=True)]
    if report.compressed:
        whole = _layer_ms(report.uncompressed, count)
        axes.step([x - 0.5 for x in range(count + 1)], [*whole, whole[-1]], where="post", color="0.4", lw=1)
        axes.plot([], [], color="0.4", lw=1, label="uncompressed")
    axes.set(xlabel="layer of the language model", ylabel="milliseconds")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    _titled(axes, "Prefill by layer")
    axes.legend(fontsize=8, frameon=False, ncols=5, loc="upper left", handlelength=1, columnspacing=1)


def sweep(axes: Axes, deployment: Deployment, report: CostReport, method: Resolved) -> None:
    """Time to the first token over keep; where there is none, over the frames of the video or the size of the image."""
    if method is None or isinstance(method, Sequence | AimParameters) or "keep" not in method.settings():
        xs, ys, label = _sizes(deployment, report)
        axes.plot(xs, ys, marker="o", ms=3, color=COLOURS["prefill"], label="uncompressed")
        axes.set(xlabel=label)
    else:
        cost = _by_keep(deployment, report, method.replaced)
        runs = [cost(keep) for keep in KEEPS]
        times = [run.ttft_ms for run in runs]
        axes.plot(KEEPS, times, marker="o", ms=3, color=COLOURS["prefill"], label=report.costs.method)
        before = runs[-1].parts["vision"].time_ms + runs[-1].parts["projector"].time_ms
        axes.axhspan(0, before, color=COLOURS["vision"], alpha=0.35, lw=0, label="vision tower and projector")
        axes.axhline(report.uncompressed.ttft_ms, color="0.4", lw=1, label="uncompressed")
        axes.set(xlabel="keep", xlim=(0, 1))
    axes.set(ylabel="milliseconds", ylim=(0, None))
    _titled(axes, "Time to the first token")
    axes.legend(fontsize=8, frameon=False)


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)


def _by_keep(deployment: Deployment, report: CostReport, replaced: Callable[..., Resolved]) -> Callable[[float], Costs]:
    def cost(keep: float) -> Costs:
        ledger = ledger_of(replaced(keep=keep), deployment.arch, report.prompt)
        return deployment.costs("", report.prompt, ledger)

    return cost


def _sizes(deployment: Deployment, report: CostReport) -> tuple[list[float], list[float], str]:
    """Numbers of frames or megapixels, and the time of each."""
    inputs, xs, ys = report.inputs, list[float](), list[float]()
    for scale in SCALES:
        if inputs.videos:
            first = inputs.videos[0]
            longer = first._replace(frames=max(2, 2 * round(first.frames * scale / 2)))
            sized = replace(inputs, videos=(longer, *inputs.videos[1:]))
            xs.append(longer.frames)
        else:
            sides = [(max(28, round(w * scale)), max(28, round(h * scale))) for w, h in inputs.images]
            sized = replace(inputs, images=tuple(sides))
            xs.append(sides[0][0] * sides[0][1] / 1e6)
        prompt = prompt_of(deployment.arch, sized)
        ys.append(deployment.costs("", prompt, ledger_of(None, deployment.arch, prompt)).ttft_ms)
    return xs, ys, "frames" if inputs.videos else "megapixels of the first image"


def _layer_ms(costs: Costs, count: int, kind: str | None = None) -> list[float]:
    found = [0.0] * count
    for row in costs.rows:
        if row.op.part == "prefill" and row.op.layer is not None and kind in (None, row.op.kind):
            found[row.op.layer] += 1e3 * row.reached.seconds
    return found
