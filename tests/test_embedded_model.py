"""The embedded model is an ordinary checkpoint that answers questions about held-out scenes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate import scenes

CHECKPOINT = scenes.ASSETS / "tiny-qwen2.5-vl"


class Answerer:
    """The checkpoint with its PIL image processor: the package's own processor needs torchvision."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        named = ("image_processor_type", "processor_class")
        self.images = Qwen2VLImageProcessorPil(**{k: v for k, v in settings.items() if k not in named})

    def inputs(self, samples: list[scenes.Sample]) -> dict[str, torch.Tensor]:
        """Return what the processor returns for one question each, padded on the left."""
        vision = self.images(images=[s.image for s in samples], return_tensors="pt")
        prompts = []
        for sample, grid in zip(samples, vision["image_grid_thw"], strict=True):
            content = [{"type": "image"}, {"type": "text", "text": sample.question}]
            prompt = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            prompts.append(prompt.replace("<|image_pad|>", "<|image_pad|>" * (int(grid.prod()) // 4)))
        text = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        is_image = (text["input_ids"] == self.model.config.image_token_id).long()
        return {**text, **vision, "mm_token_type_ids": is_image}

    @torch.no_grad()
    def __call__(self, samples: list[scenes.Sample]) -> list[str]:
        inputs = self.inputs(samples)
        ids = self.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        return self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(CHECKPOINT)


def test_it_answers_held_out_questions(answerer: Answerer) -> None:
    samples = scenes.evaluation_set(63)
    said = [text for at in range(0, len(samples), 21) for text in answerer(samples[at : at + 21])]
    right = [scenes.is_correct(a, s.answer) for a, s in zip(said, samples, strict=True)]
    assert sum(right) / len(right) >= 0.94, [(s.question, a, s.answer) for s, a in zip(samples, said, strict=True)]


def test_it_needs_the_image(answerer: Answerer) -> None:
    samples = [s for s in scenes.evaluation_set(42) if s.kind in ("color", "shape", "position", "at", "read")]
    blank = scenes.Image.new("RGB", (336, 336), (128, 128, 128))
    blind = [scenes.Sample(blank, s.question, s.answer, s.kind, s.boxes) for s in samples]
    right = [scenes.is_correct(a, s.answer) for a, s in zip(answerer(blind), samples, strict=True)]
    assert sum(right) / len(right) <= 0.4


def test_it_answers_the_example(answerer: Answerer) -> None:
    example = json.loads((scenes.ASSETS / "example.json").read_text())
    with scenes.Image.open(scenes.ASSETS / "example.jpg") as image:
        sample = scenes.Sample(image.convert("RGB"), example["question"], example["answer"], "read", ())
    assert answerer([sample]) == [example["answer"]]


def test_it_is_small_and_deep_enough_to_prune(answerer: Answerer) -> None:
    config = answerer.model.config
    assert sum(f.stat().st_size for f in CHECKPOINT.iterdir()) < 25e6
    assert config.text_config.num_hidden_layers >= 8
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads
