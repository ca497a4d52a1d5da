"""bench: what methods cost on this machine, beside the uncompressed model and the baselines at equal T_eq.

After a warm-up the contenders run in turn, round after round, so that a machine that grows slower does so for all; what
is reported are medians with their quartiles. Counts (tokens, bytes, FLOPs) come from runs of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..ask import uncompressed
from ..engine.run import compress
from ..engine.trace import Trace
from ..errors import InvalidValue
from ..families import family_of
from ..loading import Loaded
from ..plan import make_plan
from ..tokens import Grid
from .clock import Flops, Gauge, Parts, Spread, parts, peak_memory, timer
from .contender import Contender, Level, Setup
from .judge import Numbers
from .lineup import line_up
from .rows import Key, broken, key_of, missing
from .samples import Opened, Sample, inputs_of, visual_grids
from .study import Row, Study
from .sweep import Cell, Progress, cells_of, row_of, said
from .verdict import verdict

FEWEST_RUNS = 3
#: passes of each contender besides the timed ones: warm-up and KV bytes, memory, FLOPs
COUNTING = 3


@dataclass(frozen=True)
class Bench:
    """One row for each contender, budget, sample and batch size."""

    rows: tuple[Row, ...]

    @property
    def costs(self) -> list[Row]:
        """The rows averaged over samples, each with what it comes to beside the uncompressed model."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            if not row["error"]:
                groups.setdefault((*key_of(row), row["batch"]), []).append(row)
        found = [_averaged(rows) for rows in groups.values()]
        for number in {row["batch"] for row in found}:
            _judge([row for row in found if row["batch"] == number])
        return found

    @property
    def missing(self) -> dict[Key, str]:
        """Contenders at budgets without a result, and why."""
        return missing(self.rows)

    @property
    def broken(self) -> dict[str, str]:
        """Samples that could not be measured under some contender, and why."""
        return broken(self.rows)


def bench(
    loaded: Loaded,
    samples: Sequence[Sample],
    methods: Sequence[str | Contender],
    levels: Sequence[Level],
    *,
    batches: Sequence[int] = (1,),
    runs: int = 5,
    new_tokens: int = 16,
    study: Study | None = None,
    progress: Progress = lambda done, total: None,
) -> Bench:
    """Time and count every contender at every budget on each sample alone, and on batches of copies of it.

    Raises InvalidValue for too few runs to tell a spread. What cannot be measured has a row with an error.
    """
    if runs < FEWEST_RUNS:
        raise InvalidValue(f"{runs} runs show no spread; make at least {FEWEST_RUNS}")
    if min(batches) < 1 or new_tokens < 1:
        raise InvalidValue("batch sizes and the number of new tokens must be at least 1")
    contenders = line_up(methods, videos=any(s.video is not None for s in samples))
    cells = cells_of(contenders, levels)
    rows = [] if study is None else [r for r in study.rows() if r["kind"] == "bench"]
    have = {(r["sample"], r["batch"]) for r in rows}
    total, done = len(samples) * len(batches) * len(cells) * (runs + COUNTING), 0
    for sample in samples:
        for size in batches:
            if (sample.id, size) not in have:
                group = _Group(loaded, sample, cells, size, runs, new_tokens)
                for _ in group.measured():
                    done += 1
                    progress(done, total)
                new = _new(group.rows(), rows)
                if study is not None:
                    study.append(*new)
                rows += new
    progress(total, total)
    return Bench(tuple(rows))


def _new(rows: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """The rows without those that say once more that a budget is out of reach."""
    said_before = {key_of(r) for r in before if r["sample"] is None}
    return [r for r in rows if r["sample"] is not None or key_of(r) not in said_before]


@dataclass
class _Entry:
    """A contender while it is measured."""

    cell: Cell
    setup: Setup
    inputs: dict[str, Any] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=dict)
    times: list[dict[str, float]] = field(default_factory=list)


