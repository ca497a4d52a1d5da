"""Fewer visual keys while decoding: a prompt's later layers lie on a shelf, and their caches hold what is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..errors import InvalidValue, UnsupportedInput
from ..method import Method
from ..ops.attention import rows_attention
from ..pieces.base import Budget
from ..pieces.recall import Recall
from ..plan import ModelShape, Step
from .cut import close_gaps
from .trace import Recalled

if TYPE_CHECKING:
    from .prompt import Prompt


def recall_of(method: Method, steps: tuple[Step, ...], shape: ModelShape) -> Recall | None:
    """The method's recall, or None where it has none or nothing is cut.

    Raises InvalidValue for a cut where keys are chosen: those layers must hold what the layer that is read holds.
    """
    recall: Any = method.chosen("decode")
    cuts = [s for s in steps if isinstance(s.keep, Budget) or s.highest < 1]
    if recall is None or recall.keep == 1 or not cuts:
        return None
    first = recall.layer(shape.layers)
    late = [str(s.at) for s in cuts if s.at.layer >= first]
    if late:
        raise InvalidValue(
            f"{recall} chooses among the keys of layer {first - 1} for all later ones, and there are cuts at "
            f"{', '.join(late)}; cut earlier, give a greater depth, or set decode=None"
        )
    assert isinstance(recall, Recall)
    return recall


def shelved(prompt: Prompt, filled: Any) -> Shelf | None:
    """What a prefill that has just filled a cache puts on the shelf."""
    recall = prompt.run.recall
    return None if recall is None else Shelf(recall, prompt, filled)


class Shelf:
    """Keys and values of a prompt in layers from `layer` on, and which visual ones their caches hold.

    The caches hold the text, the visual columns in use, in the order of the prompt, and what followed it. Copies of a
    prompt share one choice, by their mean attention, so that beams may be reordered. The shelf keeps everything:
    attention runs over fewer keys, and memory is not saved.

    full     the columns of the prompt in these layers
    visual   which of them hold visual tokens, [S, C]
    shown    which of those are in use, [S, C]
    last     attention that the last token paid to them, [S, C]; None where the next one chooses without comparing
    moved    whether the token under way has changed the choice
    """

    def __init__(self, recall: Recall, prompt: Prompt, filled: Any) -> None:
        if getattr(filled, "offloading", False):
            raise UnsupportedInput("keys cannot be chosen while decoding in an offloaded cache; set decode=None")
        self.recall, self.prompt, self.trace = recall, prompt, prompt.run.trace
        self.layer = recall.layer(prompt.run.shape.layers)
        self.full = prompt.columns.without_last(prompt.answer) if prompt.answer else prompt.columns
        width = self.full.index.shape[1]
        self.stored = [(x.keys[:, :, :width], x.values[:, :, :width]) for x in filled.layers[self.layer :]]
        counts = [sum(u.count for u in prompt.units if u.sample == i) for i in range(len(prompt.tails))]
        self.counts = [(n, recall.count(n)) for n in counts]
        self.visual: Bool[Tensor, "S C"] = prompt.signals.visual(width)
        self.shown = self.visual
        self.last: Float[Tensor, "S C"] | None = None
        self.moved = False

    def read(
        self,
        q: Float[Tensor, "R H 1 d"],
        k: Float[Tensor, "R Hk K d"],
        scale: float,
        valid: Bool[Tensor, "R K"] | None,
    ) -> None:
        """Choose, where the attention of the one new token is not what that of the last one was."""
        only = torch.zeros(len(q), 1, dtype=torch.long, device=q.device)
        paid = rows_attention(q, k, only, scale, valid=valid, causal=False)[:, : self.visual.shape[1]]
        paid = paid.unflatten(0, (-1, self.prompt.copies)).mean(1) * self.visual
        moved = self.visual.any(1)
        if self.last is not None:
            moved = moved & (cosine_similarity(paid, self.last) < self.recall.similarity)
        self.last = paid
        self.moved = bool(moved.any())
        if self.moved:
            self.shown = torch.where(moved[:, None], self._most(paid), self.shown)

    def serve(self, cache: Any, new: int) -> None:
        """Let the caches hold what the layers are to see of the prompt: for several new tokens at once all of it."""
        if new == 1:
            if self.moved:
                self._hold(cache, [n - shown for n, shown in self.counts])
        elif self.last is not None:
            self.shown, self.last = self.visual, None
            self._hold(cache, [0] * len(self.counts))

    def _most(self, paid: Float[Tensor, "S C"]) -> Bool[Tensor, "S C"]:
        """The visual columns that are paid most, of each prompt as many as it may show; ties go to the earlier."""
        order = torch.where(self.visual, paid, -1).sort(dim=1, descending=True, stable=True).indices
        most = torch.tensor([[shown if n else 0] for n, shown in self.counts], device=paid.device)
        first = torch.arange(paid.shape[1], device=paid.device) < most
        return torch.zeros_like(self.visual).scatter(1, order, first)

    def _hold(self, cache: Any, hidden: list[int]) -> None:
        """Gather from the shelf what is shown, and put behind it what followed the prompt."""
        copies, layers = self.prompt.copies, self.prompt.layers
        shown = (self.shown | ~self.visual).repeat_interleave(copies, dim=0)
        lengths = [n - hidden[row // copies] for row, n in enumerate(self.full.lengths)]
        source, _, columns = close_gaps(self.full, shown & self.full.real, lengths)
        before = layers[self.layer].index.shape[1]
        self.trace.recalled.append(Recalled(cache.layers[self.layer].keys.shape[2] - before, self.layer, shown))
        for layer, (keys, values) in zip(cache.layers[self.layer :], self.stored, strict=True):
            layer.keys = _joined(keys, source, layer.keys[:, :, before:])
            layer.values = _joined(values, source, layer.values[:, :, before:])
        layers[self.layer :] = [columns] * len(self.stored)


def _joined(x: Tensor, source: Int[Tensor, "R M"], behind: Tensor) -> Tensor:
    index = source[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return torch.cat([x.gather(2, index), behind], dim=2)
