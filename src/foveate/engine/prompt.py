"""One prompt batch on its way through the language model: cut at the door and at layers, continued from its cache."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..errors import UnsupportedInput
from ..families.base import Kind, Layout, find_spans
from ..pieces.base import Budget, Reading
from ..pieces.seen import States
from ..plan import Block, Layer, Step, make_plan
from ..tokens import Reduction, Span, VisualTokens
from .carry import decide
from .cut import Columns, Removal, Unit, close_gaps, competing, joined, take
from .masks import biased_mask, causal_mask
from .recall import Shelf, shelved
from .signals import Signals, VisionKey
from .trace import Cut

if TYPE_CHECKING:
    from .run import Run


@dataclass(eq=False)
class Encoded:
    """What passed the door where images are encoded: the arguments, the layouts, the readings, the time.

    `left` is what cuts inside the tower left of each image, and selection_ms what deciding it took.
    """

    arguments: dict[str, Any]
    layouts: list[Layout]
    readings: dict[VisionKey, list[Tensor]]
    took_ms: float
    left: Reduction | None = None
    selection_ms: float = 0.0


class Prompt:
    """A prefill with visual tokens, and afterwards what its cache holds.

    Rows are what the decoder sees; samples are prompts. Beams and return sequences make `copies` equal rows of each
    sample: decisions are made once per sample. The last `answer` columns are no prompt and have no say in them.
    """

    def __init__(
        self,
        run: Run,
        ids: list[list[int]],
        spans: list[list[Span]],
        answer: int,
        pending: dict[Kind, Encoded],
        kwargs: dict,
    ) -> None:
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        self.run = run
        self.copies = len(ids) // len(spans)
        visual = set(run.family.image_token_ids(run.core.config).values())
        behind = [_behind_last(visual, row) for row in ids[:: self.copies]]
        self.answer = answer if answer < min(behind) else 0  # so many cannot all be an answer
        self.tails = [n - self.answer for n in behind]
        self.words = _words(self.tails, self.answer, mask, self.copies)
        self.rows, self.length = embeds.shape[:2]
        self.device = embeds.device
        self.spans = spans
        self.units = [Unit.whole(span, i, self.device) for i, row in enumerate(spans) for span in row]
        self.columns = Columns.full(mask, self.rows, self.length, self.device)
        self.door = self.columns  # what the language model built its own mask and positions for
        self.layers: list[Columns] = []
        self.shelf: Shelf | None = None
        self.position = _positions(kwargs.get("position_ids"), self.rows, self.length, self.device)
        # of M-RoPE the last three axes: `generate` puts the plain count in front of them
        axes = self.position[-3:] if self.position.ndim == 3 else self.position
        self.next_position = axes.amax(-1).reshape(-1, self.rows).amax(0) + 1
        self.inside = {s.at.layer: s for s in run.steps if isinstance(s.at, Layer)}
        self.signals = Signals(self, pending)
        self.embeddings: tuple[Tensor, Tensor] | None = None
        self.mask: Tensor | None = None
        run.trace.plans = [
            make_plan(run.steps, run.shape, [s.grid for s in row], [_image(s, row) for s in row])
            for row in spans
            if row
        ]
        run.trace.text_tokens = len(spans) * self.length - sum(p.visual_tokens for p in run.trace.plans)

    # ── at the door ──────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def begin(
        cls, run: Run, ids: Tensor | None, answer: int, pending: dict[Kind, Encoded], kwargs: dict[str, Any]
    ) -> Prompt | None:
        """The prompt that enters the language model, or None if it has no visual tokens.

        Raises UnsupportedInput for what cannot be compressed correctly.
        """
        if ids is None:
            raise UnsupportedInput("cannot find the visual tokens in inputs_embeds; pass input_ids and pixel values")
        tokens = run.family.image_token_ids(run.core.config)
        rows = ids.tolist()
        placeholders = {kind: sum(row.count(token) for row in rows) for kind, token in tokens.items()}
        if not any(placeholders.values()):
            return None
        _refuse(kwargs)
        copies = 1
        for kind, there in placeholders.items():
            encoded = sum(x.length for x in pending[kind].layouts) if kind in pending else 0
            if there and (not encoded or there % encoded):
                raise UnsupportedInput(
                    f"the prompt has {there} {kind} tokens, but {encoded} were encoded inside this context; encode the "
                    "images in the same context, and pass them together with the prompt"
                )
            copies = there // encoded if there else copies
        layouts = {kind: e.layouts for kind, e in pending.items()}
        spans = find_spans(rows[::copies], tokens, layouts)
        return cls(run, rows, spans, answer, pending, kwargs)

    def enter(self, kwargs: dict[str, Any]) -> bool:
        """Cut before layer 0; tells whether the arguments of the language model were changed."""
        embeds = kwargs["inputs_embeds"]
        if not _finite(embeds):
            raise UnsupportedInput("the visual features hold NaN or infinity; check the pixel values and the dtype")
        cut = self._adopt(embeds)
        for step in self.run.steps:
            if not isinstance(step.at, Layer | Block):
                cut = self._cut(step, cut)
        self.signals.entered()
        if cut is embeds:
            return False
        kwargs["inputs_embeds"], kwargs["position_ids"] = cut, self.position
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = torch.arange(cut.shape[1], device=self.device)
        # an explicit mask, or gaps in the positions would be taken for packed sequences
        valid = self.columns.valid
        kwargs["attention_mask"] = (
            torch.ones(cut.shape[:2], dtype=torch.long, device=self.device) if valid is None else valid.long()
        )
        return True

    # ── at a layer ───────────────────────────────────────────────────────────────────────────────────────────────

    def before_layer(self, i: int, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Cut, if a step says so, and give the layer the positions and the mask of what is left."""
        if i == 0:
            self.door = self.columns
            self.embeddings, self.mask = kwargs["position_embeddings"], kwargs.get("attention_mask")
            self.signals.rate(hidden)
            self._weigh(hidden)
        step = self.inside.get(i)
        if step is not None:
            hidden = self._cut(step, hidden, layer)
        self.layers.append(self.columns)
        for unit in self.units:
            unit.history = (*unit.history, unit.count)
        self.run.trace.tokens_per_layer.append(sum(u.count for u in self.units))
        if self.columns is not self.door:
            kwargs["position_embeddings"], kwargs["attention_mask"] = self.embeddings, self.mask
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = None  # only read to find packed sequences, and gaps look like those
        return hidden

    def read(self, i: int, readings: list[Reading], layer: nn.Module, q: Tensor, k: Tensor, scale: float) -> None:
        """Take readings of the attention of layer `i`."""
        q, k = q[:: self.copies], k[:: self.copies]
        seen = cache(lambda: self.signals.attention(layer, q, k, scale))
        self.signals.taken(readings, i, lambda reading: reading(seen()))

    def passed(self, i: int, readings: list[Reading], states: States) -> None:
        """Take readings of the states that passed layer `i`."""
        columns = states.before.shape[1] - self.answer
        given = {f.name: getattr(states, f.name) for f in fields(states) if f.name != "visual"}
        samples = {name: x[:: self.copies, :columns] for name, x in given.items()}
        shown = States(**samples, visual=self.signals.visual(columns))
        self.signals.taken(readings, i, lambda reading: reading(shown))

    def finish(self, filled: Any) -> None:
        """The prefill is over: count what was cached."""
        if filled is not None:
            self._forget(filled)
            self.shelf = shelved(self, filled)
            shape = self.run.shape
            bytes_per_token = 2 * shape.kv_heads * shape.head_dim * self.run.decoder.dtype.itemsize
            self.run.trace.kv_bytes = sum(c.index.numel() for c in self.layers) * bytes_per_token
        self.units, self.embeddings, self.mask = [], None, None
        self.signals = Signals(self, {})
        if self.answer:  # a cache may be cropped back to the prompt, so the answer counts as what follows it
            self.layers = [c.without_last(self.answer) for c in self.layers]
            self.length -= self.answer
            self.next_position = self.next_position - self.answer

    def _forget(self, filled: Any) -> None:
        """Cut the caches of earlier layers too, where a step says that all layers forget what it dropped."""
        last = max((i for i, s in self.inside.items() if s.cache == "all"), default=None)
        if last is None:
            return
        left = self.layers[last]
        stays = torch.zeros(self.rows, self.length + 1, dtype=torch.bool, device=self.device)
        stays.scatter_(1, torch.where(left.real, left.index, self.length), True)
        for i, columns in enumerate(self.layers[:last]):
            here = stays[:, :-1].gather(1, columns.index) & columns.real
            source, _, self.layers[i] = close_gaps(columns, here, left.lengths)
            layer = filled.layers[i]
            layer.keys, layer.values = (
                x.gather(2, source[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
                for x in (layer.keys, layer.values)
            )

    # ── one cut ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _adopt(self, hidden: Tensor) -> Tensor:
        """Drop what cuts inside the vision tower have left out; images are in the order of the prompt."""
        left = next((e.left for e in self.signals.pending.values() if e.left is not None), None)
        if left is None:
            return hidden
        step = next(s for s in reversed(self.run.steps) if isinstance(s.at, Block))
        removal = Removal.of(self.columns)
        for i, unit in enumerate(self.units):
            self._carry_out(step, [unit], left.rows(i, i + 1), removal)
        return self._close(step, hidden, removal, inside=False)

    def will_cut(self, step: Step) -> bool:
        """Whether a step would remove anything of what is left."""
        if isinstance(step.keep, Budget):
            return True
        for units in competing(self.units, step.per):
            left = sum(u.count for u in units)
            if step.count(step.keep, [g for u in units for g in u.grids], left) < left:
                return True
        return False

    def _cut(self, step: Step, hidden: Tensor, layer: nn.Module | None = None) -> Tensor:
        """What is left of `hidden` [R, C, D] after a step."""
        if not self.will_cut(step):
            return hidden
        start = self.run.stopwatch.now(self.device)
        self.units = joined(self.units, step.per)
        if layer is not None:
            self.signals.look(step, layer, hidden)
        removal = Removal.of(self.columns)
        groups = self._groups(step, hidden)
        for units, count in groups:
            self._carry_out(step, units, decide(step, self._tokens(step, units, hidden), count), removal)
        if groups:  # none if an adaptive step keeps everything
            hidden = self._close(step, hidden, removal, inside=layer is not None)
        self.run.trace.selection_ms += self.run.stopwatch.since(start, self.device)
        return hidden

    def _close(self, step: Step, hidden: Tensor, removal: Removal, inside: bool) -> Tensor:
        """The columns that stay, moved together, with all that belongs to them."""
        source, target, now = close_gaps(self.columns, removal.stay, removal.lengths)
        for unit in self.units:
            unit.columns = target[unit.sample * self.copies].gather(0, unit.columns)
        hidden = removal.left_of(hidden, source, target)
        self.signals.cut(source)
        self._move_positions(step, source, now, hidden, inside)
        return hidden

    def _groups(self, step: Step, hidden: Tensor) -> list[tuple[list[Unit], int]]:
        """Units that can be reduced together: equal grids, equal counts now and after."""
        groups: dict[tuple, list[Unit]] = {}
        for unit in self.units:
            words = self.words[unit.sample] if step.needs_text else 0
            groups.setdefault((unit.grids, unit.count, unit.history, words), []).append(unit)
        result: dict[tuple, tuple[list[Unit], int]] = {}
        for key, units in groups.items():
            grids, left = units[0].grids, units[0].count
            if isinstance(step.keep, Budget):
                keeps = step.keep.keep(self._tokens(step, units, hidden))
            else:
                keeps = [step.keep] * len(units)
            for unit, keep in zip(units, keeps, strict=True):
                count = step.count(keep, grids, left)
                if count < left:
                    result.setdefault((key, count), ([], count))[0].append(unit)
        return list(result.values())

    def _carry_out(self, step: Step, units: list[Unit], reduction: Reduction, removal: Removal) -> None:
        """Note who stays, with which features."""
        removal.add(units, self.copies, reduction)
        for row, unit in enumerate(units):
            unit.keep(reduction, row)
            alone = reduction.rows(row, row + 1).without_features()
            self.run.trace.cuts.append(Cut(step, unit.sample, unit.spans, alone))

    def _tokens(self, step: Step, units: list[Unit], hidden: Tensor) -> VisualTokens:
        rows = torch.tensor([[u.sample * self.copies] for u in units], device=self.device)
        columns = torch.stack([u.columns for u in units])

        def text(reading: Reading | None = None) -> Tensor:
            if not step.needs_text:
                raise KeyError("`tokens.text` is there for pieces that declare needs_text = True")
            at = torch.stack([self.signals.text_columns(u.sample, hidden.shape[1] - self.answer) for u in units])
            return hidden[rows, at] if reading is None else self.signals.at(step, reading, units, at)

        return VisualTokens(
            x=hidden[rows, columns],
            grid=units[0].grid,
            where=torch.stack([u.where for u in units]),
            size=torch.stack([u.size for u in units]),
            signal=lambda reading: self.signals.of(step, reading, units),
            text=text,
            grids=units[0].grids,
            history=units[0].history,
        )

    def _move_positions(self, step: Step, source: Tensor, now: Columns, hidden: Tensor, inside: bool) -> None:
        """Positions, rotary embeddings and mask of what is left."""
        if step.positions == "compact":
            real = torch.ones_like(source, dtype=torch.bool) if now.valid is None else now.valid
            order = real.long().cumsum(1)
            self.position = (order - 1).clamp(min=0)
            now = replace(now, shift=self.next_position - order[:, -1])
        else:
            index = source.expand(*self.position.shape[:-2], *source.shape)
            self.position = self.position.gather(-1, index)
        if inside:
            if step.positions == "compact":
                self.embeddings = self.run.decoder.rotary_emb(hidden, self.position)
            else:
                self.embeddings = tuple(take(p, source) for p in self.embeddings)
            self.mask = causal_mask(self.run, hidden, now.valid)
        self.columns = now
        if inside:
            self._weigh(hidden)

    def _weigh(self, hidden: Tensor) -> None:
        """Give the layers behind a cut the mask with the method's bias."""
        bias = self.run.bias
        if bias is None or all(u.count == u.grid.n for u in self.units):
            return
        size = torch.ones(hidden.shape[:2], device=self.device)
        cut = {u.sample for u in self.units if u.count < u.grid.n}
        size[[row for row in range(self.rows) if row // self.copies not in cut]] = 0
        for unit in (u for u in self.units if u.sample in cut):
            for copy in range(self.copies):
                size[unit.sample * self.copies + copy, unit.columns] = unit.size
        rotary = self.run.family.rotary(self.run.decoder.layers[0], self.embeddings) if bias.needs_decay else None
        self.columns = replace(self.columns, size=size, rotary=rotary)
        self.mask = biased_mask(bias, size, self.columns.valid, hidden.shape[1], rotary, hidden.dtype)

    def full_length(self, cache: Any) -> int:
        """Tokens of the prompt and of what followed it, as if nothing had been removed."""
        return self.length + self.followed_by(cache)

    def followed_by(self, cache: Any) -> int:
        """Tokens that the cache holds behind the prompt; negative if it was cropped into the prompt."""
        held: int = cache.get_seq_length(0)
        return held - self.layers[0].index.shape[1]

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────

    def positions_from(self, cache: Any, new: int) -> Int[Tensor, "*axes new"]:
        """Positions of the next `new` tokens in the full prompt's count."""
        here = self.next_position[:, None] + self.followed_by(cache) + torch.arange(new, device=self.device)
        return here.expand(3, -1, -1) if self.run.shape.mrope else here


def _behind_last(visual: set[int], row: list[int]) -> int:
    """How many tokens stand behind the last visual one."""
    return next((i for i, token in enumerate(reversed(row)) if token in visual), len(row))


def _finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite: their sum tells at a tenth of the cost, but finite ones may overflow it."""
    return bool(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)).isfinite() or x.isfinite().all())


def _image(span: Span, row: list[Span]) -> int:
    """Which image or video of a prompt a span is a view of."""
    return sorted({(s.kind, s.image) for s in row}).index((span.kind, span.image))


def _words(tails: list[int], answer: int, mask: Tensor | None, copies: int) -> list[int]:
    """How many real tokens stand behind the last visual token of each prompt, those of the answer left out."""
    if mask is None:
        return tails
    real = mask[::copies].bool().tolist()
    return [sum(row[len(row) - answer - n : len(row) - answer]) for row, n in zip(real, tails, strict=True)]


def _positions(given: Tensor | None, rows: int, length: int, device: torch.device) -> Tensor:
    if given is None:
        return torch.arange(length, device=device).expand(rows, length)
    return given.expand(*given.shape[:-2], rows, length)


def _refuse(kwargs: dict[str, Any]) -> None:
    from transformers import DynamicCache

    mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
    if cache is not None and not isinstance(cache, DynamicCache):
        raise UnsupportedInput(
            f"{type(cache).__name__} gives every layer the same length, and compressed layers differ; use DynamicCache "
            "(the default of generate)"
        )
    if isinstance(mask, dict) or (mask is not None and mask.ndim != 2):
        raise UnsupportedInput("only 2-D attention masks can be cut; pass the padding mask [rows, tokens], or none")
