"""Plans: what will happen, known on the host before any tensor exists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from .errors import InvalidValue
from .ops.schedule import Schedule
from .pieces.base import Adaptive, Merge, Reading, Score, Select
from .pieces.merges import Drop
from .pieces.selects import TopK
from .tokens import Grid

if TYPE_CHECKING:
    from .method import Method


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs to know of a model, from its config alone.

    layers, hidden, heads, kv_heads, head_dim, ffn and vocab are the language model's; vision_blocks and has_cls the
    vision tower's; mrope tells that positions have three axes, so that survivors cannot be renumbered.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    vision_blocks: int
    has_cls: bool = False
    mrope: bool = False


@dataclass(frozen=True)
class Vision:
    """Decided by the vision tower's attention; `block` counts from 0, -1 is the last whose attention is global.

    The tokens leave where the tower hands them over, after the projector: projectors that pool or merge patches need
    the whole grid.
    """

    block: int | None = None
    layer = 0

    def __str__(self) -> str:
        return "vision" if self.block is None else f"vision block {self.block}"


@dataclass(frozen=True)
class Projector:
    """After the projector, before LLM layer 0."""

    layer = 0

    def __str__(self) -> str:
        return "projector"


@dataclass(frozen=True)
class Layer:
    """Before LLM layer `layer`: that layer is the first to run on the survivors."""

    layer: int

    def __str__(self) -> str:
        return f"layer {self.layer}"


Site = Vision | Projector | Layer
Positions = Literal["keep", "compact"]


@dataclass(frozen=True)
class Step:
    """One cut: **at** a site, **keep** so many tokens, ranked by a **score**, chosen by a **select**or, the rest folded
    in by a **merge**r.

    keep      fraction of the uncompressed count, at every site; 0 withdraws all visual tokens (LLM layers only)
    per       the tokens that compete with each other: those of one image, of one frame, or of the whole prompt
    rounding  how the fraction becomes a count: to the nearest (half up), or down as AIM does
    positions "keep": survivors keep the position ids they had; "compact": they are renumbered from 0 without gaps
    """

    at: Site
    keep: float | Adaptive
    score: Score | None = None
    select: Select = field(default_factory=TopK)
    merge: Merge = field(default_factory=Drop)
    per: Literal["image", "frame", "prompt"] = "image"
    rounding: Literal["nearest", "down"] = "nearest"
    positions: Positions = "keep"

    def __post_init__(self) -> None:
        if isinstance(self.keep, Adaptive):
            if self.per == "frame":
                raise InvalidValue("an adaptive keep decides per image or per prompt, not per frame")
        elif math.isnan(self.keep) or not 0 <= self.keep <= 1 or (self.keep == 0 and not isinstance(self.at, Layer)):
            raise InvalidValue(f"keep must lie in (0, 1], got {self.keep:g} at {self.at}")
        if self.select.needs_score and self.score is None:
            raise InvalidValue(f"{type(self.select).__name__} needs a score at {self.at}; give the step one")

    @property
    def reads(self) -> tuple[Reading, ...]:
        """The readings that the score and the merger ask for."""
        return (self.score.reads if self.score else ()) + self.merge.reads

    @property
    def highest(self) -> float:
        """The largest fraction this step may keep."""
        return self.keep.high if isinstance(self.keep, Adaptive) else self.keep

    def scaled(self, by: float) -> Step:
        """The same step when another one before it has already kept only `by` of the tokens."""
        if isinstance(self.keep, Adaptive):
            return replace(self, keep=replace(self.keep, low=self.keep.low * by, high=self.keep.high * by))
        return replace(self, keep=self.keep * by)

    def words(self) -> tuple[str, str, str, str, str]:
        """The sentence: at, keep, score, select, merge."""
        keep = f"{self.keep:.4g}" if isinstance(self.keep, float | int) else str(self.keep)
        score = "-" if self.score is None else str(self.score)
        return str(self.at), keep, score, str(self.select), str(self.merge)

    def count(self, keep: float, grids: Sequence[Grid], left: int) -> int:
        """How many of the `left` tokens of these grids stay; the one place where a fraction becomes a number."""
        if self.per == "frame":
            frames, frame = grids[0].t, grids[0].frame
            return frames * self._count(keep, frame, frame.n, left // frames)
        total = sum(g.n for g in grids)
        grid = grids[0] if len(grids) == 1 else Grid(1, 1, total)
        return self._count(keep, grid, total, left)

    def _count(self, keep: float, grid: Grid, total: int, left: int) -> int:
        if keep == 0:
            return 0
        # 1e-9: 0.29 * 100 must count as 29, not as 28.999999999999996
        exact = keep * total + 1e-9
        wanted = math.floor(exact if self.rounding == "down" else exact + 0.5)
        wanted = min(left, max(1, wanted))
        return wanted if wanted == left else self.select.possible(wanted, grid, left)


@dataclass(frozen=True)
class Plan:
    """The steps resolved against a model's shape and the grids of one prompt.

    after       visual tokens left after each step (of an adaptive step: the most)
    per_layer   visual tokens each LLM layer runs on
    """

    steps: tuple[Step, ...]
    shape: ModelShape
    grids: tuple[Grid, ...]
    after: tuple[int, ...]
    per_layer: tuple[int, ...]

    @property
    def visual_tokens(self) -> int:
        """Visual tokens without compression."""
        return sum(g.n for g in self.grids)

    @property
    def t_eq(self) -> float:
        """Visual tokens per LLM layer, averaged over layers: the number that makes methods comparable."""
        return sum(self.per_layer) / len(self.per_layer)

    def lm_flops(self, text: int) -> int:
        """Matmul and attention FLOPs of the decoder layers in prefill, batch 1, full (not causal) attention.

        2 per multiply-add; the vision tower, the LM head and the method's own operations are not counted.
        """
        s = self.shape
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        linear = 2 * (2 * s.hidden * q + 2 * s.hidden * kv + 3 * s.hidden * s.ffn)
        return sum((v + text) * linear + 4 * (v + text) ** 2 * q for v in self.per_layer)

    def __str__(self) -> str:
        lines = [f"{self.visual_tokens} visual tokens ({', '.join(map(str, self.grids))})"]
        for step, n in zip(self.steps, self.after, strict=True):
            at, keep, score, select, merge = step.words()
            lines.append(f"at {at}: keep {n} ({keep}) by {score}, {select}, {merge}")
        return "\n".join([*lines, f"T_eq {self.t_eq:.1f}"])


def along(
    schedule: Schedule,
    model: ModelShape,
    score: Score,
    *,
    of: float = 1.0,
    rounding: Literal["nearest", "down"] = "nearest",
    positions: Positions = "keep",
) -> Iterator[Step]:
    """A step before each LLM layer where the schedule falls; `of` is the fraction that entered the language model."""
    now = 1.0
    for layer, kept in enumerate(schedule.per_layer(model.layers)):
        if kept < now:
            now = kept
            yield Step(Layer(layer), of * kept, score, per="prompt", rounding=rounding, positions=positions)


def check_steps(steps: Iterable[Step], shape: ModelShape) -> tuple[Step, ...]:
    """The steps, if a model of this shape can run them.

    Raises InvalidValue when they go backwards, grow, name a layer or block that does not exist, cut one layer twice,
    or read a signal that is not there.
    """
    steps = tuple(steps)
    for a, b in pairwise(steps):
        if b.at.layer < a.at.layer or b.highest > a.highest:
            raise InvalidValue(
                f"steps must go forward and shrink: {a.at} keeps {a.highest:g}, then {b.at} keeps {b.highest:g}"
            )
        if isinstance(b.at, Layer) and isinstance(a.at, Layer) and a.at.layer == b.at.layer:
            raise InvalidValue(f"two steps cut before layer {b.at.layer}; make them one")
        if a.per == "prompt" and b.per != "prompt":
            raise InvalidValue(f"after a cut over the whole prompt ({a.at}) the next must be one too ({b.at})")
        if b.per == "frame":
            raise InvalidValue(f"a per-frame step must be the first, but {a.at} comes before {b.at}")
    for step in steps:
        _check_site(step, shape)
    return steps


def _check_site(step: Step, shape: ModelShape) -> None:
    at = step.at
    if isinstance(at, Layer) and not 0 <= at.layer < shape.layers:
        raise InvalidValue(
            f"cannot cut before layer {at.layer}: {shape.family} has layers 0 to {shape.layers - 1}; "
            "choose one of those"
        )
    if isinstance(at, Vision) and at.block is not None and not -shape.vision_blocks <= at.block < shape.vision_blocks:
        raise InvalidValue(f"no vision block {at.block}: {shape.family} has blocks 0 to {shape.vision_blocks - 1}")
    for reading in step.reads:
        name = type(reading).__name__
        if reading.place == "vision" and not isinstance(at, Vision):
            raise InvalidValue(f"{name} reads the vision tower, but the step is at {at}; put it at Vision()")
        if reading.place != "vision" and not isinstance(at, Layer):
            raise InvalidValue(f"{name} reads LLM attention, but the step is at {at}; put it at a Layer")
        if reading.place == "previous" and at.layer == 0:
            raise InvalidValue(f"{name} reads the layer before the cut, and there is none before layer 0; cut later")
        if reading.needs_cls and not shape.has_cls:
            raise InvalidValue(f"{name} needs a CLS token, and the vision tower of {shape.family} has none")


def make_plan(steps: Iterable[Step], shape: ModelShape, grid: Grid | Sequence[Grid]) -> Plan:
    """Resolve steps for one prompt with these grids; counts are exact, and of adaptive steps the upper bound."""
    steps = check_steps(steps, shape)
    grids = (grid,) if isinstance(grid, Grid) else tuple(grid)
    left = [g.n for g in grids]
    after, at_layer = [], {}
    for step in steps:
        left = counts_after(step, grids, left)
        after.append(sum(left))
        at_layer[step.at.layer] = sum(left)
    per_layer, now = [], sum(g.n for g in grids)
    for layer in range(shape.layers):
        now = at_layer.get(layer, now)
        per_layer.append(now)
    return Plan(steps, shape, grids, tuple(after), tuple(per_layer))


def counts_after(step: Step, grids: Sequence[Grid], left: Sequence[int]) -> list[int]:
    """Tokens left of each grid after a step; a step over the whole prompt gives one joint number first, then zeros."""
    if step.per == "prompt":
        return [step.count(step.highest, grids, sum(left))] + [0] * (len(grids) - 1)
    return [step.count(step.highest, (g,), n) for g, n in zip(grids, left, strict=True)]


def solve(method: Method, shape: ModelShape, grid: Grid | Sequence[Grid], t_eq: float) -> Method:
    """The method with the `keep` that brings the average tokens per layer nearest to `t_eq`, found by bisection.

    Raises InvalidValue when no keep in (0, 1] reaches it: the message says what range can be reached.
    """

    def reached(keep: float) -> float:
        return make_plan(method.replaced(keep=keep).steps(shape), shape, grid).t_eq

    grids = (grid,) if isinstance(grid, Grid) else tuple(grid)
    low, high = 1 / (2 * sum(g.n for g in grids)), 1.0
    least, most = reached(low), reached(high)
    if not least <= t_eq <= most:
        raise InvalidValue(f"t_eq={t_eq:g} is out of reach: this method and model allow {least:.1f} to {most:.1f}")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < t_eq else (low, middle)
    near = min((low, high), key=lambda keep: abs(reached(keep) - t_eq))
    return method.replaced(keep=near)
