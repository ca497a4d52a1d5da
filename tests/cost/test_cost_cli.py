"""`foveate cost` as a stranger uses it: it answers, it writes, and every mistake is one line and exit code 2."""

import csv
import json
import subprocess
import sys
import tomllib

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.cli import app, main
from foveate.cost.hardware import get_hardware

CLIP = ("llava-onevision-7b", "--video", "32x384x384")


@pytest.fixture(autouse=True)
def _no_devices_of_mine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def cost(*arguments):
    return CliRunner().invoke(app, ["cost", *map(str, arguments)])


def as_json(*arguments):
    result = cost(*arguments, "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    return json.loads(result.stdout)


def test_tables_say_what_is_computed():
    result = cost(*CLIP, "--method", "aim", "--keep", "0.25", "--new-tokens", "5", "--w-bits", "4", "--batch", "2")
    assert result.exit_code == 0
    for part in (
        "computed from the config; nothing was run", "6272 visual and 51 other tokens", "vision tower", "method itself",
        "first token", "decode, 4 tokens", "T_eq", "most frames that fit", "no method can make", "4-bit weights",
        "keep=0.25",
    ):  # fmt: skip
        assert part in " ".join(result.stdout.split()), part


def test_one_object_with_what_was_asked_for():
    got = as_json("qwen2.5-vl-7b", "--image", "1344x1008", "--image", "448x448", "--hardware", "H100", "--tp", "2")
    assert got["visual_tokens"] == 1728 + 256 and got["hardware"] == "h100-sxm" and got["tp"] == 2
    assert got["costs"] == got["uncompressed"] and got["written"] == {}
    assert as_json()["model"] == "embedded"


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("t_eq=64", lambda c: c["t_eq"]),
        ("ttft_ms=25", lambda c: c["ttft_ms"]),
        ("tflops=7", lambda c: c["flops"] / 1e12),
    ],
)
def test_a_target_becomes_a_keep(target, read):
    got = as_json("llava-1.5-7b", "--method", "fastv" if "t_eq" in target else "divprune", "--solve", target)
    assert read(got["costs"]) == pytest.approx(float(target.split("=")[1]), rel=0.02)
    assert 0 < float(got["settings"]["keep"]) < 1


def test_tokens_and_aims_parameters():
    listed = as_json("llava-1.5-7b", "--tokens-per-layer", "576x2,144x30")
    assert listed["costs"]["tokens_per_layer"] == [576] * 2 + [144] * 30
    aim = as_json(*CLIP, "--aim", "0.25:14:22")
    assert aim["costs"]["tokens_per_layer"][0] == 1568 and aim["costs"]["tokens_per_layer"][-1] == 0


def test_llm_viewers_numbers_stand_beside_ours():
    got = as_json("llava-1.5-7b", "--text", "40", "--profile", "llm-viewer")["profile"]["uncompressed"]
    assert (round(got["tflops"], 2), round(got["prefill_ms"], 2)) == (8.18, 29.30)


def test_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.cost.page.page_data", lambda *_: {})
    files = {name: tmp_path / f"x.{name}" for name in ("csv", "png", "html")}
    got = as_json(
        *CLIP, "--method", "divprune", "--csv", files["csv"], "--figure", files["png"], "--page", files["html"]
    )
    assert got["written"] == {"csv": str(files["csv"]), "figure": str(files["png"]), "page": str(files["html"])}
    runs = {row["run"] for row in csv.DictReader(files["csv"].read_text().splitlines())}
    assert runs == {"divprune", "uncompressed"}
    with Image.open(files["png"]) as picture:
        assert picture.width > 1000
    assert files["html"].read_text().startswith("<!doctype html>")


def test_a_figure_without_a_method_sweeps_sizes(tmp_path):
    assert cost(*CLIP, "--figure", tmp_path / "a.png").exit_code == 0
    assert cost("qwen2.5-vl-7b", "--figure", tmp_path / "b.png", "--tp", "2").exit_code == 0


def test_lists():
    text = cost("--list").stdout
    assert "qwen2.5-vl-7b" in text and "rtx-4090" in text
    got = as_json("--list")
    assert "embedded" in got["models"] and {"a100-80gb", "t4"} <= {d["name"] for d in got["hardware"]}


def test_help_ends_with_commands_that_work():
    for arguments, command in ((("--help",), "foveate cost"), (("calibrate", "--help"), "foveate cost calibrate")):
        text = cost(*arguments).stdout
        assert text[text.index("Examples:") :].count(command) == 2


