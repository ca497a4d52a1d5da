"""Vision towers and projectors of each family, built from the vision part of a Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UnsupportedModel
from .arch import Attention, Block, FeedForward, Linear, Merger, Projector, Tower

Config = Mapping[str, Any]


def clip(config: Config, layer: int | Sequence[int]) -> Tower:
    """CLIP: a class token, learnt positions, a norm before the blocks; `layer` is the hidden state that is used."""
    d, patch = config["hidden_size"], config["patch_size"]
    side = config["image_size"] // patch
    block = plain_block(d, config["num_attention_heads"], config["intermediate_size"])
    return Tower(
        blocks=(block,) * config["num_hidden_layers"],
        hidden=d,
        patch=patch,
        embed=Linear("patch_embed", config["num_channels"] * patch**2, d),
        features=_used(layer, config["num_hidden_layers"]),
        cls=True,
        positions=side**2 + 1,
        norms=1,
        idle=2 * d,  # the norm of the class token, whose output no projector reads
    )


def siglip(config: Config, layer: int | Sequence[int]) -> Tower:
    """SigLIP: no class token, a norm behind the blocks, perhaps a pooling head that runs for nothing."""
    d, patch = config["hidden_size"], config["patch_size"]
    block = plain_block(d, config["num_attention_heads"], config["intermediate_size"])
    return Tower(
        blocks=(block,) * config["num_hidden_layers"],
        hidden=d,
        patch=patch,
        embed=Linear("patch_embed", config["num_channels"] * patch**2, d, bias=True),
        features=_used(layer, config["num_hidden_layers"]),
        positions=(config["image_size"] // patch) ** 2,
        norms=1,
        pool=block if config["vision_use_head"] else None,
    )


def internvit(config: Config, layer: int | Sequence[int]) -> Tower:
    """InternViT: a class token, learnt positions, scaled adds, maybe norms of q and k."""
    d, (patch, other), (height, width) = config["hidden_size"], _pair(config["patch_size"]), _pair(config["image_size"])
    if patch != other or height != width:
        raise UnsupportedModel("only square patches and tiles are supported for InternVL")
    bias, heads = config["attention_bias"], config["num_attention_heads"]
    names = ("q_proj", "k_proj", "v_proj")
    linears = (*(Linear(n, d, d, bias) for n in names), Linear("o_proj", d, d, True))
    attention = Attention(heads, heads, d // heads, linears, qk_norm=d * config["use_qk_norm"])
    norm = "rms" if config["norm_type"] == "rms_norm" else "layer"
    block = Block(d, attention, _two_matrices(d, config["intermediate_size"]), norm, scaled=True)  # type: ignore[arg-type]
    table = (height // patch) ** 2 + 1 if config["use_absolute_position_embeddings"] else 0
    return Tower(
        blocks=(block,) * config["num_hidden_layers"],
        hidden=d,
        patch=patch,
        embed=Linear("patch_embed", config["num_channels"] * patch**2, d, bias=True),
        features=_used(layer, config["num_hidden_layers"]),
        cls=True,
        positions=table,
        norms=0 if config["use_mean_pooling"] else 1,
        idle=d * config["use_mask_token"],
    )


def qwen2_vl(config: Config) -> tuple[Tower, Projector]:
    """Qwen2-VL: rotary positions, every image in one piece, groups of patches merged to one token."""
    d, merge = config["embed_dim"], config["spatial_merge_size"]
    feed_forward = _two_matrices(d, int(d * config["mlp_ratio"]))
    block = Block(d, _fused_attention(d, config["num_heads"]), feed_forward, "layer")
    tower = _native(config, d, (block,) * config["depth"])
    return tower, Projector((_merger(d, merge, config["hidden_size"], "layer"),), merge)


def qwen2_5_vl(config: Config) -> tuple[Tower, Projector]:
    """Qwen2.5-VL: as Qwen2-VL, with windows in most blocks and a gated feed-forward."""
    d, merge = config["hidden_size"], config["spatial_merge_size"]
    names = (("gate_proj", d, config["intermediate_size"]), ("up_proj", d, config["intermediate_size"]))
    up = tuple(Linear(n, i, o, bias=True) for n, i, o in names)
    feed_forward = FeedForward(
        (*up, Linear("down_proj", config["intermediate_size"], d, bias=True)), config["intermediate_size"], gated=True
    )
    window = config["window_size"] // merge // config["patch_size"] * merge
    everywhere = Block(d, _fused_attention(d, config["num_heads"]), feed_forward, "rms")
    windowed = Block(d, _fused_attention(d, config["num_heads"], window), feed_forward, "rms")
    blocks = tuple(everywhere if i in config["fullatt_block_indexes"] else windowed for i in range(config["depth"]))
    return _native(config, d, blocks), Projector((_merger(d, merge, config["out_hidden_size"], "rms"),), merge)


def qwen3_vl(config: Config) -> tuple[Tower, Projector]:
    """Qwen3-VL: a table of positions resampled to each image, and DeepStack: features of early blocks as well."""
    d, merge, out = config["hidden_size"], config["spatial_merge_size"], config["out_hidden_size"]
    feed_forward = _two_matrices(d, config["intermediate_size"])
    block = Block(d, _fused_attention(d, config["num_heads"]), feed_forward, "layer")
    tower = _native(config, d, (block,) * config["depth"], positions=config["num_position_embeddings"], bias=True)
    wide = d * merge**2
    linears = (Linear("linear_fc1", wide, wide, True), Linear("linear_fc2", wide, out, True))
    deep = tuple(Merger(linears, "layer", wide, after=i) for i in config["deepstack_visual_indexes"])
    return tower, Projector((Merger(linears, "layer", d), *deep), merge)


def mlp_projector(width: int, out: int, *, layers: int = 1, bias: bool = True, newline: bool = False) -> Projector:
    """LLaVA's: two matrices on each patch; `layers` hidden states side by side go in."""
    linears = (Linear("linear_1", width * layers, out, bias), Linear("linear_2", out, out, bias))
    return Projector((Merger(linears),), newline=out if newline else 0)


