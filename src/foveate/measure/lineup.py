"""Line-ups: contenders from what a person wrote, and the baselines that always stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InvalidValue
from ..method import Method, get_method
from ..pieces.base import Budget
from ..recipe import Recipe
from .contender import AsItIs, Contender, Reduced, Uncompressed
from .smaller import Frames, Resolution

#: always there; for videos also "frames"
BASELINES = ("random", "uniform", "pool", "resolution")
#: what needs no method
INPUTS: dict[str, Callable[[str], Contender]] = {
    "uncompressed": Uncompressed,
    "resolution": Resolution,
    "frames": Frames,
}
YAML = (".yaml", ".yml")


def line_up(wanted: Iterable[str | Contender], *, videos: bool = False) -> list[Contender]:
    """The uncompressed model, those wanted, and the baselines that are not among them.

    Raises InvalidValue when two have one name.
    """
    given = [contender(c) if isinstance(c, str) else c for c in wanted]
    names = {c.label for c in given}
    always = ("uncompressed", *BASELINES, *(["frames"] if videos else []))
    missing = [contender(name) for name in always if name not in names]
    everyone = [*missing[:1], *given, *missing[1:]] if "uncompressed" not in names else [*given, *missing]
    labels = [c.label for c in everyone]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidValue(f"two contenders are called {label!r}; give one a name of its own, as in other={label}")
    return everyone


def contender(text: str) -> Contender:
    """One from `fastv`, `visionzip:contextual=0.2:block=3`, a recipe `mine.yaml`, any of them named: `twin=fastv`.

    Raises InvalidValue for what is none of these.
    """
    head, *pairs = text.split(":")
    given, _, name = head.rpartition("=")
    label = given or (Path(name).stem if name.endswith(YAML) else text)
    if name in INPUTS and not pairs:
        return INPUTS[name](label)
    settings: dict[str, Any] = {}
    for pair in pairs:
        setting, equals, value = pair.partition("=")
        if not equals:
            raise InvalidValue(f"{text!r}: a setting is written NAME=VALUE, got {pair!r}")
        try:
            settings[setting] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InvalidValue(f"{text!r}: cannot read the value {value!r}") from None
    start = Recipe.load(name).to_method() if name.endswith(YAML) else name
    return of_method(label, get_method(start, **settings))


def of_method(label: str, method: Method) -> Contender:
    """A method under a name; one whose keep follows the content runs as it is."""
    settings = _first(method).settings()
    free = "keep" in settings and not isinstance(settings["keep"], Budget)
    return Reduced(label, method) if free else AsItIs(label, method)


def _first(method: Method) -> Method:
    """The part of a method made of others whose keep is its own."""
    return _first(getattr(method, method.parts[0])) if method.parts else method


def from_recipe(label: str, recipe: Mapping[str, Any]) -> Contender:
    """What `Contender.recipe` wrote down."""
    name = recipe["method"]
    return INPUTS[name](label) if name in INPUTS else of_method(label, Recipe(**recipe).to_method())
