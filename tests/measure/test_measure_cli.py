"""bench, fidelity and compare as a stranger uses them: killed and resumed, with broken pictures, with mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveate.cli import app, main
from foveate.measure.samples import synthetic_pictures
from foveate.measure.study import Study
from foveate.scenes import evaluation_set


def foveate(*arguments):
    """Run in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three good ones, one cut off, one that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, sample in enumerate(evaluation_set(3, size=(168, 168))):
        sample.image.save(folder / f"{i}.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:1000])
    (folder / "text.jpg").write_text("no picture")
    return folder


def test_bench_shows_what_it_measured(tmp_path):
    next(iter(synthetic_pictures(168, 168))).save(tmp_path / "noise.png")
    options = ["--methods", "fastv,divprune", "--keep", "0.5", "--runs", "3", "--new-tokens", "2"]
    result = foveate("bench", tmp_path / "noise.png", "-p", "what?", *options, "--study", tmp_path / "s")
    assert result.exit_code == 0, result.stderr
    for part in (
        "36 visual tokens",
        "T_eq 50%",
        "  divprune",
        "  resolution",
        "prefill GFLOPs",
        "above what was there",
    ):
        assert part in result.stdout
    study = Study.open(tmp_path / "s")
    assert study.about["finished"] and len(study.rows()) == 7 and study.about["recipes"]["fastv"]["method"] == "fastv"
    again = foveate("bench", "--resume", tmp_path / "s", "--json")
    assert json.loads(again.stdout)["rows"] == study.rows()


def test_bench_of_a_video_without_torchvision_says_what_is_missing(tmp_path):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        result = foveate("bench", "--synthetic", "112x112x2", "--video", "--study", tmp_path / "s")
        assert result.exit_code != 0 and "torchvision" in str(result.exception)


def test_fidelity_of_a_folder_counts_what_is_broken(pictures, tmp_path):
    (tmp_path / "asked.txt").write_text("What color is the star?\n\nHow many circles are there?\n")
    options = ["--prompts", tmp_path / "asked.txt", "--method", "random", "--keep", "1,0.1", "--study", tmp_path / "s"]
    result = foveate("fidelity", pictures, tmp_path / "gone.png", *options)
    assert result.exit_code == 0, result.exception
    assert "keep 1" in result.stdout and "1.000 [1.00, 1.00]" in result.stdout and "6 samples" in result.stdout
    # of six files and three questions: three files cannot be opened, and one question is empty
    assert "12 of 18 samples could not be judged" in result.stderr and "and 7 more" in result.stderr
    rows = Study.open(tmp_path / "s").rows()
    assert len(rows) == 36 and sum(bool(r["error"]) for r in rows) == 24
    found = json.loads(foveate("fidelity", "--resume", tmp_path / "s", "--json").stdout)
    assert len(found["broken"]) == 12 and found["cells"][0]["exact"]["mean"] == 1


ASKED = 40  # enough that it is still at work when it is stopped


def started(folder, *more):
    """A comparison of a few questions in a process of its own."""
    command = [sys.executable, "-m", "foveate", "compare", *map(str, more or ["--samples", ASKED, "--batch", 2])]
    command += [] if more else ["--methods", "fastv", "--keep", "0.1", "--runs", "3", "--study", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def at_work(process, folder, rows):
    """Wait until it has written some rows more than there were."""
    file = folder / "rows.jsonl"
    while process.poll() is None and (not file.exists() or len(file.read_bytes().splitlines()) <= rows):
        time.sleep(0.02)


def test_killed_and_interrupted_it_goes_on_to_the_same_result(tmp_path):
    killed = started(tmp_path / "s")
    at_work(killed, tmp_path / "s", 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    held = len(Study.open(tmp_path / "s").rows())
    assert killed.returncode == -signal.SIGKILL and 2 < held < 5 * ASKED - 5

    stopped = started(tmp_path / "s", "--resume", tmp_path / "s")
    at_work(stopped, tmp_path / "s", held + 2)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate()
    assert stopped.returncode == 130 and out == "" and len(err.strip().splitlines()) == 1
    assert err.startswith("foveate: stopped with ") and f"foveate compare --resume {tmp_path / 's'}" in err
    later = len(Study.open(tmp_path / "s").rows())
    assert held + 2 < later < 5 * ASKED + 1 and Study.open(tmp_path / "s").about["finished"] is None

    result = foveate("compare", "--resume", tmp_path / "s")
    assert result.exit_code == 0, result.exception
    for part in ("accuracy", "uncompressed", "T_eq 10%", "nobody has a higher accuracy at less T_eq than"):
        assert part in result.stdout
    assert "without a result: fastv at T_eq 10%: t_eq=14.4 is out of reach" in result.stderr
    rows = Study.open(tmp_path / "s").rows()
    judged = [(r["method"], r["budget"], r["sample"]) for r in rows if r["kind"] == "accuracy"]
    assert len(judged) == len(set(judged)) == 5 * ASKED + 1 and len(rows) == 5 * ASKED + 1 + 6
    found = json.loads(foveate("compare", "--resume", tmp_path / "s", "--json").stdout)
    assert [e["score"]["n"] for e in found["entries"]] == [ASKED] * 5 and found["entries"][0]["label"] == "uncompressed"


def test_a_dataset_is_compared_by_its_metric(pictures, tmp_path):
    rows = [
        {"id": "a", "image": f"{pictures}/0.png", "question": "What is it?", "choices": ["star", "cat"], "answer": "A"},
        {"id": "b", "image": f"{pictures}/1.png", "question": "What is it?", "answers": ["star", "red"]},
        {"id": "c", "image": f"{pictures}/nowhere.png", "question": "What?", "answer": "star"},
        {"id": "d", "image": f"{pictures}/1.png", "question": "", "answer": "star"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--methods", "random", "--keep", "0.5", "--runs", "3", "--study", tmp_path / "s", "--json"]
    result = foveate("compare", "--data", tmp_path / "data.jsonl", *options)
    found = json.loads(result.stdout)
    assert set(found["broken"]) == {"c", "d"} and {e["score"]["n"] for e in found["entries"]} == {2}
    assert found["judge"] == "accuracy" and len(Study.open(tmp_path / "s").rows()) == 4 * 5 + 5


MISTAKES = {
    "both budgets": (["compare", "--keep", "0.5", "--t-eq", "9"], "give one of them"),
    "keep": (["bench", "--keep", "0.5,2"], "must lie in (0, 1], got 2"),
    "word": (["bench", "--keep", "half"], "--keep takes a number, got 'half'"),
    "batch": (["bench", "--batch", "1.5"], "--batch takes whole numbers"),
    "method": (["compare", "--methods", "fastvee"], "did you mean 'fastv'"),
    "no method": (["compare", "--methods", ","], "no method was named"),
    "twice": (["compare", "--methods", "aim,aim"], "two contenders are called 'aim'"),
    "judge": (["compare", "--judge", "acuracy"], "did you mean 'accuracy'"),
    "no question": (["fidelity", "x.png"], "no question was asked"),
    "no images": (["fidelity", "-p", "what?"], "a question needs images"),
    "no questions file": (["fidelity", "x.png", "--prompts", "none.txt"], "cannot read the questions"),
    "synthetic": (["bench", "--synthetic", "big"], "--synthetic takes WIDTHxHEIGHT"),
    "data and images": (["fidelity", "x.png", "--data", "d.jsonl"], "not both"),
    "no data": (["compare", "--data", "d.jsonl"], "no dataset at d.jsonl"),
    "samples of images": (
        ["fidelity", "x.png", "-p", "?", "--samples", "3"],
        "every question is asked about every image",
    ),
    "both images": (["bench", "x.png", "--synthetic", "112x112"], "not both"),
    "resume": (["compare", "--resume", "nowhere"], "no study in nowhere"),
    "resume and more": (["compare", "--resume", "nowhere", "--keep", "0.5"], "leave --keep out"),
    "model": (["fidelity", "--model", "/no/such/folder"], "no model at '/no/such/folder'"),
    "nothing there": (["bench", "gone.png", "--study", "STUDY", "--methods", "random"], "nothing could be measured"),
    "a study is there": (["bench", "--study", "OLD"], "holds a study already"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Study.create(tmp_path / "OLD", "bench")
    arguments, message = MISTAKES[name]
    monkeypatch.setattr(sys, "argv", ["foveate", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "studies").exists(), "no study is begun by a mistake"


@pytest.mark.parametrize("command", ["bench", "fidelity", "compare"])
def test_help_ends_with_commands(command):
    text = foveate(command, "--help").stdout
    examples = text[text.index("Examples:") :]
    assert "--help" not in examples and examples.count(f"foveate {command}") == 2


def test_the_example_of_the_docs_works(pictures, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "measure.md").read_text()
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "photos" / name).write_bytes((pictures / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("keep 0.5 Interval(") and second.startswith("keep 0.25 Interval(")
