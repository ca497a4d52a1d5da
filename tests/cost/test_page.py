"""The page computes what Python computes: its coefficients exactly, its JavaScript to the last digits."""

import json
import random
import re
import shutil
import subprocess

import pytest

from foveate.cost.coefficients import (
    FIELDS,
    layer_features,
    layer_templates,
    outer_features,
    outer_templates,
    step_features,
    step_templates,
    tower_features,
    tower_templates,
)
from foveate.cost.count import decode, prefill, projector, vision
from foveate.cost.deployment import Deployment
from foveate.cost.hardware import all_hardware
from foveate.cost.hf import arch_of, bundled
from foveate.cost.ledger import Ledger, ledger_of
from foveate.cost.page import HERE, data, page
from foveate.cost.tokens import Grid, Inputs, Prompt, Video, Visual, prompt_of
from foveate.errors import FoveateError, InvalidValue
from foveate.method import all_methods, get_method

MODELS = ["llava-1.5-7b", "llava-next-7b", "llava-video-7b", "qwen2.5-vl-7b", "qwen3-vl-235b-a22b", "internvl3-8b"]
METHODS = ["aim", "divprune", "fastv", "pyramiddrop", "visionzip", "uniform"]
#: bundled models that differ from another in sizes only
SAME_KIND = {
    "llava-1.5-13b", "llava-onevision-0.5b", "qwen2.5-vl-3b", "qwen2.5-vl-32b", "qwen2.5-vl-72b", "qwen3-vl-4b",
    "qwen3-vl-32b",
}  # fmt: skip
PROMPTS = [
    Prompt((Visual("image", (Grid(1, 30, 44),), (Grid(1, 15, 20),)),), 33, batch=3),
    Prompt(
        (Visual("video", (Grid(5, 26, 28),), (Grid(1, 1, 7),)), Visual("image", (Grid(1, 8, 6),), (Grid(1, 1, 4),))), 9
    ),
]


# ── coefficients ─────────────────────────────────────────────────────────────────────────────────────────────────


def numbers(op):
    return op.name, op.kind, [getattr(op, field) for field in FIELDS]


def told(templates, features):
    """What templates say, repeated ones as often as they repeat; operations that do nothing are left out."""
    found = []
    for t in templates:
        values = [sum(c * x for c, x in zip(row, features, strict=True)) for row in t.coefficients]
        found += [(t.name, t.kind, [int(v) for v in values])] * t.repeat
    return sorted(found)


@pytest.mark.parametrize("name", [n for n in bundled() if n not in SAME_KIND])
@pytest.mark.parametrize("prompt", PROMPTS, ids=("image", "video"))
def test_coefficients_tell_the_counts_of_every_kind_of_model(name, prompt):
    arch = arch_of(name)
    depth, visual = len(arch.language.blocks), prompt.visual
    counted = [*vision(arch, prompt), *projector(arch, prompt)]
    assert told(tower_templates(arch), tower_features(arch, prompt)) == sorted(map(numbers, counted))
    ledger = Ledger((visual,) * depth, prompt.others)
    n = ledger.tokens[0]
    ops, steps = list(prefill(arch, prompt, ledger)), list(decode(arch, ledger, prompt.batch, 1))
    for layers, templates in layer_templates(arch):
        for layer in (layers[0], layers[-1]):
            features = layer_features(arch.language.blocks[layer], n, visual, prompt.batch)
            assert told(templates, features) == sorted(numbers(op) for op in ops if op.layer == layer)
    for layers, templates in step_templates(arch):
        features = step_features(arch.language.blocks[layers[0]], n + 1, prompt.batch)
        assert told(templates, features) == sorted(numbers(op) for op in steps if op.layer == layers[0])
    for templates, counted in zip(outer_templates(arch), (ops, steps), strict=True):
        outer = outer_features(n, n, prompt.batch)
        assert told(templates, outer) == sorted(numbers(op) for op in counted if op.layer is None)


def test_every_layer_is_in_one_group():
    for name in ("qwen3-vl-8b", "qwen2.5-vl-7b"):
        arch = arch_of(name)
        for groups in (layer_templates(arch), step_templates(arch)):
            assert sorted(layer for layers, _ in groups for layer in layers) == list(range(len(arch.language.blocks)))
    assert len(layer_templates(arch_of("qwen3-vl-8b"))) == 2, "early layers get DeepStack's features"


