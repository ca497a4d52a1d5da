"""What the small random models and prompts that families build for tests have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: a language model of 8 layers, as few as the published schedules can be told apart on, and ids below 30 kept for marks
TEXT: dict[str, Any] = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=200, initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
IMAGE, VIDEO, START, END = 10, 11, 12, 13


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed inside, and leave the generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def opened(row: int, options: dict[str, Any]) -> tuple[list[int], torch.Generator]:
    """The first ids of a row, and what it draws from: row `first` of a batch and row 0 of another can be the same."""
    number = row + options.get("first", 0)
    return [1, 20 + number], torch.Generator().manual_seed(1000 * options.get("seed", 0) + number)


def closed(row: list[int], generator: torch.Generator, options: dict[str, Any]) -> list[int]:
    """A row with `text` random words behind it."""
    return row + torch.randint(30, 200, (options.get("text", 8),), generator=generator).tolist()


def padded(rows: Sequence[Sequence[int]], options: dict[str, Any]) -> dict[str, Tensor]:
    """Rows of different length as `input_ids` and `attention_mask`, padded on the left unless `padding` says right."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if options.get("padding") == "right" else slice(longest - len(row), None)
        ids[i, where] = torch.tensor(row)
        mask[i, where] = 1
    return {"input_ids": ids, "attention_mask": mask}
