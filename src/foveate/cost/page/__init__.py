"""The interactive page: one HTML file that computes for itself, with the numbers of this package inside."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import InvalidValue
from ..deployment import Deployment
from ..estimate import Resolved
from ..tokens import Inputs
from .data import page_data

HERE = Path(__file__).parent


def write_page(path: str | Path, deployment: Deployment, inputs: Inputs, method: Resolved = None) -> None:
    """Write the page; it opens with this model, device, size and method, and lets everything be chosen."""
    try:
        Path(path).write_text(page(deployment, inputs, method), encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"cannot write {path}: {error.strerror}") from error


def page(deployment: Deployment, inputs: Inputs, method: Resolved = None) -> str:
    """The page as text."""
    data = json.dumps(page_data(deployment, inputs, method), separators=(",", ":")).replace("</", "<\\/")
    html = (HERE / "page.html").read_text(encoding="utf-8")
    for name in ("page.css", "model.js", "page.js"):
        html = html.replace(f"/* {name} */", (HERE / name).read_text(encoding="utf-8"))
    return html.replace("/* data */", f"const DATA = {data};")
