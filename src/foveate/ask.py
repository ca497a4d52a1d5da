"""One question about some images, answered under several methods side by side, with what each cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .engine.run import compress
from .engine.trace import Trace
from .errors import InvalidValue
from .loading import Loaded
from .method import Method, get_method


@dataclass(frozen=True)
class Answer:
    """What a model said under a method, and what it took.

    prefill_ms is the median of `runs` prefills of the language model, the method's own work (selection_ms) included;
    vision_ms the vision tower and projector; kv_bytes what the prefill left in the cache. t_eq and tokens_per_layer
    count visual tokens.
    """

    answer: str
    visual_tokens: int
    tokens_per_layer: list[int]
    t_eq: float
    prefill_ms: float
    selection_ms: float
    vision_ms: float
    kv_bytes: int
    method: str
    trace: Trace


def uncompressed() -> Method:
    """A method that keeps everything, so that the plain model is counted and timed by the same means."""
    return get_method("uniform", keep=1.0)


def prepare(loaded: Loaded, prompt: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Model inputs for one chat turn with the images first; raises InvalidValue for an empty prompt."""
    if not prompt.strip():
        raise InvalidValue("the prompt is empty; ask something with --prompt")
    for token in (getattr(loaded.processor, "image_token", None), getattr(loaded.processor, "video_token", None)):
        if token and token in prompt:
            raise InvalidValue(f"the prompt holds the placeholder {token}; images are placed for you, leave it out")
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    given = {"images": list(images)} if images else {}
    inputs = loaded.processor(text=[text], return_tensors="pt", **given).to(loaded.model.device)
    for name, value in inputs.items():  # pixels come as float32 whatever the model's dtype
        if torch.is_tensor(value) and value.is_floating_point():
            inputs[name] = value.to(loaded.model.dtype)
    return dict(inputs)


def ask(
    loaded: Loaded,
    inputs: dict[str, Any],
    methods: Sequence[Method],
    *,
    max_new_tokens: int = 64,
    runs: int = 3,
    tick: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Greedy answers under each method; prefills are timed interleaved, after the answers have warmed everything up.

    `tick` is called after each of the (1 + runs) * len(methods) passes.
    """
    texts, traces = [], []
    for method in methods:
        out, trace = _generate(loaded, inputs, method, max_new_tokens)
        new = out[0, inputs["input_ids"].shape[1] :]
        texts.append(loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip())
        traces.append(trace)
        tick()
    timed: list[list[Trace]] = [[] for _ in methods]
    for _ in range(runs):
        for method, rows in zip(methods, timed, strict=True):
            rows.append(_generate(loaded, inputs, method, 1)[1])
            tick()
    return [
        Answer(
            answer=text,
            visual_tokens=trace.visual_tokens,
            tokens_per_layer=trace.tokens_per_layer,
            t_eq=trace.t_eq,
            prefill_ms=statistics.median(t.prefill_ms for t in rows),
            selection_ms=statistics.median(t.selection_ms for t in rows),
            vision_ms=statistics.median(t.vision_ms for t in rows),
            kv_bytes=trace.kv_bytes,
            method=method.card.name,
            trace=trace,
        )
        for text, trace, rows, method in zip(texts, traces, timed, methods, strict=True)
    ]


def _generate(loaded: Loaded, inputs: dict[str, Any], method: Method, new: int) -> tuple[torch.Tensor, Trace]:
    with torch.no_grad(), compress(loaded.model, method, synchronize=True) as run:
        out = loaded.model.generate(**inputs, max_new_tokens=new, do_sample=False)
    return out, run.trace
