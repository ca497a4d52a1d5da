"""Images and videos become the patches and tokens that transformers' own processors make of them."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from foveate.cost.hf import arch_of
from foveate.cost.processors import Resized, Tiles
from foveate.cost.tokens import Grid, Inputs, Video, prompt_of
from foveate.errors import InvalidValue, UnsupportedInput

RANDOM = random.Random(0)
# small and large, square and thin, and the edges where roundings turn
SIZES = [
    (336, 336), (1, 1), (14, 13), (28, 28), (27, 5000), (4000, 21), (1920, 1080), (1080, 1920), (672, 336), (337, 673),
    *((RANDOM.randint(1, 3000), RANDOM.randint(1, 3000)) for _ in range(300)),
    *((round(math.exp(RANDOM.uniform(2, 8))), round(math.exp(RANDOM.uniform(2, 8)))) for _ in range(300)),
]  # fmt: skip


def image(width, height):
    return np.zeros((3, height, width), dtype=np.uint8)


def unmade(cls, **attributes):
    """A processor without its tokenizer, to ask for numbers."""
    processor = object.__new__(cls)
    vars(processor).update(attributes)
    return processor


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "qwen3-vl-8b", "embedded"])
def test_qwen_images(model):
    processor = arch_of(model).processor
    low, high = processor.image_pixels
    for width, height in SIZES:
        if max(width, height) > 200 * min(width, height):
            with pytest.raises(InvalidValue, match="200 times"):
                processor.image(width, height, True)
            continue
        h, w = smart_resize(height, width, processor.cell, low, high)
        visual = processor.image(width, height, True)
        assert visual.patches == (Grid(1, h // processor.patch, w // processor.patch),)
        assert visual.grids == (Grid(1, h // processor.cell, w // processor.cell),)


def test_qwen_images_as_the_whole_processor_makes_them():
    processor = Resized(14, 2, 2, (3136, 200704), (3136, 200704))
    theirs = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 200704})
    for width, height in SIZES[3:20]:
        if max(width, height) <= 200 * min(width, height):
            made = theirs([image(width, height)], return_tensors="np")
            assert [list(processor.image(width, height, True).patches[0])] == made["image_grid_thw"].tolist()


def test_qwen_2_videos_have_each_frame_resized_by_itself():
    processor = arch_of("qwen2.5-vl-7b").processor
    for (width, height), frames in zip(SIZES, range(1, 40), strict=False):
        if max(width, height) <= 200 * min(width, height):
            h, w = smart_resize(height, width, 28, *processor.video_pixels)
            visual = processor.video(Video(frames, width, height))
            assert visual.patches == (Grid(math.ceil(frames / 2), h // 14, w // 14),)
            assert visual.structure == 2


@pytest.mark.parametrize("capped", [False, True])
def test_qwen_3_videos_share_their_pixels_over_frames(capped):
    theirs = unmade(Qwen3VLVideoProcessor, cap_pixels_per_frame=capped)
    size = {"shortest_edge": 4096, "longest_edge": 25165824}
    processor = Resized(16, 2, 2, (1, 2), (4096, 25165824), joint=True, per_frame=768 if capped else None)
    for width, height in SIZES:
        frames = 2 + (width + height) % 90
        try:
            patches = theirs.get_num_of_video_patches(frames, height, width, {"size": size})
        except ValueError:
            with pytest.raises(InvalidValue, match="200 times"):
                processor.video(Video(frames, width, height))
            continue
        assert processor.video(Video(frames, width, height)).patches[0].n == patches
    with pytest.raises(InvalidValue, match="at least 2 frames"):
        processor.video(Video(1, 100, 100))


def test_qwen_3_timestamps_are_text():
    theirs = unmade(Qwen3VLProcessor)
    for frames, fps in ((5, 2.0), (24, 2.0), (40, 0.5), (2, None)):
        times = theirs._calculate_timestamps(list(range(frames)), fps or 24, 2)
        # as the Qwen tokenizer cuts "<12.5 seconds>": < 1 2 . 5 _seconds >, digits one by one; two markers each
        tokens = sum(len("<.>") + 1 + len(f"{t:.1f}".replace(".", "")) + 2 for t in times)
        visual = arch_of("qwen3-vl-8b").processor.video(Video(frames, 640, 480, fps))
        assert visual.structure == 2 + tokens
        assert visual.grids[0].t == len(times)


def test_llava_next_crops_and_unpads():
    arch = arch_of("llava-next-7b")
    pinpoints = [list(p) for p in arch.processor.pinpoints]
    theirs = unmade(
        LlavaNextProcessor, image_processor=SimpleNamespace(image_grid_pinpoints=pinpoints), patch_size=14,
        num_additional_image_tokens=1, vision_feature_select_strategy="default",
    )  # fmt: skip
    for width, height in SIZES:
        tokens = theirs._get_number_of_features(height, width, 336, 336) - 1
        for alone in (True, False):
            visual = arch.processor.image(width, height, alone)
            assert visual.tokens + visual.structure == tokens
    made = LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints, size={"shortest_edge": 336}, crop_size=336)
    for width, height in SIZES[6:14]:
        pixels = made([image(width, height)], return_tensors="np")["pixel_values"]
        assert len(arch.processor.image(width, height, True).patches) == pixels.shape[1]


def test_onevision_shrinks_large_images_and_pools_videos():
    arch = arch_of("llava-onevision-7b")
    pinpoints = [list(p) for p in arch.processor.pinpoints]
    theirs = unmade(
        LlavaOnevisionProcessor, image_processor=SimpleNamespace(image_grid_pinpoints=pinpoints), num_image_tokens=729,
        vision_aspect_ratio="anyres_max_9", vision_feature_select_strategy="full",
    )  # fmt: skip
    for width, height in SIZES:
        visual = arch.processor.image(width, height, True)
        assert visual.tokens + visual.structure == theirs._get_number_of_features(height, width, 384, 384)
    beside = arch.processor.image(1000, 500, False)
    assert (beside.tokens, beside.structure, len(beside.patches)) == (729, 1, 1)
    video = {"pixel_values_videos": [np.zeros((7, 1))]}
    theirs.video_token = "v"
    visual = arch.processor.video(Video(7, 640, 480))
    assert visual.tokens + visual.structure == len(theirs.replace_video_token(video, 0))
    assert visual.patches == (Grid(7, 27, 27),)
    made = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints)
    for width, height in SIZES[6:10]:
        pixels = made([image(width, height)], return_tensors="np")["pixel_values"]
        assert len(arch.processor.image(width, height, True).patches) == pixels.shape[1]


def test_internvl_tiles():
    theirs = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True)
    processor = arch_of("internvl3-8b").processor
    for width, height in SIZES:
        tiles = theirs.get_number_of_image_patches(height, width)
        visual = processor.image(width, height, True)
        assert (len(visual.patches), visual.tokens, visual.structure) == (tiles, 256 * tiles, 2)
    whole = Tiles(32, 448, 2, cropped=False).image(1000, 300, True)
    assert (len(whole.patches), whole.tokens) == (1, 256)
    names = unmade(InternVLProcessor, start_image_token="<", end_image_token=">", image_token="i", image_seq_length=256)
    text = names.replace_video_token({"pixel_values_videos": [np.zeros((12, 1))]}, 0)
    video = processor.video(Video(12, 640, 480))
    assert video.tokens == text.count("i")
    # Frame 1 2 : _ < >: the word, each digit, the colon, the space, the markers, and line ends between
    other = text.replace("i", "").replace("Frame", "F").replace("\n", "n")
    assert video.structure == len(other)


def test_llava_video_pools_downwards_and_ends_rows():
    arch = arch_of("llava-video-7b")
    visual = arch.processor.video(Video(64, 640, 480))
    assert (visual.grids, visual.structure) == ((Grid(64, 13, 13),), 64 * 13)
    assert arch_of("llava-onevision-7b").processor.video(Video(32, 1, 1)).tokens == 6272


def test_a_prompt_adds_up():
    arch = arch_of("qwen2.5-vl-7b")
    inputs = Inputs(images=((448, 448), (560, 560)), videos=(Video(4, 448, 448),), text=30, question=10, batch=2)
    prompt = prompt_of(arch, inputs)
    assert prompt.visual == 256 + 400 + 2 * 256
    assert prompt.others == 30 + 3 * 2
    assert prompt.behind == 11
    assert [g.n for g in prompt.grids] == [256, 400, 512]
    assert prompt_of(arch, Inputs(text=5)).visual == 0


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (Inputs(images=((0, 5),)), "at least 1x1 pixels"),
        (Inputs(images=((5, -1),)), "at least 1x1 pixels"),
        (Inputs(videos=(Video(0, 5, 5),)), "above 0"),
        (Inputs(videos=(Video(2, 5, 5, -1.0),)), "above 0"),
        (Inputs(text=0), "at least 1 text token"),
        (Inputs(text=3, question=4), "part of the 3 text tokens"),
        (Inputs(batch=0), "batch must be at least 1"),
        (Inputs(new_tokens=0), "new_tokens must be at least 1"),
    ],
)
def test_impossible_inputs_are_refused(inputs, says):
    with pytest.raises(InvalidValue, match=says):
        prompt_of(arch_of("qwen2-vl-7b"), inputs)


def test_a_model_without_videos_says_so():
    for model in ("llava-1.5-7b", "llava-next-7b"):
        with pytest.raises(UnsupportedInput, match="images only"):
            prompt_of(arch_of(model), Inputs(videos=(Video(4, 100, 100),)))
