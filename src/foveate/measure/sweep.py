"""Every contender at every budget, judged on every sample: one row each, written as soon as it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.run import compress
from ..errors import FoveateError, InvalidValue
from ..loading import Loaded
from ..tokens import Grid
from .contender import Contender, Level, Setup
from .judge import Judge, Numbers
from .rows import Key
from .samples import Broken, Opened, Sample, batches, inputs_of, visual_grids
from .study import Row, Study

#: told how many of how many (contender, budget, sample) are done
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cell:
    """A contender at a budget."""

    contender: Contender
    level: Level | None

    @property
    def key(self) -> Key:
        """Label and budget, as in the rows."""
        return self.contender.label, None if self.level is None else str(self.level)


def cells_of(contenders: Iterable[Contender], levels: Sequence[Level]) -> list[Cell]:
    """Each contender at each budget; what has none, once."""
    return [Cell(c, level) for c in contenders for level in (levels if c.budgeted else (None,))]


def row_of(kind: str, cell: Cell, sample: Sample | None, settings: dict[str, Any], numbers: Numbers) -> Row:
    """A row: what it is about, then the numbers, then the error, if any."""
    label, budget = cell.key
    about = {
        "kind": kind, "method": label, "settings": settings, "budget": budget,
        "keep": None if cell.level is None else cell.level.fraction, "sample": None if sample is None else sample.id,
    }  # fmt: skip
    if sample is not None and sample.kind:
        about["question_kind"] = sample.kind
    return {**about, "error": None, **numbers}


def sweep(
    loaded: Loaded,
    samples: Sequence[Sample],
    cells: Sequence[Cell],
    judge: Judge,
    *,
    study: Study | None = None,
    batch: int = 25,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The rows of all cells and samples; those that `study` has already are not made again.

    A sample that cannot be asked has a row with an error in every cell, a budget out of reach one row without a sample.
    Batches are the outer loop: when it is stopped, all cells have seen the same samples.
    """
    state = _Sweep(loaded, cells, judge, study, progress, len(samples) * len(cells))
    for part in batches(samples, batch):
        if isinstance(part, Broken):
            state.broken(part.sample, part.reason)
        else:
            state.judge_batch(part)
    return state.rows


@dataclass
class _Sweep:
    """A sweep in progress."""

    loaded: Loaded
    cells: Sequence[Cell]
    judge: Judge
    study: Study | None
    progress: Progress
    total: int
    rows: list[Row] = field(default_factory=list)
    have: set[tuple[str, str | None, str | None]] = field(default_factory=set)
    setups: dict[Any, Setup | str] = field(default_factory=dict)
    done: int = 0

    def __post_init__(self) -> None:
        if self.study is not None:
            self.rows = [r for r in self.study.rows() if r["kind"] == self.judge.name]
            self.have = {(r["method"], r["budget"], r["sample"]) for r in self.rows}

    def add(self, rows: Iterable[Row]) -> None:
        new = [r for r in rows if (r["method"], r["budget"], r["sample"]) not in self.have]
        if new and self.study is not None:
            self.study.append(*new)
        self.rows += new
        self.have |= {(r["method"], r["budget"], r["sample"]) for r in new}

    def advance(self, units: int) -> None:
        self.done += units
        self.progress(self.done, self.total)

    def broken(self, sample: Sample, reason: str) -> None:
        """A sample that no contender can be asked about."""
        self.add(row_of(self.judge.name, cell, sample, {}, {"error": reason}) for cell in self.cells)
        self.advance(len(self.cells))

    def judge_batch(self, part: list[Opened]) -> None:
        """All cells on one batch; of samples that cannot be judged, the others are judged alone."""
        todo = [c for c in self.cells if any((*c.key, o.sample.id) not in self.have for o in part)]
        try:
            visual_tokens, ready = self.ready(todo, part) if todo else (0, [])
        except Exception as error:
            if len(part) == 1:
                self.broken(part[0].sample, said(error))
            for opened in part if len(part) > 1 else ():
                self.judge_batch([opened])
            return
        self.advance(len(part) * (len(self.cells) - len(ready)))
        for cell, setup in ready:
            numbers = _numbers(self.judge, setup, part)
            self.add(
                row_of(
                    self.judge.name, cell, opened.sample, setup.settings, {"visual_tokens": visual_tokens, **of_sample}
                )
                for opened, of_sample in zip(part, numbers, strict=True)
            )
            self.advance(len(part))

    def ready(self, todo: list[Cell], part: list[Opened]) -> tuple[int, list[tuple[Cell, Setup]]]:
        """Visual tokens of each sample, and the cells that come to their budget, set for it; the judge has begun."""
        grids = visual_grids(self.loaded, inputs_of(self.loaded, part[:1]))
        found = []
        for cell in todo:
            setup = self.setup(cell, part[0], grids)
            if isinstance(setup, str):
                self.add([row_of(self.judge.name, cell, None, {}, {"error": setup})])
            else:
                found.append((cell, setup))
        if found:
            self.judge.begin(self.loaded, part)
        return sum(g.n for g in grids), found

    def setup(self, cell: Cell, like: Opened, grids: tuple[Grid, ...]) -> Setup | str:
        """The contender set for samples like this one, or why it cannot be."""
        key = (cell.key, like.sizes)
        if key not in self.setups:
            try:
                self.setups[key] = cell.contender.at(cell.level, self.loaded, like, grids)
            except InvalidValue as error:
                self.setups[key] = str(error)
        return self.setups[key]


def _numbers(judge: Judge, setup: Setup, part: list[Opened]) -> list[Numbers]:
    """What the judge says of each sample, and the T_eq it took; a sample that breaks the run is found by its own."""
    try:
        return _judged(judge, setup, part)
    except Exception as error:
        if len(part) == 1:
            return [{"error": said(error)}]
        return [numbers for opened in part for numbers in _numbers(judge, setup, [opened])]


def _judged(judge: Judge, setup: Setup, part: list[Opened]) -> list[Numbers]:
    if setup.method is None:
        t_eq = float(sum(g.n for g in visual_grids(setup.loaded, inputs_of(setup.loaded, part[:1]))))
        return [{"t_eq": t_eq, **numbers} for numbers in judge(setup.loaded, part)]
    with compress(setup.loaded.model, setup.method) as run:
        found = judge(setup.loaded, part)
    t_eq = run.trace.t_eq / max(1, len(run.trace.plans))
    return [{"t_eq": t_eq, **numbers} for numbers in found]


def said(error: Exception) -> str:
    """An error in one line, for a row."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FoveateError) else f"{type(error).__name__}: {text}"
