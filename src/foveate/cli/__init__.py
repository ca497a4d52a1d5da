"""The command line: parse, call the library, print. One command a file; torch is imported only where it is needed."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

from .. import __version__
from ..errors import FoveateError
from .bench import bench
from .compare import compare
from .cost import app as cost
from .eval import evaluate
from .fidelity import fidelity
from .listing import methods, models
from .new_method import new_method
from .papers import papers
from .plan import plan
from .report import report
from .run import run
from .tune import tune

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
app.command(epilog=_examples("methods --stage projector", "methods aim"))(methods)
app.command(epilog=_examples("models", "models --json"))(models)
app.command(epilog=_examples("papers flash --modality video", "papers --training-free --year 2026"))(papers)
app.command("new-method", epilog=_examples("new-method loudest", "new-method loudest --into my_package --package"))(
    new_method
)
app.command("eval", epilog=_examples("eval embedded --limit 50", "eval embedded --method visionzip --keep 0.1 --json"))(
    evaluate
)
app.command(epilog=_examples("bench --keep 0.25,0.1 --batch 1,4", "bench --synthetic 896x896 --methods aim,visionzip"))(
    bench
)
app.command(
    epilog=_examples("fidelity --samples 20", 'fidelity photos -p "What is this?" --method fastv --keep 0.5,0.25')
)(fidelity)
app.command(epilog=_examples("compare --samples 70", "compare --methods divprune,fastv --t-eq 64 --judge fidelity"))(
    compare
)
app.command(
    epilog=_examples("report studies/compare-20261124-150349 -o report.html", "report bench eval -o both.html")
)(report)
app.add_typer(cost, name="cost")
app.command(
    epilog=_examples("tune --limit 100 --trials 20", 'tune --target "accuracy>=0.95" --minimise prefill_ms --workers 1')
)(tune)


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
