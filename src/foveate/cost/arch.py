"""What a model is made of, in numbers: vision tower, projector and language model, as read from its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..plan import ModelShape
    from .processors import Processor

Norm = Literal["rms", "layer"]


@dataclass(frozen=True)
class Linear:
    """One matrix, from `inputs` to `outputs` features."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Elements of the matrix and its bias."""
        return self.inputs * self.outputs + self.bias * self.outputs


@dataclass(frozen=True)
class Attention:
    """One attention module. `linears` are its projections as they are executed (a fused qkv is one).

    window   None: every pair. In a language model the tokens a query sees, itself included; in a tower the side of a
             window in patches
    qk_norm  features that the norm of q, and that of k, spans (a head, or all of them); 0: none
    """

    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[Linear, ...]
    window: int | None = None
    qk_norm: int = 0

    @property
    def weights(self) -> int:
        """Elements of its matrices and norms."""
        return sum(x.weights for x in self.linears) + 2 * self.qk_norm


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward of a block, dense or a mixture of experts.

    linears  of the dense network, or of one expert
    width    features of its middle
    gated    two matrices up, one of them gates
    experts  0: dense; else how many there are, of which `active` run for each token
    router   the matrix that chooses, in a mixture
    shared   matrices that every token passes beside its experts, with their gate
    """

    linears: tuple[Linear, ...]
    width: int
    gated: bool
    experts: int = 0
    active: int = 0
    router: Linear | None = None
    shared: tuple[Linear, ...] = ()

    @property
    def weights(self) -> int:
        """Elements of all its matrices, those of every expert included."""
        own = sum(x.weights for x in self.linears) * max(1, self.experts)
        return own + sum(x.weights for x in self.shared) + (self.router.weights if self.router else 0)


@dataclass(frozen=True)
class Block:
    """A transformer block: norm, attention, add, norm, feed-forward, add.

    scaled  both adds have a learnt factor for each feature
    """

    hidden: int
    attention: Attention
    feed_forward: FeedForward
    norm: Norm
    scaled: bool = False

    @property
    def weights(self) -> int:
        """Elements of the whole block."""
        own = 2 * norm_weights(self.norm, self.hidden) + 2 * self.hidden * self.scaled
        return own + self.attention.weights + self.feed_forward.weights


@dataclass(frozen=True)
class Tower:
    """A vision transformer. All its blocks run, also those behind the one whose output is used: transformers does so.

    features    block whose output makes the features
    patch       pixels on the side of a patch; `frames` consecutive frames make one, of `channels` channels
    embed       the matrix from a patch to features
    cls         whether a class token stands before the patches
    positions   rows of a learnt table of positions; 0 where positions are rotary alone
    taps        table rows that are mixed for each patch, where the table is resampled to the grid
    rotary      whether q and k are rotated
    norms       whole-sequence norms outside the blocks that run (before the first, behind the last)
    idle        weight elements of the tower that are not used for features (a class norm)
    pool        SigLIP's attention head over all patches, whose result nobody reads, but which runs
    """

    blocks: tuple[Block, ...]
    hidden: int
    patch: int
    embed: Linear
    features: int
    frames: int = 1
    cls: bool = False
    positions: int = 0
    taps: int = 0
    rotary: bool = False
    norms: int = 0
    idle: int = 0
    pool: Block | None = None

    @property
    def weights(self) -> int:
        """Elements of the whole tower."""
        norm = norm_weights(self.blocks[0].norm, self.hidden)
        outside = self.embed.weights + (self.positions + self.cls) * self.hidden + self.norms * norm + self.idle
        pool = self.pool.weights - norm + self.hidden if self.pool else 0  # one norm, and the probe
        return outside + sum(b.weights for b in self.blocks) + pool


@dataclass(frozen=True)
class Merger:
    """A small network over each token: a norm of `norm_width` features (0: none) that spans a part, then matrices.

    after   vision block whose output it reads; None: the last
    """

    linears: tuple[Linear, ...]
    norm: Norm = "layer"
    norm_width: int = 0
    after: int | None = None

    @property
    def weights(self) -> int:
        """Elements of its matrices and norm."""
        return sum(x.weights for x in self.linears) + norm_weights(self.norm, self.norm_width)


@dataclass(frozen=True)
class Projector:
    """From features of patches to embeddings of the language model.

    merge    side of the square of patches that becomes one token
    mergers  networks that run on every token: the projector itself, then those of DeepStack
    newline  elements of a learnt newline embedding
    """

    mergers: tuple[Merger, ...]
    merge: int = 1
    newline: int = 0

    @property
    def deepstack(self) -> int:
        """How many early layers of the language model get features of their own added."""
        return sum(m.after is not None for m in self.mergers)

    @property
    def weights(self) -> int:
        """Elements of all its networks."""
        return sum(m.weights for m in self.mergers) + self.newline


@dataclass(frozen=True)
class LanguageModel:
    """The decoder. `axes` is 3 where positions are (time, row, column); `tied`: the head is the embedding."""

    blocks: tuple[Block, ...]
    hidden: int
    vocab: int
    tied: bool
    axes: int = 1

    @property
    def head(self) -> Linear:
        """From the last hidden state to the vocabulary."""
        return Linear("lm_head", self.hidden, self.vocab)

    def kv_elements(self, layer: int) -> int:
        """Elements that one token takes in the cache of a layer."""
        attention = self.blocks[layer].attention
        return 2 * attention.kv_heads * attention.head_dim


@dataclass(frozen=True)
class Arch:
    """A vision-language model in numbers. `family` is its `model_type`, `processor` how pixels become tokens."""

    name: str
    family: str
    tower: Tower
    projector: Projector
    language: LanguageModel
    processor: Processor

    def parameters(self) -> dict[str, int]:
        """Weight elements of each part; the head is 0 where it is the embedding."""
        lm = self.language
        blocks = sum(b.weights for b in lm.blocks) + norm_weights(lm.blocks[0].norm, lm.hidden)
        return {
            "vision": self.tower.weights,
            "projector": self.projector.weights,
            "language": blocks,
            "embed": lm.vocab * lm.hidden,
            "head": 0 if lm.tied else lm.head.weights,
        }

    def shape(self) -> ModelShape:
        """What a plan needs to know of it. Imports torch, as all of foveate's methods do."""
        from ..plan import ModelShape

        first = self.language.blocks[0]
        return ModelShape(
            family=self.family,
            layers=len(self.language.blocks),
            hidden=self.language.hidden,
            heads=first.attention.heads,
            kv_heads=first.attention.kv_heads,
            head_dim=first.attention.head_dim,
            ffn=first.feed_forward.width,
            vocab=self.language.vocab,
            vision_blocks=len(self.tower.blocks),
            vision_features=self.tower.features,
            vision_global=tuple(i for i, b in enumerate(self.tower.blocks) if b.attention.window is None),
            has_cls=self.tower.cls,
            patch_tokens=self.processor.patch_tokens,
            mrope=self.language.axes > 1,
        )


def norm_weights(norm: Norm, width: int) -> int:
    """Elements of a norm over `width` features."""
    return width if norm == "rms" else 2 * width
