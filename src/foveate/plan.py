"""Plans: what will happen, known on the host before any tensor exists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from .errors import InvalidValue
from .ops.schedule import Schedule
from .pieces.base import Budget, Merge, Reading, Score, Select
from .pieces.merges import Drop
from .pieces.selects import TopK
from .tokens import Grid

if TYPE_CHECKING:
    from .method import Method


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs to know of a model, from its config alone.

    layers, hidden, heads, kv_heads, head_dim, ffn and vocab are the language model's; mrope tells that positions have
    three axes, so that survivors cannot be renumbered. Of the vision tower: vision_blocks, the block whose output makes
    the features, the blocks whose attention is global (the others see a window), whether it has a CLS token, and
    whether every patch becomes one token of the language model, so that patches may leave inside the tower.
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
    vision_features: int
    vision_global: tuple[int, ...]
    has_cls: bool = False
    patch_tokens: bool = False
    mrope: bool = False

    def vision_block(self, depth: float) -> int:
        """The block with global attention nearest to this fraction of the depth of the blocks that make the features.

        0 is the first, 1 the last one; of two equally near the earlier.
        """
        behind = [b for b in self.vision_global if b <= self.vision_features] or [self.vision_features]
        return min(behind, key=lambda b: (abs(b - depth * self.vision_features), b))


@dataclass(frozen=True)
class Block:
    """Before vision block `block`, which is the first to run on the survivors; the CLS token always stays.

    Only where every patch becomes one token of the language model: projectors that pool or merge patches need the whole
    grid. A reading of the tower is then of the block that ran just before.
    """

    block: int
    layer = 0
    stage = "vision"

    def __str__(self) -> str:
        return f"vision block {self.block}"


@dataclass(frozen=True)
class Vision:
    """Decided by the vision tower's attention; `block` counts from 0, -1 is the last whose attention is global.

    The tokens leave where the tower hands them over, after the projector.
    """

    block: int | None = None
    layer = 0
    stage = "vision"

    def __str__(self) -> str:
        return "vision" if self.block is None else f"vision, by block {self.block}"


@dataclass(frozen=True)
class Projector:
    """After the projector, before LLM layer 0."""

    layer = 0
    stage = "projector"

    def __str__(self) -> str:
        return "projector"


@dataclass(frozen=True)
class Layer:
    """Before LLM layer `layer`: that layer is the first to run on the survivors."""

    layer: int
    stage = "llm"

    def __str__(self) -> str:
        return f"layer {self.layer}"


Site = Block | Vision | Projector | Layer
#: tokens that have competed together cannot be told apart again on the host
WIDER = {"frame": 0, "image": 0, "views": 1, "prompt": 2}
Positions = Literal["keep", "compact"]


@dataclass(frozen=True)
class Step:
    """One cut: **at** a site, **keep** so many tokens, ranked by a **score**, chosen by a **select**or, the rest folded
    in by a **merge**r.

    keep      fraction of the uncompressed count, at every site; 0 withdraws all visual tokens (LLM layers only)
    per       the tokens that compete with each other: those of one frame, of one grid ("image"), of all grids of one
              image ("views": thumbnail and crops), or of the whole prompt
    rounding  how the fraction becomes a count: to the nearest (half up), or down as AIM does
    positions "keep": survivors keep the position ids they had; "compact": they are renumbered from 0 without gaps
    cache     which layers forget what is dropped: the "later" ones, or "all": after the prefill the caches of earlier
              layers are cut to the survivors too
    """

    at: Site
    keep: float | Budget
    score: Score | None = None
    select: Select = field(default_factory=TopK)
    merge: Merge = field(default_factory=Drop)
    per: Literal["frame", "image", "views", "prompt"] = "image"
    rounding: Literal["nearest", "down"] = "nearest"
    positions: Positions = "keep"
    cache: Literal["later", "all"] = "later"

    def __post_init__(self) -> None:
        if isinstance(self.keep, Budget):
            if self.per == "frame":
                raise InvalidValue("an adaptive keep decides per image or per prompt, not per frame")
        elif math.isnan(self.keep) or not 0 <= self.keep <= 1 or (self.keep == 0 and not isinstance(self.at, Layer)):
            raise InvalidValue(f"keep must lie in (0, 1], got {self.keep:g} at {self.at}")
        if self.select.needs_score and self.score is None:
            raise InvalidValue(f"{type(self.select).__name__} needs a score at {self.at}; give the step one")

    @property
    def reads(self) -> tuple[Reading, ...]:
        """The readings that its words ask for, each once."""
        words = (self.score, self.select, self.merge, self.keep)
        return tuple(dict.fromkeys(r for w in words if not isinstance(w, float | int | None) for r in w.reads))

    @property
    def needs_text(self) -> bool:
        """True when one of its words looks at the text behind the image."""
        words = (self.score, self.select, self.merge)
        return any(w.needs_text for w in words if w is not None)

    @property
    def highest(self) -> float:
        """The largest fraction this step may keep."""
        return self.keep.high if isinstance(self.keep, Budget) else self.keep

    @property
    def expected(self) -> float:
        """The fraction that plans count with."""
        return self.keep.expected if isinstance(self.keep, Budget) else self.keep

    def scaled(self, by: float) -> Step:
        """The same step when another one before it has already kept only `by` of the tokens."""
        if isinstance(self.keep, Budget):
            low, high = self.keep.low * by, self.keep.high * by
            return replace(self, keep=replace(self.keep, low=low, high=high))  # type: ignore[type-var]
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

    after       visual tokens left after each step (of an adaptive step: the most, or what its budget expects)
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
        if isinstance(b.at, Block) and not (isinstance(a.at, Block) and a.at.block < b.at.block):
            raise InvalidValue(
                f"cuts inside the vision tower come first and go forward, but {a.at} comes before {b.at}"
            )
        if b.per == "frame":
            raise InvalidValue(f"a per-frame step must be the first, but {a.at} comes before {b.at}")
        if WIDER[a.per] > WIDER[b.per]:
            raise InvalidValue(f"after a cut per {a.per} ({a.at}) the next cannot be per {b.per} ({b.at})")
    for step in steps:
        _check_site(step, shape)
    if any(isinstance(s.at, Block) for s in steps):
        _check_tower(steps, shape)
    return steps


def _check_tower(steps: tuple[Step, ...], shape: ModelShape) -> None:
    if not shape.patch_tokens:
        raise InvalidValue(
            "cuts inside the vision tower need a projector that makes one token of each patch, and that of "
            f"{shape.family} merges, pools or stitches them; cut after the projector instead"
        )
    for step in steps:
        if isinstance(step.at, Block):
            if not 0 < step.at.block <= shape.vision_features:
                raise InvalidValue(
                    f"cannot cut before {step.at}: {shape.family} uses blocks 0 to {shape.vision_features}"
                )
            if step.per != "image" or isinstance(step.keep, Budget) or step.needs_text:
                raise InvalidValue(f"a cut at {step.at} is per image, by a fixed keep, and knows no text")
        in_tower = [r for r in step.reads if r.place == "vision"]
        if in_tower and (not isinstance(step.at, Block) or any(r.block is not None for r in in_tower)):
            raise InvalidValue(
                f"{type(in_tower[0]).__name__} at {step.at}: once the tower is cut, a reading of it is of the block "
                "before a cut inside; leave its block out and put the step there"
            )


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
        _check_reading(reading, at, shape)


def _check_reading(reading: Reading, at: Site, shape: ModelShape) -> None:
    name, blocks = type(reading).__name__, shape.vision_blocks
    if reading.place == "vision":
        if reading.block is not None and not -blocks <= reading.block < blocks:
            raise InvalidValue(
                f"{name} reads vision block {reading.block}: {shape.family} has blocks 0 to {blocks - 1}"
            )
        if reading.needs_cls and not shape.has_cls:
            raise InvalidValue(f"{name} needs a CLS token, and the vision tower of {shape.family} has none")
        return
    if not isinstance(at, Layer):
        raise InvalidValue(f"{name} reads the language model, but the step is at {at}; put it at a Layer")
    if reading.place == "previous" and at.layer == 0:
        raise InvalidValue(f"{name} reads the layer before the cut, and there is none before layer 0; cut later")
    if reading.since is not None and not 0 <= reading.since < at.layer:
        raise InvalidValue(
            f"{name} sums from layer {reading.since} on, and the cut is before layer {at.layer}; cut later"
        )


def make_plan(
    steps: Iterable[Step], shape: ModelShape, grid: Grid | Sequence[Grid], images: Sequence[int] | None = None
) -> Plan:
    """Resolve steps for one prompt with these grids; counts are exact, of adaptive steps what their budgets expect.

    `images` says which image each grid is a view of; by default every grid is an image of its own.
    """
    steps = check_steps(steps, shape)
    grids = (grid,) if isinstance(grid, Grid) else tuple(grid)
    left = [g.n for g in grids]
    after, at_layer = [], {}
    for step in steps:
        left = counts_after(step, grids, left, images)
        after.append(sum(left))
        at_layer[step.at.layer] = sum(left)
    per_layer, now = [], sum(g.n for g in grids)
    for layer in range(shape.layers):
        now = at_layer.get(layer, now)
        per_layer.append(now)
    return Plan(steps, shape, grids, tuple(after), tuple(per_layer))


def counts_after(
    step: Step, grids: Sequence[Grid], left: Sequence[int], images: Sequence[int] | None = None
) -> list[int]:
    """Tokens left of each grid after a step; grids that compete share a number, at the first of them."""
    together: dict[int, list[int]] = {}
    for i in range(len(grids)):
        image = i if images is None or step.per != "views" else images[i]
        together.setdefault(0 if step.per == "prompt" else image, []).append(i)
    after = [0] * len(grids)
    for members in together.values():
        wanted = step.count(step.expected, [grids[i] for i in members], sum(left[i] for i in members))
        after[members[0]] = wanted
    return after


def solve(method: Method, shape: ModelShape, grid: Grid | Sequence[Grid], t_eq: float) -> Method:
    """The method with the `keep` that brings the average tokens per layer nearest to `t_eq`, found by bisection.

    Of a two-stage method it is the keep of the first stage. Raises InvalidValue when no keep in (0, 1] reaches it: the
    message says what range can be reached.
    """

    def reached(keep: float) -> float:
        return make_plan(method.with_keep(keep).steps(shape), shape, grid).t_eq

    grids = (grid,) if isinstance(grid, Grid) else tuple(grid)
    low, high = 1 / (2 * sum(g.n for g in grids)), 1.0
    least, most = reached(low), reached(high)
    if not least <= t_eq <= most:
        raise InvalidValue(f"t_eq={t_eq:g} is out of reach: this method and model allow {least:.1f} to {most:.1f}")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < t_eq else (low, middle)
    near = min((low, high), key=lambda keep: abs(reached(keep) - t_eq))
    return method.with_keep(near)
