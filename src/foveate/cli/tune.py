"""`foveate tune`: the cheapest method and settings at which a target still holds, as a recipe with its evidence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import measuring as m
from . import options as o
from .eval import default_device, faster
from .report import Report, add_report
from .run import quiet
from .show import busy, out

if TYPE_CHECKING:
    from ..evaluate.search import Settings
    from ..evaluate.tune import Tuned


def tune(
    context: m.Context,
    dataset: Annotated[str, typer.Argument(help="A JSONL file, or `embedded`: questions that ship.")] = "embedded",
    target: Annotated[str, typer.Option(help="agreement, accuracy or retention, >= a number.")] = "agreement>=0.99",
    minimise: Annotated[str, typer.Option("--minimise", "--minimize", help="t_eq, tflops or prefill_ms.")] = "t_eq",
    methods: Annotated[str | None, typer.Option(metavar="A,B,...", help="Search only these; `all` for all.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many to try.")] = 50,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the trials.")] = 1,
    limit: Annotated[int | None, typer.Option(min=3, help="Only the first so many questions.")] = None,
    metric: Annotated[str | None, typer.Option(help="exact, vqa, anls or multiple_choice.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    model: o.Model = None,
    dtype: m.Dtype = "auto",
    device: m.Device = None,
    attn: m.Attn = None,
    save_recipe: Annotated[Path | None, typer.Option(help="Write it here; STUDY/recipe.yaml otherwise.")] = None,
    storage: Annotated[str | None, typer.Option(help="An Optuna database URL, in place of a file.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run workers on this Ray cluster.")] = None,
    folder: m.Folder = None,
    resume: m.Resume = None,
    report: Report = None,
    as_json: o.Json = False,
) -> None:
    """Search methods, merge ratios, schedules and layers for the least cost at which a target holds."""
    with busy("loading"):
        from ..evaluate import search
        from ..evaluate import tune as tuning

        quiet()
        if resume is None:
            wanted = search.Settings(
                target=target, minimise=minimise, methods=search.method_names(methods), trials=trials, dataset=dataset,
                limit=limit, metric=metric, model=model, dtype=dtype, device=device or default_device(), attn=attn,
                batch=batch, max_new_tokens=max_new_tokens, seed=seed, storage=storage,
            )  # fmt: skip
            tuning.check_workers(wanted, workers, ray)
            study = tuning.begin(folder or tuning.default_folder(), wanted, ["foveate", *sys.argv[1:]])
        else:
            m.nothing_else(context, "workers", "ray", "save_recipe")
            study, wanted = tuning.resume(resume)
    with m.bar("tune", study) as progress:
        tuned = tuning.tune(study, wanted, workers=workers, ray=ray, progress=progress)
    where = save_recipe or study.folder / "recipe.yaml"
    tuning.recipe_of(tuned, wanted).save(where)
    add_report(report, study)
    if as_json:
        print(json.dumps(tuned.as_dict() | {"recipe": str(where), "study": str(study.folder)}))
    else:
        _print(tuned, wanted, where)
    if tuned.verdict == "missed":
        raise typer.Exit(1)


def _print(tuned: Tuned, wanted: Settings, where: Path) -> None:
    settings = ", ".join(f"{name}={value}" for name, value in tuned.method.settings().items() if value is not None)
    counted = ", ".join(f"{n} {state}" for state, n in tuned.trials.items())
    out.print(f"[bold]{tuned.method.card.name}[/bold] ", end="")
    out.print(settings, markup=False, soft_wrap=True)
    e, n = tuned.evaluation, sum(tuned.trials.values())
    for line in (
        f"least {wanted.minimise} of {n} trials ({counted}): {tuned.searched['cost']:.4g}",
        f"{wanted.target} is {tuned.verdict}: {tuned.reached:.3f} on {len(e.pairs)} questions held out of the search",
        f"accuracy there {e.compressed.mean:.3f}, without compression {e.original.mean:.3f}",
        f"T_eq {e.compression.t_eq:.1f} of {e.compression.visual_tokens:.1f}; prefill {faster(e.speedup)}",
        f"\nrecipe: {where}\nfoveate run --recipe {where}",
    ):
        out.print(line, markup=False, soft_wrap=True)
