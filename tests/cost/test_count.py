"""Counts are those of torch's FlopCounterMode on the models themselves: not close, equal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from stock import DEEP, EXPERTS, FAMILIES, NATIVE, TEXT, case, count, llava, onevision, qwen2_5_vl, rope

from foveate.cost.count import causal_pairs, operations
from foveate.cost.hf import arch_of
from foveate.cost.ledger import Ledger
from foveate.cost.ops import of_part, total_flops
from foveate.cost.tokens import Grid, Prompt, Visual

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "flops.json").read_text())
SIZES = {"image": (112, 64), "video": (3, 112, 64)}
NO_VIDEO = {"llava", "llava_next", "internvl"}
CASES = [(f, kind) for f in FAMILIES for kind in SIZES if kind == "image" or f.__name__ not in NO_VIDEO]


def stated(one, new_tokens=1):
    return operations(one.arch, one.prompt, one.ledger, new_tokens=new_tokens)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_prefill_and_a_decode_step_are_what_torch_counts(family, kind, batch):
    one = case(family(), SIZES[kind], batch)
    ops = stated(one, new_tokens=2)
    counted, cache = one.prefill()
    assert total_flops((op for op in ops if op.part != "decode"), full=True) == counted
    assert total_flops(of_part(ops, "decode"), full=True) == one.step(cache)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_parameters_are_those_of_the_model(family):
    one = case(family(), SIZES["image"])
    assert sum(one.arch.parameters().values()) == sum(p.numel() for p in one.model.parameters())


DECODERS = {
    "sliding": hf.Qwen2Config(**TEXT, use_sliding_window=True, sliding_window=12, max_window_layers=1),
    "a window that fills up": hf.MistralConfig(**TEXT, sliding_window=26),  # the prompt has 25 tokens
    "mistral": hf.MistralConfig(**TEXT, sliding_window=12),
    "qwen3": hf.Qwen3Config(**TEXT, head_dim=20),
    "qwen3_moe": hf.Qwen3MoeConfig(**TEXT, head_dim=20, **EXPERTS),
    "shared expert": hf.Qwen2MoeConfig(**TEXT, **EXPERTS, shared_expert_intermediate_size=40),
    "biases": hf.LlamaConfig(**TEXT, attention_bias=True, mlp_bias=True),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_of_other_kinds(decoder):
    one = case(llava(DECODERS[decoder]), SIZES["image"])
    assert sum(one.arch.parameters().values()) == sum(p.numel() for p in one.model.parameters())
    ops = stated(one, new_tokens=3)
    counted, cache = one.prefill()
    assert total_flops((op for op in ops if op.part != "decode"), full=True) == counted
    assert total_flops(of_part(ops, "decode"), full=True) == one.step(cache) + one_more(one, cache)


def one_more(one, cache):
    """The second decode step."""
    batch, length = one.inputs["input_ids"].shape
    mask = torch.ones(batch, length + 2, dtype=torch.long)
    return count(one.model, input_ids=torch.full((batch, 1), 7), attention_mask=mask, past_key_values=cache)[0]


def test_a_pooling_head_that_nobody_reads_runs_all_the_same():
    one = case(onevision(vision_use_head=True), SIZES["video"])
    assert sum(one.arch.parameters().values()) == sum(p.numel() for p in one.model.parameters())
    assert total_flops(stated(one), full=True) == one.prefill()[0]


def test_logits_of_all_positions():
    one = case(llava(), SIZES["image"], batch=2)
    length = one.inputs["input_ids"].shape[1]
    ops = operations(one.arch, one.prompt, one.ledger, logits=length)
    assert total_flops(ops, full=True) == count(one.model, **one.inputs)[0]


@st.composite
def configs(draw):
    """A random decoder, tower and image of one of four families."""
    family = draw(st.sampled_from([f for f in FAMILIES if f.__name__ != "llava_next"]))
    groups, heads, even = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    d, e = 12 * draw(st.integers(1, 4)), 2 * draw(st.integers(3, 12))
    text = dict(
        TEXT, hidden_size=d, intermediate_size=draw(st.integers(5, 60)), num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=groups * heads, num_key_value_heads=heads, vocab_size=draw(st.integers(40, 90)),
    )  # fmt: skip
    depth, width = draw(st.integers(2, 4)), 8 * even
    middle = draw(st.integers(4, 40))
    native = dict(depth=depth, hidden_size=width, intermediate_size=middle, num_heads=even, out_hidden_size=d)
    if family.__name__.startswith("qwen"):
        size = tuple(14 * 2 * draw(st.integers(1, 6)) for _ in range(2))
        if family.__name__ == "qwen2_vl":
            text["hidden_size"] = d = 8 * groups * heads
            vision = dict(depth=depth, embed_dim=width, hidden_size=d, num_heads=even)
        elif family.__name__ == "qwen2_5_vl":
            text["hidden_size"] = d = 8 * groups * heads
            full = draw(st.sets(st.integers(0, depth - 1), min_size=1))
            vision = native | dict(
                out_hidden_size=d, window_size=28 * draw(st.integers(1, 4)), fullatt_block_indexes=[*full]
            )
        else:
            size = tuple(x // 14 * 16 for x in size)
            vision = DEEP | native | dict(deepstack_visual_indexes=[*range(draw(st.integers(0, depth)))])
            text |= dict(head_dim=e) | (EXPERTS if family.__name__.endswith("moe") else {})
        text |= rope(1, 1, (e if "head_dim" in text else 8) // 2 - 2)
        return family(text, **vision), size, draw(st.integers(1, 2))
    text |= dict(head_dim=e)
    decoder = draw(st.sampled_from([hf.LlamaConfig, hf.Qwen3Config]))(**text)
    vision = dict(hidden_size=width, intermediate_size=middle, num_hidden_layers=depth, num_attention_heads=even)
    return family(decoder, **vision), (56, 56), draw(st.integers(1, 2))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(configs())
def test_random_configs(drawn):
    config, size, batch = drawn
    one = case(config, size, batch)
    ops = stated(one, new_tokens=2)
    counted, cache = one.prefill()
    assert total_flops((op for op in ops if op.part != "decode"), full=True) == counted
    assert total_flops(of_part(ops, "decode"), full=True) == one.step(cache)
    assert sum(one.arch.parameters().values()) == sum(p.numel() for p in one.model.parameters())


def test_causal_pairs_are_those_of_the_mask():
    for keys, queries, window in [(9, 9, None), (9, 4, None), (9, 9, 3), (9, 4, 3), (9, 4, 7), (5, 1, 2), (4, 4, 1)]:
        i, j = torch.meshgrid(torch.arange(keys - queries, keys), torch.arange(keys), indexing="ij")
        mask = (j <= i) & (i - j < (window or keys))
        assert causal_pairs(queries, keys, window) == int(mask.sum())


def test_windows_at_the_borders_are_partial():
    config = qwen2_5_vl(window_size=112)  # 8 x 8 patches, of a grid of 10 x 12
    one = case(config, (168, 140))
    windowed = next(op for op in stated(one) if op.name == "attention" and op.part == "vision")
    pairs = sum((h * w) ** 2 for h in (8, 2) for w in (8, 4))
    assert windowed.flops == 4 * NATIVE["hidden_size"] * pairs
    assert total_flops(stated(one), full=True) == one.prefill()[0]


def test_fewer_tokens_never_cost_more():
    arch, prompt = arch_of("qwen3-vl-4b"), Prompt((), 30, 2)
    totals = [
        total_flops(operations(arch, prompt, Ledger((v,) * 36, 30), new_tokens=4)) for v in (900, 899, 500, 100, 1, 0)
    ]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == len(totals)


# ── full size ────────────────────────────────────────────────────────────────────────────────────────────────────

VICUNA, QWEN2 = arch_of("llava-1.5-7b"), arch_of("qwen2-vl-7b")
VICUNA = replace(VICUNA, language=replace(VICUNA.language, vocab=32000))
MODELS = {"vicuna-7b": VICUNA, "qwen2-7b": QWEN2}


@pytest.mark.parametrize("row", [k for k in GOLDEN["llm"] if "|" in k])
def test_language_models_at_full_size(row):
    name, n = row.split("|")
    arch, n, gold = MODELS[name], int(n), GOLDEN["llm"][row]
    layers = len(arch.language.blocks)
    ops = operations(arch, Prompt((), n), Ledger((0,) * layers, n), new_tokens=2)
    prefill = list(of_part(ops, "prefill", "head"))
    assert total_flops(prefill, full=True) == gold["prefill"]
    assert total_flops(prefill) == gold["prefill_causal"]
    assert total_flops(of_part(ops, "decode")) == gold["decode_next"]
    assert 2 * n * sum(arch.language.kv_elements(i) for i in range(layers)) == gold["kv_bytes"]
    every = operations(arch, Prompt((), n), Ledger((0,) * layers, n), logits=n)
    assert total_flops(every, full=True) - gold["prefill"] == gold["all_token_lm_head_extra"]


def test_parameters_at_full_size():
    for name, gold in GOLDEN["llm"]["params"].items():
        parts = MODELS[name].parameters()
        assert parts["language"] + parts["embed"] + parts["head"] == gold


TOWERS = {
    "clip-l14-336 24L": ("llava-1.5-7b", (Grid(1, 24, 24),), "vision"),
    "llava15 mlp2x projector 576": ("llava-1.5-7b", (Grid(1, 24, 24),), "projector"),
    "onevision projector 729": ("llava-onevision-7b", (Grid(1, 27, 27),), "projector"),
    "qwen2.5-vl-7b vit grid 32x32": ("qwen2.5-vl-7b", (Grid(1, 32, 32),), None),
    "qwen2.5-vl-7b vit grid 74x74": ("qwen2.5-vl-7b", (Grid(1, 74, 74),), None),
}


@pytest.mark.parametrize("row", TOWERS)
def test_towers_at_full_size(row):
    model, patches, part = TOWERS[row]
    prompt = Prompt((Visual("image", patches, (Grid(1, 1, 1),)),), 1)
    arch = arch_of(model)
    ops = operations(arch, prompt, Ledger((1,) * len(arch.language.blocks), 1))
    wanted = of_part(ops, *(("vision", "projector") if part is None else (part,)))
    assert total_flops(wanted) == GOLDEN["vision"][row]


@pytest.mark.parametrize("row", GOLDEN["schedules"])
def test_ragged_schedules_at_full_size(row):
    gold = GOLDEN["schedules"][row]
    arch, text = (VICUNA, 50) if row.startswith("llava15") else (QWEN2, 100)
    visual = tuple(n - text for n in gold["lens"])
    ledger = Ledger(visual, text)
    ops = operations(arch, Prompt((), text), ledger)
    assert total_flops(of_part(ops, "prefill", "head"), full=True) == gold["prefill"]
    assert 2 * sum(n * arch.language.kv_elements(i) for i, n in enumerate(ledger.kept)) == gold["kv_bytes"]


def meta(config, cls, **inputs):
    """What torch counts at full size, without memory."""
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = cls(config).eval()
    return count(model, **{k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})[0]


def test_torch_itself_counts_the_same_at_full_size():
    n, layers = 6372, 28
    text = hf.Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=layers, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064,
    )  # fmt: skip
    mask, ids = torch.empty(1, 1, n, n, device="meta"), torch.empty(1, n, dtype=torch.long, device="meta")
    counted = meta(text, hf.Qwen2ForCausalLM, input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
    ops = operations(QWEN2, Prompt((), n), Ledger((0,) * layers, n))
    assert total_flops(ops, full=True) == counted
    tower = hf.SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16, image_size=384,
        patch_size=14, vision_use_head=False,
    )  # fmt: skip
    counted = meta(tower, hf.SiglipVisionModel, pixel_values=torch.empty(2, 3, 384, 384, device="meta"))
    prompt = Prompt((Visual("video", (Grid(2, 27, 27),), (Grid(1, 1, 1),)),), 1)
    arch = arch_of("llava-onevision-7b")
    assert total_flops(of_part(operations(arch, prompt, Ledger((1,) * 28, 1)), "vision")) == counted
