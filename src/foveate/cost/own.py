"""A method's own operations: readings, scores, selection, merging, as the engine executes them.

The FLOPs are what the pieces state; the traffic is an estimate: a reading of attention passes its logits four times
(they are written, exponentiated, divided and summed), everything else reads its tokens once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..pieces import Budget, Extent, Piece, Reading
from ..plan import Block, Layer, Step, Vision
from ..tokens import Grid
from . import tokens
from .arch import Arch
from .ops import Op
from .tokens import Prompt


@dataclass(frozen=True)
class Unit:
    """Tokens that compete in one step: their grids, how many are left, how many stay."""

    grids: tuple[Grid, ...]
    left: int
    count: int

    @property
    def frames(self) -> int:
        """Frames of its grid; several grids are one line of tokens."""
        return self.grids[0].t if len(self.grids) == 1 else 1


@dataclass(frozen=True)
class Cut:
    """A step resolved for one prompt. Steps that remove nothing read and do nothing inside the language model."""

    step: Step
    units: tuple[Unit, ...]

    @property
    def left(self) -> int:
        """Visual tokens after it."""
        return sum(u.count for u in self.units)

    @property
    def removes(self) -> bool:
        """Whether the engine carries it out at all."""
        return isinstance(self.step.keep, Budget) or any(u.count < u.left for u in self.units)


def resolve(steps: Iterable[Step], prompt: Prompt, *, lowest: bool = False) -> tuple[Cut, ...]:
    """Each step with the tokens that compete in it and what is left of them, by budgets' high or low ends."""
    grids = [Grid(*g) for g in prompt.grids]
    images = [i for i, visual in enumerate(prompt.visuals) for _ in visual.grids]
    left = [g.n for g in grids]
    cuts = []
    for step in steps:
        together: dict[int, list[int]] = {}
        for i, image in enumerate(images):
            together.setdefault({"prompt": 0, "views": image}.get(step.per, i), []).append(i)
        keep = step.keep.low if lowest and isinstance(step.keep, Budget) else step.highest
        units = []
        for members in together.values():
            mine, now = tuple(grids[i] for i in members), sum(left[i] for i in members)
            units.append(Unit(mine, now, step.count(keep, mine, now)))
        left = [0] * len(grids)
        for members, unit in zip(together.values(), units, strict=True):
            left[members[0]] = unit.count
        cuts.append(Cut(step, tuple(units)))
    return tuple(cuts)


