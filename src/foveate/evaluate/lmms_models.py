"""lmms-eval's own chat models with foveate.compress open around generation. Imported by lmms-eval, and only there.

Each batch's answers are on the disk, in the folder `answers` of `--model_args`, before the next begins: a run that was
killed and is started again asks only what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.models.chat import llava_hf, qwen2_5_vl
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.models.simple import qwen2_5_vl as simple_qwen2_5_vl
from transformers import AutoProcessor

from ..engine.run import compress
from ..errors import UnsupportedInput
from ..measure.study import Row
from .finished import COUNTED, Finished, as_text
from .lmms import Arguments


class Compressed:
    """In front of one of lmms-eval's chat models: takes its own arguments, compresses, counts, remembers."""

    is_simple = False
    # the base's
    model: Any
    batch_size: int

    def __init__(self, **given: Any) -> None:
        self.arguments = Arguments.of(given)
        super().__init__(**self.arguments.theirs)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; each batch under compression, one `generate` a batch."""
        rank = int(os.environ.get("RANK", 0))
        finished = Finished(self.arguments.answers, rank, self.arguments.fingerprint)
        keys = [finished.key(r.task_name, r.doc_id, r.idx, r.args[0], r.args[2]) for r in requests]
        rows = [finished.get(key, r.args[2]) for key, r in zip(keys, requests, strict=True)]
        todo = [i for i, row in enumerate(rows) if row is None]
        for _, group in groupby(todo, key=lambda i: (requests[i].task_name, as_text(requests[i].args[2]))):
            same = list(group)
            for start in range(0, len(same), self.batch_size):
                batch = same[start : start + self.batch_size]
                replies = self._generate([requests[i] for i in batch])
                finished.add([{"key": keys[i], **reply} for i, reply in zip(batch, replies, strict=True)])
                for i, reply in zip(batch, replies, strict=True):
                    rows[i] = reply
        _report([row for row in rows if row])
        return [
            GenerationResult(row["answer"], TokenCounts(row["input_tokens"], row["output_tokens"]))
            for row in rows
            if row
        ]

    def _generate(self, requests: list[Instance]) -> list[Row]:
        """One batch, asked by lmms-eval's own code; what it took is shared out evenly."""
        with compress(self.model, self.arguments.method, synchronize=True) as run:
            results = super().generate_until(requests)  # type: ignore[misc]
        trace, n = run.trace, len(requests)
        replies = []
        for request, result in zip(requests, results, strict=True):
            if result.token_counts is None:  # its LLaVA class logs an error and goes on with an empty answer
                raise RuntimeError(
                    f"{request.task_name}, document {request.doc_id} was not answered; see the log above"
                )
            replies.append(
                {
                    "task": request.task_name,
                    "doc": request.doc_id,
                    "answer": result.text,
                    "input_tokens": (trace.visual_tokens + trace.text_tokens) // n,
                    "output_tokens": result.token_counts.output_tokens,
                    "visual_tokens": trace.visual_tokens / n,
                    "t_eq": trace.t_eq / n,
                    "prefill_ms": trace.prefill_ms / n,
                    "vision_ms": trace.vision_ms / n,
                }
            )
        return replies

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Refused: it needs the logits of every position of the prompt, and compressed prompts have fewer."""
        raise UnsupportedInput("loglikelihood tasks cannot be compressed; choose the task's generate_until variant")

    def generate_until_multi_round(self, requests: list[Instance]) -> Any:
        """Refused: lmms-eval asks its rounds inside, where they cannot be counted."""
        raise UnsupportedInput("multi-round tasks are not supported; choose a generate_until task")


def _report(rows: list[Row]) -> None:
    if rows:
        means = {name: sum(row[name] for row in rows) / len(rows) for name in COUNTED}
        log_metrics(total_elapsed_time=0.0, total_gen_tokens=0, avg_speed=0.0, additional_metrics=means)


class _Qwen25VL(qwen2_5_vl.Qwen2_5_VL):  # type: ignore[misc]
    """lmms-eval's Qwen2.5-VL, also in several CPU processes.

    `as_shipped=True` loads dtype and pixel limits as the checkpoint has them, in place of lmms-eval's: bfloat16, and at
    least 256 tokens an image.
    """

    def __init__(self, as_shipped: bool = False, device: str = "cuda", **given: Any) -> None:
        with _processes_on_cpu(device):
            super().__init__(device=device, **given)
        if as_shipped:
            options = {"dtype": "auto", "attn_implementation": given.get("attn_implementation")}
            options["device_map"] = self.device_map
            self._model: Any = type(self.model).from_pretrained(given["pretrained"], **options).eval()
            self.processor: Any = AutoProcessor.from_pretrained(given["pretrained"])
            size = self.processor.image_processor.size
            self.min_pixels, self.max_pixels = size["shortest_edge"], size["longest_edge"]


class CompressedQwen25VL(Compressed, _Qwen25VL):
    """lmms-eval's Qwen2.5-VL, compressed."""


class CompressedLlavaHf(Compressed, llava_hf.LlavaHf):  # type: ignore[misc]
    """lmms-eval's LLaVA of Hugging Face, compressed: LLaVA-1.5 and LLaVA-OneVision."""


@contextmanager
def _processes_on_cpu(device: str) -> Iterator[None]:
    """Let several CPU processes load the model: lmms-eval's class takes more than one process to mean CUDA.

    While it is constructed, its module's Accelerator says that there is one process; the evaluator, which divides the
    questions and gathers the results, asks another one and sees all of them.
    """
    real = simple_qwen2_5_vl.Accelerator
    if device != "cpu" or Accelerator().num_processes == 1:
        yield
        return

    class Alone(real):  # type: ignore[misc, valid-type]
        num_processes = 1

    simple_qwen2_5_vl.Accelerator = Alone
    try:
        yield
    finally:
        simple_qwen2_5_vl.Accelerator = real
