"""The tap: a reader sees q and k of chosen attention modules while SDPA, eager or FlashAttention does the attention.

One stateless function per implementation, registered once under the name "foveate:<implementation>" through the
interfaces transformers offers for this; a model uses it only while a context is open.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import UnsupportedModel

PREFIX = "foveate:"
Reader = Callable[[Tensor, Tensor, float, dict[str, Any]], None]

_readers: weakref.WeakKeyDictionary[nn.Module, Reader] = weakref.WeakKeyDictionary()


def watch(module: nn.Module, reader: Reader, undo: ExitStack) -> None:
    """Call `reader(q, k, scale, attention kwargs)` whenever this attention module runs, until `undo` closes."""
    config = module.config
    inner = config._attn_implementation
    if not inner.startswith(PREFIX):
        _register(inner, module)
        # the setter would also change the sub-configs of a composite config, which have implementations of their own
        config._attn_implementation_internal = PREFIX + inner
        undo.callback(setattr, config, "_attn_implementation_internal", inner)
    _readers[module] = reader
    undo.callback(_readers.pop, module, None)


def _register(inner: str, module: nn.Module) -> None:
    if PREFIX + inner in ALL_ATTENTION_FUNCTIONS.valid_keys():
        return
    if inner == "eager":
        attention = None  # each model file has its own eager function; found at the module, below
    elif inner in ALL_ATTENTION_FUNCTIONS.valid_keys():
        attention = ALL_ATTENTION_FUNCTIONS[inner]
    else:
        raise UnsupportedModel(
            f"cannot read attention under attn_implementation={inner!r}; load the model with 'sdpa', 'eager' or an "
            "installed FlashAttention"
        )
    AttentionInterface.register(PREFIX + inner, _tapped(attention, inner))
    if inner in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
        AttentionMaskInterface.register(PREFIX + inner, ALL_MASK_ATTENTION_FUNCTIONS[inner])


def _tapped(attention: Callable | None, inner: str) -> Callable:
    def tapped(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
        reader = _readers.get(module)
        if reader is not None:
            scale = kwargs.get("scaling")
            reader(q, k, q.shape[-1] ** -0.5 if scale is None else scale, kwargs)
        if attention is None:
            return _eager(module)(module, q, k, v, attention_mask, **kwargs)
        # FlashAttention picks its kernel by the name in module.config, where ours stands now
        seen = _Named(module, inner) if "flash" in inner else module
        return attention(seen, q, k, v, attention_mask, **kwargs)

    return tapped


def _eager(module: nn.Module) -> Callable:
    import sys

    return sys.modules[type(module).__module__].eager_attention_forward


class _Named:
    """An attention module as it is, but for the implementation its config names."""

    def __init__(self, module: nn.Module, inner: str) -> None:
        self._module = module
        self.config = _NamedConfig(module.config, inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NamedConfig:
    def __init__(self, config: Any, inner: str) -> None:
        self._config = config
        self._attn_implementation = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)
