"""Every count of a model as constants times features: what the interactive page computes with.

FLOPs, weights, reads and writes of an operation are sums of a few features (tokens, pairs of tokens, ...) with constant
coefficients. They are read off from `count` itself: it is asked about as many prompts as there are features and two
more, and the linear equations are solved exactly; the two more check the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

from .arch import Arch, Block
from .count import causal_pairs, decode, prefill, projector, touched, tower_pairs, vision
from .ledger import Ledger
from .ops import Op
from .tokens import Grid, Prompt, Visual

Features: TypeAlias = tuple[int, ...]
#: what was asked, and the operations that came
Sample: TypeAlias = tuple[Features, list[Op]]
FIELDS = ("flops", "flops_full", "weights", "reads", "writes", "kv_reads", "kv_writes", "rows", "scores")


@dataclass(frozen=True)
class Template:
    """An operation as coefficients: for each of FIELDS one number for each feature. `repeat`: equal ones."""

    name: str
    part: str
    kind: str
    coefficients: tuple[tuple[Fraction, ...], ...]
    repeat: int = 1

    def compact(self) -> list[Any]:
        """[name, part, kind, repeat, {field: {feature: coefficient}}], by index and without zeros."""
        rows = {
            i: {j: int(c) if c.denominator == 1 else float(c) for j, c in enumerate(row) if c}
            for i, row in enumerate(self.coefficients)
        }
        return [self.name, self.part, self.kind, self.repeat, {i: row for i, row in rows.items() if row}]


# ── features ─────────────────────────────────────────────────────────────────────────────────────────────────────


def windows(arch: Arch) -> list[int | None]:
    """The kinds of attention in the tower: the sides of windows, None for attention over the whole picture."""
    return sorted({block.attention.window for block in arch.tower.blocks}, key=lambda w: w or 0)


def tower_features(arch: Arch, prompt: Prompt) -> Features:
    """Of tower and projector: one, patches, frames, visual tokens, and pairs of each kind of attention."""
    pictures = [g for v in prompt.visuals for g in v.patches]
    b = prompt.batch
    pairs = (b * sum(tower_pairs(g, window, arch.tower.cls) for g in pictures) for window in windows(arch))
    return (1, b * sum(g.n for g in pictures), b * sum(g.t for g in pictures), b * prompt.visual, *pairs)


def layer_features(block: Block, n: int, visual: int, batch: int) -> Features:
    """Of a layer in prefill: one, tokens, all pairs, those within its window, visual tokens, experts chosen."""
    window, feed = block.attention.window, block.feed_forward
    within = batch * causal_pairs(n, n, window) if window else 0
    return (1, batch * n, batch * n * n, within, batch * visual, touched(feed, batch * n) if feed.experts else 0)


def step_features(block: Block, context: int, batch: int) -> Features:
    """Of a layer in one decode step: one, prompts, tokens in the cache, experts chosen."""
    feed = block.feed_forward
    seen = min(context, block.attention.window or context)
    return (1, batch, batch * seen, touched(feed, batch) if feed.experts else 0)


def outer_features(first: int, last: int, batch: int) -> Features:
    """Of what surrounds the layers: one, prompts, tokens of the first layer, of the last."""
    return (1, batch, batch * first, batch * last)


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────────


def tower_templates(arch: Arch) -> list[Template]:
    """Operations of tower and projector, equal ones together; of `tower_features`."""
    samples = []
    for prompt in _prompts(5 + len(windows(arch))):
        samples.append((tower_features(arch, prompt), [*vision(arch, prompt), *projector(arch, prompt)]))
    return _together(_solved(samples))


def layer_templates(arch: Arch) -> list[tuple[list[int], list[Template]]]:
    """Layers of the decoder and their operations in prefill, of `layer_features`; equal layers together."""
    runs = [(prompt, _even(arch, prompt)) for prompt in _prompts(8)]
    counted = [(prompt, ledger, list(prefill(arch, prompt, ledger))) for prompt, ledger in runs]
    kinds: dict[tuple[Block, bool], list[int]] = {}
    for layer, block in enumerate(arch.language.blocks):
        kinds.setdefault((block, layer < arch.projector.deepstack), []).append(layer)
    found = []
    for (block, _), layers in kinds.items():
        samples = [
            (layer_features(block, ledger.tokens[0], ledger.visual[0], prompt.batch), _of(ops, layers[0]))
            for prompt, ledger, ops in counted
        ]
        found.append((layers, _together(_solved(samples))))
    return found


def step_templates(arch: Arch) -> list[tuple[list[int], list[Template]]]:
    """Layers of the decoder and their operations in one decode step, of `step_features`; equal layers together."""
    runs = [(prompt.batch, _even(arch, prompt)) for prompt in _prompts(6)]
    counted = [(batch, ledger, list(decode(arch, ledger, batch, 1))) for batch, ledger in runs]
    kinds: dict[Block, list[int]] = {}
    for layer, block in enumerate(arch.language.blocks):
        kinds.setdefault(block, []).append(layer)
    found = []
    for block, layers in kinds.items():
        samples = [
            (step_features(block, ledger.kept[0] + 1, batch), _of(ops, layers[0])) for batch, ledger, ops in counted
        ]
        found.append((layers, _together(_solved(samples))))
    return found


def outer_templates(arch: Arch) -> tuple[list[Template], list[Template]]:
    """Embedding, rotation angles, final norm and head: of the prefill, and of one decode step; of `outer_features`."""
    in_prefill, in_step = [], []
    for prompt in _prompts(6):
        even = _even(arch, prompt)
        ledger = Ledger((*even.visual[:-1], even.visual[-1] // 2), even.text)
        features = outer_features(ledger.tokens[0], ledger.tokens[-1], prompt.batch)
        in_prefill.append((features, _of(prefill(arch, prompt, ledger), None)))
        in_step.append((features, _of(decode(arch, ledger, prompt.batch, 1), None)))
    return _solved(in_prefill), _solved(in_step)


def _of(ops: Iterable[Op], layer: int | None) -> list[Op]:
    return [op for op in ops if op.layer == layer]


def _prompts(count: int) -> Iterator[Prompt]:
    """Prompts that have as little to do with each other as numbers drawn once and for all."""
    draw = random.Random(7)
    for i in range(count):
        grids = [Grid(draw.randint(1, 3), 2 * draw.randint(2, 40), 2 * draw.randint(2, 40)) for _ in range(3)]
        # few tokens in turn with many: not all experts are chosen, and windows overflow
        tokens = Grid(1, 1, draw.randint(2, 9) if i % 2 else draw.randint(100, 90_000))
        yield Prompt((Visual("image", tuple(grids), (tokens,)),), draw.randint(1, 9), draw.randint(1, 4))


def _even(arch: Arch, prompt: Prompt) -> Ledger:
    return Ledger((prompt.visual,) * len(arch.language.blocks), prompt.text)


# ── linear equations ─────────────────────────────────────────────────────────────────────────────────────────────


def _solved(samples: Sequence[Sample]) -> list[Template]:
    """The coefficients of each operation; the samples beyond the number of features check them."""
    features = [[Fraction(x) for x in row] for row, _ in samples]
    used = [j for j in range(len(features[0])) if any(row[j] for row in features)]
    matrix = [[row[j] for j in used] for row in features]
    inverse = _inverse(matrix[: len(used)])

    @cache
    def row(values: tuple[int, ...]) -> tuple[Fraction, ...] | None:
        """The coefficients of one field, None where it is no sum of the features."""
        solution = [sum(a * y for a, y in zip(line, values, strict=False)) for line in inverse]
        told = (sum(a * x for a, x in zip(line, solution, strict=True)) for line in matrix)
        if not all(a == b for a, b in zip(told, values, strict=True)):
            return None
        places = dict(zip(used, solution, strict=True))
        return tuple(Fraction(places.get(j, 0)) for j in range(len(features[0])))

    found = []
    for ops in zip(*(ops for _, ops in samples), strict=True):
        rows = [row(tuple(getattr(op, field) for op in ops)) for field in FIELDS]
        assert None not in rows, f"{ops[0].name} is no sum of the features"
        found.append(Template(ops[0].name, ops[0].part, ops[0].kind, tuple(rows)))  # type: ignore[arg-type]
    return found


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(size):
            if k != i and rows[k][i]:
                by = rows[k][i]
                rows[k] = [x - by * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]


def _together(templates: list[Template]) -> list[Template]:
    """Equal ones as one that repeats."""
    found: dict[Template, int] = {}
    for template in templates:
        found[template] = found.get(template, 0) + 1
    return [Template(t.name, t.part, t.kind, t.coefficients, n) for t, n in found.items()]