@dataclass
class _Group:
    """All contenders on one sample in one batch size: they are timed in turn, and become rows together."""

    loaded: Loaded
    sample: Sample
    cells: Sequence[Cell]
    size: int
    runs: int
    new_tokens: int
    entries: list[_Entry] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    visual_tokens: int = 0

    def measured(self) -> Iterator[None]:
        """Everything, a step for each pass of a contender."""
        self.prepare()
        yield
        for step in (self.warm_up, self.weigh, self.count):
            for entry in list(self.entries):
                self.tried(step, entry)
                yield
        for round_ in range(self.runs):
            shift = round_ % max(1, len(self.entries))  # nobody runs always behind the same one
            for entry in self.entries[shift:] + self.entries[:shift]:
                self.tried(self.time, entry)
                yield

    def prepare(self) -> None:
        try:
            opened = Opened.of(self.sample)
            grids = visual_grids(self.loaded, inputs_of(self.loaded, [opened]))
        except Exception as error:
            self.failed = [self.row(cell, {}, {"error": said(error)}) for cell in self.cells]
            return
        self.visual_tokens = sum(g.n for g in grids)
        inputs: dict[int, dict[str, Any]] = {}  # the same for all with the same processor; pixels are large
        for cell in self.cells:
            try:
                setup = cell.contender.at(cell.level, self.loaded, opened, grids)
            except InvalidValue as error:
                self.failed.append(row_of("bench", cell, None, {}, {"batch": self.size, "error": str(error)}))
                continue
            processor = id(setup.loaded.processor)
            if processor not in inputs:
                inputs[processor] = inputs_of(setup.loaded, [opened] * self.size)
            self.entries.append(_Entry(cell, setup, inputs[processor]))

    def tried(self, step: Any, entry: _Entry) -> None:
        """Take a step; a contender that breaks leaves with an error, the others go on."""
        try:
            step(entry)
        except Exception as error:
            text = f"out of memory at batch {self.size}" if _is_out_of_memory(error) else said(error)
            self.failed.append(self.row(entry.cell, entry.setup.settings, {"error": text}))
            self.entries.remove(entry)

    def warm_up(self, entry: _Entry) -> None:
        """Run once, and count what the prefill leaves behind."""
        _, trace, out = _run(entry, 1, timer(self.device))
        rows, length = entry.inputs["input_ids"].shape
        grids = visual_grids(entry.setup.loaded, entry.inputs)
        grids = grids[: len(grids) // rows]
        visual = sum(g.n for g in grids)
        layers = family_of(self.loaded.model.config).shape(self.loaded.model.config).layers
        per_layer = [n // rows for n in trace.tokens_per_layer] if trace and trace.plans else [visual] * layers
        entry.numbers |= {
            "visual_tokens": self.visual_tokens, "text_tokens": length - visual, "tokens_per_layer": per_layer,
            "t_eq": sum(per_layer) / len(per_layer), "new_tokens": self.new_tokens,
            "kv_bytes": sum(x.keys.nbytes + x.values.nbytes for x in out.past_key_values.layers),
            "prefill_flops_computed": _computed_flops(entry.setup, grids, length - visual),
        }  # fmt: skip

    def weigh(self, entry: _Entry) -> None:
        """The memory of a whole answer."""
        with peak_memory(self.device) as peak:
            _run(entry, self.new_tokens, timer(self.device))
        entry.numbers |= {"peak_memory_bytes": peak.bytes, "peak_memory_kind": peak.kind}

    def count(self, entry: _Entry) -> None:
        """FLOPs of one prompt up to the first token, as torch counts them."""
        found = _counted_flops(entry, self.loaded.model.config)
        for name in ("vision", "prefill", "total"):
            entry.numbers[f"{name}_flops"] = None if found is None else int(getattr(found, name)) // self.size

    def time(self, entry: _Entry) -> None:
        """One timed run; the method's own share of it by a second one where watching would slow the first."""
        found, trace, _ = _run(entry, self.new_tokens, timer(self.device))
        if self.device.type == "cuda" and entry.setup.method is not None:
            _, trace, _ = _run(entry, 1, timer(self.device), synchronize=True)
        entry.times.append(
            {
                "vision_ms": found.vision, "selection_ms": trace.selection_ms if trace else 0.0,
                "prefill_ms": found.prefill, "ttft_ms": found.vision + found.prefill, "total_ms": found.total,
            }
            | ({} if found.decode is None else {"decode_ms_per_token": found.decode})
        )  # fmt: skip

    def rows(self) -> list[Row]:
        """The rows, in the order of the cells, with what each comes to beside the uncompressed model."""
        found = [self.row(e.cell, e.setup.settings, e.numbers | _summed_up(e, self.size)) for e in self.entries]
        _judge(found)
        order = {cell.key: i for i, cell in enumerate(self.cells)}
        return sorted([*found, *self.failed], key=lambda r: order[r["method"], r["budget"]])

    def row(self, cell: Cell, settings: dict[str, Any], numbers: Numbers) -> Row:
        return row_of("bench", cell, self.sample, settings, {"batch": self.size, "runs": self.runs, **numbers})

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.loaded.model.parameters()).device
        return device


def _run(entry: _Entry, new: int, gauge: Gauge, synchronize: bool = False) -> tuple[Parts, Trace | None, Any]:
    """One greedy answer of exactly so many tokens: its parts, its trace, what `generate` gave."""
    model, method = entry.setup.loaded.model, entry.setup.method
    context = nullcontext() if method is None else compress(model, method, synchronize=synchronize)
    with torch.no_grad(), context as run, parts(model, gauge) as found:
        out = model.generate(
            **entry.inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, return_dict_in_generate=True
        )
    return found, None if run is None else run.trace, out


def _counted_flops(entry: _Entry, config: Any) -> Parts | None:
    """Torch's count of one prefill; None for attention kernels that it does not see, or too long for the MATH one."""
    if config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
        return None
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            return _run(entry, 1, Flops(counter))[0]
    except Exception as error:
        if _is_out_of_memory(error):
            return None
        raise


def _computed_flops(setup: Setup, grids: Sequence[Grid], text: int) -> int:
    """The prefill's FLOPs by formula, for one prompt: decoder layers without the method's own work."""
    shape = family_of(setup.loaded.model.config).shape(setup.loaded.model.config)
    return make_plan((setup.method or uncompressed()).steps(shape), shape, grids).lm_flops(text)


def _summed_up(entry: _Entry, size: int) -> Numbers:
    """Medians and quartiles of the times, and what follows from them."""
    found: Numbers = {}
    for name in entry.times[0]:
        spread = Spread.of([t[name] for t in entry.times])
        found |= {name: spread.median, f"{name}_q1": spread.low, f"{name}_q3": spread.high}
    seconds = found["total_ms"] / 1e3
    new = entry.numbers["new_tokens"]
    return found | {"prompts_per_s": size / seconds, "tokens_per_s": size * new / seconds}


def _judge(rows: Sequence[Row]) -> None:
    """Write into rows of one sample and batch size what each comes to beside the uncompressed model."""
    plain = next((r for r in rows if r["method"] == "uncompressed"), None)
    for row in rows:
        row["verdict"] = None if plain is None or row is plain else verdict(row, plain)


def _averaged(rows: Sequence[Row]) -> Row:
    """Numbers averaged over samples; what is the same in all stays."""
    numbers = {n for n, v in rows[0].items() if isinstance(v, int | float) and len({r[n] for r in rows}) > 1}
    return rows[0] | {n: statistics.fmean(r[n] for r in rows) for n in numbers}


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
