"""What must be in memory at once: weights, the ragged cache, and the activations of the widest moment.

The terms for activations are live ranges of the transformers implementation, counted layer by layer: what is alive when
a block's feed-forward (or its eager attention) has made its last temporary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .arch import Arch, Block
from .ledger import Ledger
from .parallel import Parallel
from .precision import Precision
from .roofline import Kernel
from .tokens import Prompt

#: share of a device's memory that is given to a model; the rest is the driver's, the framework's and fragmentation's
USABLE = 0.9
#: score-sized temporaries of eager attention at its peak, in elements of so many bytes: the scores, and the softmax in
#: fp32, which needs a copy of narrower ones
EAGER_SCORES = {2: 5, 4: 2}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    weights_bytes     of all parts
    kv_bytes          keys and values of every layer, after the last new token
    vision_bytes      activations at the vision tower's peak
    prefill_bytes     activations at the widest layer of the language model in prefill
    logits_bytes      logits of the last position, and their copy in fp32
    device_bytes      what the device has
    """

    weights_bytes: int
    kv_bytes: int
    vision_bytes: int
    prefill_bytes: int
    logits_bytes: int
    device_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that is needed at once: the cache fills during prefill, the tower has finished before."""
        return self.weights_bytes + max(self.vision_bytes, self.kv_bytes + max(self.prefill_bytes, self.logits_bytes))

    @property
    def fits(self) -> bool:
        """Whether it goes into 90 % of the device."""
        return self.peak_bytes <= USABLE * self.device_bytes


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a model in this precision, on this many devices, with this attention."""

    arch: Arch
    precision: Precision
    parallel: Parallel
    attention: Kernel
    device_bytes: float

    def of(self, prompt: Prompt, ledger: Ledger, new_tokens: int = 1) -> Memory:
        """For a prompt whose layers run on the ledger's tokens, and so many new ones."""
        batch = prompt.batch
        return Memory(
            weights_bytes=self.weights(),
            kv_bytes=round(batch * self.kv(ledger, new_tokens)),
            vision_bytes=round(batch * self.vision(prompt)),
            prefill_bytes=round(batch * self.prefill(prompt, ledger)),
            logits_bytes=round(batch * self.arch.language.vocab * (self.precision.bytes + 4)),
            device_bytes=round(self.device_bytes),
        )

    def weights(self) -> int:
        """Bytes of all weights: blocks of the language model and its head shared, the rest on every device."""
        parts, wide, tp = self.arch.parameters(), self.precision.bytes, self.parallel.tp
        shared = parts["language"] * self.precision.weight_bytes + parts["head"] * wide
        return round(shared / tp + (parts["vision"] + parts["projector"] + parts["embed"]) * wide)

    def kv(self, ledger: Ledger, new_tokens: int = 1) -> float:
        """Bytes of the cache of one prompt: what each layer kept, and every new token but the last.

        A layer with a sliding window keeps no more than its window.
        """
        elements = 0
        for layer, (block, kept) in enumerate(zip(self.arch.language.blocks, ledger.kept, strict=True)):
            tokens = kept + new_tokens - 1
            window = block.attention.window
            elements += self.arch.language.kv_elements(layer) * (tokens if window is None else min(tokens, window))
        return elements * self.precision.kv_bytes * self.parallel.kv_share

    def prefill(self, prompt: Prompt, ledger: Ledger) -> float:
        """Bytes of activations of one prompt at the widest layer; the embeddings stay alive throughout."""
        blocks = self.arch.language.blocks
        layers = zip(blocks, ledger.tokens, strict=True)
        embeddings = (prompt.visual + prompt.others) * self.arch.language.hidden
        widest = max(self._block(block, n, n, self.parallel.tp, n) for block, n in layers)
        return (embeddings + widest) * self.precision.bytes

    def vision(self, prompt: Prompt) -> float:
        """Bytes of activations of the vision tower for all pictures of one prompt, which it sees together."""
        tower = self.arch.tower
        grids = [grid for visual in prompt.visuals for grid in visual.patches]
        if not grids:
            return 0.0
        total = sum(g.t * (g.h * g.w + tower.cls) for g in grids)
        widest = max(g.h * g.w + tower.cls for g in grids)
        together = widest if tower.rotary else total  # pictures of one size run in one call, others one by one
        blocks = [
            self._block(block, total, block.attention.window**2 if block.attention.window else widest, 1, together)
            for block in set(tower.blocks)
        ]
        return self.precision.bytes * (total * tower.hidden + max(blocks))

    def _block(self, block: Block, n: int, length: int, tp: int, together: int) -> float:
        """Elements alive in a block at its peak: n tokens in sequences of `length`, `together` of them in one call."""
        attention, hidden = block.attention, block.hidden
        queries = attention.heads * attention.head_dim / tp
        middle = block.feed_forward.width * max(1, block.feed_forward.active) / tp
        feed = n * (3 * hidden + (3 if block.feed_forward.gated else 2) * middle)
        copies = 2 if attention.kv_heads < attention.heads else 0
        if self.attention == "eager":
            scores = attention.heads / tp * together * length
            return max(
                feed, n * (2 * hidden + queries * (1 + copies)) + EAGER_SCORES[int(self.precision.bytes)] * scores
            )
        return max(feed, n * (2 * hidden + queries * (2 + copies)))


def most(fits: Callable[[int], bool], limit: int = 1 << 20) -> int:
    """The largest whole number up to `limit` for which `fits`, 0 if there is none; once untrue it must stay so."""
    if not fits(1):
        return 0
    low = 1
    while low < limit and fits(min(2 * low, limit)):
        low = min(2 * low, limit)
    high = min(2 * low, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
