"""`foveate eval`: right answers with and without compression, on your own questions or on lmms-eval's benchmarks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import InvalidValue
from . import measuring as m
from . import options as o
from .report import Report, add_report
from .run import quiet
from .show import busy, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..evaluate.accuracy import Evaluation
    from ..evaluate.dataset import Broken
    from ..evaluate.session import Settings
    from ..evaluate.tasks import TaskEvaluation
    from ..measure.interval import Interval
    from ..measure.study import Study
    from ..method import Method

ModelArguments = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="lmms-eval's --model_args.")]


def evaluate(
    context: m.Context,
    dataset: Annotated[str | None, typer.Argument(help="A JSONL file, or `embedded`: questions that ship.")] = None,
    tasks: Annotated[str | None, typer.Option(help="lmms-eval's: gqa,mlvu,videomme,...; --list shows them.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the benchmarks of the papers and stop.")] = False,
    model: o.Model = None,
    method: Annotated[str, typer.Option(help="Name of the method (foveate methods).")] = "aim",
    keep: o.Keep = None,
    merge_ratio: o.MergeRatio = None,
    schedule: o.ScheduleName = None,
    final_prune_ratio: o.FinalPruneRatio = None,
    importance: o.Importance = None,
    adaptive: o.AdaptiveRange = None,
    positions: o.Positions = None,
    settings: o.Set = None,
    metric: Annotated[str | None, typer.Option(help="exact, vqa, anls or multiple_choice.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Questions at once; 8, with lmms-eval 1.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many.")] = 32,
    dtype: m.Dtype = "auto",
    device: m.Device = None,
    attn: m.Attn = None,
    folder: m.Folder = None,
    resume: m.Resume = None,
    report: Report = None,
    lmms_eval: Annotated[bool, typer.Option("--lmms-eval", help="Let lmms-eval ask the dataset.")] = False,
    baseline: Annotated[bool, typer.Option(help="Tasks: also run without compression.")] = True,
    model_args: ModelArguments = None,
    include_path: Annotated[str | None, typer.Option(help="A folder with tasks of your own for lmms-eval.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="lmms-eval: processes on this machine.")] = 1,
    machines: Annotated[int, typer.Option(min=1, help="lmms-eval: machines, each with this command.")] = 1,
    machine: Annotated[int, typer.Option(min=0, help="Which of them this is; the first is 0.")] = 0,
    main: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the first machine.")] = None,
    as_json: o.Json = False,
) -> None:
    """Compare right answers, time and tokens with and without compression, with intervals and a paired test."""
    if listing:
        return _list(as_json)
    with busy("loading"):
        from ..evaluate import session

        quiet()
        if resume is None:
            words = (keep, merge_ratio, schedule, final_prune_ratio, importance, adaptive, positions, settings)
            wanted = session.Settings(
                dataset=dataset, tasks=tuple(filter(None, (tasks or "").split(","))), harness=lmms_eval, model=model,
                dtype=dtype, device=device or default_device(), attn=attn, metric=metric, limit=limit, batch=batch,
                max_new_tokens=max_new_tokens, baseline=baseline, arguments=tuple(map(_pair, model_args or ())),
                include=include_path, processes=processes, machines=machines, main=main,
            )  # fmt: skip
            chosen = o.make_method(method, o.words(*words), default_keep=0.25)
            study = session.begin(folder or session.default_folder(), wanted, chosen, ["foveate", *sys.argv[1:]])
        else:
            m.nothing_else(context, "machine")
            study, wanted, chosen = session.resume(resume)
    result = _run(study, wanted, chosen, machine)
    if result is not None:
        add_report(report, study)
    _show(result, study, as_json)


def _run(study: Study, wanted: Settings, chosen: Method, machine: int) -> Evaluation | TaskEvaluation | None:
    from ..evaluate import session

    with m.bar("eval", study) as progress:
        if wanted.outside:
            return session.evaluate_outside(study, wanted, chosen, machine, lambda label, done: progress(done, None))
        return session.evaluate_dataset(study, wanted, chosen, progress)


def _list(as_json: bool) -> None:
    import dataclasses

    from ..evaluate.benchmarks import BENCHMARKS

    if as_json:
        print(json.dumps([dataclasses.asdict(b) for b in BENCHMARKS], indent=1))
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("benchmark", "task in lmms-eval", "medium", "what it is"):
        table.add_column(column)
    for b in BENCHMARKS:
        table.add_row(b.name, b.task, b.medium, b.about)
    out.print(table)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidValue(f"--model-args takes NAME=VALUE, got {text!r}")
    return name, value


def default_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────────────────────


def _show(result: Evaluation | TaskEvaluation | None, study: Study, as_json: bool) -> None:
    from ..evaluate.accuracy import Evaluation

    if result is None:
        out.print("done; the first machine has the results")
        return
    if as_json:
        print(json.dumps(result.as_dict() | {"study": str(study.folder)}))
        return
    if isinstance(result, Evaluation):
        _print_evaluation(result)
    else:
        _print_tasks(result)
    out.print(f"\nstudy: {study.folder}", soft_wrap=True)


def _print_evaluation(e: Evaluation) -> None:
    out.print(f"{len(e.pairs)} questions of {e.dataset}, method {e.method.card.name}", markup=False)
    _print_broken(e.broken)
    c, (before, after) = e.compression, _means(e)
    rows = [
        ("accuracy", f"{e.original.mean:.3f}", f"{e.compressed.mean:.3f}"),
        *((f"  {kind}, {n} questions", f"{a:.3f}", f"{b:.3f}") for kind, (a, b, n) in sorted(e.kinds.items()) if kind),
        ("T_eq, visual tokens a layer", f"{c.visual_tokens:.1f}", f"{c.t_eq:.1f}"),
        ("LLM prefill, computed", f"{c.flops / 1e9:.2f} GFLOPs", f"{c.flops_compressed / 1e9:.2f} GFLOPs"),
        ("LLM prefill, mean", f"{before.prefill_ms:.1f} ms", f"{after.prefill_ms:.1f} ms"),
        ("whole answer, mean", f"{before.total_ms:.1f} ms", f"{after.total_ms:.1f} ms"),
    ]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("uncompressed", justify="right")
    table.add_column(e.method.card.name, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    efficiency = "-" if c.efficiency_score is None else f"{c.efficiency_score:.3f}"
    saved = f"compression ratio {c.compression_ratio:.3f}, FLOPs reduction {c.flops_reduction:.3f}"
    for line in (
        f"accuracy drops by {_span(e.drop)}: {e.lost} lost, {e.gained} gained, p = {e.p_value:.2g} (McNemar, exact)",
        f"the same answer in {_span(e.agreement)}",
        f"prefill {faster(e.speedup)}; the whole answer {faster(e.end_to_end)}",
        f"{saved}, efficiency score {efficiency}",
        "intervals are 95 %",
    ):
        out.print(line, markup=False, soft_wrap=True)


def _print_broken(broken: Sequence[Broken]) -> None:
    if not broken:
        return
    out.print(f"[bold red]{len(broken)} could not be asked[/bold red] and are in no number below:")
    for one in broken[:5]:
        out.print(f"  {one.id}: {one.reason}", markup=False, soft_wrap=True)
    if len(broken) > 5:
        out.print(f"  ... and {len(broken) - 5} more, in the study")


@dataclass(frozen=True)
class _Mean:
    prefill_ms: float
    total_ms: float


def _means(e: Evaluation) -> tuple[_Mean, _Mean]:
    n = len(e.pairs)
    sides = [p.original for p in e.pairs], [p.compressed for p in e.pairs]
    first, second = (_Mean(sum(r.prefill_ms for r in s) / n, sum(r.total_ms for r in s) / n) for s in sides)
    return first, second


def faster(times: Interval) -> str:
    """How many times faster, and whether that is more than noise."""
    if times.low is None or times.high is None:
        return f"{times.mean:.2f} times as fast (one batch: no interval)"
    unclear = ", no clear difference" if times.low <= 1 <= times.high else ""
    return f"{times.mean:.2f} times as fast [{times.low:.2f}, {times.high:.2f}]{unclear}"


def _span(value: Interval) -> str:
    shown = f"{value.mean:.3f}"
    return shown if value.low is None or value.high is None else f"{shown} [{value.low:.3f}, {value.high:.3f}]"


def _print_tasks(result: TaskEvaluation) -> None:
    _print_broken(result.broken)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("task", "metric", "questions", "uncompressed", result.method.card.name, "drop"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for d in result.differences:
        drop = "" if d.drop is None else _span(d.drop) + ("" if d.p_value is None else f", p = {d.p_value:.2g}")
        before = "-" if d.value is None else f"{d.value:.4g}"
        table.add_row(d.task, d.metric, str(d.samples or ""), before, f"{d.compressed:.4g}", drop)
    out.print(table)
    told = {"visual_tokens": "visual tokens", "t_eq": "T_eq", "prefill_ms": "prefill ms"}
    counted = ", ".join(f"{told[k]} {v:.1f}" for k, v in result.counted.items() if k in told)
    out.print(f"{counted} (means over questions)")
    out.print("a drop has a 95 % interval where lmms-eval tells of each question")
