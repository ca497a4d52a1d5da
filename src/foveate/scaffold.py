"""A new method in one command: a file that works as it is, its test, and the package that makes it known by name."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path
from string import Template

from .errors import InvalidValue
from .method import all_methods

METHOD = Template('''"""$title: say in one sentence which tokens stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from foveate import Card, Method
from foveate.pieces import Norm
from foveate.plan import ModelShape, Positions, Projector, Step


@dataclass(frozen=True)
class $title(Method):
    """The tokens with the largest norm, before the language model."""

    keep: float = 0.25
    positions: Positions | None = None

    card = Card(
        "$name",
        "Largest norm first",
        signals=("features",),
    )

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, score=Norm())
''')

TEST = Template('''"""$title keeps every promise of foveate, on every family."""

from foveate.testing import check_method

from $name import $title


def test_it_keeps_every_promise():
    check_method($title)
''')

PROJECT = Template("""[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "foveate-$dashed"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["foveate"]

[project.entry-points."foveate.methods"]
$name = "$name:$title"

[tool.setuptools]
py-modules = ["$name"]
""")


def write_method(name: str, into: Path, *, package: bool = False) -> list[Path]:
    """Write NAME.py and test_NAME.py, with `package` also a pyproject.toml with the entry point; returns the files.

    Raises InvalidValue, before anything is written, for a name that cannot be used or a file that is there already.
    """
    _check_name(name)
    if not into.is_dir():
        raise InvalidValue(f"there is no folder {into}; make it first")
    texts = {f"{name}.py": METHOD, f"test_{name}.py": TEST}
    if package:
        texts["pyproject.toml"] = PROJECT
    there = [file for file in texts if (into / file).exists()]
    if there:
        raise InvalidValue(f"{into / there[0]} is there already; choose another name or folder")
    words = {"name": name, "title": "".join(w.capitalize() for w in name.split("_")), "dashed": name.replace("_", "-")}
    for file, text in texts.items():
        (into / file).write_text(text.substitute(words))
    return [into / file for file in texts]


def _check_name(name: str) -> None:
    if not (name.isascii() and name.isidentifier() and name.islower() and name[0] != "_") or keyword.iskeyword(name):
        raise InvalidValue(f"{name!r} cannot name a method: use lower-case letters, digits and _, as in my_method")
    if name in all_methods():
        raise InvalidValue(f"there is a method {name!r} already (foveate methods {name}); choose another name")
    if importlib.util.find_spec(name) is not None:
        raise InvalidValue(f"there is a module {name!r} already, which {name}.py would hide; choose another name")
