"""`foveate methods` and `foveate models`: what there is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import InvalidValue
from .options import Json
from .show import out

if TYPE_CHECKING:
    from ..cards import Entry

Stage = Literal["vision", "projector", "llm"]
Modality = Literal["image", "video"]


def methods(
    name: Annotated[str | None, typer.Argument(help="Show the card of this one.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Only those that cut there: vision, projector or llm.")] = None,
    modality: Annotated[Modality | None, typer.Option(help="Only those for image or video.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All cards as docs/methods.md has them.")] = False,
    as_json: Json = False,
) -> None:
    """List the methods, or show one's card: where it comes from, its settings, where it departs from its paper."""
    from .. import cards
    from ..method import all_methods, unknown_method

    if markdown:
        if name or stage or modality or as_json:
            raise InvalidValue("--markdown prints all cards; leave the name and the other options out")
        print(cards.markdown(), end="")
        return
    if name is not None and name not in all_methods():
        raise unknown_method(name)
    found = cards.entries(stage, modality) if name is None else [cards.entry(all_methods()[name])]
    if as_json:
        print(json.dumps([cards.as_dict(e) for e in found], indent=1))
    elif name is not None:
        _show(found[0])
    else:
        _list(found)


def _list(found: list[Entry]) -> None:
    from ..cards import by_stage

    if not found:
        out.print("no method passes the filters")
    for heading, group in by_stage(found):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, width=max(len(e.name) for e in found))
        table.add_column(width=12)
        table.add_column()
        for e in group:
            table.add_row(e.name, e.venue or e.paper, escape(e.summary))
        out.print(f"[bold]{heading}[/bold]")
        out.print(table)


def _show(e: Entry) -> None:
    from ..cards import runs_on
    from ..method import all_methods

    out.print(f"[bold]{e.name}[/bold]  {e.title}")
    out.print(", ".join((e.source, e.link) if e.link else (e.source,)), style="dim", soft_wrap=True)
    out.print(f"\n{e.summary}", markup=False)
    if e.about:
        out.print(f"\n{e.about}", markup=False)
    runs = runs_on(all_methods()[e.name])
    sections = {
        "settings": [f"{name} = {value}" for name, value in e.settings.items()],
        f"steps at these settings on {e.on}": e.steps,
        "signals": e.signals,
        "reads": [f"{reading}: {what}" for reading, what in e.reads.items()],
        "positions": [e.positions],
        "for": [", ".join(e.modality)],
        "runs on": [f"{title}{why and f': no, {why}'}" for title, why in runs.items()],
        "checked against": e.checked,
        "deviations": e.deviations,
    }
    for title, lines in sections.items():
        if lines:
            out.print(f"\n[bold]{title}[/bold]")
            for line in lines:
                out.print(f"  - {line}", markup=False)


def models(as_json: Json = False) -> None:
    """List the model families that have an adapter."""
    from ..families import families
    from ..loading import embedded_model_path

    known = [
        {"model_type": kind, "title": f.title, "about": (type(f).__doc__ or "").strip().splitlines()[0]}
        for kind, f in sorted(families().items())
    ]
    embedded = str(embedded_model_path())
    if as_json:
        print(json.dumps({"families": known, "embedded": embedded}, indent=1))
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("family", "model_type", "what it reads"):
        table.add_column(column)
    for row in known:
        table.add_row(row["title"], row["model_type"], row["about"])
    out.print(table)
    out.print(f"\nembedded: {embedded}", soft_wrap=True)
