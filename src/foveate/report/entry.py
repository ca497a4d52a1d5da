"""An entry of the report: what the rows of a study say of a contender at a budget, as numbers with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..measure.changes import UNCOMPRESSED, score_of
from ..measure.interval import Interval, estimate, paired_difference
from ..measure.rows import Key
from ..measure.study import Row
from ..measure.verdict import verdict

#: medians and quartiles in rows of a bench
TIMES = ("vision_ms", "selection_ms", "prefill_ms", "ttft_ms", "total_ms", "decode_ms_per_token")
#: counts in rows of a bench; those of one prompt in FLOPs
COUNTS = (
    "visual_tokens", "text_tokens", "kv_bytes", "peak_memory_bytes", "prefill_flops", "prefill_flops_computed",
    "vision_flops", "prompts_per_s", "tokens_per_s",
)  # fmt: skip
#: what the rows of answers carry beside the score
ANSWERED = ("t_eq", "visual_tokens", "vision_ms", "prefill_ms", "total_ms", "lm_flops")


@dataclass(frozen=True)
class Number:
    """A value, the ends of its interval if it has one, and what it is in words."""

    value: float
    low: float | None = None
    high: float | None = None
    what: str = ""

    @classmethod
    def of(cls, interval: Interval, what: str) -> Number:
        """A mean with its 95 % interval."""
        ends = "" if interval.low is None else "; in brackets its 95 % interval"
        return cls(interval.mean, interval.low, interval.high, f"{what}{ends}")

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Entry:
    """A contender at a budget, or a trial of a search.

    number      in the page; numbers link to the recipe of this number
    numbers     by the name of the rows' field; "score" is what contenders are ranked by
    scores      the score of each sample
    kinds       the score by kind of question
    per_layer   visual tokens of each LLM layer
    batches     prompts a second by batch size, where several were timed
    settings    as they were solved for the samples, and for how many samples each
    verdict     whether it pays, in words, where it was timed beside the uncompressed model
    state, why  of a trial
    """

    number: int
    method: str
    budget: str | None
    numbers: dict[str, Number] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, Number] = field(default_factory=dict)
    per_layer: tuple[float, ...] = ()
    batches: dict[int, Number] = field(default_factory=dict)
    settings: tuple[tuple[dict[str, Any], int], ...] = ()
    verdict: str | None = None
    state: str | None = None
    why: str | None = None

    @property
    def key(self) -> Key:
        """Method and budget, as in the rows."""
        return self.method, self.budget

    @property
    def name(self) -> str:
        """For a sentence."""
        if self.budget is None:
            return self.method
        return f"{self.method} at {self.budget}" if self.state is None else f"{self.method}, {self.budget}"

    @property
    def is_plain(self) -> bool:
        """Whether it is the model without compression."""
        return self.method == UNCOMPRESSED

    def get(self, name: str) -> float | None:
        """The value of a number, if it is there."""
        return self.numbers[name].value if name in self.numbers else None


def entries_of(rows: Sequence[Row], first: int) -> list[Entry]:
    """The entries of a bench, an evaluation, a fidelity study or a comparison, numbered from `first` on."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        if row["kind"] in ("accuracy", "fidelity", "bench") and not row["error"]:
            groups.setdefault((row["method"], row["budget"]), []).append(row)
    found = [_entry(first + i, key, some) for i, (key, some) in enumerate(groups.items())]
    plain = next((e for e in found if e.is_plain), None)
    random = {e.budget: e for e in found if e.method == "random"}
    return [_beside(entry, plain, random.get(entry.budget)) for entry in found]


def _entry(number: int, key: Key, rows: Sequence[Row]) -> Entry:
    judged = [r for r in rows if r["kind"] != "bench"]
    timed = [r for r in rows if r["kind"] == "bench"]
    smallest = min((r["batch"] for r in timed), default=0)
    numbers = dict(_bench_numbers([r for r in timed if r["batch"] == smallest])) | dict(_judged_numbers(judged))
    sizes = sorted({r["batch"] for r in timed})
    layers = [r["tokens_per_layer"] for r in (timed or judged) if r.get("tokens_per_layer")]
    return Entry(
        number,
        *key,
        numbers=numbers,
        scores={r["sample"]: _score(r) for r in judged},
        kinds=dict(_kinds(judged)),
        per_layer=tuple(map(statistics.fmean, zip(*layers, strict=True))) if len({*map(len, layers)}) == 1 else (),
        batches={n: _throughput([r for r in timed if r["batch"] == n]) for n in sizes} if len(sizes) > 1 else {},
        settings=settings_of(judged or timed),
    )


def settings_of(rows: Sequence[Row]) -> tuple[tuple[dict[str, Any], int], ...]:
    """Settings that differ, the most frequent first, each with the number of samples."""
    found: dict[str, tuple[dict[str, Any], int]] = {}
    for row in rows:
        _, n = found.get(repr(row["settings"]), ({}, 0))
        found[repr(row["settings"])] = row["settings"], n + 1
    return tuple(sorted(found.values(), key=lambda item: -item[1]))


