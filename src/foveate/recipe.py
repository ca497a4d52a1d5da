"""A recipe: one YAML file that says what was run, enough to run it again."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import __version__, pieces
from .compose import TwoStage, With
from .errors import InvalidValue
from .method import Method, all_methods, checked
from .ops import schedule

COMPOSED = (TwoStage, With)


def _versions() -> dict[str, str]:
    return {"foveate": __version__} | {n: importlib.metadata.version(n) for n in ("torch", "transformers")}


class Recipe(BaseModel):
    """What was run. `settings` holds every field of the method; objects in it are written {name, fields}.

    `evidence` is what was measured with it, where a search or an evaluation wrote it.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    dtype: str | None = None
    prompt: str | None = None
    images: list[str] = Field(default_factory=list)
    max_new_tokens: int | None = Field(default=None, ge=1)
    evidence: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default_factory=_versions)

    @classmethod
    def of(cls, method: Method, **rest: Any) -> Recipe:
        """The recipe of a method, with `rest` for the other fields."""
        written = {name: _write(value) for name, value in method.settings().items()}
        return cls(method=method.card.name, settings=written, **rest)

    def to_method(self) -> Method:
        """The method it names; raises InvalidValue for one that is not there or settings it does not have."""
        return _method(self.method, self.settings)

    def save(self, path: str | Path) -> None:
        """Write it as YAML."""
        Path(path).write_text(self.to_yaml())

    def to_yaml(self) -> str:
        """It as YAML, empty fields left out."""
        text: str = yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read one; raises InvalidValue that names the file and the field at fault."""
        try:
            content = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise InvalidValue(f"cannot read the recipe {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidValue(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise InvalidValue(f"{path} holds no recipe: expected fields such as `method`")
        try:
            return cls(**content)
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("?",), "msg": str(error)}
            where = ".".join(map(str, first["loc"]))
            raise InvalidValue(f"{path}: {where}: {first['msg']}") from error


def _write(value: Any) -> Any:
    if isinstance(value, Method):
        return {"name": value.card.name, "fields": {n: _write(v) for n, v in value.settings().items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _write(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": type(value).__name__, "fields": inner}
    return [_write(v) for v in value] if isinstance(value, tuple) else value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(v) for v in value)
    if not isinstance(value, dict):
        return value
    name, inner = value.get("name"), value.get("fields", {})
    if name in all_methods() or name in {c.card.name for c in COMPOSED}:
        return _method(name, inner)
    cls = getattr(pieces, str(name), None) or getattr(schedule, str(name), None)
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise InvalidValue(f"the recipe names {name!r}, and there is no such piece or schedule")
    return _built(cls, inner)


def _method(name: str, settings: dict[str, Any]) -> Method:
    for composed in COMPOSED:
        if name == composed.card.name:
            return _built(composed, settings)  # type: ignore[no-any-return]
    from .method import get_method

    known = {f.name for f in dataclasses.fields(type(get_method(name)))}  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise InvalidValue(f"the recipe sets {setting!r}, and {name} has only: {', '.join(sorted(known))}")
    return get_method(name, **{n: _read(v) for n, v in settings.items()})


def _built(cls: type, inner: Any) -> Any:
    known = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(inner, dict) or not set(inner) <= set(known):
        takes = ", ".join(known) or "(none)"
        raise InvalidValue(f"the recipe's {cls.__name__} takes the fields {takes}, got {inner!r}")
    return cls(**checked(cls, {n: _read(v) for n, v in inner.items()}))
