"""Every operation of a prefill and of the decode steps after it, with exact counts.

FLOPs of matmuls and attention are exact: torch's FlopCounterMode counts the same on the model itself (`flops_full`).
Those of elementwise operations follow `WORK`; they matter to no total, but their traffic does to time. Attention counts
as one fused operation: it reads q, k and v and writes its output; what a kernel that is not fused adds is in `scores`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .arch import Arch, Attention, Block, FeedForward, LanguageModel, Linear, Merger, Norm, Tower
from .ledger import Ledger
from .ops import Op, Part
from .tokens import Grid, Prompt

#: FLOPs of elementwise operations for each element they write
WORK = {"rms": 4, "layer": 7, "act": 4, "gated_act": 5, "add": 1, "rotate": 3, "scaled_add": 2}


def operations(arch: Arch, prompt: Prompt, ledger: Ledger, *, new_tokens: int = 1, logits: int = 1) -> tuple[Op, ...]:
    """All operations of one batch, in the order of execution.

    new_tokens  tokens generated: the prefill gives the first, each later one is a decode step
    logits      positions of each prompt whose logits the prefill computes; `generate` wants 1
    """
    return (
        *vision(arch, prompt, ledger.tower),
        *projector(arch, prompt),
        *ledger.method_ops,
        *prefill(arch, prompt, ledger, logits),
        *decode(arch, ledger, prompt.batch, new_tokens - 1),
    )


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def vision(arch: Arch, prompt: Prompt, left: Sequence[int] = ()) -> Iterator[Op]:
    """The tower over all images and frames of the batch; nothing if there are none.

    left  patches of each picture that each block runs on, where some leave inside the tower
    """
    tower, b = arch.tower, prompt.batch
    pictures = [g for v in prompt.visuals for g in v.patches]
    if not pictures:
        return
    patches = b * sum(g.n for g in pictures)
    frames = b * sum(g.t for g in pictures)
    rows = patches + frames * tower.cls
    out = _Maker("vision", None)
    yield out.linear(tower.embed, patches)
    if tower.positions:
        reads = patches * tower.hidden * (1 + tower.taps)
        yield out.elementwise("positions", patches * tower.hidden * max(1, 2 * tower.taps), reads, rows * tower.hidden)
    if any(block.attention.window for block in tower.blocks):
        yield out.move("window_order", rows * tower.hidden)
    if tower.norms:
        yield out.norm("tower_norm", tower.blocks[0].norm, rows, tower.hidden)
    for i, block in enumerate(tower.blocks):
        if left:
            rows = frames * (left[i] + tower.cls)
            pairs = frames * (left[i] + tower.cls) ** 2
        else:
            pairs = b * sum(tower_pairs(g, block.attention.window, tower.cls) for g in pictures)
        yield from _block(_Maker("vision", i), block, rows, _Seen(pairs, pairs, 0, rows), tower.rotary)
    if tower.pool is not None:
        yield from _pool(out, tower, tower.pool, frames, patches)


def projector(arch: Arch, prompt: Prompt) -> Iterator[Op]:
    """The projector on every merged square of patches, DeepStack's own ones included."""
    square = arch.projector.merge**2
    rows = prompt.batch * sum(g.n for v in prompt.visuals for g in v.patches) // square
    if rows:
        for merger in arch.projector.mergers:
            yield from _merge(merger, rows, square * arch.tower.hidden)
        pooled = prompt.batch * prompt.visual
        if pooled != rows:  # tiles stitched, unpadded or pooled
            width = arch.language.hidden
            yield Op("pack", "projector", None, "gather", 0, 0, reads=rows * width, writes=pooled * width)


def prefill(arch: Arch, prompt: Prompt, ledger: Ledger, logits: int = 1) -> Iterator[Op]:
    """The language model over the tokens that each layer has, then its head over the last `logits` of each prompt."""
    lm, b = arch.language, prompt.batch
    out = _Maker("prefill", None)
    yield _embed(out, lm, b * ledger.tokens[0])
    yield _angles(out, lm, b * ledger.tokens[0])
    before = ledger.tokens[0]
    for i, (block, n) in enumerate(zip(lm.blocks, ledger.tokens, strict=True)):
        layer = _Maker("prefill", i)
        if n < before:
            yield layer.move("cut", b * n * lm.hidden)
        before = n
        window = block.attention.window or n
        seen = _Seen(b * causal_pairs(n, n, window), b * n * n, 0, b * n)
        yield from _block(layer, block, b * n, seen, rotary=True, cached=True)
        if i < arch.projector.deepstack and ledger.visual[i]:
            added = b * ledger.visual[i] * lm.hidden
            yield layer.elementwise("deepstack", added, 2 * added, added)
    yield from _head(lm, b * before, b * min(logits, before))


