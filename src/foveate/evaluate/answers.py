"""What a model says to a batch of samples under a method, and what each answer took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..engine.run import compress
from ..engine.trace import Trace
from ..errors import FoveateError
from ..loading import Loaded
from ..measure.samples import Opened, inputs_of
from ..method import Method
from .dataset import Broken


@dataclass(frozen=True)
class Reply:
    """What the model said to one sample, and its share of what the batch took.

    tokens_per_layer  visual tokens that each LLM layer ran on, as they were
    lm_flops          of the decoder layers in prefill, computed (`Plan.lm_flops`) from those; the vision tower and the
                      method's own work are not in it
    prefill_ms, vision_ms, total_ms   language model with the method's own work; vision tower; the whole `generate`
    batch             id of the first sample that was answered with it: times of one batch are not independent
    """

    answer: str
    visual_tokens: int
    tokens_per_layer: tuple[int, ...]
    lm_flops: int
    prefill_ms: float
    vision_ms: float
    total_ms: float
    batch: str

    @property
    def t_eq(self) -> float:
        """Visual tokens per layer, averaged over the layers."""
        return sum(self.tokens_per_layer) / len(self.tokens_per_layer)

    def as_row(self) -> dict[str, Any]:
        """Its numbers for a study; `of_row` reads them back."""
        return asdict(self) | {"tokens_per_layer": list(self.tokens_per_layer), "t_eq": self.t_eq}

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Reply:
        """From a row of a study."""
        known = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**known | {"tokens_per_layer": tuple(row["tokens_per_layer"])})


def answer(
    loaded: Loaded, batch: Sequence[Opened], methods: Sequence[Method], max_new_tokens: int
) -> list[Broken | list[Reply]]:
    """Greedy replies under each method, for each sample of the batch.

    Where a processor or the engine refuses the batch, its samples are asked one by one, and those that are refused
    alone come back as Broken.
    """
    try:
        inputs = inputs_of(loaded, batch)
        by_method = [_replies(loaded, inputs, batch, method, max_new_tokens) for method in methods]
        return [list(replies) for replies in zip(*by_method, strict=True)]
    except (FoveateError, ValueError, IndexError) as error:
        if len(batch) > 1:
            return [answer(loaded, [opened], methods, max_new_tokens)[0] for opened in batch]
        return [Broken(batch[0].sample.id, str(error))]


def _replies(
    loaded: Loaded, inputs: dict[str, Any], batch: Sequence[Opened], method: Method, max_new_tokens: int
) -> list[Reply]:
    start = time.perf_counter()
    with torch.no_grad(), compress(loaded.model, method, synchronize=True) as run:
        out = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    took = (time.perf_counter() - start) * 1e3
    texts = loaded.processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    lengths = inputs["attention_mask"].sum(1).tolist()
    n, trace = len(batch), run.trace
    return [
        Reply(
            answer=text.strip(),
            visual_tokens=trace.plans[i].visual_tokens,
            tokens_per_layer=(layers := tokens_per_layer(trace, i)),
            lm_flops=_flops(trace, i, layers, lengths[i]),
            prefill_ms=trace.prefill_ms / n,
            vision_ms=trace.vision_ms / n,
            total_ms=took / n,
            batch=batch[0].sample.id,
        )
        for i, text in enumerate(texts)
    ]


def tokens_per_layer(trace: Trace, prompt: int) -> tuple[int, ...]:
    """Visual tokens that each LLM layer ran on for one prompt of a batch in which all have images."""
    plan = trace.plans[prompt]
    removed = [0] * plan.shape.layers
    for cut in trace.cuts:
        if cut.sample == prompt:
            removed[cut.step.at.layer] += cut.reduction.source.shape[1] - cut.reduction.kept.shape[1]
    left, layers = plan.visual_tokens, []
    for gone in removed:
        left -= gone
        layers.append(left)
    return tuple(layers)


def _flops(trace: Trace, prompt: int, layers: tuple[int, ...], length: int) -> int:
    plan = trace.plans[prompt]
    return replace(plan, per_layer=layers).lm_flops(length - plan.visual_tokens)
