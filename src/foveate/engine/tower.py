"""Cuts inside the vision tower: later blocks run on fewer patches, and the projector gets its whole grid back.

Rows are images, the CLS token stays first. What leaves the tower is put back to full length by copying each survivor to
the patches it stands for, so that the model's own code finds what it expects; at the language model's door the copies
are dropped for good.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedInput
from ..ops.rows import rows_of
from ..pieces.base import Reading
from ..pieces.seen import Attention
from ..plan import Block, Step
from ..tokens import Grid, Reduction, VisualTokens
from .carry import decide
from .tap import watch

if TYPE_CHECKING:
    from .run import Run


@dataclass(eq=False)
class Passage:
    """A batch of images on its way through the tower: what is left of the grid, and the readings of the last block."""

    grid: Grid
    left: Reduction | None = None
    signals: dict[Reading, Tensor] = field(default_factory=dict)
    took_ms: float = 0.0


class Tower:
    """The cuts of a method inside the vision tower of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = {s.at.block: s for s in run.steps if isinstance(s.at, Block)}
        self.first = 1 if run.shape.has_cls else 0

    def attach(self, undo: ExitStack) -> None:
        """Hook the blocks from the first cut to the one that makes the features, and the projector."""
        if not self.steps:
            return
        family, core = self.run.family, self.run.core
        for b in range(min(self.steps), self.run.shape.vision_features + 1):
            block = family.vision_block(core, b)
            undo.callback(block.register_forward_pre_hook(self._before(b), with_kwargs=True).remove)
        for b, step in self.steps.items():
            readings = [r for r in step.reads if r.sees == "attention"]
            if readings:
                watch(family.vision_attention(core, b - 1), self._reader(readings), undo)
        undo.callback(core.vision_tower.register_forward_pre_hook(self._begin).remove)
        undo.callback(core.multi_modal_projector.register_forward_pre_hook(self._whole_again).remove)

    def taken(self) -> tuple[Reduction | None, float]:
        """What the last passage left of each image, and what deciding it took; asked once, after the projector."""
        passage, self.run.thread.passage = self.run.thread.passage, None
        return (None, 0.0) if passage is None else (passage.left, passage.took_ms)

    def _begin(self, module: nn.Module, args: tuple) -> None:
        side = self.run.core.config.vision_config.image_size // self.run.core.config.vision_config.patch_size
        self.run.thread.passage = Passage(Grid(1, side, side))

    def _reader(self, readings: list[Reading]) -> Any:
        def read(q: Tensor, k: Tensor, scale: float, kwargs: dict[str, Any]) -> None:
            passage, seen = self.run.thread.passage, Attention(q, k, scale)
            if passage is not None:
                passage.signals |= {r: r(seen)[:, self.first :] for r in readings}

        return read

    def _before(self, b: int) -> Any:
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
            hidden = args[0] if args else kwargs["hidden_states"]
            passage = self.run.thread.passage
            if passage is None:
                return None
            if b in self.steps:
                hidden = self._cut(self.steps[b], passage, hidden)
            if passage.left is None:
                return None
            kwargs = {**kwargs, **self._bias(passage.left, hidden)}
            if args:
                rest = args[1:] if "attention_mask" not in kwargs else args[2:]
                return (hidden, *rest), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return before

    def _cut(self, step: Step, passage: Passage, hidden: Tensor) -> Tensor:
        stopwatch, grid = self.run.stopwatch, passage.grid
        start = stopwatch.now(hidden.device)
        left = hidden.shape[1] - self.first
        count = step.count(step.highest, (grid,), left)
        if count == left:
            return hidden
        if left > grid.n:
            raise UnsupportedInput(f"the vision tower got {left} patches, and its images have {grid.n}")
        patches, rows = hidden[:, self.first :], hidden.shape[0]
        now = passage.left or _nothing_yet(rows, left, hidden.device)

        def signal(reading: Reading) -> Tensor:
            if reading.sees == "output":
                return reading(hidden)[:, self.first :]
            return passage.signals[reading]

        tokens = VisualTokens(patches, grid, now.kept, now.size, signal, grids=(grid,))
        reduction = decide(step, tokens, count)
        passage.left = now.then(reduction).without_features()
        passage.signals.clear()
        hidden = torch.cat([hidden[:, : self.first], reduction.gather(patches).to(hidden.dtype)], dim=1)
        passage.took_ms += stopwatch.since(start, hidden.device)
        return hidden

    def _bias(self, left: Reduction, hidden: Tensor) -> dict[str, Tensor]:
        """The method's bias as a mask for the block's attention."""
        bias = self.run.bias
        if bias is None or bias.needs_decay:
            return {}
        size = torch.nn.functional.pad(left.size, (self.first, 0), value=1.0)
        return {"attention_mask": bias(size[:, None].float(), None)[:, None].to(hidden.dtype)}

    def _whole_again(self, module: nn.Module, args: tuple) -> tuple | None:
        passage = self.run.thread.passage
        if passage is None or passage.left is None:
            return None
        features, source = args[0], passage.left.source.clamp(min=0)
        return (rows_of(features, source), *args[1:])


def _nothing_yet(rows: int, n: int, device: torch.device) -> Reduction:
    every = torch.arange(n, device=device).expand(rows, n)
    return Reduction(every, every, torch.ones(rows, n, device=device))