@dataclass(frozen=True)
class Own:
    """The operations of a method on one batch. `layers` are the visual tokens that each LLM layer runs on."""

    arch: Arch
    prompt: Prompt
    cuts: tuple[Cut, ...]
    layers: tuple[int, ...]
    needs_decay: bool = False

    def operations(self) -> Iterator[Op]:
        """All of them: what is read in the tower and in layers that ran, then cut by cut."""
        yield from self._vision_readings()
        yield from self._raters()
        yield from self._previous_readings()
        left = self.prompt.grids[0].n
        for cut in self.cuts:
            if isinstance(cut.step.at, Block):
                yield from self._tower_cut(cut, cut.step.at.block, left)
                left = cut.units[0].count
            elif cut.removes:
                yield from self._cut(cut)
        if self.needs_decay:
            yield from self._decays()

    # ── readings ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _vision_readings(self) -> Iterator[Op]:
        """Readings in the tower, each once for a block: of every picture, or of every window."""
        tower, b = self.arch.tower, self.prompt.batch
        pictures = [g for v in self.prompt.visuals for g in v.patches]
        for block, reading in dict.fromkeys(self._vision_keys()):
            attention = tower.blocks[block].attention
            for columns, times in _segments(pictures, attention.window if reading.sees == "attention" else None):
                of = self._tower_extent(block, columns)
                yield from _ops(f"vision block {block}", reading, None, of, b * times)

    def _vision_keys(self) -> Iterator[tuple[int, Reading]]:
        tower = self.arch.tower
        everywhere = (i for i, b in enumerate(tower.blocks) if b.attention.window is None and i <= tower.features)
        default = max(everywhere, default=tower.features)
        for cut in self.cuts:
            for reading in cut.step.reads:
                if reading.place == "vision" and not isinstance(cut.step.at, Block):
                    site = cut.step.at.block if isinstance(cut.step.at, Vision) else None
                    block = site if reading.block is None else reading.block
                    yield (default if block is None else block % len(tower.blocks)), reading

    def _raters(self) -> Iterator[Op]:
        inside = (r for c in self.cuts if isinstance(c.step.at, Layer) for r in c.step.reads)
        chosen = dict.fromkeys(r.raters for r in inside if r.raters is not None)
        of = Extent(n=self.layers[0], text=self.prompt.behind, width=self.arch.language.hidden)
        for raters in chosen:
            yield from _ops("layer 0", raters, 0, of, self.prompt.batch)

    def _previous_readings(self) -> Iterator[Op]:
        """Readings of layers that ran before a cut, each once for a layer however many cuts want it."""
        wanted: dict[tuple[int, Reading], None] = {}
        for cut in self.cuts:
            for reading in cut.step.reads if cut.removes else ():
                if reading.place == "previous":
                    at = cut.step.at.layer
                    for layer in range(at - 1 if reading.since is None else reading.since, at):
                        wanted[layer, reading] = None
        for layer, reading in sorted(wanted, key=lambda w: w[0]):
            of = self._layer_extent(layer, self.layers[layer])
            yield from _ops(f"layer {layer}", reading, layer, of, self.prompt.batch)

    def _look(self, cut: Cut, before: int) -> Iterator[Op]:
        """Readings at the cut itself: of the layer behind it on its own input, whose q and k are made for it."""
        layer, b = cut.step.at.layer, self.prompt.batch
        of = self._layer_extent(layer, before)
        for reading in cut.step.reads:
            if reading.place == "here":
                yield from _ops(str(cut.step.at), reading, layer, of, b)
        ahead = [r for r in cut.step.reads if r.place == "next"]
        for rotary in (True, False):
            readings = [r for r in ahead if r.rotary == rotary]
            if readings:
                rows = of.columns if any(r.all_rows for r in readings) else of.text
                yield self._look_ahead(str(cut.step.at), layer, of, rows)
            for reading in readings:
                yield from _ops(str(cut.step.at), reading, layer, of, b)

    def _look_ahead(self, site: str, layer: int, of: Extent, rows: int) -> Op:
        q, k, *_ = self.arch.language.blocks[layer].attention.linears
        b = self.prompt.batch
        flops = 2 * b * (rows * q.inputs * q.outputs + of.columns * k.inputs * k.outputs)
        return Op(
            f"{site}: q and k ahead", "method", layer, "matmul", flops, flops, weights=q.weights + k.weights,
            reads=b * (rows + of.columns) * q.inputs, writes=b * (rows * q.outputs + of.columns * k.outputs),
            rows=b * of.columns,
        )  # fmt: skip

    # ── cuts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _cut(self, cut: Cut) -> Iterator[Op]:
        step, b = cut.step, self.prompt.batch
        layer = step.at.layer if isinstance(step.at, Layer) else None
        if layer is not None:
            yield from self._look(cut, sum(u.left for u in cut.units))
        for unit in cut.units:
            parts = unit.frames if step.per == "frame" else 1
            if isinstance(step.keep, Budget):
                yield from _ops(str(step.at), step.keep, layer, self._extent(step.keep, layer, unit, 1), b)
            if 0 < unit.count < unit.left:
                for piece in _words(step):
                    yield from _ops(str(step.at), piece, layer, self._extent(piece, layer, unit, parts), b * parts)
        if layer is None:
            kept = b * (cut.left + self.prompt.others) * self.arch.language.hidden
            yield Op(f"{step.at}: cut", "method", None, "gather", 0, 0, reads=kept, writes=kept)

    def _tower_cut(self, cut: Cut, block: int, left: int) -> Iterator[Op]:
        """A cut before a vision block, of every picture by itself, read where the block before it ran."""
        step, tower, count = cut.step, self.arch.tower, cut.units[0].count
        pictures = self.prompt.batch * len(cut.units)
        of = self._tower_extent(block - 1, left)
        for reading in step.reads:
            if reading.sees == "attention" or count < left:
                yield from _ops(str(step.at), reading, None, of, pictures)
        if count < left:
            for piece in _words(step):
                yield from _ops(str(step.at), piece, None, replace(of, n=left, count=count, columns=0), pictures)
            kept = pictures * (count + tower.cls) * tower.hidden
            yield Op(f"{step.at}: cut", "method", None, "gather", 0, 0, reads=kept, writes=kept)

    def _decays(self) -> Iterator[Op]:
        """The products behind a bias that follows the distance, made anew after every cut: all pairs of columns."""
        b, e = self.prompt.batch, self.arch.language.blocks[0].attention.head_dim
        for layer in sorted({c.step.at.layer for c in self.cuts if c.removes}):
            keys = self.layers[layer] + self.prompt.others
            flops = 4 * b * keys**2 * e
            yield Op(
                f"layer {layer}: decay", "method", layer, "matmul", flops, flops,
                reads=4 * b * keys * e, writes=b * keys**2,
            )  # fmt: skip

    # ── extents ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _extent(self, piece: Piece, layer: int | None, unit: Unit, parts: int) -> Extent:
        """Of a word of a step on one of `parts` equal parts of a unit."""
        reads: tuple[Reading, ...] = getattr(piece, "reads", ())
        attention = self.arch.language.blocks[layer or 0].attention
        if reads and reads[0].place == "vision":
            attention = self.arch.tower.blocks[0].attention
        return Extent(
            n=unit.left // parts, count=unit.count // parts, frames=unit.frames // parts,
            width=self.arch.language.hidden, heads=attention.heads, kv_heads=attention.kv_heads,
            head_dim=attention.head_dim, text=self.prompt.behind, tower=self.arch.tower.hidden,
        )  # fmt: skip

    def _tower_extent(self, block: int, patches: int) -> Extent:
        """Of a reading of a vision block over so many patches of one picture or window."""
        tower, attention = self.arch.tower, self.arch.tower.blocks[block].attention
        return Extent(
            width=tower.hidden, heads=attention.heads, kv_heads=attention.kv_heads, head_dim=attention.head_dim,
            columns=patches + tower.cls, tower=tower.hidden,
        )  # fmt: skip

    def _layer_extent(self, layer: int, visual: int) -> Extent:
        attention = self.arch.language.blocks[layer].attention
        return Extent(
            n=visual, width=self.arch.language.hidden, heads=attention.heads, kv_heads=attention.kv_heads,
            head_dim=attention.head_dim, columns=visual + self.prompt.others, text=self.prompt.behind,
        )  # fmt: skip


