"""Configs in every form become the same architecture; what cannot be read is refused with the nearest alternatives."""

import json
import subprocess
import sys

import pytest
import transformers as hf
from stock import FAMILIES, TEXT, llava, onevision, qwen2_5_vl

from foveate.cost.hf import CONFIGS, EMBEDDED, READERS, arch_of, bundled
from foveate.errors import FoveateError, InvalidValue, UnsupportedModel
from foveate.families import families
from foveate.loading import load_config

DEFAULTS = json.loads((CONFIGS / "defaults.json").read_text())
# elements in the published checkpoints
PUBLISHED = {
    "llava-1.5-7b": 7_063_427_072,
    "llava-video-7b": 8_030_348_832,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen2.5-vl-72b": 73_410_777_344,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
    "internvl3-8b": 7_944_373_760,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bundled_models_have_the_published_number_of_parameters(name):
    assert sum(arch_of(name).parameters().values()) == PUBLISHED[name]


def test_the_embedded_model_is_read_from_its_own_files():
    import torch

    arch = arch_of("embedded")
    with torch.device("meta"):
        model = hf.AutoModelForImageTextToText.from_config(load_config(None))
    assert sum(arch.parameters().values()) == sum(p.numel() for p in model.parameters())
    assert arch.processor.image_pixels == (12544, 200704)
    assert arch == arch_of(EMBEDDED)


NATIVE = {
    "qwen2_vl": hf.Qwen2VLConfig,
    "qwen2_5_vl": hf.Qwen2_5_VLConfig,
    "qwen3_vl": hf.Qwen3VLConfig,
    "qwen3_vl_moe": hf.Qwen3VLMoeConfig,
}
CLASSES = {
    "llama": hf.LlamaConfig,
    "mistral": hf.MistralConfig,
    "qwen2": hf.Qwen2Config,
    "qwen2_moe": hf.Qwen2MoeConfig,
    "qwen3": hf.Qwen3Config,
    "qwen3_moe": hf.Qwen3MoeConfig,
    "clip_vision_model": hf.CLIPVisionConfig,
    "siglip_vision_model": hf.SiglipVisionConfig,
    "internvl_vision": hf.InternVLVisionConfig,
    **{f"{k}_{part}": type(getattr(c(), f"{part}_config")) for k, c in NATIVE.items() for part in ("text", "vision")},
}


@pytest.mark.parametrize("kind", CLASSES)
def test_what_a_config_leaves_out_is_what_transformers_fills_in(kind):
    config = CLASSES[kind]()
    for name, value in DEFAULTS[kind].items():
        theirs = getattr(config, name)
        theirs = list(theirs) if isinstance(theirs, tuple) else theirs
        if value is None:  # follows from another field
            assert theirs == config.num_attention_heads
        else:
            assert theirs == value, name


@pytest.mark.parametrize("cls", [hf.LlavaConfig, hf.LlavaNextConfig, hf.LlavaOnevisionConfig])
def test_what_a_llava_config_leaves_out(cls):
    config = cls()
    for name in DEFAULTS[config.model_type].keys() - {"vision", "text"}:
        assert getattr(config, name) == DEFAULTS[config.model_type][name], name
    for part in ("vision", "text"):
        assert getattr(config, f"{part}_config").model_type == DEFAULTS[config.model_type][part]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_every_form_of_a_config_is_the_same_model(family, tmp_path):
    config = family()
    arch = arch_of(config)
    config.save_pretrained(tmp_path)
    assert arch_of(config.to_dict()) == arch
    assert arch_of(config.to_diff_dict()).language == arch.language
    for path in (tmp_path, str(tmp_path), tmp_path / "config.json"):
        there = arch_of(path)
        assert (there.tower, there.projector, there.language) == (arch.tower, arch.projector, arch.language)


def test_a_folder_brings_the_limits_of_its_processor(tmp_path):
    qwen2_5_vl().save_pretrained(tmp_path)
    assert arch_of(tmp_path).processor.image_pixels == (3136, 1003520)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 100, "max_pixels": 5000}))
    processor = arch_of(tmp_path).processor
    assert processor.image_pixels == processor.video_pixels == (100, 5000)
    both = {"image_processor": {"max_pixels": 1}, "video_processor": {"max_pixels": 4000}}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    processor = arch_of(tmp_path).processor
    assert (processor.image_pixels, processor.video_pixels) == ((100, 5000), (100352, 4000))
    video = {"size": {"shortest_edge": 7, "longest_edge": 8}}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(video))
    assert arch_of(tmp_path).processor.video_pixels == (7, 8)
    assert arch_of(tmp_path, {"image": {"max_pixels": 9}}).processor.image_pixels == (3136, 9)


