"""tune: search methods and settings for the least cost at which a target still holds.

Each trial is asked about a growing part of the questions and given up as soon as it cannot win: when the target lies
above the interval of what it reached, or when it costs more than the best one that holds. The winner is measured again
on questions that the search never saw. Workers share the trials in the study's folder, where a killed search goes on.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..ask import uncompressed
from ..errors import InvalidValue
from ..loading import Loaded, load
from ..measure.contender import AsItIs
from ..measure.illustrate import illustrate
from ..measure.samples import Broken as Unreadable
from ..measure.samples import batches
from ..measure.study import Study
from ..method import Method
from ..recipe import Recipe
from .accuracy import Evaluation, check_metric, evaluate_compression
from .answers import answer
from .dataset import Broken, Sample, load_dataset
from .metrics import score
from .record import broken_row, uncompressed_row
from .search import HELD_OUT, Settings, Target, Worker, cheapest, split

KIND = "tune"
#: How often finished trials are counted while workers run, in seconds.
LOOK_EVERY = 0.5


class NothingHolds(RuntimeError):
    """No trial holds the target."""


@dataclass(frozen=True)
class Tuned:
    """The cheapest method that holds the target on the questions of the search, and what it does on the others.

    verdict   "met" where the target holds on the questions that were held out, "within noise" where their interval
              reaches it, else "missed"
    trials    how many were run to the end, given up early, and refused by the model or the method
    """

    method: Method
    searched: dict[str, Any]
    evaluation: Evaluation
    reached: float
    verdict: str
    trials: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "method": self.method.card.name, "settings": Recipe.of(self.method).settings, "verdict": self.verdict,
            "reached": self.reached, "trials": self.trials, "searched": self.searched,
            "held_out": self.evaluation.as_dict(),
        }  # fmt: skip


def default_folder() -> Path:
    """Where a study goes that was given no folder."""
    return Study.default_folder(KIND)


def check_workers(settings: Settings, workers: int, ray: str | None) -> None:
    """Raises InvalidValue for times to be measured by several workers, which disturb each other."""
    if settings.minimise == "prefill_ms" and (workers > 1 or ray):
        raise InvalidValue("workers disturb each other's times: measure prefill_ms with --workers 1, or minimise t_eq")


def begin(folder: Path, settings: Settings, command: Sequence[str] = ()) -> Study:
    """A new study; raises InvalidValue where data or metric cannot be used."""
    _optuna()
    data = load_dataset(settings.dataset, settings.limit)
    check_metric(settings.metric, data)
    if len(data.samples) < HELD_OUT:
        raise InvalidValue(f"{len(data.samples)} questions are too few to hold some out; give at least {HELD_OUT}")
    title = f"least {settings.minimise} with {settings.target}"
    return Study.create(folder, KIND, title=title, settings=asdict(settings), command=command)


def resume(folder: Path) -> tuple[Study, Settings]:
    """A study to go on with."""
    study = Study.resume(folder, KIND)
    return study, Settings.of_study(study.about["settings"])


def tune(
    study: Study,
    settings: Settings,
    *,
    workers: int = 1,
    ray: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Run what is left of the trials, then measure the best one on the questions that were held out.

    `workers` processes share the trials; with `ray`, a Ray cluster's address ("local" starts one here), they are Ray
    tasks, and the study's folder and storage must be reachable from all its machines. Raises InvalidValue for times
    to be measured by several workers, which disturb each other, and NothingHolds.
    """
    check_workers(settings, workers, ray)
    _begin_trials(study, settings)
    loaded = _load(settings)
    searching, held_out = split(load_dataset(settings.dataset, settings.limit))
    _ask_uncompressed(study, settings, loaded, searching)

    def told() -> None:
        progress(_finished(study, settings), settings.trials)

    told()
    if ray is not None:
        _on_ray(study, settings, workers, ray, told)
    elif workers > 1:
        _in_processes(study, settings, workers, told)
    else:
        _search(study, settings, loaded, 0, told)
    best = _best(study, settings)
    method = Recipe(method=best["method"], settings=best["settings"]).to_method()
    evaluation = evaluate_compression(
        loaded, held_out, method, metric=settings.metric, batch=settings.batch, max_new_tokens=settings.max_new_tokens
    )
    illustrate(loaded, held_out.samples, [AsItIs(method.card.name, method)], [], study)
    reached, verdict = _verdict(Target.of(settings.target), evaluation)
    tuned = Tuned(method, best, evaluation, reached, verdict, _states(study))
    study.update(results=tuned.as_dict())
    study.finish()
    return tuned


def recipe_of(tuned: Tuned, settings: Settings) -> Recipe:
    """The winner with its evidence."""
    evidence = {
        "target": settings.target, "minimised": settings.minimise, "dataset": settings.dataset, **tuned.as_dict(),
    }  # fmt: skip
    for said_above in ("method", "settings"):
        del evidence[said_above]
    return Recipe.of(tuned.method, model=settings.model, dtype=settings.dtype, evidence=evidence)


def _verdict(target: Target, e: Evaluation) -> tuple[float, str]:
    if target.quantity == "retention":
        reached = e.compression.accuracy_retention or 0.0
        before = e.original_accuracy
        highest = (before - (e.drop.low if e.drop.low is not None else e.drop.mean)) / before if before else 0.0
    else:
        interval = e.agreement if target.quantity == "agreement" else e.compressed
        reached, highest = interval.mean, interval.mean if interval.high is None else interval.high
    return reached, "met" if reached >= target.least else "within noise" if highest >= target.least else "missed"