# ── the JavaScript ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def carried():
    """The data of a page with some models and methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "bundled", lambda: {name: bundled()[name] for name in MODELS})
        patch.setattr(data, "all_methods", lambda: {name: all_methods()[name] for name in METHODS})
        deployment = Deployment.of("qwen2.5-vl-7b", "a100")
        start = data.page_data(deployment, Inputs(images=((672, 448),)), get_method("aim", keep=0.3))
    return json.loads(json.dumps(start))


def run_js(carried, settings, tmp_path):
    """estimate() of model.js for each setting; an error as its message."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    (tmp_path / "in.json").write_text(json.dumps([carried, settings]))
    (tmp_path / "model.cjs").write_text((HERE / "model.js").read_text())
    (tmp_path / "run.cjs").write_text(
        """const { estimate } = require("./model.cjs");
        const [data, settings] = JSON.parse(require("fs").readFileSync(process.argv[2]));
        const told = (c) => c && { parts: c.parts, memory: c.memory, visual: c.ledger.visual, ttft_ms: c.ttft_ms };
        const answer = (s) => { const f = estimate(data, { ...s, hardware: data.hardware[s.hardware] });
          return { visual: f.prompt.visual, others: f.prompt.others, ceiling: f.ceiling, vision_share: f.vision_share,
                   whole: told(f.whole), compressed: told(f.compressed) }; };
        const safe = (s) => { try { return answer(s); } catch (error) { return { error: error.message }; } };
        console.log(JSON.stringify(settings.map(safe)));"""
    )
    command = ["node", tmp_path / "run.cjs", tmp_path / "in.json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def drawn(count):
    """Settings of the controls, drawn once and for all, with the inputs they mean."""
    draw = random.Random(5)
    for _ in range(count):
        width, height, images = draw.randint(60, 1800), draw.randint(60, 1800), draw.choice((1, 1, 2, 3))
        model, video = draw.choice(MODELS), draw.random() < 0.4
        frames = draw.randint(2, 64) if video else 0
        bits = draw.choice([(None, None, None), (8, 8, None), (8, 8, 8), (4, 16, None), (4, 4, 8)])
        text, batch, new = draw.randint(1, 200), draw.choice((1, 1, 4)), draw.choice((1, 30))
        eager, hardware = draw.random() < 0.3, draw.choice(sorted(all_hardware()))
        deployment = Deployment.of(
            model, hardware, w_bits=bits[0], a_bits=bits[1], kv_bits=bits[2], attention="eager" if eager else "fused"
        )
        p = deployment.roofline.precision
        setting = dict(
            model=model, hardware=hardware, eager=eager, newTokens=new, method=draw.choice(METHODS),
            precision=dict(dtype=p.dtype, w_bits=p.w_bits, a_bits=p.a_bits, kv_bits=p.kv_bits),
            keepIndex=draw.randrange(len(data.KEEPS)),
            input=dict(width=width, height=height, count=images, frames=frames, text=text, batch=batch),
        )  # fmt: skip
        clips = (Video(frames, width, height),) if video else ()
        pictures = () if video else ((width, height),) * images
        yield setting, deployment, Inputs(pictures, clips, text=text, batch=batch, new_tokens=new)


def test_the_page_says_what_python_says(carried, tmp_path):
    cases = list(drawn(60))
    answers = run_js(carried, [setting for setting, *_ in cases], tmp_path)
    compared = 0
    for (setting, deployment, inputs), answer in zip(cases, answers, strict=True):
        try:
            prompt = prompt_of(deployment.arch, inputs)
        except FoveateError:
            assert "error" in answer, setting
            continue
        assert (answer["visual"], answer["others"]) == (prompt.visual, prompt.others), setting
        whole = deployment.costs("", prompt, ledger_of(None, deployment.arch, prompt), inputs.new_tokens)
        _same(whole, answer["whole"])
        method = get_method(setting["method"]).replaced(keep=data.KEEPS[setting["keepIndex"]])
        costs = deployment.costs("", prompt, ledger_of(method, deployment.arch, prompt), inputs.new_tokens)
        _same(costs, answer["compressed"], but="method")
        # a method's own work is interpolated between sizes
        assert answer["compressed"]["ttft_ms"] == pytest.approx(costs.ttft_ms, rel=0.04), setting
        compared += 1
    assert compared > 45


def _same(costs, answer, but=None):
    assert answer["visual"] == list(costs.tokens_per_layer)
    for part, cost in costs.parts.items():
        if part != but:
            theirs = answer["parts"][part]
            assert (theirs["flops"], theirs["flops_full"]) == pytest.approx((cost.flops, cost.flops_full), rel=1e-12)
            assert (theirs["ms"], theirs["ideal_ms"]) == pytest.approx((cost.time_ms, cost.ideal_ms), rel=1e-9), part
    memory = answer["memory"]
    for field, name in (
        ("weights", "weights"),
        ("kv", "kv"),
        ("vision", "vision"),
        ("prefill", "prefill"),
        ("peak", "peak"),
    ):
        assert memory[field] == pytest.approx(getattr(costs.memory, f"{name}_bytes"), abs=2), name
    assert memory["fits"] == costs.memory.fits


def test_the_page_knows_shares_and_ceilings(carried, tmp_path):
    from foveate.cost import estimate

    setting = dict(
        model="qwen2.5-vl-7b", hardware="a100-80gb", eager=False, newTokens=1, method=None, keepIndex=0,
        precision=dict(dtype="bf16", w_bits=16, a_bits=16, kv_bits=16),
        input=dict(width=1344, height=1008, count=1, frames=0, text=50, batch=1),
    )  # fmt: skip
    (answer,) = run_js(carried, [setting], tmp_path)
    expected = estimate("qwen2.5-vl-7b", Inputs(images=((1344, 1008),))).break_even
    assert answer["ceiling"] == pytest.approx(expected.ceiling) and answer["compressed"] is None
    assert answer["vision_share"] == pytest.approx(expected.vision_share)


def test_every_method_whose_counts_the_page_can_tell_is_in_it():
    shapes = {28: arch_of("qwen2.5-vl-7b").shape()}
    left_out = {name for name in all_methods() if data._plain(name, shapes) is None}
    assert "pool" in left_out, "it reaches certain counts only"
    assert "ficoco" in left_out, "the model cannot run it"
    assert {n for n, m in all_methods().items() if _refuses(m, shapes[28])} <= left_out, "not for every model"
    assert not left_out & {"aim", "fastv", "divprune", "visionzip", "pyramiddrop"}


def _refuses(method, shape):
    try:
        list(method().steps(shape))
    except FoveateError:
        return True
    return False


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_one_file_that_asks_nobody(carried, monkeypatch):
    monkeypatch.setattr("foveate.cost.page.page_data", lambda *_: carried)
    html = page(Deployment.of("qwen2.5-vl-7b"), Inputs(images=((672, 448),)))
    assert not re.search(r"https?:|<link|src=|@import|url\(|fetch\(|XMLHttp|import\(", html)
    assert "/* data */" not in html and "/* model.js */" not in html and html.count("</script>") == 1
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_it_opens_with_what_was_asked_for(carried):
    start = carried["start"]
    assert start["model"] == "qwen2.5-vl-7b" and (start["width"], start["height"]) == (672, 448)
    assert start["method"] == "aim" and start["keep"] == 0.3 and start["frames"] == 0


def test_every_control_in_the_script_is_in_the_page():
    html, script = (HERE / "page.html").read_text(), (HERE / "page.js").read_text()
    ids = set(re.findall(r'id="([\w-]+)"', html))
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= ids
    assert set(re.search(r"NUMBERS = \[(.*?)\]", script)[1].replace('"', "").split(", ")) <= ids


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_fills_it(carried, tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.cost.page.page_data", lambda *_: carried)
    file = tmp_path / "page.html"
    file.write_text(page(Deployment.of("qwen2.5-vl-7b"), Inputs(images=((672, 448),))))
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    dom = dom.split("<script>")[0]
    assert dom.count('class="tile"') == 5 and dom.count("<svg") == 3 and "method itself" in dom
    assert re.search(r'id="error"[^>]*hidden', dom), "no error is shown"


def test_a_page_that_cannot_be_written(carried, monkeypatch):
    from foveate.cost.page import write_page

    monkeypatch.setattr("foveate.cost.page.page_data", lambda *_: carried)
    with pytest.raises(InvalidValue, match="cannot write /no/such/folder"):
        write_page("/no/such/folder/x.html", Deployment.of("qwen2.5-vl-7b"), Inputs(images=((672, 448),)))