def test_flat_configs_of_older_checkpoints_are_read():
    nested = json.loads((CONFIGS / "qwen2.5-vl-7b.json").read_text())["config"]
    flat = {**nested["text_config"], "model_type": "qwen2_5_vl", "tie_word_embeddings": False}
    flat["vision_config"] = {**nested["vision_config"], "model_type": "qwen2_5_vl"}
    assert arch_of(flat).language == arch_of("qwen2.5-vl-7b").language
    assert arch_of(flat).tower == arch_of("qwen2.5-vl-7b").tower


def test_names_are_found_in_any_case_and_by_hub_id():
    assert arch_of("Qwen2.5-VL-7B") == arch_of("qwen2.5-vl-7b") == arch_of("Qwen/Qwen2.5-VL-7B-Instruct")
    assert set(bundled()) >= {*PUBLISHED, "embedded", "llava-1.5-13b", "llava-onevision-0.5b", "qwen3-vl-235b-a22b"}


@pytest.mark.parametrize("kind", sorted(families()))
def test_a_plan_sees_the_same_shape_as_through_the_adapter(kind):
    model = families()[kind].tiny()
    assert arch_of(model.config).shape() == families()[kind].shape(model.config)


@pytest.mark.parametrize(
    "windows", [{"use_sliding_window": True, "max_window_layers": 1}, {"use_sliding_window": False}, {}]
)
def test_windows_of_a_config_that_does_not_list_its_layers(windows):
    text = TEXT | {"sliding_window": 12} | windows
    listed = hf.Qwen2Config(**text).layer_types
    config = llava().to_dict() | {"text_config": text | {"model_type": "qwen2"}}
    seen = [block.attention.window for block in arch_of(config).language.blocks]
    assert seen == [12 if kind == "sliding_attention" else None for kind in listed]


def test_several_hidden_states_go_side_by_side_into_the_projector():
    config = llava()
    config.vision_feature_layer = [-2, -1]
    config.text_config.tie_word_embeddings = False
    assert arch_of(config).projector.mergers[0].linears[0].inputs == 2 * 32
    assert arch_of(config).tower.features == 2


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("qwen2.5-vl-8b", InvalidValue, "did you mean 'qwen2.5-vl-"),
        ("no-such-folder/config.json", FoveateError, "cannot read the config|unknown model"),
        ({"model_type": "qwen2_5_v"}, UnsupportedModel, "no vision part"),
        ({"model_type": "qwen2_5_v", "vision_config": {}}, UnsupportedModel, "did you mean 'qwen2_5_vl'"),
        ({"model_type": "llama", "hidden_size": 8}, UnsupportedModel, "no vision part"),
        ({"hidden_size": 8}, UnsupportedModel, "unknown model type"),
        ({"model_type": "llava"}, UnsupportedModel, "no vision_config"),
        (
            {"model_type": "llava_qwen", "mm_vision_tower": "eva"},
            UnsupportedModel,
            "no cost model for the vision tower",
        ),
        (3, InvalidValue, "expected a name"),
        ("nobody/nothing", UnsupportedModel, "cannot read the config of nobody/nothing"),
    ],
)
def test_what_cannot_be_read_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        arch_of(given)


def test_parts_that_are_not_known_are_named():
    config = llava().to_dict()
    config["text_config"]["model_type"] = "mamba"
    with pytest.raises(UnsupportedModel, match="language model 'mamba'"):
        arch_of(config)
    config = onevision().to_dict()
    config["vision_config"]["model_type"] = "dinov2"
    with pytest.raises(UnsupportedModel, match="vision tower 'dinov2'"):
        arch_of(config)
    config = onevision().to_dict()
    config["text_config"]["layer_types"][0] = "linear_attention"
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        arch_of(config)
    config = llava().to_dict()
    config["vision_feature_select_strategy"] = "full"
    with pytest.raises(UnsupportedModel, match="class token"):
        arch_of(config)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(InvalidValue, match="is no JSON"):
        arch_of(path)
    path.write_text("[]")
    with pytest.raises(InvalidValue, match="holds no config"):
        arch_of(path)
    assert sorted(READERS) == [*READERS]


def test_counting_needs_neither_torch_nor_transformers():
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from foveate.cost.count import operations
from foveate.cost.hf import arch_of, bundled
from foveate.cost.ledger import AimParameters, ledger_of
from foveate.cost.ops import total_flops
from foveate.cost.profile import analyze_model
from foveate.cost.published import published
from foveate.cost.tokens import Inputs, prompt_of
for name in bundled():
    arch = arch_of(name)
    prompt = prompt_of(arch, Inputs(images=((640, 480),)))
    for what in (None, AimParameters(), [prompt.visual // 2] * len(arch.language.blocks)):
        total_flops(operations(arch, prompt, ledger_of(what, arch, prompt), new_tokens=8))
analyze_model({}), published()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
