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
from .plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class Card:
    """Where a method comes from and how ours differs.

    deviations  each departure from the released code, with its reason
    """

    name: str
    title: str
    paper: str = ""
    venue: str = ""
    signals: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()


class Method(ABC):
    """A way to choose visual tokens: a frozen dataclass whose fields are all its settings.

    Subclasses are final, set `card`, have a field `keep` (what it means is theirs to say) and write `steps`. A field
    `positions` overrides the published policy of the steps: "keep" (survivors keep the position they had) or "compact"
    (renumbered, not possible with M-RoPE, where a published "compact" becomes "keep").
    """

    card: ClassVar[Card]

    @abstractmethod
    def steps(self, model: ModelShape) -> Iterator[Step]:
        """The cuts for a model of this shape, in the order of the forward pass."""

    def replaced(self, **settings: object) -> Method:
        """The same method with some fields set otherwise."""
        return dataclasses.replace(self, **settings)  # type: ignore[type-var]

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
        cls = point.load()
        found[cls.card.name] = cls
    return found


def get_method(method: str | Method, **overrides: object) -> Method:
    """A method by name, or the given one, with settings overridden; words are understood as `foveate.spelling` says.

    Raises InvalidValue for an unknown name, setting or word, naming the nearest ones.
    """
    from .spelling import settings

    if isinstance(method, str):
        known = all_methods()
        if method not in known:
            raise unknown_name("method", method, known)
        cls, given = known[method], {}
    else:
        cls, given = type(method), method.settings()
    wanted = checked(cls, settings(cls, given, overrides))
    try:
        return cls(**{**given, **wanted})
    except TypeError as error:
        raise InvalidValue(f"{cls.card.name}: {error}") from error


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


@dataclass(frozen=True)
class TwoStage(Method):
    """Any reduction before the language model, then any inside it, on what the first left.

    The second method's fractions are of the first one's survivors. Raises InvalidValue at planning time when `merge`
    cuts inside the language model or `prune` before it.
    """

    merge: Method
    prune: Method
    positions: Positions | None = None

    card = Card("two-stage", "Two stages: before the language model, then inside it", signals=("those of its parts",))

    def steps(self, model: ModelShape) -> Iterator[Step]:
        left = 1.0
        for step in self.merge.steps(model):
            if isinstance(step.at, Layer):
                raise InvalidValue(
                    f"{self.merge.card.name} cuts at {step.at}: as `merge` give one that cuts before the LLM"
                )
            left = step.highest
            yield step
        for step in self.prune.steps(model):
            if not isinstance(step.at, Layer):
                raise InvalidValue(
                    f"{self.prune.card.name} cuts at {step.at}: as `prune` give one that cuts inside the LLM"
                )
            yield step.scaled(left)