def _words(step: Step) -> Iterator[Piece]:
    """What decides in a step, in the order in which it runs."""
    yield from (piece for piece in (step.score, step.select, step.merge) if piece is not None)


def _ops(site: str, piece: Piece, layer: int | None, of: Extent, times: int) -> Iterator[Op]:
    """What a piece states for one row, `times` rows at once: its matmuls, and the rest where there is any."""
    name, flops, rounds = f"{site}: {type(piece).__name__}", times * piece.flops(of), piece.rounds(of)
    if isinstance(piece, Reading) and piece.sees == "attention":
        logits = flops // (2 * of.head_dim)
        reads, writes = times * of.columns * (of.heads + of.kv_heads) * of.head_dim + 2 * logits, 2 * logits
    else:
        length = max(of.n, of.columns)
        reads, writes = times * length * of.width, times * length
    if flops:
        yield Op(name, "method", layer, "matmul", flops, flops, reads=reads, writes=writes, rows=times * of.n)
    if rounds > 1 or not flops:
        other = times * piece.other_flops(of) // rounds
        once = times * of.n if rounds > 1 else reads
        yield Op(name, "method", layer, "elementwise", other, other, reads=once, writes=times * of.n, repeat=rounds)


def _segments(pictures: Iterable[tokens.Grid], window: int | None) -> Iterator[tuple[int, int]]:
    """(patches, how many such) of the pieces that a tower's attention runs on: frames, or windows."""
    found: dict[int, int] = {}
    for grid in pictures:
        heights, widths = ((_parts(x, window or x)) for x in (grid.h, grid.w))
        for h, many in heights:
            for w, more in widths:
                found[h * w] = found.get(h * w, 0) + grid.t * many * more
    yield from found.items()


def _parts(extent: int, window: int) -> list[tuple[int, int]]:
    whole, rest = divmod(extent, window)
    return [(size, many) for size, many in ((window, whole), (rest, 1)) if size and many]
