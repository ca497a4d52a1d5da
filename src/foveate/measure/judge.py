"""What a judge is: it says of each sample how well the model, compressed or not, did on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..errors import InvalidValue
from ..loading import Loaded
from ..scenes import is_correct
from .samples import Opened, answers_of

Numbers = dict[str, Any]


@runtime_checkable
class Judge(Protocol):
    """Numbers of samples. It knows no method: it asks the model as it finds it, with one prefill a call.

    name   the kind of its rows: "accuracy", "fidelity"
    score  the number in them that contenders are ranked by, higher is better
    """

    @property
    def name(self) -> str: ...
    @property
    def score(self) -> str: ...

    def begin(self, loaded: Loaded, batch: Sequence[Opened]) -> None:
        """Look at a batch on the uncompressed model, before any contender.

        Raises InvalidValue for a batch it cannot judge.
        """

    def __call__(self, loaded: Loaded, batch: Sequence[Opened]) -> list[Numbers]:
        """The numbers of each sample of a batch: fractions, counts, texts, None where there is none."""


@dataclass(frozen=True)
class ExactAnswer:
    """Accuracy: the greedy answer is one of the right ones, apart from case, outer spaces and a full stop."""

    max_new_tokens: int = 8
    name = "accuracy"
    score = "correct"

    def begin(self, loaded: Loaded, batch: Sequence[Opened]) -> None:
        if any(not opened.sample.answers for opened in batch):
            raise InvalidValue("the right answer is not known; judge by fidelity")

    def __call__(self, loaded: Loaded, batch: Sequence[Opened]) -> list[Numbers]:
        found = []
        for opened, answer in zip(batch, answers_of(loaded, batch, self.max_new_tokens), strict=True):
            right = opened.sample.answers
            found.append(
                {
                    "correct": any(is_correct(answer, truth) for truth in right), "answer": answer, "truth": right[0],
                    "question": opened.sample.prompt,
                }
            )  # fmt: skip
        return found
