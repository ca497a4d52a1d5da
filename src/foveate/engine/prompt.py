"""One prompt batch on its way through the language model: cut at the door and at layers, continued from its cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..errors import UnsupportedInput
from ..families.base import Kind, Layout, find_spans
from ..pieces.base import Adaptive, Attention, Reading
from ..plan import Layer, Step, make_plan
from ..tokens import Span, VisualTokens
from .carry import causal_mask, decide
from .cut import Columns, Unit, close_gaps, joined, take, take_rows, units_of
from .trace import Cut

if TYPE_CHECKING:
    from .run import Run


@dataclass(eq=False)
class Encoded:
    """What passed the door where images are encoded: the arguments, the layouts, the readings, the time."""

    arguments: dict[str, Any]
    layouts: list[Layout]
    readings: dict[tuple[int | None, Reading], list[Tensor]]
    took_ms: float


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
        self.run, self.pending = run, pending
        self.copies = len(ids) // len(spans)
        visual = set(run.family.image_token_ids(run.core.config).values())
        behind = [_behind_last(visual, row) for row in ids[:: self.copies]]
        self.answer = answer if answer < min(behind) else 0  # so many cannot all be an answer
        self.tails = [n - self.answer for n in behind]
        self.rows, self.length = embeds.shape[:2]
        self.device = embeds.device
        self.spans = spans
        self.units: list[Unit] = units_of(spans, "image", self.device)
        self.columns = Columns.full(mask, self.rows, self.length, self.device)
        self.door = self.columns  # what the language model built its own mask and positions for
        self.layers: list[Columns] = []
        self.position = _positions(kwargs.get("position_ids"), self.rows, self.length, self.device)
        self.next_position = self.position.amax(-1).reshape(-1, self.rows).amax(0) + 1
        self.inside = {s.at.layer: s for s in run.steps if isinstance(s.at, Layer)}
        self.signals: dict[Any, Tensor] = {}
        self.embeddings: tuple[Tensor, Tensor] | None = None
        self.mask: Tensor | None = None
        run.trace.plans = [make_plan(run.steps, run.shape, [s.grid for s in row]) for row in spans if row]
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
        if not bool(torch.isfinite(embeds).all()):
            raise UnsupportedInput("the visual features hold NaN or infinity; check the pixel values and the dtype")
        cut = embeds
        for step in self.run.steps:
            if not isinstance(step.at, Layer):
                cut = self._cut(step, cut)
        self.pending = {}  # pixels and vision signals are needed no longer
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
        step = self.inside.get(i)
        if step is not None:
            hidden = self._cut(step, hidden, layer)
        self.layers.append(self.columns)
        self.run.trace.tokens_per_layer.append(sum(u.count for u in self.units))
        if self.columns is not self.door:
            kwargs["position_embeddings"], kwargs["attention_mask"] = self.embeddings, self.mask
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = None  # only read to find packed sequences, and gaps look like those
        return hidden

    def read(self, layer: int, readings: list[Reading], q: Tensor, k: Tensor, scale: float) -> None:
        """Take readings for the cut before the next layer, if that will remove anything."""
        step = self.inside.get(layer + 1)
        if step is None or not self._will_cut(step):
            return
        start = self.run.stopwatch.now(self.device)
        seen = self._attention(q[:: self.copies], k[:: self.copies], scale)
        for reading in readings:
            self.signals[reading] = reading(seen)
        self.run.trace.selection_ms += self.run.stopwatch.since(start, self.device)

    def finish(self, cache: Any) -> None:
        """The prefill is over: count what was cached."""
        if cache is not None:
            shape = self.run.shape
            bytes_per_token = 2 * shape.kv_heads * shape.head_dim * self.run.decoder.dtype.itemsize
            self.run.trace.kv_bytes = sum(c.index.numel() for c in self.layers) * bytes_per_token
        self.units, self.signals, self.embeddings, self.mask = [], {}, None, None
        if self.answer:  # a cache may be cropped back to the prompt, so the answer counts as what follows it
            self.layers = [c.without_last(self.answer) for c in self.layers]
            self.length -= self.answer
            self.next_position = self.next_position - self.answer

    def _attention(self, q: Tensor, k: Tensor, scale: float) -> Attention:
        samples, columns = q.shape[0], k.shape[2] - self.answer
        q, k = q[:, :, :columns], k[:, :, :columns]
        valid = None if self.columns.valid is None else self.columns.valid[:: self.copies, :columns]
        here = torch.arange(columns, device=self.device)
        last = here[-1:].expand(samples, 1)
        if valid is not None:
            last = torch.where(valid, here, 0).amax(dim=1, keepdim=True)
        most = max(self.tails)
        text = here[columns - most :].expand(samples, most)
        starts = torch.tensor([[columns - t] for t in self.tails], device=self.device)
        text_valid = text >= starts
        if valid is not None:
            text_valid = text_valid & valid[:, columns - most :]
        return Attention(q, k, scale, valid, last, text, text_valid)

    # ── one cut ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _will_cut(self, step: Step) -> bool:
        if isinstance(step.keep, Adaptive):
            return True
        units = joined(self.units) if step.per == "prompt" else self.units
        return any(step.count(step.keep, u.grids, u.count) < u.count for u in units)

    def _cut(self, step: Step, hidden: Tensor, layer: nn.Module | None = None) -> Tensor:
        """What is left of `hidden` [R, C, D] after a step."""
        if not self._will_cut(step):
            return hidden
        start = self.run.stopwatch.now(self.device)
        if step.per == "prompt":
            self.units = joined(self.units)
        if layer is not None:
            self._look_ahead(step, layer, hidden)
        columns = hidden.shape[1]
        first = torch.tensor([columns - n for n in self.columns.lengths], device=self.device)[:, None]
        stay = torch.arange(columns, device=self.device) >= first
        lengths = list(self.columns.lengths)
        for group, count in self._groups(step, hidden):
            hidden = self._reduce(step, group, count, hidden, stay, lengths)
        source, target, now = close_gaps(self.columns, stay, lengths)
        for unit in self.units:
            unit.columns = target[unit.sample * self.copies].gather(0, unit.columns)
        hidden = take(hidden, source)
        self._move_positions(step, source, now, hidden, layer is not None)
        self.signals.clear()
        self.run.trace.selection_ms += self.run.stopwatch.since(start, self.device)
        return hidden

    def _look_ahead(self, step: Step, layer: nn.Module, hidden: Tensor) -> None:
        """Readings of the layer behind the cut, on its own input."""
        readings = [r for r in step.reads if r.place == "next"]
        if not readings:
            return
        samples = hidden[:: self.copies]
        cos, sin = (take_rows(p, self.rows, self.copies) for p in self.embeddings)
        tail = None if any(r.all_rows for r in readings) else max(self.tails) + self.answer
        q, k = self.run.family.query_and_key(layer, samples, (cos, sin), tail)
        seen = self._attention(q, k, self.run.family.scale(layer))
        for reading in readings:
            self.signals[reading] = reading(seen)

    def _groups(self, step: Step, hidden: Tensor) -> list[tuple[list[Unit], int]]:
        """Units that can be reduced together: equal grids, equal counts now and after."""
        groups: dict[tuple, list[Unit]] = {}
        for unit in self.units:
            groups.setdefault((unit.grids, unit.count), []).append(unit)
        result: dict[tuple, tuple[list[Unit], int]] = {}
        for (grids, left), units in groups.items():
            if isinstance(step.keep, Adaptive):
                keeps = step.keep.keep(self._tokens(step, units, hidden))
            else:
                keeps = [step.keep] * len(units)
            for unit, keep in zip(units, keeps, strict=True):
                count = step.count(keep, grids, left)
                if count < left:
                    result.setdefault((grids, left, count), ([], count))[0].append(unit)
        return list(result.values())

    def _reduce(
        self, step: Step, units: list[Unit], count: int, hidden: Tensor, stay: Tensor, lengths: list[int]
    ) -> Tensor:
        """Decide for a group of units, write merged features back, and note who stays."""
        tokens = self._tokens(step, units, hidden)
        reduction = decide(step, tokens, count)
        columns = torch.stack([u.columns for u in units])
        kept = columns.gather(1, reduction.kept)
        if reduction.x is not None:
            hidden = hidden.clone()
        for copy in range(self.copies):
            rows = torch.tensor([[u.sample * self.copies + copy] for u in units], device=self.device)
            stay[rows, columns] = False
            stay[rows, kept] = True
            if reduction.x is not None:
                hidden[rows, kept] = reduction.x.to(hidden.dtype)
        for row, unit in enumerate(units):
            for copy in range(self.copies):
                lengths[unit.sample * self.copies + copy] -= unit.count - count
            unit.keep(reduction, row)
            alone = reduction.rows(row, row + 1).without_features()
            self.run.trace.cuts.append(Cut(step, unit.sample, tuple(p.span for p in unit.parts), alone))
        return hidden

    def _tokens(self, step: Step, units: list[Unit], hidden: Tensor) -> VisualTokens:
        rows = torch.tensor([[u.sample * self.copies] for u in units], device=self.device)
        columns = torch.stack([u.columns for u in units])

        def signal(reading: Reading) -> Tensor:
            if reading.place == "vision":
                return torch.stack([self._vision_signal((step.at.block, reading), u) for u in units])
            return self.signals[reading][rows // self.copies, columns]

        where = torch.stack([u.where for u in units])
        size = torch.stack([u.size for u in units])
        return VisualTokens(hidden[rows, columns], units[0].grid, where, size, signal)

    def _vision_signal(self, key: tuple[int | None, Reading], unit: Unit) -> Tensor:
        """A reading of a vision block for the tokens of a unit that are left, [N] or [N, d]."""
        if (key, id(unit.parts[0].span)) not in self.signals:
            self._map_vision(key)
        whole = torch.cat([self.signals[key, id(p.span)] for p in unit.parts])[unit.where]
        return whole[:, 0] if whole.shape[1] == 1 else whole

    def _map_vision(self, key: tuple[int | None, Reading]) -> None:
        """From patches to LLM tokens, for all images at once."""
        for kind, encoded in self.pending.items():
            views = self.run.family.to_llm(self.run.core, kind, encoded.arguments, encoded.readings[key])
            spans = [s for row in self.spans for s in row if s.kind == kind]
            for span, view in zip(spans, views, strict=True):
                self.signals[key, id(span)] = view

    def _move_positions(self, step: Step, source: Tensor, now: Columns, hidden: Tensor, inside: bool) -> None:
        """Positions, rotary embeddings and mask of what is left."""
        if step.positions == "compact":
            real = torch.ones_like(source, dtype=torch.bool) if now.valid is None else now.valid
            order = real.long().cumsum(1)
            self.position = (order - 1).clamp(min=0)
            now = Columns(now.index, now.valid, now.lengths, self.next_position - order[:, -1])
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
