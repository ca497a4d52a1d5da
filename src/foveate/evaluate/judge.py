"""Right answers as a judge for `foveate.measure`: the metrics of this package in place of an exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValue
from ..loading import Loaded
from ..measure.samples import Opened, answers_of
from .accuracy import MAX_NEW_TOKENS, RIGHT
from .dataset import Sample
from .metrics import score


@dataclass(frozen=True)
class Graded:
    """The greedy answer's score under a metric; None is multiple_choice where there are choices, exact elsewhere.

    For samples of `foveate.evaluate.dataset`, which know their choices.
    """

    metric: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    name = "accuracy"
    score = "score"

    def begin(self, loaded: Loaded, batch: Sequence[Opened]) -> None:
        """Raises InvalidValue for a sample that the metric does not fit."""
        for opened in batch:
            self._graded(opened, "")

    def __call__(self, loaded: Loaded, batch: Sequence[Opened]) -> list[dict[str, Any]]:
        answers = answers_of(loaded, batch, self.max_new_tokens)
        return [self._graded(opened, answer) for opened, answer in zip(batch, answers, strict=True)]

    def _graded(self, opened: Opened, answer: str) -> dict[str, Any]:
        sample = opened.sample
        if not isinstance(sample, Sample):
            raise InvalidValue(
                "this judge needs the samples of a dataset, with their choices; load one by load_dataset"
            )
        how_right = score(self.metric, answer, sample.answers, sample.choices)
        return {
            "score": how_right,
            "correct": how_right >= RIGHT,
            "answer": answer,
            "truth": sample.answers[0],
            "question": sample.prompt,
        }
