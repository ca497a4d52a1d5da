"""Attention masks that fit what each layer has left, with the method's bias where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..pieces.bias import Bias

if TYPE_CHECKING:
    from .run import Run

Rotary = tuple[Float[Tensor, "R L d"], Float[Tensor, "R L d"]]


def causal_mask(
    run: Run, hidden: Tensor, valid: Tensor | None, cache: Any = None, layer: int | None = None
) -> Tensor | None:
    """The mask that the model's own attention implementation wants for these columns."""
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(run.decoder.config, hidden, valid, cache, layer_idx=layer)


def biased_mask(
    bias: Bias,
    size: Float[Tensor, "R K"],
    valid: Bool[Tensor, "R K"] | None,
    queries: int,
    rotary: Rotary | None,
    dtype: torch.dtype,
) -> Float[Tensor, "R 1 Q K"]:
    """An additive mask for the last `queries` of K columns: the bias where a query may look, else the lowest number.

    Rows of size 0 were not cut, and get none: they run as if alone.
    """
    keys = size.shape[1]
    here = torch.arange(keys, device=size.device)
    allowed = (here <= here[keys - queries :, None])[None]
    if valid is not None:
        allowed = allowed & valid[:, None]
    added = bias(size[:, None].float(), decay(rotary, queries) if rotary is not None else None)
    added = torch.where((size > 0).any(1)[:, None, None], added, 0)
    return torch.where(allowed, added.to(dtype), torch.finfo(dtype).min)[:, None]


def decay(rotary: Rotary, queries: int) -> Float[Tensor, "R Q K"]:
    """Mean cosine of the rotary angles between the last `queries` columns and all.

    cos(a - b) = cos a cos b + sin a sin b, so the mean over the d/2 angles (each stands twice) is two products over d;
    with M-RoPE each angle is already that of its own axis.
    """
    cos, sin = (x.float() for x in rotary)
    product = cos[:, -queries:] @ cos.transpose(1, 2) + sin[:, -queries:] @ sin.transpose(1, 2)
    return product / cos.shape[-1]
