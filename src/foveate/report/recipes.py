"""The recipe of an entry as text: what `foveate run --recipe` reads, below comments on how it was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from .entry import Entry

MOST_SETTINGS = 3


def recipe_text(entry: Entry, about: Mapping[str, Any]) -> str:
    """YAML; where settings were solved for samples of several sizes, a document for each of the most frequent ones."""
    lines = [f"# {entry.name}", f"# measured by: {shlex.join(about['command'])}" if about["command"] else ""]
    method = (about["recipes"].get(entry.method) or {"method": entry.method})["method"]
    if entry.is_plain:
        lines.append("# the model as it is, without a method")
    elif method in ("resolution", "frames"):
        lines.append("# no method: smaller inputs, set for each size of input")
        lines += [_yaml(settings) for settings, _ in entry.settings[:MOST_SETTINGS] if settings]
    else:
        documents = []
        for settings, n in entry.settings[:MOST_SETTINGS]:
            solved = f"# settings of {n} samples; those of others were solved for other sizes\n"
            documents.append((solved if len(entry.settings) > 1 else "") + _yaml(_recipe(method, settings, about)))
        lines.append("---\n".join(documents))
    return "\n".join(line.rstrip("\n") for line in lines if line) + "\n"


def _recipe(method: str, settings: dict[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: about["settings"][name] for name in ("model", "dtype") if about["settings"].get(name)}
    known = {name: v for name, v in about["versions"].items() if name != "python"}
    return {"format": 1, "method": method, "settings": settings, **model, "versions": known}


def _yaml(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return text
