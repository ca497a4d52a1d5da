"""foveate eval and foveate tune as a stranger uses them."""

import json
import sys

import pytest
from typer.testing import CliRunner

from foveate.cli import app, main
from foveate.evaluate import session
from foveate.measure.study import Study


def foveate(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def as_json(*arguments):
    result = foveate(*arguments, "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    return json.loads(result.stdout)


def test_eval_compares_counts_and_says_what_is_broken(folder, tmp_path):
    rows = (
        folder / "questions.jsonl"
    ).read_text() + '{"id": "gone", "image": "no.png", "question": "?", "answer": "x"}\n'
    (folder / "with_broken.jsonl").write_text(rows)
    words = ("eval", folder / "with_broken.jsonl", "--method", "divprune", "--keep", "0.25", "--max-new-tokens", 6)
    result = foveate(*words, "--study", tmp_path / "s")
    assert result.exit_code == 0, result.exception
    for part in (
        "1 could not be asked", "gone: line 15: no image at", "14 questions of with_broken, method divprune",
        "accuracy drops by", "McNemar", "times as fast", "compression ratio 0.25", "efficiency score",
    ):  # fmt: skip
        assert part in result.stdout
    again = as_json("eval", "--resume", tmp_path / "s")
    assert again["samples"] == 14 and [b["id"] for b in again["broken"]] == ["gone"]
    about = Study.open(tmp_path / "s").about
    assert about["finished"] and about["command"][0] == "foveate" and about["results"]["samples"] == 14


def test_a_stopped_evaluation_goes_on(folder, tmp_path, monkeypatch):
    real, calls = session.rows_of, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(session, "rows_of", dying)
    words = ("eval", folder / "questions.jsonl", "--method", "uniform", "--batch", 4, "--max-new-tokens", 4)
    stopped = foveate(*words, "--study", tmp_path / "s")
    assert stopped.exit_code == 130 and f"go on with: foveate eval --resume {tmp_path / 's'}" in stopped.stderr
    study = Study.open(tmp_path / "s")
    assert len(study.rows()) == 2 * 2 * 4 and study.about["finished"] is None
    monkeypatch.setattr(session, "rows_of", real)
    whole = as_json("eval", "--resume", tmp_path / "s")
    asked = [(r["method"], r["sample"]) for r in study.rows()]
    assert whole["samples"] == 14 and len(asked) == len(set(asked)) == 28


def test_the_papers_benchmarks_are_listed():
    listed = as_json("eval", "--list")
    assert {"name": "mlvu", "task": "mlvu_dev"}.items() <= next(b for b in listed if b["name"] == "mlvu").items()
    assert "longvideobench_val_v" in foveate("eval", "--list").stdout


def test_tune_writes_a_recipe_that_runs(folder, tmp_path):
    found = as_json(
        "tune", folder / "questions.jsonl", "--target", "agreement>=0.5", "--trials", 3, "--methods", "divprune",
        "--max-new-tokens", 6, "--study", tmp_path / "s", "--save-recipe", tmp_path / "r.yaml",
    )  # fmt: skip
    assert found["method"] == "divprune" and found["verdict"] in ("met", "within noise")
    ran = as_json("run", "--recipe", tmp_path / "r.yaml", "--no-baseline")
    assert ran["method"] == "divprune" and ran["t_eq"] < 144
    shown = foveate("tune", "--resume", tmp_path / "s").stdout
    assert "least t_eq of 3 trials" in shown and "held out of the search" in shown


def test_a_target_that_is_missed_on_the_held_out_questions_is_a_failure(folder, tmp_path, monkeypatch):
    from foveate.evaluate import tune

    monkeypatch.setattr(tune, "_verdict", lambda target, evaluation: (0.1, "missed"))
    result = foveate(
        "tune", folder / "questions.jsonl", "--target", "agreement>=0.5", "--trials", 2, "--methods", "divprune",
        "--max-new-tokens", 6, "--study", tmp_path / "s",
    )  # fmt: skip
    assert result.exit_code == 1 and "agreement>=0.5 is missed: 0.100" in result.stdout


MISTAKES = {
    "nothing": (["eval"], "give a dataset (a JSONL file, or 'embedded') or --tasks"),
    "both": (["eval", "embedded", "--tasks", "gqa"], "one of them"),
    "file": (["eval", "nowhere.jsonl"], "no dataset at nowhere.jsonl"),
    "metric": (["eval", "embedded", "--limit", "1", "--metric", "exakt"], "did you mean 'exact'"),
    "task metric": (["eval", "--tasks", "gqa", "--metric", "exact"], "leave --metric out"),
    "method": (["eval", "embedded", "--method", "fastvee"], "did you mean 'fastv'"),
    "processes": (["eval", "embedded", "--processes", "2"], "add --lmms-eval or --tasks"),
    "pair": (["eval", "--tasks", "gqa", "--model-args", "fps"], "--model-args takes NAME=VALUE"),
    "study": (["eval", "--resume", "nowhere"], "no study in nowhere"),
    "resume": (["eval", "embedded", "--resume", "x"], "leave dataset out"),
    "limit": (["eval", "embedded", "--limit", "0"], "--limit"),
    "target": (["tune", "--target", "agreement=1"], "QUANTITY>=NUMBER"),
    "cost": (["tune", "--minimise", "time"], "unknown cost 'time'"),
    "workers": (["tune", "--minimise", "prefill_ms", "--workers", "2"], "disturb each other's times"),
    "searched": (["tune", "--methods", "fastvee"], "did you mean 'fastv'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, monkeypatch, capsys, tmp_path):
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["foveate", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert message in err and not list(tmp_path.iterdir()), "nothing is made before all is checked"


def test_what_failed_ends_with_1(monkeypatch, capsys, folder, tmp_path):
    from foveate.evaluate import search

    monkeypatch.setattr(search.Seen, "numbers", lambda self: {"agreement": 0.1, "cost": 1.0})
    words = ["tune", folder / "questions.jsonl", "--trials", "1", "--methods", "pool", "--study", tmp_path / "s"]
    monkeypatch.setattr(sys, "argv", ["foveate", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1 and "none of 1 trials held agreement>=0.99" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "tune"])
def test_help_ends_with_commands_that_work(command):
    text = foveate(command, "--help").stdout
    assert text[text.index("Examples:") :].count(f"foveate {command}") == 2
