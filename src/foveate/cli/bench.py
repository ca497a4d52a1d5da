"""`foveate bench`: what methods cost on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidValue
from . import measuring as m
from . import options as o
from .report import Report, add_report
from .show import out, size

if TYPE_CHECKING:
    from ..measure.benchmark import Bench
    from ..measure.study import Row


def bench(
    context: m.Context,
    images: m.Images = None,
    synthetic: Annotated[
        str | None, typer.Option(metavar="WxH[xN]", help="N pictures of noise of this size, in place of files.")
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="The pictures are the frames of one video.")] = False,
    prompt: m.Prompt = None,
    methods: m.Methods = "aim,divprune,fastv,pyramiddrop,visionzip",
    keep: m.KeepList = None,
    t_eq: m.TEqList = None,
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Batch sizes.")] = "1",
    runs: Annotated[int, typer.Option(min=3, help="Timed rounds.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    model: o.Model = None,
    dtype: m.Dtype = "auto",
    device: m.Device = None,
    attn: m.Attn = None,
    study: m.Folder = None,
    resume: m.Resume = None,
    report: Report = None,
    as_json: o.Json = False,
) -> None:
    """Time and count methods at equal T_eq, beside the uncompressed model, random, uniform, pool, smaller pictures and
    fewer frames; and say where a method does not pay."""

    def asked() -> m.Asked:
        from ..loading import example
        from ..measure.lineup import line_up

        if images and synthetic:
            raise InvalidValue("give image files or --synthetic, not both")
        shipped, question = example()
        settings = m.model_settings(model, dtype, device, attn) | {
            "levels": m.levels(keep, t_eq, "0.25"), "batch": m.whole_numbers("--batch", batch), "runs": runs,
            "new_tokens": new_tokens, "synthetic": _synthetic(synthetic), "frames": video,
            "images": [str(i) for i in images or ([] if synthetic else [shipped])],
            "prompts": m.questions(prompt, None, question),
        }  # fmt: skip
        return m.Asked(settings, line_up(m.names(methods), videos=video))

    where, result = m.measured(context, "bench", resume, study, asked, _work)
    m.refuse_nothing(result.costs, result.missing)
    add_report(report, where)
    if as_json:
        m.print_json(where, {"costs": result.costs, "rows": list(result.rows)}, result.missing, result.broken)
    else:
        _print(result.costs, where.about)
        m.say_what_else(where, result.missing, result.broken, "rows and record")


def _work(b: m.Work) -> Bench:
    from ..measure import bench as measure

    s = b.settings
    return measure(
        b.loaded, b.samples, b.contenders, b.levels, batches=s["batch"], runs=s["runs"], new_tokens=s["new_tokens"],
        study=b.study, progress=b.progress,
    )  # fmt: skip


def _synthetic(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.lower().replace(" ", "").split("x")
    if len(parts) not in (2, 3) or not all(p.isdigit() and int(p) for p in parts):
        raise InvalidValue(f"--synthetic takes WIDTHxHEIGHT or WIDTHxHEIGHTxPICTURES, as in 672x448x4, got {text!r}")
    return [int(p) for p in parts]


def _print(costs: list[Row], about: dict[str, Any]) -> None:
    machine, versions = about["machine"], about["versions"]
    device = ", ".join(g["name"] for g in machine["gpus"]) or f"{machine['cpu']}, threads: {machine['threads']}"
    for number in dict.fromkeys(c["batch"] for c in costs):
        mine = [c for c in costs if c["batch"] == number]
        first = mine[0]
        out.print(
            f"\n[bold]{first['visual_tokens']:g} visual tokens, {first['text_tokens']:g} of text, batch {number}[/bold]"
            f"\n[dim]milliseconds, medians of {first['runs']} rounds[/dim]\n"
        )
        out.print(m.by_budget(mine, TIMES, _times))
        out.print()
        out.print(m.by_budget(mine, COUNTS, _counts))
        out.print(
            f"[dim]peak memory: {first['peak_memory_kind']}, above what was there before. GFLOPs of one prompt in the "
            "language model: counted by torch with the method's own matrix products, computed without them.[/dim]\n"
        )
        _say_what_pays(mine)
    out.print(f"\n[dim]{device}, torch {versions['torch']}, transformers {versions['transformers']}[/dim]")


TIMES = ("T_eq", "vision", "select", "prefill", "first token", "quartiles", "+1 token")
COUNTS = ("prompts/s", "KV cache", "peak memory", "prefill GFLOPs", "computed")


def _times(c: Row) -> list[str]:
    parts = [c[name] for name in ("vision_ms", "selection_ms", "prefill_ms", "ttft_ms")]
    spread = f"{m.short(c['ttft_ms_q1'])}-{m.short(c['ttft_ms_q3'])}"
    return [f"{c['t_eq']:.1f}", *map(m.short, parts), spread, m.short(c.get("decode_ms_per_token"))]


def _counts(c: Row) -> list[str]:
    memory = c["peak_memory_bytes"]
    flops = (c["prefill_flops"], c["prefill_flops_computed"])
    return [
        m.short(c["prompts_per_s"]), size(int(c["kv_bytes"])), "-" if memory is None else size(int(memory)),
        *("-" if n is None else f"{n / 1e9:.3f}" for n in flops),
    ]  # fmt: skip


def _say_what_pays(costs: list[Row]) -> None:
    """First what does not, in full."""
    judged = [c for c in costs if c["verdict"]]
    for c in judged:
        if not c["verdict"].startswith("pays"):
            out.print(f"{m.name_of((c['method'], c['budget']))} {c['verdict']}", markup=False)
    gains = [
        f"{m.name_of((c['method'], c['budget']))} {costs[0]['ttft_ms'] / c['ttft_ms']:.2f}x"
        for c in judged
        if c["verdict"].startswith("pays")
    ]
    if gains:
        out.print(f"the first token comes sooner under {', '.join(gains)}", markup=False)
