"""`foveate run`: ask about images, and see what compression did."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from ..errors import InvalidValue
from . import options as o
from .show import bars, busy, err, out, ratio, size

if TYPE_CHECKING:
    from ..ask import Answer


def run(
    images: Annotated[list[Path] | None, typer.Argument(help="Image files; the one that ships by default.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The question.")] = None,
    model: o.Model = None,
    method: Annotated[str | None, typer.Option(help="Name of the method (foveate methods); aim by default.")] = None,
    keep: o.Keep = None,
    merge_ratio: o.MergeRatio = None,
    schedule: o.ScheduleName = None,
    final_prune_ratio: o.FinalPruneRatio = None,
    importance: o.Importance = None,
    adaptive: o.AdaptiveRange = None,
    positions: o.Positions = None,
    settings: o.Set = None,
    recipe: Annotated[Path | None, typer.Option(help="Method and settings from this YAML file.")] = None,
    save_recipe: Annotated[Path | None, typer.Option(help="Write the recipe that was run.")] = None,
    baseline: Annotated[bool, typer.Option(help="Also run without compression.")] = True,
    no_image: Annotated[bool, typer.Option("--no-image", help="Ask without an image.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="At most so many; 64 by default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    attn: Annotated[str | None, typer.Option(help="sdpa, eager, flash_attention_2, ...")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write a picture of what was kept to this PNG.")] = None,
    as_json: o.Json = False,
) -> None:
    """Ask about images with compressed visual tokens, and print what it saved. Without arguments: a demonstration."""
    _check_outputs(overlay, save_recipe)
    overrides = o.words(keep, merge_ratio, schedule, final_prune_ratio, importance, adaptive, positions, settings)
    with busy("loading"):
        chosen, used = _method(method, overrides, recipe)
        from ..ask import ask, prepare, uncompressed
        from ..loading import load
        from ..recipe import Recipe

        pictures, names, question = _question(images, prompt, no_image, used)
        quiet()
        model, dtype = model or used.get("model"), dtype or used.get("dtype", "auto")
        loaded = load(model, dtype=dtype, device=device, attn_implementation=attn)
        inputs = prepare(loaded, question, pictures)
    max_new_tokens = max_new_tokens or used.get("max_new_tokens", 64)
    contenders = [chosen, uncompressed()] if baseline else [chosen]
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("answering", total=4 * len(contenders))
        answers = ask(loaded, inputs, contenders, max_new_tokens=max_new_tokens, tick=lambda: progress.advance(task))
    written = Recipe.of(chosen, model=model, dtype=dtype, prompt=question, images=names, max_new_tokens=max_new_tokens)
    if save_recipe:
        written.save(save_recipe)
    if overlay:
        from ..overlay import draw

        draw(answers[0].trace, pictures, overlay)
    if as_json:
        print(json.dumps(_json(answers, written.model_dump(exclude_none=True), overlay)))
    else:
        _print(question, answers, overlay)


def _check_outputs(overlay: Path | None, save_recipe: Path | None) -> None:
    """Before anything is computed: what is to be written can be written."""
    if overlay and overlay.suffix.lower() != ".png":
        raise InvalidValue(f"--overlay writes a PNG; name it so, as in {overlay.with_suffix('.png')}")
    for path in (overlay, save_recipe):
        if path and not path.parent.is_dir():
            raise InvalidValue(f"cannot write {path}: there is no folder {path.parent}")


def _method(name: str | None, overrides: dict[str, Any], recipe: Path | None) -> tuple[Any, dict[str, Any]]:
    """The method, and what a recipe says of the rest."""
    if recipe is None:
        return o.make_method(name or "aim", overrides, default_keep=0.25), {}
    from ..method import get_method
    from ..recipe import Recipe

    if name is not None:
        raise InvalidValue("--recipe names the method; leave --method out, or change settings with --keep and --set")
    loaded = Recipe.load(recipe)
    return get_method(loaded.to_method(), **overrides), loaded.model_dump(exclude_none=True)


def _question(
    images: list[Path] | None, prompt: str | None, no_image: bool, used: dict[str, Any]
) -> tuple[list[Any], list[str], str]:
    """Pictures, their names and the question; what ships where nothing was given."""
    from ..loading import check_aspect, example, open_image

    shipped, question = example()
    if no_image:
        paths: list[Path] = []
    elif images:
        paths = images
    else:
        paths = [Path(p) for p in used.get("images", [])] or [shipped]
    if prompt is None:
        prompt = used.get("prompt") or (question if paths == [shipped] else None)
    if prompt is None:
        raise InvalidValue("no question was asked; give one with --prompt")
    pictures = [open_image(p) for p in paths]
    for picture, path in zip(pictures, paths, strict=True):
        check_aspect(picture, str(path))
    return pictures, [] if paths == [shipped] else [str(p) for p in paths], prompt


def quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _json(answers: list[Answer], recipe: dict[str, Any], overlay: Path | None) -> dict[str, Any]:
    fields = [f.name for f in dataclasses.fields(answers[0]) if f.name != "trace"]
    found: list[dict[str, Any]] = [{name: getattr(a, name) for name in fields} for a in answers]
    found[0]["recipe"] = recipe
    if overlay:
        found[0]["overlay"] = str(overlay)
    if len(found) > 1:
        found[1]["method"] = "none"
        found[0]["baseline"] = found[1]
    return found[0]


def _print(question: str, answers: list[Answer], overlay: Path | None) -> None:
    first = answers[0]
    out.print(f"[bold]{question}[/bold]")
    out.print(f"  {first.answer}", markup=False)
    if len(answers) > 1:
        same = "the same" if first.answer == answers[1].answer else f"different: {answers[1].answer}"
        out.print(f"  [dim]without compression:[/dim] {same}")
    if not first.visual_tokens:
        out.print("\nthere was no image, so nothing was compressed")
        return
    out.print(f"\n{first.visual_tokens} visual tokens, method {first.method}; on each layer of the language model:\n")
    out.print(bars(first.tokens_per_layer, first.visual_tokens))
    out.print()
    out.print(_costs(answers))
    if overlay:
        out.print(f"\nwhat was kept: {overlay}", soft_wrap=True)


def _costs(answers: list[Answer]) -> Table:
    first, rest = answers[0], answers[1:]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("", first.method, *("uncompressed", "") * bool(rest)):
        table.add_column(column, justify="left" if not column else "right")
    rows = [
        ("T_eq, visual tokens a layer", "t_eq", lambda v: f"{v:.1f}"),
        ("prefill, median of 3", "prefill_ms", lambda v: f"{v:.1f} ms"),
        ("  of which selection", "selection_ms", lambda v: f"{v:.1f} ms"),
        ("vision tower, median of 3", "vision_ms", lambda v: f"{v:.1f} ms"),
        ("KV cache after prefill", "kv_bytes", lambda v: size(int(v))),
    ]
    for title, name, text in rows:
        values = [getattr(a, name) for a in answers]
        compared = ratio(values[1], values[0]) if rest and name in ("t_eq", "prefill_ms", "kv_bytes") else ""
        table.add_row(title, *map(text, values), *([compared] if rest else []))
    return table