def shuffled_projector(width: int, out: int, merge: int) -> Projector:
    """InternVL's: squares of patches side by side, a norm, two matrices."""
    wide = width * merge**2
    linears = (Linear("linear_1", wide, out, True), Linear("linear_2", out, out, True))
    return Projector((Merger(linears, "layer", wide),), merge)


def plain_block(d: int, heads: int, width: int) -> Block:
    """A block of CLIP and SigLIP: biases everywhere, layer norms, two matrices with an activation between."""
    linears = tuple(Linear(n, d, d, bias=True) for n in ("q_proj", "k_proj", "v_proj", "o_proj"))
    return Block(d, Attention(heads, heads, d // heads, linears), _two_matrices(d, width), "layer")


def _two_matrices(d: int, width: int) -> FeedForward:
    return FeedForward((Linear("fc1", d, width, True), Linear("fc2", width, d, True)), width, gated=False)


def _fused_attention(d: int, heads: int, window: int | None = None) -> Attention:
    linears = (Linear("qkv", d, 3 * d, bias=True), Linear("o_proj", d, d, bias=True))
    return Attention(heads, heads, d // heads, linears, window)


def _merger(d: int, merge: int, out: int, norm: str) -> Merger:
    wide = d * merge**2
    return Merger((Linear("mlp.0", wide, wide, True), Linear("mlp.2", wide, out, True)), norm, d)  # type: ignore[arg-type]


def _native(config: Config, d: int, blocks: tuple[Block, ...], positions: int = 0, bias: bool = False) -> Tower:
    """A tower for images of any size, with rotary positions and patches of several frames."""
    frames, patch = config["temporal_patch_size"], config["patch_size"]
    return Tower(
        blocks=blocks,
        hidden=d,
        patch=patch,
        embed=Linear("patch_embed", config["in_channels"] * frames * patch**2, d, bias),
        features=len(blocks) - 1,
        frames=frames,
        positions=positions,
        taps=4 if positions else 0,
        rotary=True,
    )


def _used(layer: int | Sequence[int], blocks: int) -> int:
    """The block behind hidden state `layer`: state i is the output of block i - 1; of several the last."""
    last = layer if isinstance(layer, int) else layer[-1]
    return (last if last >= 0 else blocks + 1 + last) - 1


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
