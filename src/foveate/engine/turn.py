"""One forward pass behind a filled cache: the next token, candidates of an assistant, or another turn of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsupportedInput
from .cut import Columns
from .masks import Rotary, biased_mask, causal_mask

if TYPE_CHECKING:
    from .prompt import Prompt
    from .run import Run


def next_turn(prompt: Prompt | None, run: Run, ids: Tensor | None, kwargs: dict[str, Any]) -> Turn | None:
    """Tokens behind a filled cache: the next one, candidates of an assistant, or another turn of text."""
    new = kwargs["inputs_embeds"].shape[1]
    if new > 1 and ids is not None:
        visual = set(run.family.image_token_ids(run.core.config).values())
        if any(t in visual for row in ids.tolist() for t in row):
            raise UnsupportedInput(
                "a new image behind a filled cache (another turn, or prefill_chunk_size) cannot be compressed; "
                "start with an empty cache and the whole conversation"
            )
    if prompt is None:
        _refuse_foreign(kwargs)
        return None
    return Turn(prompt, kwargs)


class Turn:
    """One forward pass behind a filled cache."""

    def __init__(self, prompt: Prompt, kwargs: dict[str, Any]) -> None:
        self.prompt, self.cache = prompt, kwargs["past_key_values"]
        self.masks: dict[int, Tensor | None] = {}
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        door = prompt.layers[0]
        past = prompt.followed_by(self.cache)
        width = prompt.length + past + embeds.shape[1]
        if embeds.shape[0] != prompt.rows or past < 0:
            raise UnsupportedInput(
                f"this cache was filled with {prompt.rows} rows of {prompt.length} tokens and does not fit; it must "
                "not be reordered across prompts or cut into the prompt while a context is open"
            )
        if mask is not None and tuple(mask.shape) != (prompt.rows, width):
            raise UnsupportedInput(
                f"attention_mask must have shape {(prompt.rows, width)} here, got {tuple(mask.shape)}"
            )
        self.new = None if mask is None else mask[:, prompt.length :].bool()
        self.added = past + embeds.shape[1]
        self.position = kwargs.get("position_ids")
        kwargs["attention_mask"] = self._valid(door)
        if door.shift is not None:
            kwargs["position_ids"] = self.position - door.shift[:, None]

    def before_layer(self, i: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Give a layer the mask and the positions that fit what its own cache holds."""
        shelf = self.prompt.shelf
        if shelf is not None and i == shelf.layer:
            shelf.serve(self.cache, hidden.shape[1])
        columns, door = self.prompt.layers[i], self.prompt.layers[0]
        if columns is door and columns.size is None:
            return
        if id(columns) not in self.masks:
            self.masks[id(columns)] = self._mask(columns, hidden, i)
        kwargs["attention_mask"] = self.masks[id(columns)]
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = None
        if columns.shift is not door.shift:
            at = self.position - columns.shift[:, None]
            kwargs["position_embeddings"] = self.prompt.run.decoder.rotary_emb(hidden, at)

    def read(self, q: Tensor, k: Tensor, scale: float) -> None:
        """Take notice of what the one new token attends to, where a method chooses keys by that."""
        shelf = self.prompt.shelf
        if shelf is not None and q.shape[2] == 1:
            shelf.read(q, k, scale, self._valid(shelf.full))

    def _mask(self, columns: Columns, hidden: Tensor, layer: int) -> Tensor | None:
        run, valid = self.prompt.run, self._valid(columns)
        if columns.size is None:
            return causal_mask(run, hidden, valid, self.cache, layer)
        assert run.bias is not None, "sizes are kept for a bias"
        is_cut = (columns.size > 0).any(1, keepdim=True)
        size = torch.cat([columns.size, is_cut.float().expand(-1, self.added)], dim=1)
        return biased_mask(run.bias, size, valid, hidden.shape[1], self._rotary(columns, hidden), hidden.dtype)

    def _rotary(self, columns: Columns, hidden: Tensor) -> Rotary | None:
        """Rotary angles of what the layer's cache holds and of the new tokens."""
        if columns.rotary is None:
            return None
        run = self.prompt.run
        at = self.prompt.next_position[:, None] + torch.arange(self.added, device=hidden.device)
        at = at if columns.shift is None else at - columns.shift[:, None]
        at = at.expand(3, -1, -1) if run.shape.mrope else at
        added = run.family.rotary(run.decoder.layers[0], run.decoder.rotary_emb(hidden, at))
        cos, sin = (torch.cat(pair, dim=1) for pair in zip(columns.rotary, added, strict=True))
        return cos, sin

    def _valid(self, columns: Columns) -> Tensor | None:
        if columns.valid is None and self.new is None:
            return None
        old, new = columns.valid, self.new
        if old is None:
            old = torch.ones_like(columns.index, dtype=torch.bool)
        if new is None:
            new = old.new_ones(old.shape[0], self.added)
        return torch.cat([old, new], dim=1)


def _refuse_foreign(kwargs: dict[str, Any]) -> None:
    """A cache this context did not fill must be an uncompressed one."""
    cache, mask = kwargs["past_key_values"], kwargs.get("attention_mask")
    lengths = {cache.get_seq_length(i) for i in range(len(cache))}
    width = cache.get_seq_length(0) + kwargs["inputs_embeds"].shape[1]
    if (
        len(lengths) > 1
        or "get_seq_length" in vars(cache)
        or (mask is not None and getattr(mask, "ndim", 0) == 2 and mask.shape[1] != width)
    ):
        raise UnsupportedInput(
            "this cache was filled by another compression context (or is a copy of one); continue it in the context "
            "that filled it, with the same cache object"
        )