def decode(arch: Arch, ledger: Ledger, batch: int, steps: int) -> Iterator[Op]:
    """`steps` steps of one token for each prompt, each over all tokens in the cache of its layer.

    Every operation appears once with `repeat`; attention with its mean context, which makes sums exact. A sliding
    window that fills up on the way makes two operations of it.
    """
    if steps < 1:
        return
    lm = arch.language
    out = _Maker("decode", None, steps)
    yield _embed(out, lm, batch)
    yield _angles(out, lm, batch)
    for i, (block, n) in enumerate(zip(lm.blocks, ledger.kept, strict=True)):
        for op in _block(_Maker("decode", i, steps), block, batch, _Seen(0, 0, 0, 0), rotary=True, cached=True):
            if op.kind == "attention":
                yield from _decode_attention(block.attention, i, n, batch, steps)
            else:
                yield op
    yield from (replace(op, part="decode", repeat=steps) for op in _head(lm, batch, batch))


# ── pairs of tokens ──────────────────────────────────────────────────────────────────────────────────────────────


def causal_pairs(queries: int, keys: int, window: int | None = None) -> int:
    """(query, key) pairs of the last `queries` of `keys` tokens, each seeing itself, what is before it, in a window."""
    window = keys if window is None else min(window, keys)
    before = keys - queries
    growing = max(0, min(queries, window - before))  # queries whose past still fits into the window
    return growing * before + growing * (growing + 1) // 2 + (queries - growing) * window


def tower_pairs(grid: Grid, window: int | None, cls: bool) -> int:
    """Pairs in a tower: all of each frame, or of each window, those at the borders being smaller."""
    if window is None:
        return grid.t * (grid.h * grid.w + cls) ** 2
    return grid.t * _squares(grid.h, window) * _squares(grid.w, window)


def _squares(extent: int, window: int) -> int:
    whole, rest = divmod(extent, window)
    return whole * window**2 + rest**2


# ── one operation ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Seen:
    """What the queries of a layer attend to: pairs that a kernel needs, all pairs, tokens in the cache, new ones."""

    pairs: int
    full: int
    cached: int
    new: int


@dataclass(frozen=True)
class _Maker:
    """Makes operations of one place in the model."""

    part: Part
    layer: int | None
    repeat: int = 1

    def linear(self, linear: Linear, rows: int, weights: int | None = None) -> Op:
        flops = 2 * rows * linear.inputs * linear.outputs
        return Op(
            linear.name, self.part, self.layer, "matmul", flops, flops,
            weights=linear.weights if weights is None else weights,
            reads=rows * linear.inputs, writes=rows * linear.outputs, rows=rows, repeat=self.repeat,
        )  # fmt: skip

    def elementwise(self, name: str, flops: int, reads: int, writes: int, weights: int = 0) -> Op:
        return Op(
            name, self.part, self.layer, "elementwise", flops, flops,
            weights=weights, reads=reads, writes=writes, repeat=self.repeat,
        )  # fmt: skip

    def move(self, name: str, elements: int) -> Op:
        return Op(name, self.part, self.layer, "gather", 0, 0, reads=elements, writes=elements, repeat=self.repeat)

    def norm(self, name: str, norm: Norm, rows: int, width: int) -> Op:
        n = rows * width
        return self.elementwise(name, WORK[norm] * n, n, n, weights=width if norm == "rms" else 2 * width)

    def attention(self, attention: Attention, rows: int, seen: _Seen) -> Op:
        q = attention.heads * attention.head_dim
        return Op(
            "attention", self.part, self.layer, "attention", 4 * q * seen.pairs, 4 * q * seen.full,
            reads=rows * q + 2 * seen.new * attention.kv_heads * attention.head_dim, writes=rows * q,
            kv_reads=2 * seen.cached * attention.kv_heads * attention.head_dim,
            rows=rows, repeat=self.repeat, scores=attention.heads * seen.full,
        )  # fmt: skip


def _block(out: _Maker, block: Block, rows: int, seen: _Seen, rotary: bool, cached: bool = False) -> Iterator[Op]:
    """Norm, attention, add, norm, feed-forward, add."""
    a, n, first, second = block.attention, rows * block.hidden, "norm1", "norm2"
    if cached:
        first, second = "input_norm", "post_norm"
    *inwards, outwards = a.linears
    kv = rows * a.kv_heads * a.head_dim
    qk = rows * a.heads * a.head_dim + kv
    add = WORK["scaled_add" if block.scaled else "add"] * n
    yield out.norm(first, block.norm, rows, block.hidden)
    yield from (out.linear(x, rows) for x in inwards)
    if a.qk_norm:
        for name, elements in (("q_norm", qk - kv), ("k_norm", kv)):
            yield out.elementwise(name, WORK["rms"] * elements, elements, elements, weights=a.qk_norm)
    if rotary:
        yield out.elementwise("rope", WORK["rotate"] * qk, qk, qk)
    if cached:
        yield replace(out.move("kv_cache", 2 * kv), writes=0, kv_writes=2 * kv)
    yield out.attention(a, rows, seen)
    yield out.linear(outwards, rows)
    yield out.elementwise("residual", add, 2 * n, n, weights=block.hidden * block.scaled)
    yield out.norm(second, block.norm, rows, block.hidden)
    yield from _feed_forward(out, block.feed_forward, rows)
    yield out.elementwise("residual", add, 2 * n, n, weights=block.hidden * block.scaled)