def _bench_numbers(rows: Sequence[Row]) -> Iterator[tuple[str, Number]]:
    if not rows:
        return
    over = "" if len(rows) == 1 else f", averaged over {len(rows)} samples"
    runs = rows[0]["runs"]
    for name in TIMES:
        if all(r.get(name) is not None for r in rows):
            value, low, high = (statistics.fmean(r[name + end] for r in rows) for end in ("", "_q1", "_q3"))
            yield name, Number(value, low, high, f"median of {runs} runs{over}; in brackets the quartiles")
    for name in (*COUNTS, "t_eq"):
        values = [r[name] for r in rows if r.get(name) is not None]
        if values:
            how = "from the median time" if name.endswith("_per_s") else "counted"
            how = "computed by formula" if name == "prefill_flops_computed" else how
            how = rows[0]["peak_memory_kind"] if name == "peak_memory_bytes" else how
            yield name, Number(statistics.fmean(values), what=f"{how}{over}")


def _throughput(rows: Sequence[Row]) -> Number:
    return Number(statistics.fmean(r["prompts_per_s"] for r in rows), what=f"prompts a second, {rows[0]['runs']} runs")


def _score(row: Row) -> float:
    return float(row["agreement"]) if row["kind"] == "fidelity" else score_of(row)


def _judged_numbers(rows: Sequence[Row]) -> Iterator[tuple[str, Number]]:
    if not rows:
        return
    n = f"mean over {len(rows)} samples"
    groups = [r["sample"].rpartition("#")[0] or r["sample"] for r in rows]  # questions about one picture
    yield "score", Number.of(estimate([_score(r) for r in rows], groups), n)
    for name in ("exact", "kl_nats"):
        if all(name in r for r in rows):
            yield name, Number.of(estimate([float(r[name]) for r in rows], groups), n)
    for name in ANSWERED:
        mine = [r for r in rows if r.get(name) is not None]
        if mine and name.endswith("_ms"):  # times of one batch are not independent
            shared = [str(r.get("batch", r["sample"])) for r in mine]
            yield name, Number.of(estimate([r[name] for r in mine], shared), f"mean over {len(mine)} samples")
        elif mine:
            yield name, Number(statistics.fmean(r[name] for r in mine), what=f"mean over {len(mine)} samples")


def _kinds(rows: Sequence[Row]) -> Iterator[tuple[str, Number]]:
    kinds: dict[str, list[float]] = {}
    for row in rows:
        if row.get("question_kind"):
            kinds.setdefault(row["question_kind"], []).append(_score(row))
    for kind, scores in sorted(kinds.items()):
        yield kind, Number.of(estimate(scores), f"{kind}: mean over {len(scores)} samples")


def _beside(entry: Entry, plain: Entry | None, random: Entry | None) -> Entry:
    """With its differences from the uncompressed model and from random tokens at the same budget."""
    found = dict(entry.numbers)
    for name, other in (("change", plain), ("to_random", random)):
        if other is not None and other is not entry and entry.scores:
            difference = paired_difference(entry.scores, other.scores)
            if difference is not None:
                found[name] = Number.of(difference, f"score less that of {other.name}, on {difference.n} samples")
    if plain is None or entry is plain or not ("ttft_ms" in entry.numbers and "ttft_ms" in plain.numbers):
        return replace(entry, numbers=found)
    ratio = plain.numbers["ttft_ms"].value / entry.numbers["ttft_ms"].value
    found["sooner"] = Number(ratio, what="time to the first token without / with compression")
    return replace(entry, numbers=found, verdict=verdict(_as_row(entry), _as_row(plain)))


def _as_row(entry: Entry) -> dict[str, float | None]:
    """Its times as a row of a bench has them."""
    times = {name: number for name, number in entry.numbers.items() if name in TIMES}
    ends = {f"{name}_q1": n.low for name, n in times.items()} | {f"{name}_q3": n.high for name, n in times.items()}
    return ends | {name: n.value for name, n in times.items()}


# ── trials of a search ───────────────────────────────────────────────────────────────────────────────────────────


def trials_of(rows: Sequence[Row], target: str, first: int) -> list[Entry]:
    """The trials of a search, those that hold the target first, the cheapest first."""
    quantity = target.partition(">=")[0].strip()
    trials = sorted((r for r in rows if r["kind"] == "trial"), key=_cheap)
    return [_trial(first + i, row, quantity) for i, row in enumerate(trials)]


def _cheap(row: Row) -> tuple[bool, float]:
    return not row["feasible"], row.get("cost", float("inf"))


def _trial(number: int, row: Row, quantity: str) -> Entry:
    n = row["questions"]
    what = f"mean over {n} questions"
    numbers: dict[str, Number] = {
        name: Number(float(row[name]), what=what)
        for name in ("agreement", "accuracy", "retention", "prefill_ms", "t_eq", "tflops", "cost")
        if name in row
    }
    if quantity in numbers:
        mean = numbers[quantity].value
        numbers["score"] = Number(mean, what=f"{quantity}, {what}")
        if quantity == "agreement":  # a share of n answers
            same = round(mean * n)
            numbers["score"] = Number.of(estimate([1.0] * same + [0.0] * (n - same)), f"{quantity}, {what}")
    return Entry(
        number, row["method"], f"trial {row['trial']}", numbers=numbers, settings=((row["settings"], n),),
        state="holds the target" if row["feasible"] else row["state"], why=row["why"] or row["error"],
    )  # fmt: skip


def measured(entries: Sequence[Entry], names: Mapping[str, str]) -> dict[str, str]:
    """Those of the named numbers that any entry has."""
    return {name: title for name, title in names.items() if any(name in e.numbers for e in entries)}
