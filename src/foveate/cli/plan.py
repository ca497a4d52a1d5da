"""`foveate plan`: what a method would do to a model, from its config alone."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import InvalidValue
from . import options as o
from .show import bars, out, ratio


def plan(
    method: Annotated[str, typer.Argument(help="Name of the method.")],
    model: o.Model = None,
    image_size: Annotated[str, typer.Option(metavar="WxH", help="Pixels of the image or of a frame.")] = "336x336",
    frames: Annotated[int, typer.Option(min=0, help="Frames of a video; 0 for an image.")] = 0,
    text: Annotated[int, typer.Option(min=0, help="Text tokens of the prompt, for the FLOPs.")] = 40,
    t_eq: Annotated[float | None, typer.Option(help="Find the keep that gives this T_eq.")] = None,
    keep: o.Keep = None,
    merge_ratio: o.MergeRatio = None,
    schedule: o.ScheduleName = None,
    final_prune_ratio: o.FinalPruneRatio = None,
    importance: o.Importance = None,
    adaptive: o.AdaptiveRange = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Print the plan: tokens after each step and per layer, T_eq and FLOPs. Loads no weights."""
    if t_eq is not None and (keep or merge_ratio or adaptive):
        raise InvalidValue("--t-eq finds the keep; leave --keep, --merge-ratio and --adaptive out")
    from ..families import family_of
    from ..loading import load_config, planned_grids
    from ..method import get_method
    from ..plan import make_plan, solve

    width, height = _size(image_size)
    config = load_config(model)
    shape = family_of(config).shape(config)
    grids = planned_grids(model, config, height, width, frames)
    overrides = o.words(keep, merge_ratio, schedule, final_prune_ratio, importance, adaptive, None, settings)
    wanted = o.make_method(method, overrides)
    if t_eq is not None:
        wanted = solve(wanted, shape, grids, t_eq)
    resolved = make_plan(wanted.steps(shape), shape, grids)
    whole = make_plan(get_method("uniform", keep=1.0).steps(shape), shape, grids)
    flops, flops_whole = resolved.lm_flops(text), whole.lm_flops(text)
    if as_json:
        steps: list[dict[str, object]] = [
            dict(zip(("at", "keep", "score", "select", "merge"), s.words(), strict=True)) for s in resolved.steps
        ]
        for step, n in zip(steps, resolved.after, strict=True):
            step["after"] = n
        result = {
            "method": method, "settings": {k: str(v) for k, v in wanted.settings().items()}, "steps": steps,
            "visual_tokens": resolved.visual_tokens, "tokens_per_layer": list(resolved.per_layer),
            "t_eq": resolved.t_eq, "lm_flops": flops, "lm_flops_uncompressed": flops_whole, "text_tokens": text,
        }  # fmt: skip
        print(json.dumps(result))
        return
    out.print(str(resolved), markup=False)
    out.print()
    out.print(bars(resolved.per_layer, resolved.visual_tokens))
    if t_eq is not None:
        out.print(f"\nkeep = {wanted.settings()['keep']:.4f}")
    out.print(
        f"\nlanguage model prefill with {text} text tokens: {flops / 1e9:.2f} GFLOPs, "
        f"{ratio(flops_whole, flops)} than {flops_whole / 1e9:.2f} (computed; without vision tower and LM head)"
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InvalidValue(f"--image-size takes WIDTHxHEIGHT in pixels, as in 672x448, got {text!r}")
    return int(width), int(height)
