"""What each family knows of its model: where tokens lie, which patches make them, what processors make of pixels."""

import inspect
import json
import re
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import foveate
from foveate import compress, get_method
from foveate.ask import prepare
from foveate.engine.cut import Columns
from foveate.engine.deepstack import features_left
from foveate.engine.tap import watch
from foveate.errors import InvalidValue, UnsupportedInput
from foveate.families import families
from foveate.families.base import Layout, View, find_spans
from foveate.loading import load_config, planned_grids
from foveate.masked import sights_of
from foveate.testing import Case, answer, generate, removal_equals_masking, tiny
from foveate.tokens import Grid

ALL = sorted(set(families().values()), key=lambda f: f.title)
INTERNVL, LLAVA, NEXT, ONEVISION, QWEN2, QWEN25, QWEN3 = ALL
VIDEOS = [QWEN2, QWEN25, QWEN3, ONEVISION, INTERNVL]


def by_family(which):
    return pytest.mark.parametrize("family", which, ids=lambda f: f.title)


def everything(family):
    """A batch of all that a family reads: images and videos, several in a row, none in another."""
    other = (3, 4, 5) if family in VIDEOS else (4, 5)
    return family.tiny_inputs(tiny(family), [[(6, 8), other], [(5, 5)], []])


def entering(family, inputs, method=None):
    """What enters the language model in a prefill, and the run."""
    model, seen = tiny(family), {}
    decoder = family.decoder(family.core(model))

    def hook(module, args, kwargs):
        seen.update(kwargs)

    def prefill():
        handle = decoder.register_forward_pre_hook(hook, with_kwargs=True)  # behind those of the context
        generate(model, inputs, max_new_tokens=1, min_new_tokens=1)
        handle.remove()

    if method is None:
        prefill()
        return seen, None
    with compress(model, method) as run:
        prefill()
    return seen, run


# ── where tokens lie ─────────────────────────────────────────────────────────────────────────────────────────────


@by_family(ALL)
def test_spans_cover_the_placeholders_but_for_the_newlines(family):
    inputs, core = everything(family), family.core(tiny(family))
    embeds = entering(family, inputs)[0]["inputs_embeds"]
    _, run = entering(family, inputs, get_method("uniform", keep=0.5))
    tokens = family.image_token_ids(core.config)
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        spans = [s for cut in run.trace.cuts if cut.sample == row for s in cut.spans]
        for kind, token in tokens.items():
            there = [c for c, t in enumerate(ids) if t == token]
            own = [c for s in sorted(spans, key=lambda s: s.start) if s.kind == kind for c in s.columns()]
            assert own == sorted(set(own)) and set(own) <= set(there)
            if family not in (NEXT, ONEVISION):
                assert own == there
            for column in set(there) - set(own):
                torch.testing.assert_close(embeds[row, column], core.image_newline)


@by_family(ALL)
def test_positions_are_those_of_the_full_prompt(family):
    inputs = everything(family)
    full = entering(family, inputs)[0]["position_ids"]
    seen, run = entering(family, inputs, get_method("random", keep=0.3, positions="keep"))
    stay = sights_of(run, inputs)[0].columns
    assert not stay.all()
    for row, columns in enumerate(stay):
        kept = columns.nonzero()[:, 0]
        assert torch.equal(seen["position_ids"][..., row, -len(kept) :], full[..., row, kept])


def test_the_timestamps_between_frames_are_no_visual_tokens():
    inputs = QWEN3.tiny_inputs(tiny(QWEN3), [[(3, 2, 2)]], text=2)
    _, run = entering(QWEN3, inputs, get_method("uniform", keep=0.5))
    (span,) = run.trace.cuts[0].spans
    ids = inputs["input_ids"][0].tolist()
    assert span.grid == Grid(3, 2, 2) and span.columns() == [i for i, t in enumerate(ids) if t == 11]
    gaps = [b - a - 4 for a, b in zip(span.frames, span.frames[1:], strict=False)]
    assert gaps == [3, 4]  # <end> and <start>, and between them one or two tokens of time
    assert sights_of(run, inputs)[0].columns.sum() == len(ids) - 6


def test_tiles_that_follow_each_other_are_views_of_one_image():
    tile = Layout("image", 2, (View(0, Grid(1, 1, 2), 2),), is_tile=True)
    ids = [[1, 9, 9, 9, 9, 1, 9, 9], [9, 9]]
    rows = find_spans(ids, {"image": 9}, {"image": [tile] * 4})
    assert [[(s.start, s.image) for s in row] for row in rows] == [[(1, 0), (3, 0), (6, 1)], [(0, 0)]]
    plain = Layout.plain("image", Grid(1, 1, 2))
    rows = find_spans(ids, {"image": 9}, {"image": [plain] * 4})
    assert [s.image for s in rows[0]] == [0, 1, 2]


