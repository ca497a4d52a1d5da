"""`foveate fidelity`: how far a compressed model is from the uncompressed one, without labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import measuring as m
from . import options as o
from .report import Report, add_report
from .show import out

if TYPE_CHECKING:
    from ..measure.divergence import FidelityResult

OwnKeep = Annotated[str | None, typer.Option("--keep", metavar="F,F,...", help="Fractions to keep: the method's own.")]
Method = Annotated[
    str,
    typer.Option(
        "--method", metavar="A,B,...", help="Name, with settings as in visionzip:contextual=0.2, or a recipe (x.yaml)."
    ),
]


def fidelity(
    context: m.Context,
    images: m.Images = None,
    method: Method = "aim",
    keep: OwnKeep = None,
    t_eq: m.TEqList = None,
    prompt: m.Prompt = None,
    prompts: m.Prompts = None,
    data: m.Data = None,
    samples: m.Samples = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens of each answer.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Samples of equal size that are run together.")] = 8,
    model: o.Model = None,
    dtype: m.Dtype = "auto",
    device: m.Device = None,
    attn: m.Attn = None,
    study: m.Folder = None,
    resume: m.Resume = None,
    report: Report = None,
    as_json: o.Json = False,
) -> None:
    """Compare next-token distributions with those of the uncompressed model, over its own answers to your questions.

    Without images it asks the first 70 of the held-out questions that ship.
    """

    def asked() -> m.Asked:
        from ..measure.lineup import contender

        what = m.what_to_ask(images, prompt, prompts, data, samples, 70)
        settings = m.model_settings(model, dtype, device, attn) | {
            "levels": m.levels(keep, t_eq, "0.5,0.25,0.1", own=True), "new_tokens": new_tokens, "batch": batch,
            **what,
        }  # fmt: skip
        return m.Asked(settings, [contender(name) for name in m.names(method)])

    where, result = m.measured(context, "fidelity", resume, study, asked, _work)
    m.refuse_nothing(result.cells, result.missing)
    add_report(report, where)
    if as_json:
        m.print_json(where, {"cells": [asdict(c) for c in result.cells]}, result.missing, result.broken)
    else:
        _print(result)
        m.say_what_else(where, result.missing, result.broken, "rows of each sample, and record")


def _work(b: m.Work) -> FidelityResult:
    from ..measure import fidelity as measure

    s = b.settings
    return measure(
        b.loaded, b.samples, b.contenders, b.levels, max_new_tokens=s["new_tokens"], batch=s["batch"],
        study=b.study, progress=b.progress,
    )  # fmt: skip


def _print(result: FidelityResult) -> None:
    n = max(cell.exact.n for cell in result.cells)
    out.print(f"\nbeside the uncompressed model's own answers, {n} samples [dim](95 % intervals in brackets)[/dim]\n")
    rows = [{"method": cell.label, "budget": cell.budget, "cell": cell} for cell in result.cells]
    out.print(m.by_budget(rows, ("T_eq", "same answer", "same next token", "KL, nats a token"), _cells))


def _cells(row: dict[str, Any]) -> list[str]:
    cell = row["cell"]
    shares = map(m.with_interval, (cell.exact, cell.agreement))
    return [f"{cell.t_eq:.1f}", *shares, m.with_interval(cell.kl_nats, digits=3)]
