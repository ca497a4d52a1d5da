"""The reference that compression is held against: one forward on all tokens in which dropped ones are only hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .engine.masks import decay
from .engine.run import Run
from .pieces.merges import Drop
from .plan import Layer


def masked_logits(
    model: nn.Module, run: Run, entered: dict[int, Tensor], inputs: dict[str, Any], generated: Tensor
) -> Tensor:
    """Logits [B, NEW, V] of prompt and answer in one forward on all tokens, with the dropped ones hidden by masks.

    Works from the trace alone: which columns each layer may see, and how much they weigh under the method's bias,
    follows from the cuts; `entered` is what entered the layers behind a cut that merged, so that merged features are
    those of the run.
    """
    decoder = run.decoder
    length = inputs["input_ids"].shape[1]
    sights = sights_of(run, inputs)
    remembered = _remembered(run, [s.columns for s in sights])
    valid = torch.cat([inputs["attention_mask"].bool(), generated.new_ones(generated.shape).bool()], 1)
    full = dict(inputs, input_ids=torch.cat([inputs["input_ids"], generated], 1), attention_mask=valid.long())
    if "mm_token_type_ids" in full:
        full["mm_token_type_ids"] = torch.cat([full["mm_token_type_ids"], torch.zeros_like(generated).int()], 1)
    full["position_ids"] = _positions(model, full)
    total = valid.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    in_prefill = (torch.arange(total) < length)[:, None]

    def replaced(hidden: Tensor, i: int) -> Tensor:
        hidden = hidden.clone()
        for row, columns in enumerate(sights[i].columns):
            stay = columns.nonzero()[:, 0]
            hidden[row, stay] = entered[i][row, entered[i].shape[1] - len(stay) :]
        return hidden

    def with_door(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        return args, {**kwargs, "inputs_embeds": replaced(kwargs["inputs_embeds"], 0)}

    def with_mask(i: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
            prompt = torch.where(in_prefill, sights[i].columns[:, None], remembered[i][:, None])
            prompt = _recalled(run, i, sights[i].columns, prompt, length)
            keys = torch.cat([prompt, prompt.new_ones(len(valid), total, total - length)], 2) & valid[:, None]
            allowed = (causal & keys) | torch.eye(total, dtype=torch.bool)
            mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
            if run.bias is not None and sights[i].is_cut:
                size = nn.functional.pad(sights[i].size, (0, total - length), value=1.0)
                rotary = run.family.rotary(module, kwargs["position_embeddings"])
                mask = mask + run.bias(size[:, None], decay(rotary, total))
            kwargs = {**kwargs, "attention_mask": mask[:, None].clamp(min=torch.finfo(torch.float32).min)}
            if i > 0 and i in entered:
                hidden = replaced(args[0] if args else kwargs["hidden_states"], i)
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
            return args, kwargs

        return hook

    with ExitStack() as undo, torch.no_grad():
        undo.callback(decoder.register_forward_pre_hook(with_door, with_kwargs=True).remove)
        for i, layer in enumerate(decoder.layers):
            undo.callback(layer.register_forward_pre_hook(with_mask(i), with_kwargs=True).remove)
        logits = model(**full).logits
    return logits[:, length - 1 : -1]


@dataclass(frozen=True)
class Sight:
    """What a layer ran on: prompt columns [B, L], how many original tokens each stands for, whether any was cut."""

    columns: Tensor
    size: Tensor
    is_cut: bool


def sights_of(run: Run, inputs: dict[str, Any]) -> list[Sight]:
    """What each layer of the language model ran on, from the trace of the run."""
    now = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    size = torch.ones_like(now, dtype=torch.float32)
    alive: dict[tuple, Tensor] = {}
    layers: list[Sight] = []
    for i in range(run.shape.layers):
        cuts = [cut for cut in run.trace.cuts if cut.step.at.layer == i]
        for cut in cuts:
            before = torch.cat([alive.get((cut.sample, s), torch.tensor(s.columns())) for s in cut.spans])
            after = before[cut.reduction.kept[0]]
            now[cut.sample, before] = False
            now[cut.sample, after] = True
            size[cut.sample, after] = cut.reduction.size[0]
            for span in cut.spans:
                own = set(span.columns())
                alive[cut.sample, span] = torch.tensor([c for c in after.tolist() if c in own], dtype=torch.long)
        layers.append(Sight(now.clone(), size.clone(), bool(cuts) or (bool(layers) and layers[-1].is_cut)))
    return layers


def _remembered(run: Run, seen: list[Tensor]) -> list[Tensor]:
    """For each layer the prompt columns its cache holds while decoding: fewer where all layers forget a cut."""
    last = max((s.at.layer for s in run.steps if s.cache == "all" and isinstance(s.at, Layer)), default=0)
    return [columns & seen[last] for columns in seen[:last]] + seen[last:]


def _recalled(run: Run, layer: int, columns: Tensor, seen: Tensor, length: int) -> Tensor:
    """Prompt columns [B, Q, L] that the queries of a layer see, where visual keys were chosen while decoding."""
    seen = seen.clone()
    for choice in run.trace.recalled:
        for row, here in enumerate(columns if choice.layer <= layer else ()):
            stay = here.nonzero()[:, 0]
            shown = torch.zeros_like(here).index_put((stay,), choice.shown[row, choice.shown.shape[1] - len(stay) :])
            seen[row, length + choice.after :] = shown
    return seen


@contextmanager
def entering(run: Run) -> Iterator[dict[int, Tensor]]:
    """What enters layer 0, and each layer before which a step merges, in the prefill."""
    merging = {s.at.layer for s in run.steps if isinstance(s.at, Layer) and not isinstance(s.merge, Drop)}
    entered: dict[int, Tensor] = {}

    def hook(i: int, name: str) -> Callable:
        def look(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs[name]
            if hidden.shape[1] > 1:
                entered.setdefault(i, hidden.clone())

        return look

    with ExitStack() as undo:
        door = run.decoder.register_forward_pre_hook(hook(0, "inputs_embeds"), with_kwargs=True)
        undo.callback(door.remove)
        for i in merging - {0}:
            layer = run.decoder.layers[i]
            undo.callback(layer.register_forward_pre_hook(hook(i, "hidden_states"), with_kwargs=True).remove)
        yield entered


def _positions(model: nn.Module, full: dict[str, Any]) -> Tensor | None:
    """Position ids of prompt and answer, as `generate` would give them."""
    core = model.base_model
    if hasattr(core, "get_rope_index"):
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids", "attention_mask")
        return core.get_rope_index(full["input_ids"], **{n: full[n] for n in names if n in full})[0]
    return (full["attention_mask"].cumsum(1) - 1).clamp(min=0)