def test_a_truncated_prompt_is_refused():
    layouts = {"image": [Layout.plain("image", Grid(1, 1, 3)), Layout.plain("image", Grid(1, 1, 2))]}
    with pytest.raises(UnsupportedInput, match="1 image tokens too early"):
        find_spans([[9, 9], [9, 9, 9]], {"image": 9}, layouts)


# ── which patches make a token ───────────────────────────────────────────────────────────────────────────────────


@by_family(ALL)
@torch.enable_grad()
def test_numbers_of_patches_go_where_their_features_go(family):
    """With attention silenced, a token's feature depends on its own patches only: the model tells which those are."""
    model = family.tiny(0)
    core, shape = family.core(model), family.shape(model.config)
    inputs, kinds = everything(family), ("image", "video") if family in VIDEOS[:-1] else ("image",)
    patches = {}

    def silence(module, args, output):
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    def catch(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        patches["x"] = hidden.detach().requires_grad_()
        return (patches["x"], *args[1:]), kwargs if args else {**kwargs, "hidden_states": patches["x"]}

    for block in range(shape.vision_blocks):
        family.vision_attention(core, block).register_forward_hook(silence)
    family.vision_block(core, None).register_forward_pre_hook(catch, with_kwargs=True)
    torch.manual_seed(0)
    for kind in kinds:
        encode = getattr(core, f"get_{kind}_features")
        arguments = {name: inputs[name] for name in inspect.signature(encode).parameters if name in inputs}
        if kind == "video" and family is ONEVISION:  # transformers before 5.20 names the pixels like those of images
            first = next(iter(inspect.signature(encode).parameters))
            arguments = {first: inputs["pixel_values_videos"]}
        features = encode(**arguments, return_dict=True).pooler_output
        numbers = torch.rand(patches["x"].shape[:-1])
        per_patch = numbers[..., None] if numbers.ndim == 2 else numbers[None, :, None]
        rows = family.to_llm(core, kind, arguments, [per_patch])
        layouts = family.layouts(kind, core, arguments)
        views = [
            feature[view.span(range(layout.length), kind, 0).columns()]
            for layout, feature in zip(layouts, features, strict=True)
            for view in layout.views
        ]
        assert [len(v) for v in views] == [len(r) for r in rows]
        for view, row in zip(views, rows, strict=True):
            for feature, number in zip(view, row, strict=True):
                direction = torch.randn(feature.shape)
                (slope,) = torch.autograd.grad((feature * direction).sum(), patches["x"], retain_graph=True)
                mine = slope.abs().sum(-1) > 1e-7
                if family is ONEVISION and kind == "video":  # bilinear pooling: within the range of its patches
                    assert numbers[mine].min() <= number <= numbers[mine].max()
                else:
                    torch.testing.assert_close(number, numbers[mine].mean()[None])


@by_family(ALL)
def test_features_are_made_of_the_block_the_shape_names(family):
    model = family.tiny(0)
    core, shape = family.core(model), family.shape(model.config)
    inputs = family.tiny_inputs(model, [[(4, 5)]])
    arguments = {n: inputs[n] for n in inspect.signature(core.get_image_features).parameters if n in inputs}

    def features():
        out = core.get_image_features(**arguments, return_dict=True).pooler_output
        return torch.cat(list(out))

    def doubled(module, args, kwargs):
        return (
            ((args[0] * 2, *args[1:]), kwargs)
            if args
            else (args, kwargs | {"hidden_states": kwargs["hidden_states"] * 2})
        )

    plain = features()
    for block in range(shape.vision_blocks):
        handle = family.vision_block(core, block).register_forward_pre_hook(doubled, with_kwargs=True)
        assert torch.equal(features(), plain) == (block > shape.vision_features)
        handle.remove()
    default = family.vision_block(core, None)
    assert default is family.vision_block(core, shape.vision_block(1.0))
    assert family.vision_attention(core, None) in list(default.modules())


@by_family([QWEN25])
def test_only_blocks_named_global_see_the_whole_image(family):
    """All others give each patch the same whatever the far corner shows; families without windows have none."""
    model = family.tiny(0)
    core, shape = family.core(model), family.shape(model.config)
    inputs = family.tiny_inputs(model, [[(6, 8)]])
    seen = {}
    for block in range(shape.vision_blocks):
        handle = family.vision_attention(core, block).register_forward_pre_hook(
            lambda m, a, k, b=block: seen.update({b: len(k["cu_seqlens"]) - 1}), with_kwargs=True
        )
        core.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        handle.remove()
    assert {b for b, pieces in seen.items() if pieces == 1} == set(shape.vision_global)
    others = [f for f in ALL if f is not family]
    assert all(f.shape(c := tiny(f).config).vision_global == tuple(range(f.shape(c).vision_blocks)) for f in others)


@by_family(ALL)
def test_queries_and_keys_computed_ahead_are_those_the_layer_computes(family):
    model = family.tiny(0)
    layer = family.decoder(family.core(model)).layers[3]
    seen = {}

    def enters(module, args, kwargs):
        seen.update(hidden=args[0] if args else kwargs["hidden_states"], rotary=kwargs["position_embeddings"])

    with ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(enters, with_kwargs=True).remove)
        watch(layer.self_attn, lambda q, k, scale, kwargs: seen.update(q=q, k=k, scale=scale), undo)
        model(**family.tiny_inputs(model, [[(4, 5)], [(3, 3)]]))
    q, k = family.query_and_key(layer, seen["hidden"], seen["rotary"], None)
    torch.testing.assert_close(q, seen["q"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(k, seen["k"], atol=1e-5, rtol=1e-4)
    tail, _ = family.query_and_key(layer, seen["hidden"], seen["rotary"], 4)
    torch.testing.assert_close(tail[:, :, -4:], q[:, :, -4:], atol=1e-5, rtol=1e-4)
    plain, _ = family.query_and_key(layer, seen["hidden"], None, None)
    torch.testing.assert_close(family.rotated(layer, plain, seen["rotary"]), q, atol=1e-5, rtol=1e-4)
    assert family.scale(layer) == seen["scale"]


# ── DeepStack ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_features_left_are_those_of_the_tokens_that_are_left():
    """By brute force, over rows with gaps, padding and no visual token at all."""
    generator = torch.Generator().manual_seed(0)
    visual = torch.rand(4, 12, generator=generator) < 0.5
    visual[2] = False
    features = torch.randn(int(visual.sum()), 3, generator=generator)
    stay = torch.rand(4, 12, generator=generator) < 0.6
    lengths = stay.sum(1).tolist()
    index = torch.zeros(4, max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        index[row, max(lengths) - n :] = stay[row].nonzero()[:, 0]
    got = features_left(features, visual, Columns(index, None, tuple(lengths)))
    full = torch.zeros(4, 12, 3)
    full[visual] = features
    for row, n in enumerate(lengths):
        assert torch.equal(got[row, max(lengths) - n :], full[row, stay[row]])


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("method", ["fastv", "two"])
def test_cuts_between_the_layers_of_deepstack_equal_masking(method, layer):
    """Images and a video, several in a row, left padding, a row without any; one cut, or one before it at the door."""
    prune = get_method("fastv", layer=layer, keep=0.3)
    chosen = prune if method == "fastv" else foveate.TwoStage(get_method("pool", keep=0.5), prune)

    class Everything(Case):
        def inputs(self, rows=None, **options):
            return everything(QWEN3)

    removal_equals_masking(Everything(QWEN3, chosen))


def test_copies_of_a_row_get_the_same_deepstack_features():
    case = Case(QWEN3, get_method("fastv", layer=1))
    inputs = everything(QWEN3)
    one, _ = answer(case, inputs, max_new_tokens=1, min_new_tokens=1)
    torch.manual_seed(0)
    three, _ = answer(case, inputs, max_new_tokens=1, min_new_tokens=1, do_sample=True, num_return_sequences=3)
    torch.testing.assert_close(three.logits[0], one.logits[0].repeat_interleave(3, 0), atol=1e-5, rtol=1e-5)
    assert QWEN3.tiny(0).model.visual.deepstack_visual_indexes == [0, 1, 2]


# ── what processors make of pixels ───────────────────────────────────────────────────────────────────────────────

SPECIAL = {
    "image": {"qwen": "<|image_pad|>", "internvl": "<IMG_CONTEXT>", "llava": "<image>"},
    "video": {"qwen": "<|video_pad|>", "internvl": "<video>", "llava": "<video>"},
    "start": {"qwen": "<|vision_start|>", "internvl": "<img>", "llava": "<s>"},
    "end": {"qwen": "<|vision_end|>", "internvl": "</img>", "llava": "</s>"},
}
PIXELS = {"shortest_edge": 8 * 8 * 4, "longest_edge": 8 * 8 * 60}
PINPOINTS = [[42, 84], [84, 42], [84, 84]]
#: processor class, image processor, the settings of both
PROCESSORS = {
    QWEN2: ("Qwen2VLProcessor", "Qwen2VLImageProcessor", {"patch_size": 4, "min_pixels": 256, "max_pixels": 3840}),
    QWEN25: ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", {"patch_size": 4, "size": PIXELS}),
    QWEN3: ("Qwen3VLProcessor", "Qwen2VLImageProcessor", {"patch_size": 4, "size": PIXELS}),
    LLAVA: (
        "LlavaProcessor", "CLIPImageProcessor",
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "patch_size": 14,
         "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    NEXT: (
        "LlavaNextProcessor", "LlavaNextImageProcessor",
        {"size": {"shortest_edge": 42}, "crop_size": {"height": 42, "width": 42}, "image_grid_pinpoints": PINPOINTS,
         "patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    ONEVISION: (
        "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor",
        {"size": {"height": 70, "width": 70}, "image_grid_pinpoints": [[70, 70], [70, 140], [140, 70], [140, 140]],
         "num_image_tokens": 25, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"},
    ),
    INTERNVL: (
        "InternVLProcessor", "GotOcr2ImageProcessor",
        {"size": {"height": 56, "width": 56}, "min_patches": 1, "max_patches": 4, "image_seq_length": 16},
    ),
}  # fmt: skip


def checkpoint(family, folder):
    """A small model of a family with tokenizer and processor, as a checkpoint has them."""
    kind = next((k for k in ("qwen", "internvl") if k in family.model_types[0]), "llava")
    names = {part: SPECIAL[part][kind] for part in SPECIAL}
    vocab = {f"w{i}": i for i in range(200)}
    for number, name in zip((10, 11, 12, 13), names.values(), strict=True):
        vocab = {name if i == number else word: i for word, i in vocab.items()}
    words = Tokenizer(models.WordLevel(vocab, unk_token="w30"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {
        "start_image_token": names["start"],
        "end_image_token": names["end"],
        "context_image_token": names["image"],
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", eos_token="w2", unk_token="w30",
        extra_special_tokens={"image_token": names["image"], "video_token": names["video"], **named},
    )  # fmt: skip
    placeholder = " ".join([names["start"], names["image"], names["end"]]) if kind == "qwen" else names["image"]
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + placeholder + " {% else %}{{ c['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    tiny(family).save_pretrained(folder)
    processor, image, settings = PROCESSORS[family]
    files = {"preprocessor_config": {"processor_class": processor, "image_processor_type": image, **settings}}
    (folder / "preprocessor_config.json").write_text(json.dumps(files["preprocessor_config"]))
    return folder


@pytest.fixture(scope="module", params=ALL, ids=lambda f: f.title)
def loaded(request, tmp_path_factory):
    folder = checkpoint(request.param, tmp_path_factory.mktemp("checkpoint"))
    return request.param, folder, foveate.load(folder)


def picture(width, height):
    return Image.radial_gradient("L").resize((width, height)).convert("RGB")


SIZES = [(100, 60), (60, 100), (84, 84), (43, 170), (200, 40), (12, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_planned_grids_are_those_of_the_processors_pixels(loaded, size):
    family, folder, model = loaded
    width, height = size
    inputs = prepare(model, "w40 w41", [picture(width, height)])
    with compress(model.model, "uniform", keep=0.5) as run:
        model.model(**inputs)
    assert list(run.trace.plan.grids) == list(planned_grids(folder, load_config(folder), height, width))
    if family is INTERNVL:
        assert len({s.image for cut in run.trace.cuts for s in cut.spans}) == 1


def test_several_images_through_a_processor(loaded):
    model = loaded[2]
    images = [picture(*size) for size in SIZES[:3]]
    inputs = prepare(model, "w40 w41", images)
    with compress(model.model, "divprune") as run:
        out = generate(model.model, inputs)
    assert out.sequences.shape[1] > inputs["input_ids"].shape[1]
    assert len({(s.kind, s.image) for cut in run.trace.cuts for s in cut.spans}) == 3


#: (t, h, w) in patches that the video processors of transformers 5.23.0 (with torchvision 0.28.0) made of blank frames,
#: by size in pixels (frames, height, width), bounds and cap_pixels_per_frame (with max_video_tokens 1000 and 100)
VIDEO_SIZES = [(8, 240, 426), (5, 100, 60), (16, 720, 1280), (32, 48, 512)]
BOUNDS = {"shortest_edge": 12544, "longest_edge": 903168}
VIDEO_GRIDS = [
    (QWEN2, None, False, [(4, 18, 30), (3, 30, 18), (8, 40, 72), (16, 8, 74)]),
    (QWEN2, None, True, [(4, 18, 30), (3, 30, 18), (8, 16, 30), (16, 8, 74)]),
    (QWEN2, BOUNDS, False, [(4, 18, 30), (3, 12, 8), (8, 50, 90), (16, 4, 36)]),
    (QWEN2, BOUNDS, True, [(4, 18, 30), (3, 12, 8), (8, 14, 28), (16, 4, 36)]),
    (QWEN3, None, False, [(4, 14, 26), (3, 14, 8), (8, 10, 18), (16, 2, 32)]),
    (QWEN3, None, True, [(4, 16, 26), (3, 14, 8), (8, 16, 30), (16, 4, 32)]),
    (QWEN3, BOUNDS, False, [(4, 16, 26), (3, 6, 4), (8, 10, 18), (16, 2, 34)]),
    (QWEN3, BOUNDS, True, [(4, 14, 26), (3, 6, 4), (8, 10, 18), (16, 2, 34)]),
]


@pytest.mark.parametrize(("family", "size", "cap", "expected"), VIDEO_GRIDS)
def test_planned_grids_of_videos_are_those_of_the_video_processors(family, size, cap, expected):
    patch, most = (14, 1000) if family is QWEN2 else (16, 100)
    vision = SimpleNamespace(patch_size=patch, spatial_merge_size=2, temporal_patch_size=2)
    limits = {"size": size, "cap_pixels_per_frame": cap, "max_video_tokens": most}
    for (frames, height, width), (t, h, w) in zip(VIDEO_SIZES, expected, strict=True):
        for same in [QWEN2, QWEN25] if family is QWEN2 else [QWEN3]:
            config = SimpleNamespace(vision_config=vision)
            assert same.planned(config, "video", height, width, frames, limits) == (Grid(t, h // 2, w // 2),)


def test_bounds_of_videos_come_from_their_own_file(tmp_path):
    config = tiny(QWEN25).config
    names = {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(names | {"size": PIXELS}))
    assert planned_grids(tmp_path, config, 560, 560, 2) == planned_grids(tmp_path, config, 560, 560)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"size": BOUNDS}))
    assert planned_grids(tmp_path, config, 560, 560, 2) == (Grid(1, 70, 70),)
    whole = {"video_processor": {"size": BOUNDS | {"longest_edge": 280 * 280}}, "image_processor": {"size": BOUNDS}}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    assert planned_grids(tmp_path, config, 560, 560, 2) == (Grid(1, 35, 35),)


def test_a_video_too_short_for_its_tower_is_refused():
    with pytest.raises(InvalidValue, match="cannot be planned"):
        QWEN3.planned(tiny(QWEN3).config, "video", 100, 100, 1, {})


def test_a_video_with_the_timestamps_of_the_processor(tmp_path):
    """Through Qwen3-VL's own replacement of its video placeholder; frames need torchvision, so they are drawn here."""
    model = foveate.load(checkpoint(QWEN3, tmp_path))
    processor, tokenizer = model.processor, model.processor.tokenizer
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    thw = torch.tensor([[4, 6, 8]])
    metadata = SimpleNamespace(fps=3.0, frames_indices=[0, 5, 30, 40, 200, 260, 900, 1000])
    text = processor.replace_video_token({"video_grid_thw": thw, "video_metadata": [metadata]}, 0)
    times = ["<0.8 seconds>", "<11.7 seconds>", "<76.7 seconds>", "<316.7 seconds>"]
    assert [t for t in times if t in text] == times
    pieces = "".join(f" {c} " if c.startswith("<|") else c for c in _pieces(text)).split()
    ids = [
        i
        for piece in pieces
        for i in ([tokenizer.convert_tokens_to_ids(piece)] if piece[1] == "|" else [30] * len(piece))
    ]
    ids = torch.tensor([[1, *ids, 40, 41]])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": 2 * (ids == 11).int(),
        "video_grid_thw": thw, "pixel_values_videos": torch.randn(4 * 6 * 8, 3 * 2 * 4 * 4),
    }  # fmt: skip
    with compress(model.model, "fastv", layer=1) as run:
        generate(model.model, inputs)
    (span,) = run.trace.cuts[0].spans
    assert span.grid == Grid(4, 3, 4) and span.columns() == (ids[0] == 11).nonzero()[:, 0].tolist()


def _pieces(text):
    return re.split(r"(<\|[a-z_]+\|>)", text)