# ── trials and their workers ─────────────────────────────────────────────────────────────────────────────────────


def work(folder: Path, seed: int = 0, threads: int | None = None) -> None:
    """Run trials of a study until all are done; several workers may do so at once, each in a process of its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    study = Study.open(folder)
    settings = Settings.of_study(study.about["settings"])
    _search(study, settings, _load(settings), seed)


def _search(
    study: Study, settings: Settings, loaded: Loaded, seed: int, told: Callable[[], None] = lambda: None
) -> None:
    trials = _trials(study, settings, seed)

    def after(trials: Any, trial: Any) -> None:
        told()
        if _finished(study, settings) >= settings.trials:
            trials.stop()

    if _finished(study, settings) < settings.trials:
        trials.optimize(Worker(study, settings, loaded).trial, callbacks=[after])


def _in_processes(study: Study, settings: Settings, workers: int, told: Callable[[], None]) -> None:
    spawn, threads = multiprocessing.get_context("spawn"), max(1, torch.get_num_threads() // workers)
    processes = [spawn.Process(target=work, args=(study.folder, i, threads)) for i in range(workers)]
    for process in processes:
        process.start()
    try:
        while any(p.is_alive() for p in processes):
            time.sleep(LOOK_EVERY)
            told()
    finally:
        for process in processes:
            process.terminate()
            process.join()
    failed = [p.exitcode for p in processes if p.exitcode]
    if failed and _finished(study, settings) < settings.trials:
        raise RuntimeError(
            f"{len(failed)} of {workers} workers died with {failed[0]}; what they found is in {study.folder}"
        )


def _on_ray(study: Study, settings: Settings, workers: int, address: str, told: Callable[[], None]) -> None:
    try:
        import ray
    except ImportError as error:
        raise InvalidValue("Ray is not installed; pip install 'foveate[ray]'") from error
    ray.init(address=None if address == "local" else address)
    try:
        gpus = 1 if settings.device.startswith("cuda") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus)(work)
        waiting = [remote.remote(study.folder.resolve(), i) for i in range(workers)]
        while waiting:
            done, waiting = ray.wait(waiting, timeout=LOOK_EVERY)
            ray.get(done)  # raises what a worker raised
            told()
    finally:
        ray.shutdown()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InvalidValue("Optuna is not installed; pip install 'foveate[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _trials(study: Study, settings: Settings, seed: int = 0) -> Any:
    """The trials as Optuna keeps them: a journal in the study's folder, or the storage that was named."""
    optuna = _optuna()
    storage: Any = settings.storage
    if storage is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(study.folder / "trials.journal")))
    trials = optuna.create_study(study_name=study.folder.name, storage=storage, load_if_exists=True)
    # a search that goes on must not propose again what it began with
    trials.sampler = optuna.samplers.TPESampler(seed=settings.seed + 1000 * seed + len(trials.trials))
    return trials


def _begin_trials(study: Study, settings: Settings) -> None:
    """Give up what a kill left running, and let a new search begin with every method at half of the tokens."""
    optuna, trials = _optuna(), _trials(study, settings)
    for trial in trials.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        trials.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if not trials.trials and settings.trials >= 2 * len(settings.methods):
        for name in settings.methods:
            trials.enqueue_trial({"method": name, f"{name}.keep": 0.5})


def _finished(study: Study, settings: Settings) -> int:
    """Trials that ran to the end or were given up; what a kill left does not count."""
    states = _optuna().trial.TrialState
    return len(_trials(study, settings).get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED]))


def _states(study: Study) -> dict[str, int]:
    states = [row["state"] for row in study.rows() if row["kind"] == "trial"]
    return {state: states.count(state) for state in sorted(set(states))}


def _load(settings: Settings) -> Loaded:
    return load(settings.model, dtype=settings.dtype, device=settings.device, attn_implementation=settings.attn)


def _ask_uncompressed(study: Study, settings: Settings, loaded: Loaded, samples: Sequence[Sample]) -> None:
    """Rows with the answers without compression, for the samples that have none yet."""
    have = {row["sample"] for row in study.rows() if row["kind"] == "accuracy" and row["error"] is None}
    by_id = {s.id: s for s in samples if s.id not in have}
    for part in batches(by_id.values(), settings.batch):
        if isinstance(part, Unreadable):
            study.append(broken_row(Broken(part.sample.id, part.reason)))
            continue
        replies = answer(loaded, part, [uncompressed()], settings.max_new_tokens)
        for opened, reply in zip(part, replies, strict=True):
            sample = by_id[opened.sample.id]
            if isinstance(reply, Broken):
                study.append(broken_row(reply))
            else:
                right = score(settings.metric, reply[0].answer, sample.answers, sample.choices)
                study.append(uncompressed_row(sample, reply[0], right))


def _best(study: Study, settings: Settings) -> dict[str, Any]:
    best, target = cheapest(study), Target.of(settings.target)
    if best is not None:
        return best
    asked = [row for row in study.rows() if row["kind"] == "trial" and row["state"] == "complete"]
    nearest = max(asked, key=lambda row: float(row[target.quantity]), default=None)
    near = (
        f"; {nearest['method']} reached {nearest[target.quantity]:.3f} at {nearest['cost']:.4g} {settings.minimise}"
        if nearest
        else ""
    )
    raise NothingHolds(f"none of {settings.trials} trials held {target}{near}: run more trials, or ask for less")