def test_calibration_measures_writes_and_is_used(tmp_path, monkeypatch):
    from foveate.cost import calibrate

    monkeypatch.setattr(calibrate, "ROWS", (1, 16))
    monkeypatch.setattr(calibrate, "LENGTHS", (16, 32))
    monkeypatch.setattr(calibrate, "WIDTHS", ((64, 64),))
    monkeypatch.setattr(calibrate, "DECODERS", ((64, 1, 16),))
    monkeypatch.setattr(calibrate, "COLD", 1 << 20)
    monkeypatch.setattr(calibrate, "STREAM", 1 << 16)
    monkeypatch.setattr(calibrate, "BUDGET_S", 0.0)
    assert cost("calibrate").exit_code == 0
    device = get_hardware("cpu")
    assert set(device.flops) == {"fp32"} and "measured" in device.efficiency.source
    assert device.flops["fp32"] > 0 and device.bandwidth > 0 and device.launch_us > 0
    assert as_json("embedded", "--hardware", "cpu")["precision"]["dtype"] == "fp32"
    assert cost("calibrate", "--out", tmp_path / "here.toml", "--name", "laptop").exit_code == 0
    assert tomllib.loads((tmp_path / "here.toml").read_text())["device"][0]["name"] == "laptop"
    assert (
        as_json("embedded", "--hardware", "laptop", "--hardware-file", tmp_path / "here.toml")["hardware"] == "laptop"
    )


MISTAKES = {
    "hardware": (["--hardware", "a1000"], "unknown hardware 'a1000'; did you mean"),
    "cpu": (["--hardware", "cpu"], "foveate cost calibrate"),
    "model": (["qwen9-vl"], "unknown model 'qwen9-vl'"),
    "keep zero": (["--method", "divprune", "--keep", "0"], "keep must lie in (0, 1], got 0"),
    "keep alone": (["--keep", "0.5"], "name it with --method"),
    "size": (["--image", "-3x5"], "--image takes WIDTHxHEIGHT"),
    "no pixels": (["--image", "0x5"], "at least 1x1 pixels"),
    "video": (["--video", "32x384"], "--video takes FRAMESxWIDTHxHEIGHT"),
    "no videos": (["llava-1.5-7b", "--video", "8x336x336"], "reads images only"),
    "tp": (["--tp", "0"], "at least 1, got 0"),
    "negative tp": (["--tp", "-1"], "at least 1, got -1"),
    "heads": (["llava-onevision-7b", "--tp", "3"], "28 heads cannot be shared by tp=3"),
    "batch": (["--batch", "0"], "--batch"),
    "bits": (["--w-bits", "5"], "w_bits must be one of"),
    "dtype": (["--hardware", "t4", "--dtype", "bf16"], "t4 has no units for bf16"),
    "attention": (["--attention", "flash"], "attention is 'fused' or 'eager'"),
    "two": (["--method", "aim", "--aim", "0.25:14:22"], "--method and --aim say the same thing"),
    "aim": (["--aim", "0.25"], "KEEP:START:END"),
    "layers": (["llava-1.5-7b", "--tokens-per-layer", "5x3"], "32 layers"),
    "list": (["--tokens-per-layer", "5,a"], "--tokens-per-layer takes N or NxLAYERS"),
    "solve": (["--solve", "t_eq=5"], "name it with --method"),
    "solve and keep": (["--method", "aim", "--keep", "0.5", "--solve", "t_eq=5"], "leave --keep"),
    "target": (["--method", "aim", "--solve", "teq=5"], "did you mean 't_eq'"),
    "no value": (["--method", "aim", "--solve", "t_eq"], "--solve takes TARGET=VALUE"),
    "out of reach": (["--method", "aim", "--solve", "ttft_ms=0.001"], "out of reach"),
    "profile": (["--profile", "llm-view"], "did you mean 'llm-viewer'"),
    "figure": (["--figure", "x.jpg"], "--figure writes a .png"),
    "folder": (["--csv", "/nope/x.csv"], "no folder /nope"),
    "file": (["--hardware-file", "/nope.toml"], "cannot read /nope.toml"),
    "device": (["calibrate", "--device", "zzz"], "cannot use device 'zzz'"),
    "dtype to measure": (["calibrate", "--dtype", "fp13"], "unknown dtype to measure"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, monkeypatch, capsys):
    arguments, message = MISTAKES[name]
    monkeypatch.setattr(sys, "argv", ["foveate", "cost", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1


def test_without_a_method_it_imports_no_torch():
    code = "import sys; from foveate.cli import main\ntry: main()\nfinally: sys.exit(3 * ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "cost", "llava-1.5-7b", "--tokens-per-layer", "576x2,144x30", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["model"] == "llava-1.5-7b"
