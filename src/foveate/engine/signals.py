"""The readings of one prefill: taken where they arise, kept for the cut that uses them, carried along by others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..errors import UnsupportedInput
from ..pieces.base import Reading
from ..pieces.seen import Attention, Raters, Stream
from ..plan import Step, Vision
from .cut import Unit, take, take_rows

if TYPE_CHECKING:
    from ..families.base import Kind
    from .prompt import Encoded, Prompt

VisionKey = tuple[int | None, Reading]


def vision_key(step: Step, reading: Reading) -> VisionKey:
    """The block a vision reading is taken at for a step, and the reading; block None is the family's default."""
    site = step.at.block if isinstance(step.at, Vision) else None
    return (site if reading.block is None else reading.block), reading


def watched_layers(step: Step, reading: Reading) -> range:
    """The layers whose passing a "previous" reading sees for a cut."""
    at = step.at.layer
    return range(at - 1 if reading.since is None else reading.since, at)


class Signals:
    """What was read for the cuts of one prompt batch, per sample and column of the sequence as it is now."""

    def __init__(self, prompt: Prompt, pending: dict[Kind, Encoded]) -> None:
        self.prompt = prompt
        self.pending = pending
        self.vision: dict[Any, Tensor] = {}
        self.values: dict[Reading, Tensor] = {}
        self.raters: dict[Raters, Bool[Tensor, "S r"]] = {}

    def taken(self, readings: list[Reading], layer: int, take_one: Callable[[Reading], Tensor]) -> None:
        """Take "previous" readings at a layer, for the cuts behind it that will remove something."""
        prompt = self.prompt
        cuts = [s for s in prompt.inside.values() if s.at.layer > layer and prompt.will_cut(s)]
        wanted = [r for r in readings if any(r in s.reads and layer in watched_layers(s, r) for s in cuts)]
        if not wanted:
            return
        start = prompt.run.stopwatch.now(prompt.device)
        for reading in wanted:
            value = take_one(reading)
            if reading.since is not None and reading in self.values:
                value = self.values[reading] + value
            self.values[reading] = value
        prompt.run.trace.selection_ms += prompt.run.stopwatch.since(start, prompt.device)

    def look(self, step: Step, layer: nn.Module, hidden: Tensor) -> None:
        """Take "next" and "here" readings of a cut: the layer behind it on its own input, and the stream itself."""
        prompt, family = self.prompt, self.prompt.run.family
        samples = hidden[:: prompt.copies]
        for reading in step.reads:
            if reading.place == "here":
                shown = samples[:, : samples.shape[1] - prompt.answer]
                self.values[reading] = reading(Stream(shown, prompt.run.decoder.norm))
        ahead = [r for r in step.reads if r.place == "next"]
        for rotary in (True, False):
            readings = [r for r in ahead if r.rotary == rotary]
            if readings:
                tail = None if any(r.all_rows for r in readings) else max(prompt.tails) + prompt.answer
                q, k = family.query_and_key(layer, samples, self._embeddings() if rotary else None, tail)
                seen = self.attention(layer, q, k, family.scale(layer))
                self.values |= {r: r(seen) for r in readings}

    def attention(self, layer: nn.Module, q: Tensor, k: Tensor, scale: float) -> Attention:
        """What an attention reading is shown; q and k have one row a sample, answer included."""
        prompt = self.prompt
        samples, columns = q.shape[0], k.shape[2] - prompt.answer
        q, k = q[:, :, :columns], k[:, :, :columns]
        valid = None if prompt.columns.valid is None else prompt.columns.valid[:: prompt.copies, :columns]
        here = torch.arange(columns, device=prompt.device)
        last = here[-1:].expand(samples, 1)
        if valid is not None:
            last = torch.where(valid, here, 0).amax(dim=1, keepdim=True)
        text, text_valid = self._text_rows(columns, valid)
        cos_sin = tuple(p[..., :columns, :] for p in self._embeddings())

        def rotate(rows: Tensor) -> Tensor:
            return prompt.run.family.rotated(layer, rows, cos_sin)

        return Attention(q, k, scale, valid, self.visual(columns), last, text, text_valid, self.raters, rotate)

    def visual(self, columns: int) -> Bool[Tensor, "S L"]:
        """Which columns of each prompt hold visual tokens."""
        visual = torch.zeros(len(self.prompt.tails), columns, dtype=torch.bool, device=self.prompt.device)
        for unit in self.prompt.units:
            visual[unit.sample, unit.columns] = True
        return visual

    def rate(self, hidden: Tensor) -> None:
        """Let every `Raters` of the method choose, given what enters layer 0."""
        prompt = self.prompt
        wanted = {r.raters for s in prompt.inside.values() for r in s.reads if r.raters is not None}
        if not wanted or not prompt.units:
            return
        columns = hidden.shape[1] - prompt.answer
        valid = None if prompt.columns.valid is None else prompt.columns.valid[:: prompt.copies, :columns]
        _, text_valid = self._text_rows(columns, valid)
        for raters in wanted:
            chosen = torch.zeros_like(text_valid)
            for sample in {u.sample for u in prompt.units}:
                mine = torch.cat([u.columns for u in prompt.units if u.sample == sample])
                row = hidden[sample * prompt.copies, None]
                says = raters(row[:, mine], row[:, self.text_columns(sample, columns)])
                chosen[sample, text_valid[sample]] = says[0]
            self.raters[raters] = chosen

    def text_columns(self, sample: int, columns: int) -> Int[Tensor, " r"]:
        """Where the text behind the last visual token of a prompt is, of so many columns; padding left out."""
        start = columns - self.prompt.tails[sample]
        words = self.prompt.words[sample]
        if words == 0:
            raise UnsupportedInput("no text stands behind the image to rank it by; put the question after the image")
        return torch.arange(start, start + words, device=self.prompt.device)

    def of(self, step: Step, reading: Reading, units: list[Unit]) -> Tensor:
        """The values of a reading at the tokens of some units, [B, N, ...]."""
        if reading.place == "vision" and reading in step.reads:
            return torch.stack([self._of_vision(vision_key(step, reading), u) for u in units])
        return self.at(step, reading, units, torch.stack([u.columns for u in units]))

    def at(self, step: Step, reading: Reading, units: list[Unit], columns: Int[Tensor, "B m"]) -> Tensor:
        """The values of a reading of the language model at some columns of the prompts of some units, [B, m, ...]."""
        if reading not in step.reads:
            raise KeyError(f"{reading} was not declared in `reads`")
        rows = torch.tensor([[u.sample] for u in units], device=self.prompt.device)
        return self.values[reading][rows, columns]

    def cut(self, source: Int[Tensor, "R M"]) -> None:
        """Carry sums over layers along, forget the rest."""
        source = source[:: self.prompt.copies, : source.shape[1] - self.prompt.answer]
        sums = {r: v for r, v in self.values.items() if r.since is not None}
        self.values = {r: take(v[..., None] if v.ndim == 2 else v, source) for r, v in sums.items()}
        self.values = {r: v[..., 0] if sums[r].ndim == 2 else v for r, v in self.values.items()}

    def entered(self) -> None:
        """The prompt is in the language model: what its cuts do not ask for of the vision tower can go."""
        if not any(r.place == "vision" for s in self.prompt.inside.values() for r in s.reads):
            self.pending, self.vision = {}, {}

    def _embeddings(self) -> tuple[Tensor, Tensor]:
        prompt = self.prompt
        cos, sin = (take_rows(p, prompt.rows, prompt.copies) for p in prompt.embeddings)
        return cos, sin

    def _text_rows(
        self, columns: int, valid: Bool[Tensor, "S C"] | None
    ) -> tuple[Int[Tensor, "S r"], Bool[Tensor, "S r"]]:
        tails = self.prompt.tails
        most = max(tails)
        text = torch.arange(columns - most, columns, device=self.prompt.device).expand(len(tails), most)
        starts = torch.tensor([[columns - t] for t in tails], device=self.prompt.device)
        real = text >= starts
        return text, real if valid is None else real & valid[:, columns - most :]

    def _of_vision(self, key: VisionKey, unit: Unit) -> Tensor:
        if (key, (unit.sample, unit.spans[0])) not in self.vision:
            self._map_vision(key)
        whole = torch.cat([self.vision[key, (unit.sample, s)] for s in unit.spans])[unit.where]
        return whole[:, 0] if whole.shape[1] == 1 else whole

    def _map_vision(self, key: VisionKey) -> None:
        """From patches to LLM tokens, for all images at once."""
        family, core = self.prompt.run.family, self.prompt.run.core
        for kind, encoded in self.pending.items():
            views = family.to_llm(core, kind, encoded.arguments, encoded.readings[key])
            spans = [(i, s) for i, row in enumerate(self.prompt.spans) for s in row if s.kind == kind]
            self.vision |= {(key, span): view for span, view in zip(spans, views, strict=True)}
