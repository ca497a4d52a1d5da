"""Build the embedded model before training: tokenizer, processor settings, chat template, configuration.

Everything is written by hand or trained here on the questions of ``foveate.scenes``; nothing is downloaded and
torchvision is not needed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2Tokenizer

from foveate import scenes

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen's own split into words, except that every digit stays alone, so that numbers are read digit by digit.
WORD_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATCH, MERGE, FRAMES = 14, 2, 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# 112 x 112 to 448 x 448 pixels: 16 to 256 visual tokens an image.
IMAGE_SIZE = {"shortest_edge": 112 * 112, "longest_edge": 448 * 448}


def training_text() -> Iterator[str]:
    """Yield every question and answer of two thousand scenes, and what the chat template puts between them."""
    for seed in range(2000):
        for question in scenes.make_scene(seed, (168, 168), "train").questions:
            yield from (question.text, question.text.lower(), question.answer)
        yield from ("user\n", "assistant\n", *scenes.WORDS, *scenes.PLACES)


def make_tokenizer(vocab: int = 512) -> Qwen2Tokenizer:
    """Train a byte-level BPE on the questions and return it with Qwen's special tokens and our chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL), initial_alphabet=alphabet, min_frequency=8, show_progress=False
    )
    bpe.train_from_iterator(training_text(), trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 4096
    return tokenizer


def make_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Return the configuration of a Qwen2.5-VL with 8 LLM layers of width 160 and 5 vision blocks of width 128."""
    token = tokenizer.convert_tokens_to_ids
    text = dict(
        model_type="qwen2_5_vl_text",
        vocab_size=(len(tokenizer) + 31) // 32 * 32,
        hidden_size=160,
        intermediate_size=416,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
        # M-RoPE gives the slowest frequencies to the columns. With the usual theta of 1e4 a grid of twelve columns
        # would turn by less than a twentieth of a radian; with 10 it turns by one to three.
        rope_parameters={"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 8, 8]},
    )
    vision = dict(
        model_type="qwen2_5_vl_vision",
        depth=5,
        hidden_size=128,
        intermediate_size=384,
        num_heads=4,
        in_channels=3,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=FRAMES,
        tokens_per_second=2,
        window_size=112,
        out_hidden_size=160,
        fullatt_block_indexes=[2, 4],
        hidden_act="silu",
        initializer_range=0.04,
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        initializer_range=0.04,
    )


def save_processor(tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Write tokenizer, chat template and the settings of the image and the video processor."""
    tokenizer.save_pretrained(out)
    common = dict(
        do_convert_rgb=True,
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=MEAN,
        image_std=STD,
        merge_size=MERGE,
        patch_size=PATCH,
        resample=3,
        rescale_factor=1 / 255,
        temporal_patch_size=FRAMES,
    )
    image = dict(common, image_processor_type="Qwen2VLImageProcessor", size=IMAGE_SIZE)
    video = dict(
        common,
        video_processor_type="Qwen2VLVideoProcessor",
        size={"shortest_edge": 112 * 112, "longest_edge": 8 * 336 * 336},
        do_sample_frames=False,
        cap_pixels_per_frame=False,
    )
    name = {"processor_class": "Qwen2_5_VLProcessor"}
    for file, content in (
        ("processor_config.json", {**name, "image_processor": image, "video_processor": video}),
        ("preprocessor_config.json", {**name, **image}),
        ("video_preprocessor_config.json", {**name, **video}),
    ):
        (out / file).write_text(json.dumps(content, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def guesses(n: int) -> dict[str, float]:
    """Return the share of the most frequent answer of each kind, and of them all together."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in scenes.evaluation_set(n):
        answers[sample.kind][sample.answer] += 1
    best = {kind: max(answers[kind].values()) for kind in scenes.KINDS}
    return {kind: best[kind] / answers[kind].total() for kind in best} | {"overall": sum(best.values()) / n}


def write_card(out: Path, facts: dict[str, object], columns: dict[str, dict[str, float]]) -> None:
    """Write the model card: what the checkpoint is, how it was made and how well it answers."""
    kinds = (*scenes.KINDS, "overall")
    rows = "\n".join(
        f"| {kind} | {' | '.join(f'{100 * column[kind]:.1f} %' for column in columns.values())} |" for kind in kinds
    )
    made = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    (out / "README.md").write_text(CARD.format(rows=rows, made=made))


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# tiny-qwen2.5-vl

A vision-language model of the Qwen2.5-VL architecture, small enough to travel inside a Python package and good enough
to lose something when its visual tokens are thrown away. It was trained from nothing, on a CPU, on scenes that
`foveate.scenes` draws: coloured shapes and printed signs of one to nine visual tokens on plain, shaded, noisy or
photographed backgrounds. It knows nothing else, and has seen single images only, no video.

```python
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained("src/foveate/assets/tiny-qwen2.5-vl")
```

## Accuracy

Exact match on `evaluation_set(504)`: 336 x 336 pixels, 144 visual tokens, held-out scenes and photographs. "Guess" is
what the most frequent answer of each kind would score. A quarter is 36 of the 144 visual tokens, the others hidden by
the attention mask of the language model: chosen at random, or first those that the evidence touches.

| kind | guess | all tokens | a random quarter | the right quarter |
|---|---|---|---|---|
{rows}

## How it was made

`python models/train.py` draws the data, so the seed stands for it. The schedule follows the clock: a faster machine
sees more, and two runs are never bit-identical.

| | |
|---|---|
{made}

First the vision tower learns what lies under each visual token (shape, colour, character, centre); then it rests while
the language model learns to answer; then both go on together, more and more at full size. Muon for the matrices,
AdamW for the rest.

## Licence

Weights and data generator: Apache-2.0. The photographs behind some scenes are CC0 or public domain
(`src/foveate/assets/photos/LICENSE.txt`).
"""
