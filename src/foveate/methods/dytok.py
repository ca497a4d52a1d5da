"""DyToK (Li et al., NeurIPS 2025, arXiv 2512.06866): more tokens for the frames that the question attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..method import Card, Method
from ..pieces import Attended, LastQuery, PerFrame, Read, Score
from ..pieces.base import Budget
from ..plan import Layer, ModelShape, Positions, Step


@dataclass(frozen=True)
class DyToK(Method):
    """One cut: budgets of frames by the attention of the last prompt token, and in each frame the best by `importance`.

    depth       where the cut is, as a fraction of the layers; frames are weighed over the last third of those before it
    importance  what ranks tokens within a frame; the default is FastV's
    """

    keep: float | Budget = 0.25
    depth: float = 1 / 3
    importance: Score = field(default_factory=Read)
    positions: Positions | None = None

    card = Card(
        "dytok",
        "DyToK: dynamic token compression by keyframe priors of the LLM, in one pass",
        paper="arXiv 2512.06866",
        venue="NeurIPS 2025",
        signals=("attention of the last prompt token",),
        modality=("video",),
        checked=("budgets against the attention of eager transformers",),
        deviations=(
            "one pass: frames are weighed by the layers before the cut, and tokens leave at it; the paper runs a small "
            "second model on all tokens, reads its last third of layers, and cuts before the language model",
            "any score may rank within a frame; hosts that choose sets (VisionZip's merged tokens) are not wrapped",
            "what a full frame cannot take goes to the others in proportion, not token by token",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.depth < 1:
            raise InvalidValue(f"depth is a fraction of the layers and must lie in (0, 1), got {self.depth}")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        cut = min(model.layers - 1, max(1, round(self.depth * model.layers)))
        weights = Attended(LastQuery(since=cut - (cut + 2) // 3, among="visual"))
        yield Step(Layer(cut), self.keep, self.importance, PerFrame(weights))
