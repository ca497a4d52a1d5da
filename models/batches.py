"""Turn scenes into training batches and run the model on them faster than its own forward does on a CPU.

One image stands in front of all its questions: they share its tokens and, by the attention mask, do not see each
other. The functions compute exactly what ``Qwen2_5_VLForConditionalGeneration`` computes (``check`` in ``train.py``
compares them), from the same parameters, for batches of images of one size.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from build import MEAN, STD
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from foveate import scenes

CELL = 28
TEXTS = (*(f"first {d}" for d in range(10)), *(f"second {d}" for d in range(10)), *scenes.WORDS)
SHAPES = (*scenes.SHAPES, "sign")
COLORS = tuple(scenes.COLORS)
# What a visual token can be asked for: (name, number of classes). The last class of the first three is "nothing".
VISION_HEADS = (("shape", len(SHAPES) + 1), ("color", len(COLORS) + 1), ("text", len(TEXTS) + 1), ("centre", 2))
IGNORE = -100
SHOWN = ("all", "random quarter", "right quarter")
"""Which visual tokens an evaluation shows: every one, or a quarter, at random or first those under the evidence."""


@dataclass
class Batch:
    pixels: Tensor  # [B, H, W, 3] uint8
    labels: Tensor  # [B, N, heads] classes of VISION_HEADS
    places: Tensor  # [B, N] index in scenes.PLACES of each visual token
    ids: Tensor  # [B, L]
    positions: Tensor  # [3, B, L]
    segment: Tensor  # [B, L] 0 the image, 1.. its questions, -1 padding
    target: Tensor  # [B, L] the next token where it is part of an answer
    weight: Tensor  # [B, L]
    questions: list[list[scenes.Question]]


class Encoder:
    """Text to ids, with a memory: there are few different questions."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.memory = tokenizer, {}
        self.image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.pad = tokenizer.pad_token_id

    def __call__(self, text: str) -> list[int]:
        if text not in self.memory:
            self.memory[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self.memory[text]


def recompressed(scene: scenes.Scene, rng: random.Random) -> scenes.Scene:
    """Return a scene as it looks after JPEG, as a stranger's pictures will."""
    file = io.BytesIO()
    scene.image.save(file, "JPEG", quality=rng.randint(50, 95))
    return replace(scene, image=Image.open(file).convert("RGB"))


def make_batch(
    encoder: Encoder, made: Sequence[scenes.Scene], asked: Sequence[list[scenes.Question]], weights: dict[str, float]
) -> Batch:
    """Return a batch of scenes of one size; ``asked`` says which questions follow each image."""
    width, height = made[0].image.size
    rows = [_pack(encoder, (height // CELL, width // CELL), questions, weights) for questions in asked]
    length = (max(len(row[0]) for row in rows) + 15) // 16 * 16
    fills = (encoder.pad, 0, -1, IGNORE, 0.0)
    ids, positions, segment, target, weight = (
        torch.from_numpy(np.stack([_pad(row[i], length, fill) for row in rows])) for i, fill in enumerate(fills)
    )
    return Batch(
        pixels=torch.from_numpy(np.stack([np.asarray(scene.image) for scene in made])),
        labels=torch.from_numpy(np.stack([token_labels(scene) for scene in made])),
        places=torch.from_numpy(_places(height // CELL, width // CELL))[None].expand(len(made), -1),
        ids=ids,
        positions=positions.permute(1, 0, 2),
        segment=segment,
        target=target,
        weight=weight,
        questions=list(asked),
    )


def _pad(values: np.ndarray, length: int, fill: float) -> np.ndarray:
    room = [(0, 0)] * (values.ndim - 1) + [(0, length - values.shape[-1])]
    return np.pad(values, room, constant_values=fill)


def _pack(
    encoder: Encoder, grid: tuple[int, int], questions: list[scenes.Question], weights: dict[str, float]
) -> tuple[np.ndarray, ...]:
    """Return ids, M-RoPE positions, segments, targets and weights of one image followed by its questions."""
    rows, cols = grid
    start = encoder("<|im_start|>user\n<|vision_start|>")
    ids = [*start, *[encoder.image] * (rows * cols), *encoder("<|vision_end|>")]
    first = len(start)
    positions = np.zeros((3, len(ids)), np.int64)
    positions[:, :first] = np.arange(first)
    y, x = np.divmod(np.arange(rows * cols), cols)
    positions[:, first:-1] = first + np.stack([np.zeros_like(y), y, x])
    positions[:, -1] = first + max(rows, cols)
    after = first + max(rows, cols) + 1
    pieces, segment, target, weight = [positions], [0] * len(ids), [IGNORE] * len(ids), [0.0] * len(ids)
    for number, question in enumerate(questions, 1):
        prompt = encoder(question.text + "<|im_end|>\n<|im_start|>assistant\n")
        answer = encoder(question.answer + "<|im_end|>")
        ids += [*prompt, *answer]
        size = len(prompt) + len(answer)
        pieces.append(np.tile(np.arange(after, after + size), (3, 1)))
        segment += [number] * size
        target += [IGNORE] * (len(prompt) - 1) + [*answer, IGNORE]
        value = weights.get(question.kind, 1.0)
        # The end of an answer is nearly always certain.
        weight += [0.0] * (len(prompt) - 1) + [value] * (len(answer) - 1) + [0.5 * value, 0.0]
    return (
        np.array(ids),
        np.concatenate(pieces, 1),
        np.array(segment),
        np.array(target),
        np.array(weight, np.float32),
    )


@cache
def _places(rows: int, cols: int) -> np.ndarray:
    size = (cols * CELL, rows * CELL)
    return np.array(
        [scenes.place_of((c + 0.5) * CELL, (r + 0.5) * CELL, size) for r in range(rows) for c in range(cols)]
    )


def token_labels(scene: scenes.Scene) -> np.ndarray:
    """Return which shape, colour, text and centre lies under each visual token, [N, 4]; IGNORE where it is unclear."""
    cols, rows = scene.image.width // CELL, scene.image.height // CELL
    labels = np.empty((rows, cols, 4), np.int64)
    labels[:] = [size - 1 for _, size in VISION_HEADS[:3]] + [0]
    for thing in scene.things:
        _mark(labels, thing.box, 0, SHAPES.index(thing.shape))
        if thing.color:
            _mark(labels, thing.box, 1, COLORS.index(thing.color))
        elif thing.text.isdigit():
            for i, digit in enumerate(thing.text):
                x = thing.x + CELL * (i - (len(thing.text) - 1) / 2)
                box = (x - 14, thing.y - 14, x + 14, thing.y + 14)
                _mark(labels, box, 2, TEXTS.index(f"{('first', 'second')[i]} {digit}"))
        else:
            _mark(labels, thing.box, 2, TEXTS.index(thing.text))
        labels[int(thing.y) // CELL, int(thing.x) // CELL, 3] = 1
    return labels.reshape(-1, 4)


def _mark(labels: np.ndarray, box: scenes.Box, head: int, value: int) -> None:
    """Give a value to the tokens that a box covers or that cover it by 30 %; the others it touches become unclear."""
    rows, cols, _ = labels.shape
    left, top, right, bottom = box
    least = min((right - left) * (bottom - top), CELL * CELL)
    nothing = VISION_HEADS[head][1] - 1
    for r in range(max(0, int(top // CELL)), min(rows, int(bottom // CELL) + 1)):
        for c in range(max(0, int(left // CELL)), min(cols, int(right // CELL) + 1)):
            wide = min(right, (c + 1) * CELL) - max(left, c * CELL)
            high = min(bottom, (r + 1) * CELL) - max(top, r * CELL)
            share = max(0.0, wide) * max(0.0, high) / least
            if share > 0.3:
                labels[r, c, head] = value
            elif share > 0.04 and labels[r, c, head] == nothing:
                labels[r, c, head] = IGNORE


def hidden_tokens(sample: scenes.Sample, show: str, seed: int) -> Tensor:
    """Return which visual tokens of a sample must not be seen, [N]."""
    cols, rows = sample.image.width // CELL, sample.image.height // CELL
    if show == "all":
        return torch.zeros(rows * cols, dtype=torch.bool)
    order = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed))
    if show == "right quarter":
        for left, top, right, bottom in sample.boxes:
            order[int(top) // CELL : int(bottom) // CELL + 1, int(left) // CELL : int(right) // CELL + 1] -= 1
    return order.flatten().argsort().argsort() >= rows * cols // 4


# ------------------------------------------------------------------------------------------------ the model, batched
def patches(pixels: Tensor) -> Tensor:
    """Return what the processor makes of images, [B, P, 1176]: patches in merge order, normalised, frame doubled."""
    B, height, width, _ = pixels.shape
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    x = (pixels.float() / 255 - mean) / std
    x = x.view(B, height // 28, 2, 14, width // 28, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.reshape(B, -1, 3, 1, 14 * 14).expand(-1, -1, -1, 2, -1)
    return x.reshape(B, (height // 14) * (width // 14), -1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


@cache
def _windows(rows: int, cols: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int, Tensor]:
    """Return the window order of the visual tokens, its inverse, the rotation, and the windows' size or mask."""
    grid = torch.tensor([[1, rows * 2, cols * 2]])
    order, ends = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14, kwargs={})
    order, ends = torch.as_tensor(order), torch.unique_consecutive(torch.as_tensor(ends))
    sizes = ends[1:] - ends[:-1]
    where = get_vision_position_ids(grid, 2, kwargs={}).float()
    frequency = 10000.0 ** (-torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angle = (where[:, :, None] * frequency).flatten(1)
    angle = angle.view(rows * cols, 4, -1)[order].reshape(rows * cols * 4, -1)
    angle = torch.cat((angle, angle), -1)[None, :, None]
    window = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    uniform = int(sizes[0]) if bool((sizes == sizes[0]).all()) else 0
    return order, torch.argsort(order), angle.cos(), angle.sin(), uniform, window[:, None] == window


def vision_block(x: Tensor, block: nn.Module, cos: Tensor, sin: Tensor, window: int, mask: Tensor | None) -> Tensor:
    """One block of the tower; attention inside windows of ``window`` patches, or under a mask if that is given."""
    B, S, D = x.shape
    attention, mlp = block.attn, block.mlp
    heads = attention.num_heads
    q, k, v = attention.qkv(_norm(x, block.norm1.weight)).view(B, S, 3, heads, D // heads).unbind(2)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    q, k, v = (t.reshape(B * (S // window), window, heads, D // heads).transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + attention.proj(y.transpose(1, 2).reshape(B, S, D))
    h = _norm(x, block.norm2.weight)
    return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))


def see(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the visual tokens of images, [B, N, D]."""
    tower = model.model.visual
    B, height, width, _ = pixels.shape
    width_of_head = tower.blocks[0].attn.qkv.in_features // tower.blocks[0].attn.num_heads
    order, back, cos, sin, window, mask = _windows(height // CELL, width // CELL, width_of_head)
    x = patches(pixels)
    S = x.shape[1]
    x = x.view(B, S // 4, 4, -1)[:, order].reshape(B, S, -1)
    projection = tower.patch_embed.proj.weight
    x = F.linear(x, projection.reshape(projection.shape[0], -1))
    for i, block in enumerate(tower.blocks):
        if i in tower.fullatt_block_indexes or window == 0:
            full = i in tower.fullatt_block_indexes
            x = vision_block(x, block, cos, sin, S, None if full else mask)
        else:
            x = vision_block(x, block, cos, sin, window, None)
    x = _norm(x, tower.merger.ln_q.weight).reshape(B, S // 4, -1)
    return tower.merger.mlp(x)[:, back]


def text_block(x: Tensor, layer: nn.Module, cos: Tensor, sin: Tensor, mask: Tensor, heads: int, groups: int) -> Tensor:
    """One decoder layer of the language model."""
    B, L, D = x.shape
    attention, mlp = layer.self_attn, layer.mlp
    h = _norm(x, layer.input_layernorm.weight)
    q = _rotate(attention.q_proj(h).view(B, L, heads, -1), cos, sin)
    k = _rotate(attention.k_proj(h).view(B, L, groups, -1), cos, sin)
    v = attention.v_proj(h).view(B, L, groups, -1)
    k, v = (t.repeat_interleave(heads // groups, 2) for t in (k, v))
    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask)
    x = x + attention.o_proj(y.transpose(1, 2).reshape(B, L, D))
    h = _norm(x, layer.post_attention_layernorm.weight)
    return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))


def answer(model: nn.Module, batch: Batch, visual: Tensor, middle: int, hidden: Tensor | None = None):
    """Return the logits at the answer tokens and the visual tokens' states after ``middle`` layers.

    ``hidden`` [B, N] hides visual tokens from every other token.
    """
    language, config = model.model.language_model, model.config.text_config
    shown = batch.ids == model.config.image_token_id
    x = language.embed_tokens(batch.ids)
    x = x.masked_scatter(shown[..., None], visual)
    L = batch.ids.shape[1]
    segment = batch.segment
    if hidden is not None:
        segment = segment.clone()
        segment[shown] = torch.where(hidden.flatten(), -1, 0)
    mask = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    mask = mask & (segment[:, None, :] >= 0) & torch.ones(L, L, dtype=torch.bool).tril()
    mask = (mask | torch.eye(L, dtype=torch.bool))[:, None]
    mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    with torch.no_grad():
        cos, sin = (t[:, :, None] for t in language.rotary_emb(x, batch.positions))
    between = x
    for i, layer in enumerate(language.layers):
        x = text_block(x, layer, cos, sin, mask, config.num_attention_heads, config.num_key_value_heads)
        if i + 1 == middle:
            between = x[shown].view(*visual.shape[:2], -1)
    asked = batch.target != IGNORE
    x = _norm(x[asked], language.norm.weight)
    return F.linear(x, model.lm_head.weight), between
