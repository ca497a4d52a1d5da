"""The command line: parse, call the library, print. One command a file; torch is imported only where it is needed."""

from __future__ import annotations

import importlib.util
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


def _examples(*commands: str) -> str:
    return "\n\n".join(["Examples:", *(f"foveate {c}" for c in commands)])


app.command(
    epilog=_examples("run", 'run photo.jpg -p "What is on the sign?" --method visionzip --keep 0.25 --overlay kept.png')
)(run)
app.command(epilog=_examples("plan aim --image-size 672x448", "plan fastv --t-eq 64 --json"))(plan)
app.command(epilog=_examples("methods", "methods aim"))(methods)
app.command(epilog=_examples("models", "models --json"))(models)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Exit 0 when done, 1 when something failed, 2 when asked wrongly, with one line on stderr."""
    debug = bool(os.environ.get("FOVEATE_DEBUG"))
    try:
        sys.exit(app(standalone_mode=False))
    except FoveateError as error:
        _fail(str(error), 2, debug)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except ImportError as error:
        _fail(_import_remedy(error), 1, debug)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # what typer raises for an option that is not there
        if usage is not None:
            _fail(f"{usage()} (foveate --help)", 2, debug)
        _fail(f"{type(error).__name__}: {error} (FOVEATE_DEBUG=1 shows where)", 1, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        raise
    print("foveate:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _import_remedy(error: ImportError) -> str:
    if importlib.util.find_spec("torchvision") is not None:
        from ..loading import torchvision_works

        if not torchvision_works():
            return (
                "torchvision is installed but does not load beside this torch, and transformers needs it to load or to "
                "be absent: install the build that fits, or pip uninstall torchvision"
            )
    return str(error)
