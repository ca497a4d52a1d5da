"""`foveate compare`: methods at equal T_eq, judged and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import unknown_name
from . import measuring as m
from . import options as o
from .report import Report, add_report
from .show import out

if TYPE_CHECKING:
    from ..measure.comparison import Comparison, Entry
    from ..measure.interval import Interval
    from ..measure.judge import Judge

JUDGES = ("accuracy", "fidelity")


def compare(
    context: m.Context,
    images: m.Images = None,
    methods: m.Methods = "aim,divprune,fastv,pool,pyramiddrop,random,uniform,visionzip",
    keep: m.KeepList = None,
    t_eq: m.TEqList = None,
    judge: Annotated[
        str | None, typer.Option(help="accuracy (held-out questions), or fidelity (needs no right answers).")
    ] = None,
    prompt: m.Prompt = None,
    prompts: m.Prompts = None,
    data: m.Data = None,
    metric: Annotated[str | None, typer.Option(help="Of --data: exact, vqa, anls or multiple_choice.")] = None,
    samples: m.Samples = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of equal size that are run together.")] = 25,
    runs: Annotated[int, typer.Option(min=3, help="Timed rounds.")] = 5,
    model: o.Model = None,
    dtype: m.Dtype = "auto",
    device: m.Device = None,
    attn: m.Attn = None,
    study: m.Folder = None,
    resume: m.Resume = None,
    report: Report = None,
    as_json: o.Json = False,
) -> None:
    """Rank methods at equal T_eq by accuracy or fidelity, time them, and find those that nobody beats.

    Without arguments: eight methods at three budgets, the embedded model, the first 350 of its held-out questions.
    """

    def asked() -> m.Asked:
        from ..measure.lineup import line_up

        if judge is not None and judge not in JUDGES:
            raise unknown_name("judge", judge, JUDGES)
        what = m.what_to_ask(images, prompt, prompts, data, samples, 350)
        settings = m.model_settings(model, dtype, device, attn) | {
            "levels": m.levels(keep, t_eq, "0.5,0.25,0.1"), "judge": judge or ("fidelity" if images else "accuracy"),
            "batch": batch, "runs": runs, "metric": metric, **what,
        }  # fmt: skip
        return m.Asked(settings, line_up(m.names(methods)))

    where, result = m.measured(context, "compare", resume, study, asked, _work)
    m.refuse_nothing(result.entries, result.missing)
    add_report(report, where)
    if as_json:
        found = {"judge": result.judge, "entries": [asdict(e) for e in result.entries]}
        m.print_json(where, found, result.missing, result.broken)
    else:
        _print(result)
        m.say_what_else(where, result.missing, result.broken, "rows of each sample, and record")


def _work(b: m.Work) -> Comparison:
    from ..evaluate.judge import Graded
    from ..measure import compare as measure
    from ..measure.divergence import Fidelity
    from ..measure.judge import ExactAnswer

    s = b.settings
    judges: dict[str, Callable[[], Judge]] = {"fidelity": Fidelity, "accuracy": ExactAnswer}
    if s.get("data"):
        judges["accuracy"] = partial(Graded, s["metric"])
    return measure(
        b.loaded, b.contenders, b.levels, samples=b.samples, batch=s["batch"], runs=s["runs"], study=b.study,
        judge=judges[s["judge"]](), progress=b.progress,
    )  # fmt: skip


def _print(result: Comparison) -> None:
    out.print(
        f"\n[bold]{result.judge}[/bold]  [dim]95 % intervals in brackets; change: beside the uncompressed model, to "
        "random: beside random tokens, on the same samples; * its 95 % interval excludes zero[/dim]\n"
    )
    rows = [{"method": e.label, "budget": e.budget, "entry": e} for e in result.entries]
    columns = ("T_eq", result.score, "change", "to random", "first token")
    out.print(m.by_budget(rows, columns, _cells))
    for what, best in (
        ("time to the first token", [e for e in result.entries if e.best_for_time]),
        ("T_eq", [e for e in result.entries if e.best_for_t_eq]),
    ):
        names = ", ".join(m.name_of(e.key) for e in best)
        out.print(f"\nnobody has a higher {result.judge} at less {what} than: {names}", markup=False)
    for what in ("no clear gain", "does not pay"):
        some = [m.name_of(e.key) for e in result.entries if e.verdict and e.verdict.startswith(what)]
        if some:
            out.print(f"\n{what} in time to the first token here: {', '.join(some)}", markup=False)


def _cells(row: dict[str, Any]) -> list[str]:
    e: Entry = row["entry"]
    ms = "-" if e.ttft_ms is None else f"{m.short(e.ttft_ms)} ms"
    return [f"{e.t_eq:.1f}", m.with_interval(e.score), _difference(e.change), _difference(e.above_random), ms]


def _difference(value: Interval | None) -> str:
    return "-" if value is None else f"{value.mean:+.3f}{'*' if value.excludes_zero else ' '}"
