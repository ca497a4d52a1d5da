"""`foveate methods` and `foveate models`: what there is."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.table import Table

from .options import Json
from .show import out


def methods(
    name: Annotated[str | None, typer.Argument(help="Show the card of this one.")] = None, as_json: Json = False
) -> None:
    """List the methods, or show one's card: where it comes from, its settings, where it departs from its paper."""
    from ..errors import unknown_name
    from ..method import all_methods

    known = all_methods()
    if name is not None and name not in known:
        raise unknown_name("method", name, known)
    cards = {n: _card(cls) for n, cls in sorted(known.items()) if name in (None, n)}
    if as_json:
        print(json.dumps(list(cards.values()), indent=1))
    elif name is not None:
        _show(cards[name])
    else:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in ("method", "what it does", "paper"):
            table.add_column(column)
        for card in cards.values():
            table.add_row(card["name"], card["summary"], " ".join(filter(None, (card["venue"], card["paper"]))))
        out.print(table)


def _card(cls: Any) -> dict[str, Any]:
    fields = {f.name: str(_default(f)) for f in dataclasses.fields(cls)}
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    card = dataclasses.asdict(cls.card)
    return card | {"summary": summary, "settings": fields, "about": (cls.__doc__ or "").strip()}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)" if field.default is dataclasses.MISSING else field.default


def _show(card: dict[str, Any]) -> None:
    out.print(f"[bold]{card['name']}[/bold]  {card['title']}")
    out.print(" ".join(filter(None, (card["venue"], card["paper"]))) or "baseline", style="dim")
    out.print()
    out.print(card["about"])
    out.print("\n[bold]settings[/bold]")
    for name, value in card["settings"].items():
        out.print(f"  {name} = {value}", markup=False)
    for title in ("signals", "deviations"):
        if card[title]:
            out.print(f"\n[bold]{title}[/bold]")
            for line in card[title]:
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
