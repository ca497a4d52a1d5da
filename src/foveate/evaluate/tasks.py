"""lmms-eval's benchmarks with and without compression: both runs, and what the same questions say of the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InvalidValue
from ..loading import embedded_model_path, load_config
from ..measure.interval import Interval
from ..measure.study import Study
from ..method import Method
from ..recipe import Recipe
from . import benchmarks, harness, statistics
from .dataset import Broken
from .finished import finished_rows
from .lmms import MODELS
from .record import UNCOMPRESSED, keep_of


@dataclass(frozen=True)
class Difference:
    """One metric of one task without and with compression.

    value, compressed  as lmms-eval computes them; drop and p_value are there where it wrote a plain number for each
    question (p_value only for 0 and 1: McNemar's exact test)
    """

    task: str
    metric: str
    samples: int
    value: float | None
    compressed: float
    drop: Interval | None = None
    p_value: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class TaskEvaluation:
    """All metrics of all tasks, and means over all questions of what was counted: visual_tokens, t_eq, prefill_ms."""

    method: Method
    differences: tuple[Difference, ...]
    counted: dict[str, float]
    counted_uncompressed: dict[str, float] | None
    broken: tuple[Broken, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "method": self.method.card.name,
            "broken": [asdict(b) for b in self.broken],
            "tasks": [d.as_dict() for d in self.differences],
            "counted": self.counted,
            "counted_uncompressed": self.counted_uncompressed,
        }


def job_for(
    model: str | None, names: Sequence[str], folder: Path, device: str, *, as_shipped: bool = False, **options: Any
) -> harness.Job:
    """The job that runs these benchmarks or tasks on a model, before it is given a method.

    `options` are fields of `harness.Job`; `arguments` among them are added to the model's. Raises InvalidValue for a
    model that lmms-eval cannot load compressed.
    """
    harness.installed()
    kind = load_config(model).model_type
    if kind not in MODELS:
        raise InvalidValue(f"no compressed model for {kind!r} in lmms-eval; there are: {', '.join(sorted(MODELS))}")
    arguments: dict[str, Any] = {"pretrained": model or embedded_model_path()}
    if device == "cpu" or MODELS[kind] == "foveate_qwen2_5_vl":  # there "auto" would spread the model over all GPUs
        arguments["device_map"] = device
    if MODELS[kind] == "foveate_qwen2_5_vl" and (as_shipped or model is None):
        arguments["as_shipped"] = True
    arguments |= options.pop("arguments", {})
    tasks = tuple(benchmarks.tasks(names))
    return harness.Job(MODELS[kind], tasks, arguments, folder, device, **options)


def evaluate_tasks(
    job: harness.Job,
    method: Method,
    *,
    baseline: bool = True,
    study: Study | None = None,
    answered: Callable[[str, int], None] = lambda label, n: None,
) -> TaskEvaluation | None:
    """Run the job without (unless `baseline` is False) and with a method; None on any machine but the first.

    The method goes to lmms-eval as a recipe in the job's folder. Raises HarnessFailed when either run failed.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    recipe = job.folder / "recipe.yaml"
    Recipe.of(method).save(recipe)
    label = method.card.name
    found: dict[str, harness.Results | None] = {}
    for name, words in ([(UNCOMPRESSED, {})] if baseline else []) + [(label, {"recipe": recipe})]:
        side = replace(job, folder=job.folder / name, arguments={**job.arguments, **words})
        found[name] = harness.run(side, lambda n, name=name: answered(name, n))  # type: ignore[misc]
        if study is not None and (results := found[name]) is not None:
            have = {(row["method"], row["sample"]) for row in study.rows()}
            new = rows_of(results, side, name, method if name == label else None)
            study.append(*(row for row in new if (row["method"], row["sample"]) not in have))
    before, after = found.get(UNCOMPRESSED), found[label]
    if after is None:
        return None
    counted = None if before is None else before.counted
    return TaskEvaluation(method, tuple(_differences(before, after)), after.counted, counted)


def _differences(before: harness.Results | None, after: harness.Results) -> Iterator[Difference]:
    old = {t.task: t for t in before.tasks} if before else {}
    for task in after.tasks:
        for metric, value in task.metrics.items():
            then = old[task.task].metrics.get(metric) if task.task in old else None
            difference = Difference(task.task, metric, task.samples, then, value)
            yield difference if before is None else _paired(difference, before, after)


def _paired(difference: Difference, before: harness.Results, after: harness.Results) -> Difference:
    sides = [harness.per_question(r.rows.get(difference.task, []), difference.metric) for r in (before, after)]
    both = sorted(sides[0].keys() & sides[1].keys())
    if not both:
        return difference
    a, b = ([side[q] for q in both] for side in sides)
    p_value = None
    if {*a, *b} <= {0.0, 1.0}:
        changes = list(zip(a, b, strict=True))
        p_value = statistics.mcnemar(changes.count((1.0, 0.0)), changes.count((0.0, 1.0)))
    return replace(difference, drop=statistics.drop(a, b), p_value=p_value)


def rows_of(results: harness.Results, job: harness.Job, label: str, method: Method | None) -> Iterator[dict[str, Any]]:
    """A row for each question that lmms-eval gave a plain number, with what its answer took."""
    took = {(row["task"], str(row["doc"])): row for row in finished_rows(job.folder / "answers")}
    settings = Recipe.of(method).settings if method else {}
    for task in results.tasks:
        rows = results.rows.get(task.task, [])
        metric = next((m for m in task.metrics if harness.per_question(rows, m)), None)
        if metric is None:
            continue
        values = harness.per_question(rows, metric)
        for row in rows:
            question, answer = str(row["doc_id"]), took.get((task.task, str(row["doc_id"])), {})
            yield {
                "kind": "accuracy", "method": label, "settings": settings,
                "keep": keep_of(settings), "sample": f"{task.task}/{question}",
                "question_kind": task.task, "question": row.get("input"), "truth": str(row.get("target")),
                "metric": metric, "score": values[question],
                **{n: answer[n] for n in ("answer", "visual_tokens", "t_eq", "prefill_ms", "vision_ms") if n in answer},
                "error": None,
            }  # fmt: skip
