"""evaluate_compression: a model with and without compression on the same samples, with intervals and a paired test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ask import uncompressed
from ..errors import InvalidValue
from ..loading import Loaded, load
from ..measure import samples
from ..measure.interval import Interval
from ..method import Method, get_method
from . import statistics
from .answers import Reply, answer
from .dataset import EMBEDDED, Broken, Dataset, Sample, load_dataset, none_left
from .metrics import score

BATCH = 8
MAX_NEW_TOKENS = 32
#: A sample counts as right for McNemar's test from this score on; scores of exact and multiple_choice are 0 or 1.
RIGHT = 0.5


@dataclass(frozen=True)
class CompressionMetrics:
    """What was removed and what it cost; token counts and FLOPs are means over the samples.

    `tokens` are those of the average LLM layer (T_eq), so that methods which cut late, or down to nothing, compare.
    FLOPs are those of the language model's layers in prefill, computed; the vision tower, which no method here makes
    smaller, and the method's own work are not in them.
    """

    visual_tokens: float
    t_eq: float
    final_tokens: float
    flops: float
    flops_compressed: float
    accuracy: float
    accuracy_compressed: float

    @property
    def compression_ratio(self) -> float:
        """Tokens after / before: T_eq / visual tokens; 1 means that nothing was removed."""
        return self.t_eq / self.visual_tokens

    @property
    def flops_reduction(self) -> float:
        """1 - FLOPs with / without compression; 0 means that nothing was saved."""
        return 1 - self.flops_compressed / self.flops

    @property
    def accuracy_retention(self) -> float | None:
        """Accuracy with / without compression; None where the model is never right without."""
        return self.accuracy_compressed / self.accuracy if self.accuracy else None

    @property
    def efficiency_score(self) -> float | None:
        """Accuracy retention x FLOPs reduction: what is saved, weighted by what is kept."""
        return None if self.accuracy_retention is None else self.accuracy_retention * self.flops_reduction

    def as_dict(self) -> dict[str, float | None]:
        """Fields and what follows from them."""
        derived = ("compression_ratio", "flops_reduction", "accuracy_retention", "efficiency_score")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True)
class Pair:
    """One sample answered without and with compression, and how right each answer was."""

    sample: Sample
    original: Reply
    compressed: Reply
    original_score: float
    compressed_score: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy, time and tokens of a model with and without a method, on the same samples.

    original, compressed  accuracy (the mean score) with its 95 % interval
    drop            original - compressed, paired
    lost, gained    samples that were right only without, and only with compression; p_value is McNemar's for them
    agreement       share of samples whose answer is the same with and without
    speedup         prefill time without / with, the method's own work included; end_to_end that of all of `generate`
    kinds           accuracy without and with, and the number of samples, by kind of question
    broken          rows that could not be asked; they are in no other number
    """

    dataset: str
    method: Method
    pairs: tuple[Pair, ...]
    broken: tuple[Broken, ...]
    original: Interval
    compressed: Interval
    drop: Interval
    lost: int
    gained: int
    p_value: float
    agreement: Interval
    speedup: Interval
    end_to_end: Interval
    compression: CompressionMetrics
    kinds: dict[str, tuple[float, float, int]]

    @property
    def original_accuracy(self) -> float:
        """Mean score without compression."""
        return self.original.mean

    @property
    def compressed_accuracy(self) -> float:
        """Mean score with compression."""
        return self.compressed.mean

    @property
    def accuracy_drop(self) -> float:
        """Original less compressed accuracy."""
        return self.drop.mean

    def as_dict(self) -> dict[str, Any]:
        """All numbers, without the samples."""
        estimates = ("original", "compressed", "drop", "agreement", "speedup", "end_to_end")
        return {
            "dataset": self.dataset,
            "method": self.method.card.name,
            "samples": len(self.pairs),
            "broken": [dataclasses.asdict(b) for b in self.broken],
            **{name: dataclasses.asdict(getattr(self, name)) for name in estimates},
            **{name: getattr(self, name) for name in ("lost", "gained", "p_value")},
            "compression": self.compression.as_dict(),
            "kinds": {
                kind: {"original": a, "compressed": b, "samples": n} for kind, (a, b, n) in sorted(self.kinds.items())
            },
        }


