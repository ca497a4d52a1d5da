"""compare: methods at equal T_eq, judged and timed; who is best at each budget, and who is beaten by nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import FoveateError, InvalidValue
from ..loading import Loaded
from .benchmark import COUNTING, bench
from .contender import Contender, Level
from .divergence import Fidelity
from .interval import Interval, estimate, paired_difference
from .judge import ExactAnswer, Judge
from .lineup import line_up
from .rows import Key, broken, front, key_of, missing
from .samples import Opened, Sample, embedded_samples
from .study import Row, Study
from .sweep import Progress, cells_of, sweep

#: eight methods, the baselines among them
METHODS = ("aim", "divprune", "fastv", "pool", "pyramiddrop", "random", "uniform", "visionzip")
SHARES = (0.5, 0.25, 0.1)
#: held-out questions asked by default: 50 of each kind
SAMPLES = 350
PLAIN: Key = ("uncompressed", None)


@dataclass(frozen=True)
class Entry:
    """A contender at a budget.

    score         mean over the samples that it could be asked
    change        score less that of the uncompressed model, on the same samples
    above_random  score less that of "random" at the same budget, on the same samples
    ttft_ms       median time to the first token, total_ms to the last one, of one sample alone
    best_for_time, best_for_t_eq   nobody scores as high for less time (T_eq), or higher for the same
    """

    label: str
    budget: str | None
    t_eq: float
    score: Interval
    change: Interval | None
    above_random: Interval | None
    broken: int
    ttft_ms: float | None
    total_ms: float | None
    verdict: str | None
    best_for_time: bool = False
    best_for_t_eq: bool = False

    @property
    def key(self) -> Key:
        """Label and budget, as in the rows."""
        return self.label, self.budget


@dataclass(frozen=True)
class Comparison:
    """Entries by budget, the best first, ties by name; what has no result (`missing`), which samples are `broken`."""

    judge: str
    score: str
    entries: tuple[Entry, ...]
    missing: dict[Key, str]
    broken: dict[str, str]
    rows: tuple[Row, ...]

    def difference(self, a: Key, b: Key) -> Interval | None:
        """Mean score of a less that of b over the samples both have; significant where it excludes zero."""
        scores = _scores(self.rows, self.judge, self.score)
        return paired_difference(scores.get(a, {}), scores.get(b, {}))

    def ranking(self) -> list[Key]:
        """The order of the entries."""
        return [entry.key for entry in self.entries]


def compare(
    loaded: Loaded,
    methods: Sequence[str | Contender] = METHODS,
    levels: Sequence[Level | float] = SHARES,
    *,
    samples: Sequence[Sample] | None = None,
    judge: Judge | None = None,
    study: Study | None = None,
    batch: int = 25,
    runs: int = 5,
    new_tokens: int = 8,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Judge every contender at every budget on all samples, then time it on the first one.

    A bare number in `levels` is a share: T_eq as a fraction of the visual tokens. By default it asks the held-out
    questions of `foveate.scenes`; where the right answers are known it judges by accuracy, else by fidelity.
    """
    asked: Sequence[Sample] = embedded_samples(SAMPLES) if samples is None else samples
    if not asked:
        raise InvalidValue("there is nothing to ask; give samples")
    judge = judge or (ExactAnswer() if all(s.answers for s in asked) else Fidelity())
    at = [level if isinstance(level, Level) else Level(share=level) for level in levels]
    contenders = line_up(methods, videos=any(s.video is not None for s in asked))
    cells = cells_of(contenders, at)
    timed = _first_usable(asked)
    judged, timing = len(asked) * len(cells), len(timed) * len(cells) * (runs + COUNTING)
    rows = sweep(
        loaded, asked, cells, judge, study=study, batch=batch, progress=lambda done, _: progress(done, judged + timing)
    )
    times = bench(
        loaded, timed, contenders, at, runs=runs, new_tokens=new_tokens, study=study,
        progress=lambda done, _: progress(judged + done, judged + timing),
    )  # fmt: skip
    return summary([*rows, *times.rows], judge.name, judge.score)


def summary(rows: Sequence[Row], judge: str, score: str) -> Comparison:
    """What the rows of a comparison come to, as far as they are there."""
    judged = [r for r in rows if r["kind"] == judge]
    timed = {key_of(r): r for r in rows if r["kind"] == "bench" and not r["error"]}
    scores = _scores(rows, judge, score)
    entries = [_entry(key, [r for r in judged if key_of(r) == key], scores, timed.get(key, {})) for key in scores]
    budgets = list(dict.fromkeys(e.budget for e in entries))
    entries.sort(key=lambda e: (budgets.index(e.budget), -e.score.mean, e.label))
    return Comparison(judge, score, tuple(_with_fronts(entries)), missing(judged), broken(judged), tuple(rows))


def _first_usable(samples: Sequence[Sample]) -> list[Sample]:
    for sample in samples:
        try:
            Opened.of(sample)
        except FoveateError:
            continue
        return [sample]
    return []


def _scores(rows: Sequence[Row], judge: str, score: str) -> dict[Key, dict[str, float]]:
    """The score of each sample by contender and budget, in the order of the rows."""
    found: dict[Key, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == judge and not row["error"]:
            found.setdefault(key_of(row), {})[row["sample"]] = float(row[score])
    return found


def _entry(key: Key, rows: Sequence[Row], scores: Mapping[Key, Mapping[str, float]], timed: Mapping[str, Any]) -> Entry:
    good = [r for r in rows if not r["error"]]
    return Entry(
        *key,
        t_eq=sum(r["t_eq"] for r in good) / len(good),
        score=estimate(list(scores[key].values())),
        change=None if key == PLAIN else paired_difference(scores[key], scores.get(PLAIN, {})),
        above_random=None if key[0] == "random" else paired_difference(scores[key], scores.get(("random", key[1]), {})),
        broken=len(broken(rows)),
        ttft_ms=timed.get("ttft_ms"),
        total_ms=timed.get("total_ms"),
        verdict=timed.get("verdict"),
    )


def _with_fronts(entries: Sequence[Entry]) -> list[Entry]:
    score = [e.score.mean for e in entries]
    by_t_eq = front([e.t_eq for e in entries], score)
    timed = [e for e in entries if e.ttft_ms is not None]
    quick = front([e.ttft_ms or 0.0 for e in timed], [e.score.mean for e in timed])
    by_time = {e.key for e, on in zip(timed, quick, strict=True) if on}
    return [
        replace(e, best_for_time=e.key in by_time, best_for_t_eq=on) for e, on in zip(entries, by_t_eq, strict=True)
    ]
