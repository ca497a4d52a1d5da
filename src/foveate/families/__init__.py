"""One Hugging Face family a file; every `Family` in this folder is found, nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from ..errors import UnsupportedModel
from .base import Family


@cache
def families() -> dict[str, Family]:
    """Adapters by `model_type`."""
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name == "base":
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__:
                found |= dict.fromkeys(value.model_types, value())
    return found


def family_of(config: Any) -> Family:
    """The adapter for a model's config; raises UnsupportedModel with the list of those that have one."""
    kind = getattr(config, "model_type", None)
    known = families()
    if kind in known:
        return known[kind]
    names = ", ".join(sorted(known))
    if kind is None:
        raise UnsupportedModel(f"this is no Hugging Face model (it has no config.model_type); give one of: {names}")
    if getattr(config, "vision_config", None) is None:
        raise UnsupportedModel(f"{kind!r} is no vision-language model: it has no visual tokens; give one of: {names}")
    raise UnsupportedModel(f"there is no adapter for {kind!r}; there are adapters for: {names}")