def evaluate_compression(
    model: Any = None,
    dataset: str | Path | Dataset = EMBEDDED,
    method: str | Method = "aim",
    *,
    processor: Any = None,
    metric: str | None = None,
    limit: int | None = None,
    batch: int = BATCH,
    max_new_tokens: int = MAX_NEW_TOKENS,
    known: Iterable[Pair] = (),
    done: Callable[[Sequence[Pair | Broken]], None] = lambda batch: None,
    **overrides: object,
) -> Evaluation:
    """Answer every sample of a dataset without and with compression, and compare.

    `model` is a folder, a hub id, None for the embedded model, what `foveate.load` returns, or a transformers model
    with its `processor`. `dataset` is a JSONL file or "embedded" (see `foveate.evaluate.dataset`); `overrides` replace
    settings of the method, as in `compress`. Both sides run on the same batches, in turns, after a warm-up. `done` is
    called with each batch that was answered; pairs given as `known` are not asked again.

    Raises InvalidValue for a wrong name or number, or when no sample can be asked.
    """
    chosen = get_method(method, **overrides)
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset, limit)
    if batch < 1:
        raise InvalidValue(f"batch must be at least 1, got {batch}")
    check_metric(metric, data)
    pairs = {p.sample.id: p for p in known}
    loaded = _loaded(model, processor)
    broken = list(data.broken)
    todo = [s for s in data.samples if s.id not in pairs]
    for results in _pairs(loaded, todo, chosen, metric, batch, max_new_tokens):
        broken += [r for r in results if isinstance(r, Broken)]
        pairs |= {r.sample.id: r for r in results if isinstance(r, Pair)}
        done(results)
    ordered = tuple(pairs[s.id] for s in data.samples if s.id in pairs)
    if not ordered:
        raise none_left(data.name, broken)
    return compared(data.name, chosen, ordered, tuple(broken))


def check_metric(metric: str | None, data: Dataset) -> None:
    """Raises InvalidValue for a metric that is not there or that the samples do not fit, before a model is loaded."""
    for sample in data.samples:
        score(metric, "", sample.answers, sample.choices)


def _loaded(model: Any, processor: Any) -> Loaded:
    if isinstance(model, Loaded):
        return model
    if model is None or isinstance(model, str | Path):
        return load(model)
    if processor is None:
        raise InvalidValue("a model needs its processor: pass processor=AutoProcessor.from_pretrained(...)")
    return Loaded(model.eval(), processor)


def _pairs(
    loaded: Loaded, todo: Sequence[Sample], method: Method, metric: str | None, size: int, max_new_tokens: int
) -> Iterable[list[Pair | Broken]]:
    """Both sides of each batch, one after the other; who goes first changes from batch to batch."""
    sides, warm, by_id = [uncompressed(), method], False, {s.id: s for s in todo}
    for turn, batch in enumerate(samples.batches(todo, size)):
        if isinstance(batch, samples.Broken):
            yield [Broken(batch.sample.id, batch.reason)]
            continue
        if not warm:
            answer(loaded, batch, sides, 1)
            warm = True
        order = 1 if turn % 2 == 0 else -1
        results: list[Pair | Broken] = []
        for opened, replies in zip(batch, answer(loaded, batch, sides[::order], max_new_tokens), strict=True):
            asked = by_id[opened.sample.id]
            results.append(replies if isinstance(replies, Broken) else graded(asked, *replies[::order], metric=metric))
        yield results


def graded(sample: Sample, original: Reply, compressed: Reply, *, metric: str | None) -> Pair:
    """Two replies with their scores."""
    before, after = (score(metric, r.answer, sample.answers, sample.choices) for r in (original, compressed))
    return Pair(sample, original, compressed, before, after)


def compared(name: str, method: Method, pairs: tuple[Pair, ...], broken: tuple[Broken, ...] = ()) -> Evaluation:
    """All numbers of an evaluation from its answered samples."""
    before, after = [p.original_score for p in pairs], [p.compressed_score for p in pairs]
    right = [(a >= RIGHT, b >= RIGHT) for a, b in zip(before, after, strict=True)]
    lost, gained = right.count((True, False)), right.count((False, True))
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(pair.sample.kind, []).append(pair)
    original, compressed = statistics.mean(before), statistics.mean(after)
    same = [float(p.original.answer == p.compressed.answer) for p in pairs]
    return Evaluation(
        dataset=name,
        method=method,
        pairs=pairs,
        broken=broken,
        original=original,
        compressed=compressed,
        drop=statistics.drop(before, after),
        lost=lost,
        gained=gained,
        p_value=statistics.mcnemar(lost, gained),
        agreement=statistics.mean(same),
        speedup=_faster(pairs, "prefill_ms"),
        end_to_end=_faster(pairs, "total_ms"),
        compression=CompressionMetrics(
            visual_tokens=_mean([p.original.visual_tokens for p in pairs]),
            t_eq=_mean([p.compressed.t_eq for p in pairs]),
            final_tokens=_mean([p.compressed.tokens_per_layer[-1] for p in pairs]),
            flops=_mean([p.original.lm_flops for p in pairs]),
            flops_compressed=_mean([p.compressed.lm_flops for p in pairs]),
            accuracy=original.mean,
            accuracy_compressed=compressed.mean,
        ),
        kinds={
            kind: (_mean([p.original_score for p in some]), _mean([p.compressed_score for p in some]), len(some))
            for kind, some in kinds.items()
        },
    )


def _faster(pairs: Sequence[Pair], what: str) -> Interval:
    """Time without / with; batches, not samples, are redrawn, because the samples of one share its time."""
    before, after = ([getattr(side, what) for side in column] for column in _sides(pairs))
    return statistics.ratio(before, after, [p.original.batch for p in pairs])


def _sides(pairs: Sequence[Pair]) -> tuple[list[Reply], list[Reply]]:
    return [p.original for p in pairs], [p.compressed for p in pairs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
