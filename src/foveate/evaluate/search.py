"""One trial of a search: a method as Optuna proposes it, asked until it has won, cannot win any more, or is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..ask import uncompressed
from ..errors import FoveateError, InvalidValue, unknown_name
from ..families import family_of
from ..loading import Loaded
from ..measure.interval import share
from ..measure.samples import batches, inputs_of, visual_grids
from ..measure.study import Row, Study
from ..method import Method, all_methods, unknown_method
from ..plan import make_plan
from ..recipe import Recipe
from .accuracy import BATCH, MAX_NEW_TOKENS, RIGHT
from .answers import Reply, answer
from .dataset import EMBEDDED, Broken, Dataset, Sample, load_dataset
from .metrics import score
from .record import keep_of
from .space import suggest

METHODS = ("aim", "divprune", "fastv", "pool", "progressive", "pyramiddrop", "visionzip")
#: agreement: the same answer as without compression; accuracy: right answers; retention: accuracy with / without
QUANTITIES = ("agreement", "accuracy", "retention")
COSTS = ("prefill_ms", "t_eq", "tflops")
#: Every so manieth question is held out of the search for the evidence.
HELD_OUT = 3
#: Questions of the first look at a trial; each look after it sees twice as many.
FIRST_LOOK = 16
#: Measured times are noisy: a trial is given up when it is slower than the best by this factor.
SLACK = {"prefill_ms": 1.25, "t_eq": 1.0, "tflops": 1.0}


@dataclass(frozen=True)
class Target:
    """What must hold: a quantity and its least value."""

    quantity: str
    least: float

    @classmethod
    def of(cls, text: str) -> Target:
        """From "agreement>=0.99"; raises InvalidValue."""
        found = re.fullmatch(r"\s*(\w+)\s*>=\s*([0-9.]+)\s*", text)
        if not found:
            raise InvalidValue(f"--target takes QUANTITY>=NUMBER, as in agreement>=0.99, got {text!r}")
        if found[1] not in QUANTITIES:
            raise unknown_name("quantity", found[1], QUANTITIES)
        try:
            least = float(found[2])
        except ValueError:
            raise InvalidValue(f"--target: {found[2]!r} is no number") from None
        if not 0 < least <= 1:
            raise InvalidValue(f"--target: {found[1]} must be at least something in (0, 1], got {found[2]}")
        return cls(found[1], least)

    def __str__(self) -> str:
        return f"{self.quantity}>={self.least:g}"


@dataclass(frozen=True)
class Settings:
    """What is searched, for what, on what; enough to go on with it."""

    target: str = "agreement>=0.99"
    minimise: str = "t_eq"
    methods: tuple[str, ...] = METHODS
    trials: int = 50
    dataset: str = EMBEDDED
    limit: int | None = None
    metric: str | None = None
    model: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    attn: str | None = None
    batch: int = BATCH
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0
    storage: str | None = None

    def __post_init__(self) -> None:
        Target.of(self.target)
        if self.minimise not in COSTS:
            raise unknown_name("cost", self.minimise, COSTS)
        if not self.methods:
            raise InvalidValue("no method was named; foveate methods lists them")
        for name in self.methods:
            if name not in all_methods():
                raise unknown_method(name)

    @classmethod
    def of_study(cls, written: dict[str, Any]) -> Settings:
        """From a study.json."""
        return cls(**{**written, "methods": tuple(written["methods"])})


def method_names(text: str | None) -> tuple[str, ...]:
    """What stands between commas; None for the usual ones, "all" for every method that there is."""
    if text is None:
        return METHODS
    return tuple(sorted(all_methods())) if text == "all" else tuple(m.strip() for m in text.split(",") if m.strip())


def split(data: Dataset) -> tuple[list[Sample], Dataset]:
    """The questions to search on, and those held out for the evidence: every third one."""
    searching = [s for i, s in enumerate(data.samples) if i % HELD_OUT != HELD_OUT - 1]
    return searching, Dataset(f"{data.name}, held out", data.samples[HELD_OUT - 1 :: HELD_OUT], data.broken)


class Worker:
    """What trials of one process share: the model, the questions, the answers without compression."""

    def __init__(self, study: Study, settings: Settings, loaded: Loaded) -> None:
        self.study, self.settings, self.loaded = study, settings, loaded
        self.target = Target.of(settings.target)
        searching, _ = split(load_dataset(settings.dataset, settings.limit))
        rows = [r for r in study.rows() if r["kind"] == "accuracy" and r["error"] is None]
        self.originals = {r["sample"]: r for r in rows}
        self.samples = [s for s in searching if s.id in self.originals]
        self.by_id = {s.id: s for s in self.samples}
        self.shape = family_of(loaded.model.config).shape(loaded.model.config)
        first = next(b for b in batches(self.samples, 1) if isinstance(b, list))
        inputs = inputs_of(loaded, first)
        self.grids = visual_grids(loaded, inputs)
        self.text = inputs["input_ids"].shape[1] - sum(grid.n for grid in self.grids)
        answer(loaded, first, [uncompressed()], 1)  # warm up: times may be what is minimised

    def trial(self, trial: Any) -> float:
        """The cost of what the trial proposes; raises TrialPruned where it cannot win or cannot be run."""
        from optuna import TrialPruned

        method = suggest(trial, self.settings.methods, self.shape)
        seen = Seen(self.settings, self.originals)
        why = error = None
        try:
            why = self._too_dear(method)
            for questions in [] if why else self._looks():
                self._ask(questions, method, seen)
                trial.report(seen.numbers()["cost"], len(seen))
                if why := self._hopeless(seen):
                    break
        except FoveateError as refused:
            error = str(refused)
        row = self._row(trial.number, method, seen, why, error)
        trial.set_constraint("target", self.target.least - row.get(self.target.quantity, 0.0))
        self.study.append(row)
        if why or error:
            raise TrialPruned(why or error)
        return float(row["cost"])

    def _looks(self) -> Iterator[list[Sample]]:
        """The questions in growing parts: the first few, then each time as many as there were."""
        start, size = 0, FIRST_LOOK
        while start < len(self.samples):
            yield self.samples[start : start + size]
            start, size = start + size, start + size

    def _ask(self, questions: list[Sample], method: Method, seen: Seen) -> None:
        for part in batches(questions, self.settings.batch):
            if not isinstance(part, list):
                raise InvalidValue(f"{part.sample.id}: {part.reason}")
            replies = answer(self.loaded, part, [method], self.settings.max_new_tokens)
            for opened, reply in zip(part, replies, strict=True):
                if isinstance(reply, Broken):
                    raise InvalidValue(reply.reason)
                seen.add(self.by_id[opened.sample.id], reply[0])

    def _too_dear(self, method: Method) -> str | None:
        """Counted costs are known before anything is run: those of the first question, also for the best so far."""
        best = self._best()
        if self.settings.minimise not in ("t_eq", "tflops") or best is None:
            return None
        other = Recipe(method=best["method"], settings=best["settings"]).to_method()
        here, there = (self._planned(m) for m in (method, other))
        return None if here < there else f"would cost {here:.4g} {self.settings.minimise}; {there:.4g} holds the target"

    def _planned(self, method: Method) -> float:
        plan = make_plan(method.steps(self.shape), self.shape, self.grids)
        return plan.t_eq if self.settings.minimise == "t_eq" else plan.lm_flops(self.text) / 1e12

    def _hopeless(self, seen: Seen) -> str | None:
        """Why a trial cannot win any more, after some questions; None where it may, and after the last."""
        if len(seen) == len(self.samples):
            return None
        highest, cost, best = seen.highest(self.target.quantity), seen.numbers()["cost"], self._best()
        if highest < self.target.least:
            return f"{self.target.quantity} is at most {highest:.3f} (95 %) after {len(seen)} questions"
        if best is not None and cost > SLACK[self.settings.minimise] * best["cost"]:
            return (
                f"{cost:.4g} {self.settings.minimise} after {len(seen)} questions; {best['cost']:.4g} holds the target"
            )
        return None

    def _best(self) -> Row | None:
        return cheapest(self.study)

    def _row(self, number: int, method: Method, seen: Seen, why: str | None, error: str | None) -> Row:
        settings = Recipe.of(method).settings
        state = "refused" if error else "given up" if why else "complete"
        row: Row = {
            "kind": "trial", "trial": number, "method": method.card.name, "settings": settings,
            "keep": keep_of(settings), "sample": None, "state": state, "why": why, "questions": len(seen),
            "error": error, "feasible": False,
        }  # fmt: skip
        if len(seen):
            row |= seen.numbers()
            row["feasible"] = state == "complete" and row[self.target.quantity] >= self.target.least
        return row


class Seen:
    """What a trial has shown so far."""

    def __init__(self, settings: Settings, originals: dict[str, Row]) -> None:
        self.settings, self.originals = settings, originals
        self.replies: list[Reply] = []
        self.same: list[bool] = []
        self.scores: list[float] = []
        self.before: list[float] = []

    def __len__(self) -> int:
        return len(self.replies)

    def add(self, sample: Sample, reply: Reply) -> None:
        """One more answer."""
        original = self.originals[sample.id]
        self.replies.append(reply)
        self.same.append(reply.answer == original["answer"])
        self.scores.append(score(self.settings.metric, reply.answer, sample.answers, sample.choices))
        self.before.append(original["score"])

    def numbers(self) -> dict[str, float]:
        """All means; `cost` is what is minimised."""
        n = len(self)
        found = {
            "agreement": sum(self.same) / n,
            "accuracy": sum(self.scores) / n,
            "retention": sum(self.scores) / sum(self.before) if sum(self.before) else 0.0,
            "prefill_ms": sum(r.prefill_ms for r in self.replies) / n,
            "t_eq": sum(r.t_eq for r in self.replies) / n,
            "tflops": sum(r.lm_flops for r in self.replies) / n / 1e12,
        }
        return found | {"cost": found[self.settings.minimise]}

    def highest(self, quantity: str) -> float:
        """The upper end of its 95 % interval; scores between 0 and 1 count by the share that is at least one half."""
        right = share(self.same if quantity == "agreement" else [s >= RIGHT for s in self.scores])
        high = 1.0 if right.high is None else right.high
        before = sum(self.before) / len(self)
        return high if quantity != "retention" else high / before if before else 0.0


def cheapest(study: Study) -> Row | None:
    """The row of the cheapest trial so far that holds the target."""
    return min((row for row in study.rows() if row.get("feasible")), key=lambda row: row["cost"], default=None)
