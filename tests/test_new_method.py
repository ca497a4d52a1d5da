"""`foveate new-method`: what it writes keeps every promise as it is, and is found by name once it is installed."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from foveate.cli import app
from foveate.errors import InvalidValue
from foveate.scaffold import write_method


def fresh(folder, *arguments):
    """Run Python in a new process that finds modules in `folder`, as after pip install."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_its_test_passes_as_written_and_sees_a_mistake(tmp_path):
    write_method("loudest_first", tmp_path)
    mistaken, _ = write_method("mistaken", tmp_path)
    mistaken.write_text(mistaken.read_text().replace("self.keep", "0.5"))
    done = fresh(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 failed, 1 passed" in done.stdout and "Mistaken breaks its promises" in done.stdout, done.stdout


def test_installed_it_appears_among_the_methods(tmp_path):
    project = tomllib.loads(write_method("loudest", tmp_path, package=True)[2].read_text())
    assert project["tool"]["setuptools"]["py-modules"] == ["loudest"]
    # what an installer leaves behind
    points = project["project"]["entry-points"]["foveate.methods"]
    info = tmp_path / f"{project['project']['name'].replace('-', '_')}-{project['project']['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foveate-loudest\nVersion: 0.1.0\n")
    lines = [f"{name} = {where}" for name, where in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[foveate.methods]", *lines, ""]))

    done = fresh(tmp_path, "-m", "foveate", "methods", "--stage", "projector")
    assert done.returncode == 0, done.stderr
    assert "loudest" in done.stdout and "The tokens with the largest norm" in done.stdout
    again = fresh(tmp_path, "-m", "foveate", "new-method", "loudest", "--into", "..")
    assert again.returncode == 2 and "there is a method 'loudest' already" in again.stderr


MISTAKES = {
    "9lives": "cannot name a method",
    "my-method": "use lower-case letters, digits and _, as in my_method",
    "Loudest": "cannot name a method",
    "_hidden": "cannot name a method",
    "class": "cannot name a method",
    "naïve": "cannot name a method",
    "": "cannot name a method",
    "aim": "there is a method 'aim' already",
    "json": "there is a module 'json' already",
    "foveate": "there is a module 'foveate' already",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_names_that_cannot_be_are_refused(name, tmp_path):
    with pytest.raises(InvalidValue) as error:
        write_method(name, tmp_path)
    assert MISTAKES[name] in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["loudest.py", "test_loudest.py", "pyproject.toml"])
def test_nothing_is_overwritten(there, tmp_path):
    (tmp_path / there).write_text("mine")
    with pytest.raises(InvalidValue, match=f"{there} is there already"):
        write_method("loudest", tmp_path, package=True)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(there, "mine")]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InvalidValue, match="there is no folder"):
        write_method("loudest", tmp_path / "nowhere")


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    result = CliRunner().invoke(app, ["new-method", "loudest", "--into", str(tmp_path), "--package"])
    assert result.exit_code == 0 and f"pytest {tmp_path / 'test_loudest.py'}" in result.stdout.replace("\n", " ")
    assert f"pip install -e {tmp_path}" in result.stdout
    result = CliRunner().invoke(app, ["new-method", "softest", "--into", str(tmp_path), "--json"])
    assert json.loads(result.stdout) == [str(tmp_path / "softest.py"), str(tmp_path / "test_softest.py")]


def test_help_ends_with_two_commands():
    text = CliRunner().invoke(app, ["new-method", "--help"]).stdout
    assert text[text.index("Examples:") :].count("foveate new-method") == 2
