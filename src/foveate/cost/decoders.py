"""Language models, built from the text part of a Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModel
from .arch import Attention, Block, FeedForward, LanguageModel, Linear


@dataclass(frozen=True)
class Kind:
    """What distinguishes one kind of decoder: biases of q, k and v; norms of q and k; axes of positions; experts."""

    qkv_bias: bool = False
    qk_norm: bool = False
    axes: int = 1
    experts: bool = False


KINDS = {
    "llama": Kind(),
    "mistral": Kind(),
    "qwen2": Kind(qkv_bias=True),
    "qwen2_moe": Kind(qkv_bias=True, experts=True),
    "qwen2_vl_text": Kind(qkv_bias=True, axes=3),
    "qwen2_5_vl_text": Kind(qkv_bias=True, axes=3),
    "qwen3": Kind(qk_norm=True),
    "qwen3_moe": Kind(qk_norm=True, experts=True),
    "qwen3_vl_text": Kind(qk_norm=True, axes=3),
    "qwen3_vl_moe_text": Kind(qk_norm=True, axes=3, experts=True),
}


def language_model(config: Mapping[str, Any], tied: bool) -> LanguageModel:
    """The decoder of a text config. Raises UnsupportedModel for a kind that is not known, or has linear attention."""
    kind = config["model_type"]
    if kind not in KINDS:
        raise UnsupportedModel(f"no cost model for the language model {kind!r}; there are: {', '.join(sorted(KINDS))}")
    blocks = tuple(_block(config, KINDS[kind], i) for i in range(config["num_hidden_layers"]))
    return LanguageModel(blocks, config["hidden_size"], config["vocab_size"], tied, KINDS[kind].axes)


def _block(config: Mapping[str, Any], kind: Kind, layer: int) -> Block:
    d, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    e = config.get("head_dim") or d // heads
    bias = kind.qkv_bias or config.get("attention_bias", False)
    linears = (
        Linear("q_proj", d, heads * e, bias),
        Linear("k_proj", d, kv_heads * e, bias),
        Linear("v_proj", d, kv_heads * e, bias),
        Linear("o_proj", heads * e, d, config.get("attention_bias", False)),
    )
    attention = Attention(heads, kv_heads, e, linears, _window(config, layer), e if kind.qk_norm else 0)
    return Block(d, attention, _feed_forward(config, kind, layer), "rms")


def _feed_forward(config: Mapping[str, Any], kind: Kind, layer: int) -> FeedForward:
    d, width, bias = config["hidden_size"], config["intermediate_size"], config.get("mlp_bias", False)
    experts = config.get("num_experts") or 0
    sparse = layer not in config.get("mlp_only_layers", ()) and (layer + 1) % config.get("decoder_sparse_step", 1) == 0
    if kind.experts and experts and sparse:
        width = config["moe_intermediate_size"]
        return FeedForward(
            (Linear("experts_gate_up", d, 2 * width), Linear("experts_down", width, d)),
            width, gated=True, experts=experts, active=config["num_experts_per_tok"],
            router=Linear("router", d, experts), shared=_shared(config),
        )  # fmt: skip
    up = (Linear("gate_proj", d, width, bias), Linear("up_proj", d, width, bias))
    return FeedForward((*up, Linear("down_proj", width, d, bias)), width, gated=True)


def _shared(config: Mapping[str, Any]) -> tuple[Linear, ...]:
    """The expert that every token passes, and its gate."""
    d, width = config["hidden_size"], config.get("shared_expert_intermediate_size", 0)
    if not width:
        return ()
    up = (Linear("shared_gate_proj", d, width), Linear("shared_up_proj", d, width))
    return (*up, Linear("shared_down_proj", width, d), Linear("shared_gate", d, 1))


def _window(config: Mapping[str, Any], layer: int) -> int | None:
    """Tokens that a query of this layer sees; None for all."""
    size: int | None = config.get("sliding_window")
    types = config.get("layer_types")
    if types is not None:
        if types[layer] == "full_attention":
            return None
        if types[layer] == "sliding_attention" and size:
            return size
        raise UnsupportedModel(f"no cost model for layers of type {types[layer]!r}; only full and sliding attention")
    if size is None or not config.get("use_sliding_window", config["model_type"] == "mistral"):
        return None
    return size if layer >= config.get("max_window_layers", 0) else None