def _feed_forward(out: _Maker, ff: FeedForward, rows: int) -> Iterator[Op]:
    *up, down = ff.linears
    if not ff.experts:
        yield from (out.linear(x, rows) for x in up)
        yield _act(out, "act", rows * ff.width, ff.gated)
        yield out.linear(down, rows)
        return
    assert ff.router is not None, "a mixture has a router"
    yield out.linear(ff.router, rows)
    sent = rows * ff.active
    yield out.move("dispatch", sent * down.outputs)
    for linear in up:
        yield out.linear(linear, sent, weights=touched(ff, rows) * linear.weights)
    yield _act(out, "act", sent * ff.width, ff.gated)
    yield out.linear(down, sent, weights=touched(ff, rows) * down.weights)
    yield out.elementwise("combine", 2 * sent * down.outputs, sent * down.outputs, rows * down.outputs)
    if ff.shared:
        *shared_up, shared_down, gate = ff.shared
        yield from (out.linear(x, rows) for x in shared_up)
        yield _act(out, "shared_act", rows * shared_down.inputs, True)
        yield from (out.linear(x, rows) for x in (shared_down, gate))
        n = rows * shared_down.outputs
        yield out.elementwise("shared_add", 2 * n, 2 * n, n)


def touched(ff: FeedForward, rows: int) -> int:
    """Distinct experts that `rows` tokens are expected to choose, were the choices independent and even."""
    return round(ff.experts * (1 - (1 - ff.active / ff.experts) ** rows))


def _act(out: _Maker, name: str, elements: int, gated: bool) -> Op:
    return out.elementwise(name, WORK["gated_act" if gated else "act"] * elements, elements * (1 + gated), elements)


def _merge(merger: Merger, rows: int, width: int) -> Iterator[Op]:
    out = _Maker("projector", merger.after)
    if merger.norm_width:
        yield out.norm("norm", merger.norm, rows * width // merger.norm_width, merger.norm_width)
    first, second = merger.linears
    yield out.linear(first, rows)
    yield _act(out, "act", rows * first.outputs, False)
    yield out.linear(second, rows)


def _pool(out: _Maker, tower: Tower, pool: Block, frames: int, patches: int) -> Iterator[Op]:
    """SigLIP's pooling head: one probe for each picture attends to all its patches."""
    q, k, v, o = pool.attention.linears
    pairs = patches
    yield out.linear(q, frames)
    yield from (out.linear(x, patches) for x in (k, v))
    yield out.attention(pool.attention, frames, _Seen(pairs, pairs, 0, patches))
    yield out.linear(o, frames)
    yield out.norm("pool_norm", pool.norm, frames, tower.hidden)
    yield from _feed_forward(out, pool.feed_forward, frames)


def _embed(out: _Maker, lm: LanguageModel, rows: int) -> Op:
    n = rows * lm.hidden
    return Op("embed", out.part, None, "gather", 0, 0, weights=n, writes=n, repeat=out.repeat)


def _angles(out: _Maker, lm: LanguageModel, rows: int) -> Op:
    """Position times frequency for each pair of features of a head, once for all layers; transformers uses a matmul."""
    n = rows * lm.blocks[0].attention.head_dim
    return out.elementwise("rope_angles", lm.axes * n, rows * lm.axes, 2 * n)


def _head(lm: LanguageModel, rows: int, wanted: int) -> Iterator[Op]:
    out = _Maker("head", None)
    yield out.norm("final_norm", lm.blocks[0].norm, rows, lm.hidden)
    yield out.linear(lm.head, wanted)


def _decode_attention(attention: Attention, layer: int, kept: int, batch: int, steps: int) -> Iterator[Op]:
    """Attention of a layer in all decode steps, its cache holding `kept` tokens: growing contexts, then a window."""
    window = attention.window or kept + steps
    growing = max(0, min(steps, window - kept))
    for repeat, contexts in ((growing, kept + (growing + 1) / 2), (steps - growing, window)):
        if repeat:
            yield _context(attention, layer, batch, repeat, contexts)


def _context(attention: Attention, layer: int, batch: int, repeat: int, mean: float) -> Op:
    one = _Maker("decode", layer, repeat).attention(attention, batch, _Seen(0, 0, 0, 0))
    twice = round(2 * mean) * batch  # a mean of consecutive numbers is a multiple of one half
    q, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    flops = 2 * q * twice
    return replace(one, flops=flops, flops_full=flops, kv_reads=kv * twice, scores=attention.heads * twice // 2)
