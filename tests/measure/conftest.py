"""The embedded model, once, and a processor for videos that needs no torchvision."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import BatchFeature

from foveate.loading import Loaded, load
from foveate.measure.samples import Opened, Picture, embedded_samples
from foveate.scenes import evaluation_set


@pytest.fixture(scope="session")
def embedded():
    return load()


@pytest.fixture(scope="session")
def questions():
    return embedded_samples(14)


@pytest.fixture(scope="session")
def small_questions():
    """With pictures of 36 visual tokens in place of 144: quick, where nothing depends on the size."""
    made = enumerate(evaluation_set(7, size=(168, 168)))
    return [Picture(f"small {i}", s.question, (s.image,), (s.answer,), s.kind) for i, s in made]


@pytest.fixture(scope="session")
def opened(questions):
    return [Opened.of(q) for q in questions]


@dataclass(frozen=True)
class VideoProcessor:
    """What Qwen2.5-VL's processor makes of lists of frames: pairs of them share a grid."""

    processor: Any

    def __call__(self, text, videos, **kwargs):
        assert kwargs["do_sample_frames"] is False, "frames that were chosen must not be sampled again"
        pad, pixels, thw, texts = self.processor.video_token, [], [], []
        for words, frames in zip(text, videos, strict=True):
            whole = self.processor.image_processor(images=frames, return_tensors="pt")
            n, (_, h, w) = len(frames), whole["image_grid_thw"][0].tolist()
            each = whole["pixel_values"].view(n, h * w, 3, 2, -1)[:, :, :, 0]  # an image is a frame given twice
            pairs = [torch.stack([each[i], each[min(i + 1, n - 1)]], 2) for i in range(0, n, 2)]
            pixels.append(torch.cat(pairs).flatten(1))
            thw.append([len(pairs), h, w])
            texts.append(words.replace(pad, pad * (len(pairs) * h * w // 4)))
        inputs = self.processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        is_video = inputs["input_ids"] == self.processor.tokenizer.convert_tokens_to_ids(pad)
        found = {"mm_token_type_ids": 2 * is_video.int(), "pixel_values_videos": torch.cat(pixels)}
        return BatchFeature({**inputs, **found, "video_grid_thw": torch.tensor(thw)})

    def __getattr__(self, name):
        return getattr(self.processor, name)


@pytest.fixture(scope="session")
def watching(embedded):
    """The embedded model, made to take videos."""
    return Loaded(embedded.model, VideoProcessor(embedded.processor))
