"""The report: its sums, its ends, its ceilings, and where compression begins to pay."""

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from foveate.cost import AimParameters, Inputs, Video, estimate
from foveate.cost.deployment import Deployment
from foveate.cost.estimate import report
from foveate.cost.hardware import get_hardware
from foveate.cost.ledger import ledger_of
from foveate.cost.ops import total_flops
from foveate.cost.report import BEFORE_FIRST
from foveate.cost.tokens import Grid, Prompt, Visual
from foveate.errors import FoveateError, InvalidValue
from foveate.method import get_method

IMAGE = Inputs(images=((672, 448),), new_tokens=20)
CLIP = Inputs(videos=(Video(32, 384, 384),))


@pytest.fixture(scope="module")
def found():
    return estimate("qwen2.5-vl-7b", IMAGE, "visionzip", hardware="l4")


def test_parts_are_the_sums_of_operations(found):
    for costs in (found.costs, found.uncompressed):
        ops = [row.op for row in costs.rows]
        assert sum(p.flops for p in costs.parts.values()) == total_flops(ops)
        assert sum(p.flops_full for p in costs.parts.values()) == total_flops(ops, full=True)
        assert sum(p.time_ms for p in costs.parts.values()) == pytest.approx(costs.total_ms)
        assert costs.flops == sum(costs.parts[p].flops for p in BEFORE_FIRST)
        assert costs.ideal_ttft_ms < costs.ttft_ms
    assert found.costs.parts["vision"] == found.uncompressed.parts["vision"]
    assert found.costs.parts["method"].operations > 0 == found.uncompressed.parts["method"].operations


def test_compression_shows_where_it_should(found):
    with_it, without = found.costs, found.uncompressed
    assert with_it.method == "visionzip" and found.compressed
    assert with_it.t_eq < without.t_eq == 384 and with_it.memory.kv_bytes < without.memory.kv_bytes
    assert with_it.ttft_ms < without.ttft_ms and with_it.parts["decode"].time_ms < without.parts["decode"].time_ms


def test_the_honest_number_of_aims_video_setting():
    """32 frames of LLaVA-OneVision-7B: 119.9 TFLOPs end to end, the vision tower's 20.5 among them; not 99.6."""
    whole = estimate("llava-onevision-7b", CLIP).uncompressed
    assert whole.flops_full / 1e12 == pytest.approx(119.88, abs=0.03)
    assert whole.parts["vision"].flops / 1e12 == pytest.approx(20.54, abs=0.01)


def test_without_a_method_there_is_one_run():
    found = estimate("llava-1.5-7b", Inputs(images=((336, 336),)))
    assert found.costs is found.uncompressed and not found.compressed
    assert found.break_even.tokens is None and found.break_even.searched == 0


def test_every_way_to_say_it(tmp_path):
    from foveate.recipe import Recipe

    file = tmp_path / "r.yaml"
    Recipe.of(get_method("divprune", keep=0.5)).save(file)
    by = {
        "name": estimate("llava-onevision-7b", CLIP, "divprune"),
        "method": estimate("llava-onevision-7b", CLIP, get_method("divprune", keep=0.5)),
        "recipe": estimate("llava-onevision-7b", CLIP, file),
        "list": estimate("llava-onevision-7b", CLIP, [3136] * 28),
        "aim": estimate("llava-onevision-7b", CLIP, AimParameters(0.5, 14, 22)),
    }
    assert (
        by["method"].costs.tokens_per_layer == by["recipe"].costs.tokens_per_layer == by["list"].costs.tokens_per_layer
    )
    assert by["recipe"].settings["keep"] == "0.5" and by["name"].costs.method == "divprune"
    assert by["list"].costs.parts["method"].operations == 0 and by["list"].capacity.most_frames == 0
    assert by["aim"].costs.tokens_per_layer[0] == 3136 and by["aim"].costs.tokens_per_layer[-1] == 0
    assert estimate("llava-onevision-7b", CLIP, "none").costs.method == "uncompressed"


def test_a_budget_that_follows_the_content_has_two_ends():
    found = estimate("llava-1.5-7b", Inputs(images=((336, 336),)), get_method("divprune", adaptive=(0.1, 0.5)))
    assert found.least.t_eq < found.costs.t_eq and found.least.ttft_ms < found.costs.ttft_ms
    assert estimate("llava-1.5-7b", Inputs(images=((336, 336),)), "divprune").least is None


def test_json_holds_the_whole_report(found):
    again = json.loads(json.dumps(found.to_dict()))
    assert (
        again["format"] == 1 and again["costs"]["parts"]["prefill"]["time_ms"] == found.costs.parts["prefill"].time_ms
    )
    assert again["costs"]["memory"]["peak_bytes"] == found.costs.memory.peak_bytes
    assert again["uncompressed"]["flops"] == found.uncompressed.flops and again["hardware"] == "l4"


