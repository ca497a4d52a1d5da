"""The shape of the code: arrows point one way, files and functions stay small, imports are cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "foveate"
FILES = sorted(ROOT.rglob("*.py"))
# what a folder may import from the package, beside errors and tokens
ALLOWED = {
    "ops": {"ops"},
    "pieces": {"ops", "pieces"},
    "methods": {"ops", "pieces", "plan", "method", "methods"},
    "families": {"plan", "families"},
    "engine": {"ops", "pieces", "plan", "method", "families", "engine"},
}
# what stands on all that may not reach up, or aside
FORBIDDEN = {
    "cost": {"engine", "measure", "evaluate", "report", "cli"},
    "measure": {"evaluate", "report", "cli"},
    "evaluate": {"report", "cli"},
    "report": {"ops", "pieces", "methods", "families", "engine", "cli"},
}


def imported(path):
    """First component below `foveate` of every relative import in a file."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            parts = (*base, *(node.module or "").split("."))
            first = next((p for p in parts if p), None)
            yield first if first else node.names[0].name


@pytest.mark.parametrize("path", [f for f in FILES if f.parent.name in ALLOWED], ids=lambda f: f.stem)
def test_arrows_point_one_way(path):
    allowed = ALLOWED[path.parent.name] | {"errors", "tokens"}
    assert set(imported(path)) <= allowed


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_arrow_points_up(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not set(imported(path)) & FORBIDDEN[folder], path


@pytest.mark.parametrize("folder", ["ops", "pieces", "methods"])
def test_methods_know_no_transformers(folder):
    for path in (ROOT / folder).glob("*.py"):
        names = {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert not any(n and n.startswith("transformers") for n in names), path


@pytest.mark.parametrize("path", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    limit = 80 if path.parent.name == "methods" else 420
    assert len(source.splitlines()) <= limit, "split the file"
    tree = ast.parse(source)
    assert ast.get_docstring(tree) or not source.strip(), "the file does not say what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 62, f"{node.name} is too long"


def test_importing_foveate_imports_no_torch():
    code = "import sys, foveate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    import foveate

    for name in foveate.__all__:
        assert getattr(foveate, name) is not None
    with pytest.raises(AttributeError):
        foveate.nothing
