"""What passes a decoder layer, seen by hooks on the layer, its attention and its feed-forward network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..pieces.seen import States


def watch_states(
    layer: nn.Module, wanted: Callable[[], bool], on_states: Callable[[States], None], undo: ExitStack
) -> None:
    """Call `on_states` after each forward of a decoder layer for which `wanted()` holds, until `undo` closes.

    The layer must have `self_attn` and `mlp`, as Llama-like layers do.
    """
    seen = threading.local()

    def remember(name: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if wanted():
                setattr(seen, name, args[0] if args else kwargs["hidden_states"])

        return before

    def remember_out(name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple, output: Any) -> None:
            if wanted():
                setattr(seen, name, _first(output))

        return after

    def done(module: nn.Module, args: tuple, output: Any) -> None:
        if wanted():
            found = vars(seen)
            states = States(**found, after=_first(output))
            found.clear()
            on_states(states)

    for module, name in ((layer.self_attn, "attention"), (layer.mlp, "ffn")):
        undo.callback(module.register_forward_pre_hook(remember(f"{name}_in"), with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(remember_out(f"{name}_out")).remove)
    undo.callback(layer.register_forward_pre_hook(remember("before"), with_kwargs=True).remove)
    undo.callback(layer.register_forward_hook(done).remove)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
