"""`foveate new-method`: write a working method with its test, to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .show import out


def new_method(
    name: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits and _.")],
    into: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("."),
    package: Annotated[bool, typer.Option("--package", help="Also a pyproject.toml that makes it known.")] = False,
    as_json: Json = False,
) -> None:
    """Write NAME.py, a method that works, and test_NAME.py, which checks every promise on every family."""
    from ..scaffold import write_method

    files = write_method(name, into, package=package)
    if as_json:
        print(json.dumps([str(f) for f in files]))
        return
    for file in files:
        out.print(f"wrote {file}", markup=False, soft_wrap=True)
    out.print(f"\ncheck it: pytest {files[1]}", markup=False, soft_wrap=True)
    if package:
        out.print(f"make it known: pip install -e {into}, then foveate methods {name}", markup=False, soft_wrap=True)
