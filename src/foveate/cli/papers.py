"""`foveate papers`: search the catalogue of papers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..catalogue import Modality, Paper, implementations, near, search
from .options import Json
from .show import err, out


def papers(
    words: Annotated[list[str] | None, typer.Argument(help="All in its names, title, venue or arXiv id.")] = None,
    training_free: Annotated[bool, typer.Option("--training-free", help="Only those that train nothing.")] = False,
    implemented: Annotated[bool, typer.Option("--implemented", help="Only those that foveate implements.")] = False,
    modality: Annotated[Modality | None, typer.Option(help="Only those for images, video or audio.")] = None,
    year: Annotated[int | None, typer.Option(help="Only those of this year.")] = None,
    as_json: Json = False,
) -> None:
    """Search the papers on fewer visual tokens; one hit is shown in full, with its links."""
    words = words or []
    found = search(words, training_free=training_free, implemented=implemented, modality=modality, year=year)
    if as_json:
        print(json.dumps([_json(p) for p in found], ensure_ascii=False, indent=1))
    elif len(found) == 1:
        _show(found[0])
    elif found:
        out.print(_table(found))
        out.print(f"\n{len(found)} papers; a name alone shows its links", style="dim")
    if not found:
        _say_none(words, err if as_json else out)


def _json(paper: Paper) -> dict[str, Any]:
    return paper.model_dump(mode="json") | {"implemented": list(implementations().get(paper.id, ()))}


def _table(found: list[Paper]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("paper", max_width=16)
    table.add_column("published", max_width=12)
    table.add_column("training", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("title")
    for p in found:
        training = {"yes": "none", "calibration": "calib.", "no": "needed", None: "?"}[p.training_free]
        method = ", ".join(implementations().get(p.id, ()))
        title = p.title.removeprefix(f"{p.name}: ")
        table.add_row(p.name if p.aliases else "", p.published, training, method, escape(title))
    return table


def _show(paper: Paper) -> None:
    title = paper.title if paper.aliases else ""
    out.print(f"[bold]{escape(paper.name)}[/bold]  {escape(title)}", soft_wrap=True)
    rows = {
        "also": ", ".join(paper.aliases[1:]),
        "published": paper.published,
        "paper": paper.links.paper,
        "code": paper.links.code,
        "modality": ", ".join(paper.modality),
        "training-free": paper.training_free or "not known",
        "stage": ", ".join(paper.stage or ()) or "not known",
        "method": ", ".join(implementations().get(paper.id, ())) or "not in foveate",
    }
    for name, value in rows.items():
        if value:
            out.print(f"  {name:<14} {value}", markup=False, soft_wrap=True)


def _say_none(words: list[str], where: Console) -> None:
    similar = near(words)
    hint = f"; near it: {', '.join(similar)}" if similar else ""
    what = f"has {' '.join(words)!r} and passes the filters" if words else "passes the filters"
    where.print(f"no paper {what}{hint}", markup=False, soft_wrap=True)