def test_csv_has_every_operation_of_both_runs(found):
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == len(found.costs.rows) + len(found.uncompressed.rows)
    mine = [r for r in rows if r["run"] == "visionzip"]
    assert sum(float(r["time_ms"]) for r in mine) == pytest.approx(found.costs.total_ms)
    counted = sum(int(r["flops"]) * int(r["repeat"]) for r in mine if r["kind"] in ("matmul", "attention"))
    assert counted == sum(p.flops for p in found.costs.parts.values())


def test_shares_and_ceilings_by_hand(found):
    whole, b = found.uncompressed, found.break_even
    before = whole.parts["vision"].time_ms + whole.parts["projector"].time_ms
    assert b.vision_share == pytest.approx(before / whole.ttft_ms)
    nothing = estimate("qwen2.5-vl-7b", IMAGE, [0] * 28, hardware="l4").costs
    assert b.ceiling == pytest.approx(whole.ttft_ms / nothing.ttft_ms)
    assert b.flops_ceiling == pytest.approx(whole.flops / nothing.flops)


@pytest.mark.parametrize("method", ["divprune", "fastv", "visionzip"])
def test_no_method_breaks_the_ceiling(method):
    found = estimate("llava-1.5-7b", Inputs(images=((336, 336),)), get_method(method, keep=0.05))
    assert found.uncompressed.ttft_ms / found.costs.ttft_ms <= found.break_even.ceiling


@pytest.mark.parametrize("launch_us", [20.0, 200.0])
def test_from_the_break_even_on_a_method_pays_and_not_before(launch_us):
    deployment, found = _even(launch_us)
    for least, tokens in ((0.0, found.tokens), (0.05, found.worth_tokens)):
        side = math.isqrt(tokens)
        assert side > 3 and _saved(deployment, side - 1) <= least < _saved(deployment, side)
    assert found.tokens < found.worth_tokens < found.searched


def test_a_method_may_never_pay():
    deployment, found = _even(100_000.0)
    assert found.tokens is None and found.searched == 128**2 and _saved(deployment, 128) < 0


FASTV = get_method("fastv", keep=0.5)


def _even(launch_us):
    """A small model on a device that takes long to launch, and where FastV breaks even there."""
    device = get_hardware("a100").model_copy(update={"launch_us": launch_us})
    deployment = Deployment.of("llava-onevision-0.5b", device)
    return deployment, report(deployment, Inputs(images=((384, 384),)), FASTV).break_even


def _saved(deployment, side):
    """The share of the time after the tower that FastV saves for side x side tokens."""
    prompt = Prompt((Visual("image", (Grid(1, side, side),), (Grid(1, side, side),)),), 50)
    runs = [deployment.costs("", prompt, ledger_of(what, deployment.arch, prompt)).parts for what in (FASTV, None)]
    times = [sum(parts[p].time_ms for p in ("method", "prefill", "head")) for parts in runs]
    return 1 - times[0] / times[1]


def test_options_reach_the_numbers():
    plain = estimate("qwen2.5-vl-7b", IMAGE)
    for options, less in (
        (dict(hardware="h100"), "ttft_ms"), (dict(w_bits=4), "decode_ms"), (dict(tp=2), "ttft_ms"),
        (dict(w_bits=8, a_bits=8), "ttft_ms"),
    ):  # fmt: skip
        assert getattr(estimate("qwen2.5-vl-7b", IMAGE, **options).costs, less) < getattr(plain.costs, less), options
    assert estimate("qwen2.5-vl-7b", IMAGE, attention="eager").costs.ttft_ms > plain.costs.ttft_ms
    twice = estimate("qwen2.5-vl-7b", replace(IMAGE, batch=2)).costs
    assert twice.flops == 2 * plain.costs.flops and twice.ttft_ms < 2 * plain.costs.ttft_ms


WRONG = {
    "model": (dict(config="qwen9-vl"), "did you mean"),
    "hardware": (dict(hardware="rtx-409"), "did you mean 'rtx-4090'"),
    "attention": (dict(attention="flash"), "'fused' or 'eager'"),
    "tp": (dict(tp=0), "at least 1"),
    "method": (dict(method="divprun"), "did you mean 'divprune'"),
    "size": (dict(inputs=Inputs(images=((0, 3),))), "at least 1x1"),
    "layers": (dict(method=[5, 5]), "28 layers"),
    "growing": (dict(method=[5, *[6] * 27]), "cannot be more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said_in_one_line(name):
    options, message = WRONG[name]
    with pytest.raises(FoveateError) as error:
        estimate(**(dict(config="qwen2.5-vl-7b", inputs=IMAGE) | options))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_keep_of_zero_is_refused():
    with pytest.raises(InvalidValue, match=r"keep must lie in \(0, 1\], got 0"):
        estimate("qwen2.5-vl-7b", IMAGE, get_method("divprune", keep=0.0))


def test_bundled_models_need_neither_torch_nor_transformers():
    code = (
        "import sys; from foveate.cost import Inputs, estimate;"
        "estimate('llava-1.5-7b', Inputs(images=((336, 336),)), [576] * 16 + [100] * 16);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
