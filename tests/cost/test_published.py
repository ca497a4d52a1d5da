"""Published FLOPs follow from their conventions, and the honest numbers stand beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.cost.hf import arch_of
from foveate.cost.ledger import AimParameters
from foveate.cost.profile import analyze_model, llm_viewer
from foveate.cost.published import published
from foveate.errors import InvalidValue
from foveate.ops.schedule import Pyramid

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "aim_flops.json").read_text())["rows"]
QWEN2 = replace(arch_of("llava-onevision-7b").language, vocab=152064)
VICUNA = replace(arch_of("llava-1.5-7b").language, vocab=32000)
# model, visual tokens, text, bounds of the schedule, timing, fused attention
ROWS = {
    "video_base_6272+100": (QWEN2, 6272, 100, None, "paper", False),
    "video_25pct_1568+100": (QWEN2, 1568, 100, None, "paper", False),
    "video_25pct_l1=14_l2=22": (QWEN2, 1568, 100, (14, 22), "paper", False),
    "video_192frames_l1=14_l2=22": (QWEN2, 192 * 49, 100, (14, 22), "paper", False),
    "video_25pct_flash": (QWEN2, 1568, 100, None, "paper", True),
    "image_base_576+40": (VICUNA, 576, 40, None, "paper", False),
    "image_43.75pct_252+40_l1=13_l2=21": (VICUNA, 252, 40, (13, 21), "paper", False),
    "longva_18532": (QWEN2, 18532, 0, None, "paper", False),
    "video_25pct_l1=14_l2=22_as_executed_if_dropped": (QWEN2, 1568, 100, (14, 22), "released", False),
}


def viewed(lm, visual, text, bounds, timing="paper", flash=False):
    layers = len(lm.blocks)
    each = (visual,) * layers if bounds is None else AimParameters(1.0, *bounds, timing).per_layer(layers, visual)
    return llm_viewer(lm, [n + text for n in each], flash=flash)


def test_every_row_of_aim_has_its_digits():
    assert set(ROWS) == set(GOLDEN)
    for row, gold in GOLDEN.items():
        seen = viewed(*ROWS[row])
        assert round(seen.flops / 1e12, 6) == gold["tflops"], row
        assert round(seen.prefill_ms, 6) == gold["prefill_ms"], row
        if gold["paper"]:
            assert [round(seen.flops / 1e12, 2), round(seen.prefill_ms, 2)] == gold["paper"], row


# tokens per frame of 32 that its tables leave, and what they print: TFLOPs and milliseconds
@pytest.mark.parametrize(
    ("left", "bounds", "printed"),
    [
        (98, None, (46.48, 182.65)), (24, None, (11.64, 41.22)), (12, None, (6.41, 22.54)), (6, None, (3.85, 13.68)),
        (3, None, (2.57, 10.15)), (74, (14, 22), (22.06, 84.36)),
    ],
)  # fmt: skip
def test_more_rows_of_its_tables(left, bounds, printed):
    seen = viewed(QWEN2, 32 * left, 100, bounds)
    assert (round(seen.flops / 1e12, 2), round(seen.prefill_ms, 2)) == printed


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r.paper}: {r.setting}")
def test_conventions_give_the_printed_numbers(row):
    decimals = len(row.printed.partition(".")[2])
    same = f"{row.reproduced:.{decimals}f}" == row.printed or abs(row.reproduced / float(row.printed) - 1) <= 0.002
    assert same == row.follows
    honest = row.honest()
    assert 0 < honest.llm_causal_tflops <= honest.llm_tflops
    assert honest.end_to_end_tflops is None or honest.end_to_end_tflops > honest.llm_tflops
    assert row.reasons


def test_the_one_row_that_contradicts_its_formula():
    assert [r.setting for r in published() if not r.follows] == ["llava-1.5-7b, K=0 R=90 %"]


def test_what_aim_costs_when_everything_counts():
    """14.76 TFLOPs in the paper; 36.8 with the tower if its code removed tokens, 44.2 as it runs."""
    aim = {r.setting.rpartition(", ")[2]: r.honest() for r in published() if r.printed == "14.76"}
    assert [round(x, 2) for x in vars(aim["as its script"]).values()] == [14.75, 14.42, 36.08]
    assert [round(x, 2) for x in vars(aim["if removed"]).values()] == [15.52, 15.17, 36.85]
    assert [round(x, 2) for x in vars(aim["masked"]).values()] == [22.89, 22.33, 44.22]


def test_analyze_model_as_aim_would_have_it():
    result = analyze_model(
        {
            "model_name": "LLaVA-1.5-7B", "visual_tokens": 576, "text_tokens": 50, "merge_ratio": 0.5,
            "prune_scheduler": "linear", "final_prune_ratio": 0.7,
        }
    )  # fmt: skip
    assert result == analyze_model({})
    tokens = result["tokens_per_layer"]
    assert (tokens[0], tokens[-1], len(tokens)) == (338, 136, 32)
    lm = arch_of("llava-1.5-7b").language
    assert result["flops"] == llm_viewer(lm, tokens).flops
    assert result["prefill_time_ms"] == llm_viewer(lm, tokens).prefill_ms
    assert result["compression_ratio"] == pytest.approx(2.6866, abs=1e-4)
    assert analyze_model({"merge_ratio": 0.0, "final_prune_ratio": 0.0})["compression_ratio"] == 1
    assert analyze_model({"prune_scheduler": "pyramid"})["tokens_per_layer"][-1] == 50 + 36
    assert analyze_model({"prune_scheduler": Pyramid()}) == analyze_model({"prune_scheduler": "pyramid"})
    assert analyze_model({"prune_scheduler": [1.0] * 16 + [0.5] * 16})["tokens_per_layer"][-1] == 50 + 144
    assert analyze_model({"flash": True})["prefill_time_ms"] != result["prefill_time_ms"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"merge_ration": 0.5}, "did you mean 'merge_ratio'"),
        ({"merge_ratio": 1.0}, r"\[0, 1\)"),
        ({"prune_scheduler": "linera"}, "did you mean 'linear'"),
        ({"prune_scheduler": [1.0, 0.5]}, "32 layers"),
        ({"visual_tokens": 0}, "whole number above 0"),
        ({"text_tokens": 2.5}, "whole number above 0"),
        ({"model": "lava"}, "unknown model"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, says):
    with pytest.raises(InvalidValue, match=says):
        analyze_model(config)


def test_layers_must_match():
    with pytest.raises(InvalidValue, match="28 layers"):
        llm_viewer(QWEN2, [10] * 27)
