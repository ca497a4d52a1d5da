"""An evaluation in a study folder: first what was asked for, then each answer as it comes, so that it can go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FoveateError, InvalidValue
from ..loading import load
from ..measure.contender import AsItIs
from ..measure.illustrate import illustrate
from ..measure.study import Study
from ..method import Method
from ..recipe import Recipe
from .accuracy import BATCH, MAX_NEW_TOKENS, Evaluation, Pair, check_metric, evaluate_compression
from .dataset import EMBEDDED, Broken, Dataset, load_dataset, none_left
from .export import export_task
from .record import pairs_of, rows_of
from .tasks import TaskEvaluation, evaluate_tasks, job_for

KIND = "eval"


@dataclass(frozen=True)
class Settings:
    """What an evaluation needs beside its method; enough to go on with it.

    dataset   a JSONL file or "embedded", answered here; with `harness` as a task of lmms-eval
    tasks     benchmarks or tasks of lmms-eval, in place of a dataset
    arguments, include, processes, machines, main   for lmms-eval: model arguments, a folder of tasks, parallelism
    """

    dataset: str | None = None
    tasks: tuple[str, ...] = ()
    harness: bool = False
    model: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    attn: str | None = None
    metric: str | None = None
    limit: int | None = None
    batch: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    baseline: bool = True
    arguments: tuple[tuple[str, str], ...] = ()
    include: str | None = None
    processes: int = 1
    machines: int = 1
    main: str | None = None

    def __post_init__(self) -> None:
        if bool(self.dataset) == bool(self.tasks):
            raise InvalidValue(f"give a dataset (a JSONL file, or {EMBEDDED!r}) or --tasks, one of them")
        if self.tasks and self.metric:
            raise InvalidValue("tasks of lmms-eval bring their metrics; leave --metric out")
        if not self.outside and (self.processes, self.machines, self.arguments) != (1, 1, ()):
            raise InvalidValue("processes, machines and model arguments are lmms-eval's; add --lmms-eval or --tasks")

    @property
    def outside(self) -> bool:
        """Whether lmms-eval does the asking."""
        return self.harness or bool(self.tasks)

    @classmethod
    def of_study(cls, written: dict[str, Any]) -> Settings:
        """From a study.json."""
        return cls(
            **{**written, "tasks": tuple(written["tasks"]), "arguments": tuple(map(tuple, written["arguments"]))}
        )


def default_folder() -> Path:
    """Where a study goes that was given no folder."""
    return Study.default_folder(KIND)


def begin(folder: Path, settings: Settings, method: Method, command: Sequence[str] = ()) -> Study:
    """A new study. Raises InvalidValue where the data or the metric cannot be used, before anything is made."""
    if settings.dataset is not None:
        check_metric(settings.metric, _data(settings))
    title = f"{method.card.name} on {settings.dataset or ', '.join(settings.tasks)}"
    recipes = {method.card.name: Recipe.of(method, model=settings.model).model_dump(exclude_none=True)}
    return Study.create(folder, KIND, title=title, settings=asdict(settings), recipes=recipes, command=command)


def resume(folder: Path) -> tuple[Study, Settings, Method]:
    """A study to go on with, and what it was asked for."""
    study = Study.resume(folder, KIND)
    about = study.about
    [recipe] = about["recipes"].values()
    return study, Settings.of_study(about["settings"]), Recipe(**recipe).to_method()


def evaluate_dataset(
    study: Study, settings: Settings, method: Method, progress: Callable[[int, int], None] = lambda done, total: None
) -> Evaluation:
    """Answer what is missing, here; `progress` is told how many of how many samples are done."""
    data, label = _data(settings), method.card.name
    known = list(pairs_of(study.rows(), data, label))
    study.append(*rows_of(data.broken, method, label))
    done = len(known)

    def keep(results: Sequence[Pair | Broken]) -> None:
        nonlocal done
        study.append(*rows_of(results, method, label))
        done += len(results)
        progress(done, len(data.samples))

    progress(done, len(data.samples))
    loaded = load(settings.model, dtype=settings.dtype, device=settings.device, attn_implementation=settings.attn)
    evaluation = evaluate_compression(
        loaded,
        data,
        method,
        metric=settings.metric,
        batch=settings.batch or BATCH,
        max_new_tokens=settings.max_new_tokens,
        known=known,
        done=keep,
    )
    illustrate(loaded, data.samples, [AsItIs(label, method)], [], study)
    study.update(results=evaluation.as_dict())
    study.finish()
    return evaluation


def evaluate_outside(
    study: Study,
    settings: Settings,
    method: Method,
    machine: int = 0,
    answered: Callable[[str, int], None] = lambda label, n: None,
) -> TaskEvaluation | None:
    """The same through lmms-eval; None on any machine but the first."""
    names, include = settings.tasks, settings.include
    broken: tuple[Broken, ...] = ()
    if settings.dataset is not None:
        data, folder = _askable(_data(settings)), study.folder / "tasks"
        names, include = (export_task(data, folder, settings.metric, settings.max_new_tokens),), str(folder)
        broken = data.broken
        study.append(*rows_of(broken, method, method.card.name))
    arguments = dict(settings.arguments)
    if settings.attn is not None:
        arguments["attn_implementation"] = settings.attn
    job = job_for(
        settings.model, names, study.folder, settings.device, as_shipped=settings.dataset is not None,
        arguments=arguments, include=None if include is None else Path(include), batch=settings.batch or 1,
        limit=settings.limit if settings.tasks else None, processes=settings.processes, machines=settings.machines,
        machine=machine, main=settings.main,
    )  # fmt: skip
    evaluation = evaluate_tasks(job, method, baseline=settings.baseline, study=study, answered=answered)
    if evaluation is not None:
        evaluation = replace(evaluation, broken=broken)
        study.update(results=evaluation.as_dict())
        study.finish()
    return evaluation


def _data(settings: Settings) -> Dataset:
    assert settings.dataset is not None
    return load_dataset(settings.dataset, settings.limit)


def _askable(data: Dataset) -> Dataset:
    """The dataset with what has unreadable pictures among the broken: lmms-eval would stop there."""
    usable, broken = [], list(data.broken)
    for sample in data.samples:
        try:
            sample.pictures()
        except FoveateError as error:
            broken.append(Broken(sample.id, str(error)))
        else:
            usable.append(sample)
    if not usable:
        raise none_left(data.name, broken)
    return Dataset(data.name, tuple(usable), tuple(broken))
