"""What a method is: a frozen dataclass that yields steps, a card that says where it comes from, a registry by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from .errors import InvalidValue, unknown_name
from .left_out import LEFT_OUT
from .plan import ModelShape, Step


@dataclass(frozen=True)
class Card:
    """Where a method comes from and how ours differs.

    modality    what it is for: "image", "video" or both
    checked     what was checked against what, beyond the promises that every method keeps
    deviations  each departure from the released code, with its reason
    """

    name: str
    title: str
    paper: str = ""
    venue: str = ""
    signals: tuple[str, ...] = ()
    modality: tuple[str, ...] = ("image", "video")
    checked: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()


class Method(ABC):
    """A way to choose visual tokens: a frozen dataclass whose fields are all its settings.

    Subclasses are final, set `card`, have a field `keep` (what it means is theirs to say) and write `steps`. A field
    `positions` overrides the published policy of the steps: "keep" (survivors keep the position they had) or "compact"
    (renumbered, not possible with M-RoPE, where a published "compact" becomes "keep"); a field `bias` is added to the
    attention logits behind the first cut; a field `decode` says which visual keys later layers see while decoding.

    keep=1 must keep everything, whatever the other settings. A method made of others names the fields that hold them in
    `parts`; its `keep` is then that of the first.
    """

    card: ClassVar[Card]
    parts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def steps(self, model: ModelShape) -> Iterator[Step]:
        """The cuts for a model of this shape, in the order of the forward pass."""

    def replaced(self, **settings: object) -> Method:
        """The same method with some fields set otherwise."""
        return dataclasses.replace(self, **settings)  # type: ignore[type-var]

    def with_keep(self, keep: float) -> Method:
        """The same method at another `keep`."""
        if not self.parts:
            return self.replaced(keep=keep)
        first = self.parts[0]
        return self.replaced(**{first: getattr(self, first).with_keep(keep)})

    def chosen(self, name: str) -> object:
        """A setting that applies to the whole run (positions, bias): its own, else the first that a part has chosen."""
        own = self.settings().get(name)
        inner = (getattr(self, part).chosen(name) for part in self.parts)
        return own if own is not None else next((value for value in inner if value is not None), None)

    def settings(self) -> dict[str, object]:
        """Field names and values, for recipes and cards."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


@cache
def all_methods() -> dict[str, type[Method]]:
    """All methods by name: every module in `foveate.methods`, and every entry point of the group `foveate.methods`."""
    package = importlib.import_module(".methods", __package__)

    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
                found[value.card.name] = value
    for point in entry_points(group="foveate.methods"):
        origin = f"the method {point.name!r} of {point.dist.name if point.dist else point.value}"
        try:
            cls = point.load()
        except Exception as error:
            raise InvalidValue(f"{origin} cannot be loaded ({error}); mend or uninstall that package") from error
        if cls.card.name in found:
            raise InvalidValue(f"{origin} is called {cls.card.name!r} like another one; rename or uninstall it")
        found[cls.card.name] = cls
    return found


def unknown_method(name: str) -> InvalidValue:
    """The error for a name that no method has: why it was left out, or the nearest names."""
    if name.lower() in LEFT_OUT:
        title, paper, why = LEFT_OUT[name.lower()]
        return InvalidValue(f"{title} ({paper}) is not here: {why}")
    return unknown_name("method", name, all_methods())


def get_method(method: str | Method, **overrides: object) -> Method:
    """A method by name, or the given one, with settings overridden; words are understood as `foveate.spelling` says.

    Raises InvalidValue for an unknown name, setting or word, naming the nearest ones.
    """
    from .spelling import settings, swaps

    if isinstance(method, str):
        known = all_methods()
        if method not in known:
            raise unknown_method(method)
        cls, given = known[method], {}
    else:
        cls, given = type(method), method.settings()
    swapped, overrides = swaps(cls, overrides)
    wanted = checked(cls, settings(cls, given, overrides))
    try:
        made = cls(**{**given, **wanted})
    except TypeError as error:
        raise InvalidValue(f"{cls.card.name}: {error}") from error
    if not swapped:
        return made
    from .compose import With

    return With(made, **checked(With, swapped))  # type: ignore[arg-type]


def checked(cls: type, values: dict[str, object]) -> dict[str, object]:
    """Values that fit the annotations of a dataclass's fields; numbers given as text become numbers.

    Raises InvalidValue that names the field, what it takes and what was given.
    """
    hints = get_type_hints(cls)
    result = {}
    for name, value in values.items():
        try:
            adapter = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
            result[name] = adapter.validate_python(value)
        except PydanticUserError:  # the type brings its own configuration: one of our dataclasses
            result[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            wanted = re.sub(r"\b(?:\w+\.)+", "", inspect.formatannotation(hints[name]))
            raise InvalidValue(f"{name} takes {wanted}, got {value!r}") from error
    return result
