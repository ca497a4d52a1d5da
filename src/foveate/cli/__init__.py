"""The command line: parse, call the library, print. One command a file; torch is imported only where it is needed."""

from __future__ import annotations

import os
import sys

import typer

from .. import __version__
from ..errors import FoveateError
from .listing import methods, models
from .plan import plan
from .run import run

app = typer.Typer(
    help="Compress the visual tokens of vision-language models, without training.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(plan)
app.command()(methods)
app.command()(models)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Exit 0 when done, 1 when something failed, 2 when asked wrongly, with one line on stderr."""
    try:
        app()
    except FoveateError as error:
        if os.environ.get("FOVEATE_DEBUG"):
            raise
        print(f"foveate: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("FOVEATE_DEBUG"):
            raise
        print(f"foveate: {type(error).__name__}: {error} (FOVEATE_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
