"""`foveate report`: one HTML file from studies; and the --report option of the commands that write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidValue
from .show import err, out

if TYPE_CHECKING:
    from ..measure.study import Study

Studies = Annotated[list[Path], typer.Argument(metavar="STUDY...", help="Folders of studies.")]


def report(
    studies: Studies,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page, with everything inside, of what bench, fidelity, compare, eval and tune have measured.

    Plots, tables, overlays, worst cases, recipes; a study need not be finished.
    """
    from ..report import write_report

    checked(output)
    write_report(output, studies)
    out.print(f"report: {output}", soft_wrap=True)


def checked(path: Path | None) -> Path | None:
    """The path; raises InvalidValue, before any work is done, for one that cannot be written."""
    if path is not None and path.is_dir():
        raise InvalidValue(f"{path} is a folder; name a file, as in {path / 'report.html'}")
    if path is not None and not path.parent.is_dir():
        raise InvalidValue(f"cannot write {path}: there is no folder {path.parent}")
    return path


def add_report(path: Path | None, study: Study) -> None:
    """Write the page of a study that has just been made, if it was asked for."""
    if path is not None:
        from ..report import write_report

        write_report(path, [study.folder])
        err.print(f"report: {path}", markup=False, soft_wrap=True)


Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", callback=checked, help="Also write the report, one HTML file."),
]
