"""What the page carries: models as coefficients, methods as steps and tables of their own work, devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from ...errors import FoveateError
from ...method import Method, all_methods, get_method
from ...pieces.base import Select
from ...plan import ModelShape, Step, check_steps
from ..arch import Arch, Block
from ..coefficients import layer_templates, outer_templates, step_templates, tower_templates, windows
from ..deployment import Deployment
from ..estimate import Resolved
from ..hardware import all_hardware
from ..hf import arch_of, bundled
from ..ledger import ledger_of
from ..ops import Op
from ..processors import AnyResolution, Square, Tiles
from ..tokens import Grid, Inputs, Prompt, Visual

#: the keeps that can be chosen
KEEPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: processors whose pictures all have the same patches, whatever becomes of them
SAME_SIZE = (AnyResolution, Square, Tiles)
#: keeps, sides of square pictures in tokens and numbers of pictures for which a method's own work is counted
OWN_KEEPS = (0.05, 0.25, 0.9, 1.0)
OWN_SIDES = (8, 24, 72)
OWN_FRAMES = (1, 8, 64)


def page_data(deployment: Deployment, inputs: Inputs, method: Resolved = None) -> dict[str, Any]:
    """All of it; bundled models and the given one, every method whose counts follow from its steps alone."""
    archs = {name: arch_of(name) for name in bundled()} | {deployment.arch.name: deployment.arch}
    devices = all_hardware() | {deployment.roofline.hardware.name: deployment.roofline.hardware}
    shapes = {len(arch.language.blocks): arch.shape() for arch in archs.values()}
    methods = {name: m for name in sorted(all_methods()) if (m := _plain(name, shapes)) is not None}
    return {
        "models": {name: _model(arch) for name, arch in archs.items()},
        "hardware": {name: d.model_dump() | {"efficiency": _flat(d.efficiency)} for name, d in devices.items()},
        "keeps": KEEPS,
        "steps": {name: {depth: _steps(m, shape) for depth, shape in shapes.items()} for name, m in methods.items()},
        "own": {
            "tokens": [side**2 for side in OWN_SIDES],
            "frames": OWN_FRAMES,
            "keeps": OWN_KEEPS,
            "cells": {name: {key: _own(arch, m) for key, m in methods.items()} for name, arch in archs.items()},
        },
        "titles": {name: m.card.title for name, m in methods.items()},
        "start": _start(deployment, inputs, method),
    }


def _start(deployment: Deployment, inputs: Inputs, method: Resolved) -> dict[str, Any]:
    """What the page shows at first."""
    chosen = method.settings() | {"method": method.card.name} if isinstance(method, Method) else {}
    keep = chosen.get("keep")
    width, height = inputs.images[0] if inputs.images else inputs.videos[0][1:3]
    return {
        "model": deployment.arch.name, "hardware": deployment.roofline.hardware.name, "width": width, "height": height,
        "count": max(1, len(inputs.images)), "frames": inputs.videos[0].frames if inputs.videos else 0,
        "text": inputs.text, "batch": inputs.batch, "new_tokens": inputs.new_tokens,
        "method": chosen.get("method", ""), "keep": keep if isinstance(keep, float) else 0.25,
    }  # fmt: skip


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _model(arch: Arch) -> dict[str, Any]:
    lm, tower = arch.language, arch.tower
    in_prefill, in_step = outer_templates(arch)
    return {
        "processor": {"kind": type(arch.processor).__name__, **asdict(arch.processor)},  # type: ignore[call-overload]
        "depth": len(lm.blocks), "hidden": lm.hidden, "vocab": lm.vocab, "merge": arch.projector.merge,
        "cls": int(tower.cls), "rotary": tower.rotary, "windows": windows(arch), "parameters": arch.parameters(),
        "tower_hidden": tower.hidden, "tower_blocks": [_block(b) for b in dict.fromkeys(tower.blocks)],
        "tower": [t.compact() for t in tower_templates(arch)],
        "layers": [_group(arch, layers, [t.compact() for t in ts]) for layers, ts in layer_templates(arch)],
        "steps": [_group(arch, layers, [t.compact() for t in ts]) for layers, ts in step_templates(arch)],
        "outer": [[t.compact() for t in in_prefill], [t.compact() for t in in_step]],
    }  # fmt: skip


def _group(arch: Arch, layers: list[int], templates: list[list[Any]]) -> dict[str, Any]:
    block = arch.language.blocks[layers[0]]
    return {
        "layers": layers, "templates": templates, "window": block.attention.window or 0,
        "experts": block.feed_forward.experts, "active": block.feed_forward.active,
        "kv_elements": arch.language.kv_elements(layers[0]), "block": _block(block),
    }  # fmt: skip


def _block(block: Block) -> dict[str, Any]:
    a, feed = block.attention, block.feed_forward
    return {
        "hidden": block.hidden, "heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim,
        "window": a.window or 0, "width": feed.width, "active": feed.active, "gated": feed.gated,
    }  # fmt: skip


def _flat(efficiency: Any) -> dict[str, Any]:
    fields = efficiency.model_dump()
    return {name: value["points"] if isinstance(value, dict) else value for name, value in fields.items()}


# ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain(name: str, shapes: dict[int, ModelShape]) -> Method | None:
    """The method, if its counts follow from fractions on every model: a keep, and selectors that reach any count."""
    method = get_method(name)
    if "keep" not in method.settings():
        return None
    try:
        steps = [s for shape in shapes.values() for s in method.replaced(keep=KEEPS[0]).steps(shape)]
    except FoveateError:
        return None  # not for every model
    return method if all(type(s.select).possible is Select.possible for s in steps) else None


def _steps(method: Method, shape: ModelShape) -> dict[str, Any]:
    """What the steps are, and for each keep their fractions; None where a keep does without that step."""
    runs = [check_steps(method.replaced(keep=keep).steps(shape), shape) for keep in KEEPS]
    kinds = {_kind(step): None for steps in runs for step in steps}
    at = sorted(kinds, key=lambda kind: kind[0])
    fractions = [{_kind(step): step.highest for step in steps} for steps in runs]
    return {"at": at, "keep": [[row.get(kind) for kind in at] for row in fractions]}


def _kind(step: Step) -> tuple[int, str, str, str]:
    return step.at.layer, step.per, step.rounding, step.cache


def _own(arch: Arch, method: Method) -> list[Any] | None:
    """Its own work on one prompt: for each size of a picture, number of pictures and keep. None if it cannot be told.

    One picture is an image, several are a video. What prunes inside the tower changes the tower too: not for this page.
    """
    merge, found = arch.projector.merge, []
    try:
        for side in OWN_SIDES:
            row = []
            for frames in OWN_FRAMES:
                kind: Literal["image", "video"] = "image" if frames == 1 else "video"
                patches = arch.processor.side if isinstance(arch.processor, SAME_SIZE) else side * merge
                visual = Visual(kind, (Grid(frames, patches, patches),), (Grid(frames, side, side),))
                prompt = Prompt((visual,), 50)
                ledgers = [ledger_of(method.replaced(keep=keep), arch, prompt) for keep in OWN_KEEPS]
                if any(ledger.tower for ledger in ledgers):
                    return None
                row.append([_sums(ledger.method_ops) for ledger in ledgers])
            found.append(row)
    except FoveateError:
        return None
    return found


def _sums(ops: tuple[Op, ...]) -> list[float]:
    """FLOPs, elements moved and launches of its matmuls, then of the rest; log(1 + each), as they are interpolated."""
    found: list[float] = []
    for wanted in (True, False):
        mine = [op for op in ops if (op.kind in ("matmul", "attention")) == wanted]
        values: list[Callable[[Op], int]] = [
            lambda op: op.flops * op.repeat,
            lambda op: (op.reads + op.writes + op.weights) * op.repeat,
            lambda op: op.repeat,
        ]
        found += [round(math.log1p(sum(value(op) for op in mine)), 2) for value in values]
    return found
