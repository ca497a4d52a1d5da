"""The command line as a stranger uses it: it answers, it counts, and every mistake is one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.cli import app, main
from foveate.families import families
from foveate.loading import example
from foveate.method import all_methods

SHIPPED, QUESTION = example()


def foveate(*arguments):
    """Run in this process; a FoveateError becomes what `main` makes of it."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def as_json(*arguments):
    result = foveate(*arguments, "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_run_prints_one_object_with_what_was_asked_for():
    got = as_json("run", "--keep", "0.25")
    for name in ("answer", "visual_tokens", "tokens_per_layer", "t_eq", "prefill_ms", "kv_bytes", "method", "recipe"):
        assert name in got and (name == "recipe" or name in got["baseline"])
    assert got["visual_tokens"] == 144 and got["tokens_per_layer"][0] == 36
    assert got["baseline"]["tokens_per_layer"] == [144] * len(got["tokens_per_layer"])
    assert got["kv_bytes"] < got["baseline"]["kv_bytes"] and got["t_eq"] < 37
    assert got["recipe"]["method"] == got["method"] == "aim"


def test_run_shows_answer_layers_and_ratios():
    result = foveate("run", "--method", "fastv", "--keep", "0.5")
    assert result.exit_code == 0
    for part in (QUESTION, "144 visual tokens", "layers 0-1", "T_eq", "KV cache after prefill", "less"):
        assert part in result.stdout


# ficoco cuts inside the vision tower, and that of the embedded model cannot be cut
@pytest.mark.parametrize("method", sorted(set(all_methods()) - {"progressive", "ficoco"}))
def test_every_method_answers(method, picture):
    got = as_json("run", picture, "-p", "what is this?", "--method", method, "--keep", "0.3", "--no-baseline")
    assert min(got["tokens_per_layer"]) < got["visual_tokens"] and "baseline" not in got


def test_words_become_settings(picture):
    got = as_json(
        "run", picture, "-p", "?", "--merge-ratio", "0.5", "--schedule", "linear", "--final-prune-ratio", "0.6",
        "--importance", "norm", "--no-baseline",
    )  # fmt: skip
    settings = got["recipe"]["settings"]
    assert settings["keep"] == 0.5 and settings["schedule"] == {"name": "Linear", "fields": {"final_ratio": 0.6}}
    assert settings["importance"]["name"] == "Norm"
    n = got["visual_tokens"]
    assert got["tokens_per_layer"][0] == int(n / 2 + 0.5) and got["tokens_per_layer"][-1] == int(n / 2 * 0.4 + 1e-6)


def test_adaptive_budgets_from_the_command_line(picture):
    got = as_json("run", picture, "-p", "?", "--method", "divprune", "--adaptive", "0.1:0.6", "--no-baseline")
    assert 0.1 <= got["tokens_per_layer"][0] / got["visual_tokens"] <= 0.61


def test_a_recipe_repeats_a_run(tmp_path):
    recipe = tmp_path / "r.yaml"
    first = as_json(
        "run",
        "--method",
        "divprune",
        "--keep",
        "0.2",
        "--dtype",
        "bfloat16",
        "--max-new-tokens",
        "2",
        "--save-recipe",
        recipe,
        "--no-baseline",
    )
    again = as_json("run", "--recipe", recipe, "--no-baseline")
    for name in ("answer", "tokens_per_layer", "kv_bytes", "method", "recipe"):
        assert first[name] == again[name]
    assert foveate("run", "--recipe", recipe, "--method", "aim").exit_code != 0


def test_the_overlay_is_written(tmp_path):
    got = as_json("run", "--overlay", tmp_path / "kept.png", "--no-baseline")
    with Image.open(got["overlay"]) as picture:
        assert picture.width > 1000


def test_several_images_and_none(picture):
    got = as_json("run", picture, SHIPPED, "-p", "what differs?", "--method", "visionzip", "--no-baseline")
    assert got["visual_tokens"] > 144
    none = as_json("run", "--no-image", "-p", "hello")
    assert none["visual_tokens"] == 0 and none["answer"] == none["baseline"]["answer"]


MISTAKES = {
    "missing": (["run", "nope.png", "-p", "?"], "no image at nope.png"),
    "keep above": (["run", "--keep", "1.5"], "keep must lie in (0, 1], got 1.5"),
    "keep zero": (["run", "--keep", "0"], "keep must lie in (0, 1], got 0"),
    "keep nan": (["run", "--keep", "nan"], "keep must lie in (0, 1]"),
    "keep word": (["run", "--keep", "half"], "--keep takes a number, got 'half'"),
    "method": (["run", "--method", "fastvee"], "did you mean 'fastv'"),
    "setting": (["run", "--set", "nose=1"], "unknown setting of aim 'nose'"),
    "layer": (["run", "--method", "fastv", "--set", "layer=99"], "layers 0 to"),
    "both": (["run", "--keep", "0.5", "--merge-ratio", "0.5"], "say the same thing"),
    "schedule": (["run", "--schedule", "liner"], "did you mean 'linear'"),
    "no schedule": (["run", "--method", "fastv", "--final-prune-ratio", "0.5"], "has no schedule"),
    "empty prompt": (["run", "-p", " "], "the prompt is empty"),
    "positions": (["run", "--positions", "compact"], "M-RoPE"),
    "model": (["run", "--model", "/no/such/folder"], "no model at '/no/such/folder'"),
    "recipe": (["run", "--recipe", "none.yaml"], "cannot read the recipe"),
    "size": (["plan", "aim", "--image-size", "big"], "--image-size takes WIDTHxHEIGHT"),
    "t_eq": (["plan", "fastv", "--t-eq", "1"], "out of reach"),
    "dtype": (["run", "--dtype", "float13"], "did you mean 'float32'"),
    "device": (["run", "--device", "zzz"], "cannot use device 'zzz'"),
    "overlay": (["run", "--overlay", "/nope/x.png"], "no folder /nope"),
    "not a png": (["run", "--overlay", "x.jpg"], "writes a PNG"),
    "text for a number": (["run", "--set", "keep=abc"], "keep takes float"),
    "fraction for a layer": (["run", "--method", "fastv", "--set", "layer=1.5"], "layer takes int"),
    "number for a score": (["run", "--set", "importance=3"], "importance takes Score"),
    "word for a switch": (["run", "--set", "faithful=maybe"], "faithful takes bool"),
    "no such choice": (["run", "--set", "per=video"], "per takes"),
    "twice": (["run", "--keep", "0.5", "--set", "keep=0.1"], "given twice"),
    "no yaml": (["run", "--set", "x={"], "cannot read the value"),
    "negative": (["run", "--method", "progressive", "--keep", "-1"], "must lie in [0, 1]"),
    "adaptive": (["run", "--method", "pyramiddrop", "--adaptive", "0.1:0.4"], "keep takes float"),
    "placeholder": (["run", "-p", "<|image_pad|>"], "holds the placeholder"),
    "keep and t_eq": (["plan", "fastv", "--keep", "0.5", "--t-eq", "80"], "--t-eq finds the keep"),
    "option": (["run", "--nonsense"], "No such option: --nonsense"),
    "argument": (["plan"], "Missing argument"),
    "range": (["run", "--max-new-tokens", "0"], "--max-new-tokens"),
    "card": (["methods", "aimm"], "did you mean 'aim'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, monkeypatch, capsys):
    arguments, message = MISTAKES[name]
    monkeypatch.setattr(sys, "argv", ["foveate", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1


def bad_images(folder: Path):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.jpg").write_bytes(SHIPPED.read_bytes()[:2000])
    Image.new("RGB", (1, 600)).save(folder / "thin.png")
    wrong = {"empty.png": "is empty", "text.png": "no image", "cut.jpg": "is broken", "thin.png": "crop it"}
    return wrong | {".": "folder"}


def test_broken_images_are_named(tmp_path, monkeypatch, capsys):
    for name, message in bad_images(tmp_path).items():
        monkeypatch.setattr(sys, "argv", ["foveate", "run", str(tmp_path / name), "-p", "?"])
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 2 and message in capsys.readouterr().err, name


def test_tiny_and_huge_images_work(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    Image.new("L", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name in ("one.png", "huge.png"):
        got = as_json("run", tmp_path / name, "-p", "what color?", "--method", "divprune", "--no-baseline")
        assert got["visual_tokens"] > 0


def test_a_text_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    result = foveate("run", "--model", tmp_path)
    assert result.exit_code != 0 and "no vision-language model" in str(result.exception)


def test_plan_needs_no_weights(tmp_path):
    config = Path(example()[0]).parent / "tiny-qwen2.5-vl" / "config.json"
    (tmp_path / "config.json").write_text(config.read_text())
    got = as_json("plan", "pyramiddrop", "--model", tmp_path, "--image-size", "672x448")
    assert got["visual_tokens"] == 24 * 16 and len(got["tokens_per_layer"]) == 8
    assert got["lm_flops"] < got["lm_flops_uncompressed"] and got["steps"][0]["after"] == 192
    solved = as_json("plan", "fastv", "--t-eq", "64")
    assert abs(solved["t_eq"] - 64) < 1


def test_a_video_is_planned():
    got = as_json("plan", "aim", "--frames", "8", "--image-size", "224x224")
    assert got["visual_tokens"] == 4 * 64 and got["tokens_per_layer"][0] == 64


def test_lists_and_cards():
    assert {m["name"] for m in as_json("methods")} >= {"aim", "fastv", "random"}
    assert as_json("methods", "aim")[0]["deviations"]
    assert {f["model_type"] for f in as_json("models")["families"]} == set(families())
    assert foveate("--version").stdout.strip()


@pytest.mark.parametrize("command", ["run", "plan", "methods", "models"])
def test_help_ends_with_commands_that_work(command):
    text = foveate(command, "--help").stdout
    examples = text[text.index("Examples:") :]
    assert "--help" not in examples, "the examples come last"
    assert examples.count(f"foveate {command}") == 2


def test_the_program_runs_as_one():
    done = subprocess.run([sys.executable, "-m", "foveate", "methods"], capture_output=True, text=True, check=True)
    assert "visionzip" in done.stdout
