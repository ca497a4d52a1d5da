"""tune: what it proposes, when it gives a trial up, what it writes, and that a killed search goes on."""

import json
import sys
import types

import pytest

from foveate.errors import InvalidValue
from foveate.evaluate import tune as tuning
from foveate.evaluate.dataset import load_dataset
from foveate.evaluate.search import Seen, Settings, Target, Worker, cheapest, method_names, split
from foveate.evaluate.space import suggest
from foveate.evaluate.tune import NothingHolds, begin, recipe_of, resume, tune
from foveate.families import families
from foveate.measure.study import Study
from foveate.method import all_methods
from foveate.plan import make_plan
from foveate.recipe import Recipe
from foveate.tokens import Grid

optuna = pytest.importorskip("optuna", reason="Optuna is not installed (pip install '.[tune]')")


@pytest.fixture(scope="module")
def shape(embedded):
    family = families()["qwen2_5_vl"]
    return family.shape(embedded.model.config)


class Fixed:
    """A trial that answers as it is told, or with the lowest or highest value; notes what it was asked."""

    number = 0

    def __init__(self, end=0, **answers):
        self.end, self.answers, self.asked, self.reports, self.constraint = end, answers, {}, [], None

    def suggest_categorical(self, name, choices):
        self.asked[name] = choices
        return self.answers.get(name, choices[-self.end])

    def suggest_float(self, name, low, high):
        self.asked[name] = (low, high)
        return self.answers.get(name, (low, high)[self.end])

    suggest_int = suggest_float

    def report(self, value, step):
        self.reports.append((step, value))

    def set_constraint(self, name, value):
        self.constraint = value


# ── what it searches ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_method_can_be_proposed_at_both_ends_of_its_settings(name, end, shape):
    method = suggest(Fixed(end), [name], shape)
    assert type(method) is all_methods()[name]
    Recipe.of(method).to_method()


def test_the_search_covers_ratio_schedule_final_ratio_importance_and_layers(shape):
    trial = Fixed(**{"aim.schedule": "linear", "aim.schedule.final_ratio": 0.8, "aim.importance": "norm"})
    method = suggest(trial, ["aim"], shape)
    assert set(trial.asked) == {"method", "aim.keep", "aim.schedule", "aim.schedule.final_ratio", "aim.importance"}
    assert method.settings()["schedule"].final_ratio == 0.8
    between = Fixed(**{"aim.schedule": "aim", "aim.schedule.start": 0.25, "aim.schedule.span": 0.5})
    plan = make_plan(suggest(between, ["aim"], shape).steps(shape), shape, Grid(1, 12, 12))
    assert plan.per_layer[0] and not plan.per_layer[-1]
    layers = Fixed()
    suggest(layers, ["fastv"], shape)
    assert layers.asked["fastv.layer"] == (1, shape.layers - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agreement", "QUANTITY>=NUMBER"), ("agrement>=0.9", "did you mean 'agreement'"),
        ("accuracy>=1.2", r"in \(0, 1\]"), ("accuracy>=0", r"in \(0, 1\]"), ("accuracy>=.", "is no number"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_meant_are_refused(text, message):
    with pytest.raises(InvalidValue, match=message):
        Target.of(text)


def test_a_target_is_read_as_it_is_written():
    assert (
        Target.of(" accuracy >= 0.95 ") == Target("accuracy", 0.95)
        and str(Target("agreement", 0.9)) == "agreement>=0.9"
    )


def test_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(InvalidValue, match="unknown cost 'ms'"):
        Settings(minimise="ms")
    with pytest.raises(InvalidValue, match="did you mean 'fastv'"):
        Settings(methods=("fastw",))
    with pytest.raises(InvalidValue, match="no method was named"):
        Settings(methods=method_names(","))
    assert method_names("all") == tuple(sorted(all_methods()))
    with pytest.raises(InvalidValue, match="disturb each other's times"):
        tuning.check_workers(Settings(minimise="prefill_ms"), 2, None)


def test_the_evidence_is_held_out(questions):
    searching, held_out = split(questions)
    assert not {s.id for s in searching} & {s.id for s in held_out.samples}
    assert len(searching) + len(held_out.samples) == len(questions.samples) and len(held_out.samples) == 4


# ── one trial ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def searched(folder, tmp_path):
    """Settings and a study on the small questions."""
    settings = Settings(
        target="agreement>=0.8", methods=("divprune", "pool"), trials=5, dataset=str(folder / "questions.jsonl"),
        batch=5, max_new_tokens=6,
    )  # fmt: skip
    return begin(tmp_path / "study", settings), settings


@pytest.fixture
def worker(searched, embedded):
    study, settings = searched
    searching, _ = split(load_dataset(settings.dataset))
    tuning._ask_uncompressed(study, settings, embedded, searching)
    return Worker(study, settings, embedded)


def test_a_trial_that_keeps_nearly_all_holds_and_is_written_down(worker):
    trial = Fixed(**{"method": "divprune", "divprune.keep": 1.0})
    assert worker.trial(trial) == pytest.approx(36)
    row = cheapest(worker.study)
    assert (row["state"], row["agreement"], row["feasible"], row["questions"]) == ("complete", 1.0, True, 10)
    assert trial.constraint == pytest.approx(-0.2) and trial.reports[-1] == (10, pytest.approx(36))


def test_a_trial_that_cannot_be_cheaper_is_given_up_before_it_is_asked(worker):
    worker.trial(Fixed(**{"method": "divprune", "divprune.keep": 0.9}))
    with pytest.raises(optuna.TrialPruned, match="holds the target"):
        worker.trial(Fixed(**{"method": "pool", "pool.keep": 0.98}))
    assert [r["questions"] for r in worker.study.rows() if r["kind"] == "trial"] == [10, 0]


def test_a_hopeless_trial_is_given_up_after_the_first_look(worker, monkeypatch):
    monkeypatch.setattr("foveate.evaluate.search.FIRST_LOOK", 5)
    monkeypatch.setattr(Seen, "highest", lambda self, quantity: 0.5)
    with pytest.raises(optuna.TrialPruned, match=r"at most 0\.500"):
        worker.trial(trial := Fixed(**{"method": "divprune", "divprune.keep": 0.1}))
    [row] = [r for r in worker.study.rows() if r["kind"] == "trial"]
    assert (row["state"], row["questions"], row["feasible"]) == ("given up", 5, False) and len(trial.reports) == 1


def test_questions_grow_by_doubling(worker, monkeypatch):
    monkeypatch.setattr("foveate.evaluate.search.FIRST_LOOK", 3)
    looks = list(worker._looks())
    assert [len(look) for look in looks] == [3, 3, 4] and [s.id for look in looks for s in look] == [
        s.id for s in worker.samples
    ]


def test_a_method_that_is_refused_is_a_row_with_its_reason(worker, monkeypatch):
    def refuse(*arguments):
        raise InvalidValue("not on this model")

    monkeypatch.setattr(Worker, "_ask", refuse)
    with pytest.raises(optuna.TrialPruned):
        worker.trial(Fixed(**{"method": "divprune"}))
    [row] = [r for r in worker.study.rows() if r["kind"] == "trial"]
    assert (row["state"], row["error"]) == ("refused", "not on this model")


def test_the_upper_end_is_that_of_the_interval(worker):
    seen = Seen(worker.settings, worker.originals)
    seen.replies, seen.same, seen.scores, seen.before = (
        [None] * 10,
        [True] * 9 + [False],
        [1.0] * 5 + [0.0] * 5,
        [1.0] * 10,
    )
    assert 0.95 < seen.highest("agreement") < 1 and 0.7 < seen.highest("accuracy") < 0.8
    assert seen.highest("retention") == seen.highest("accuracy")


# ── a search ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_loading(monkeypatch, embedded):
    monkeypatch.setattr(tuning, "load", lambda *a, **k: embedded)


def test_a_search_writes_a_recipe_with_its_evidence(searched, no_loading, tmp_path):
    study, settings = searched
    told = []
    tuned = tune(study, settings, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 5) and told[-1] == (5, 5)
    trials = [r for r in study.rows() if r["kind"] == "trial"]
    assert len(trials) == 5 and sum(tuned.trials.values()) == 5
    feasible = [r for r in trials if r["feasible"]]
    assert tuned.searched["cost"] == min(r["cost"] for r in feasible) and tuned.searched["agreement"] >= 0.8
    recipe_of(tuned, settings).save(tmp_path / "r.yaml")
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.to_method() == tuned.method and recipe.evidence["target"] == "agreement>=0.8"
    assert recipe.evidence["held_out"]["samples"] == 4 and recipe.evidence["verdict"] in (
        "met",
        "within noise",
        "missed",
    )
    assert Study.open(study.folder).about["results"] == json.loads(json.dumps(tuned.as_dict()))


def test_a_killed_search_goes_on_and_asks_the_plain_model_no_more(searched, no_loading, monkeypatch):
    study, settings = searched
    asked, real = [], Worker.trial

    def dying(self, trial):
        asked.append(trial.number)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(self, trial)

    monkeypatch.setattr(Worker, "trial", dying)
    with pytest.raises(KeyboardInterrupt):
        tune(study, settings)
    before = [r["trial"] for r in study.rows() if r["kind"] == "trial"]
    answered = sum(r["kind"] == "accuracy" for r in study.rows())
    trials = tuning._trials(study, settings)
    trials.ask()  # as a kill leaves it: running, with nobody at it
    monkeypatch.setattr(Worker, "trial", real)
    study, same = resume(study.folder)
    tuned = tune(study, same)
    after = [r["trial"] for r in study.rows() if r["kind"] == "trial"]
    assert same == settings and before == [0, 1] and len(after) == 5 and after[:2] == before
    assert sum(r["kind"] == "accuracy" for r in study.rows()) == answered and tuned.searched["feasible"]
    left = tuning._trials(study, settings).get_trials(states=[optuna.trial.TrialState.RUNNING])
    assert not left


def test_nothing_that_holds_is_a_failure_that_says_what_came_nearest(searched, no_loading):
    study, settings = searched
    study.append(
        {"kind": "trial", "method": "pool", "state": "complete", "feasible": False, "agreement": 0.7, "cost": 9.0}
    )
    with pytest.raises(NothingHolds, match=r"pool reached 0\.700 at 9 t_eq: run more trials"):
        tuning._best(study, settings)


def test_workers_share_the_trials(searched, no_loading, monkeypatch):
    """With threads in the place of processes: what a worker does is the same."""
    import threading

    class Process(threading.Thread):
        exitcode = 0

        def terminate(self):
            self.join()

    context = types.SimpleNamespace(Process=Process)
    monkeypatch.setattr(tuning.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(tuning, "LOOK_EVERY", 0.05)
    lock, real = threading.Lock(), Worker.trial  # one model can be compressed by one method at a time

    def one_at_a_time(self, trial):
        with lock:
            return real(self, trial)

    monkeypatch.setattr(Worker, "trial", one_at_a_time)
    study, settings = searched
    tuned = tune(study, settings, workers=2)
    numbers = [r["trial"] for r in study.rows() if r["kind"] == "trial"]
    assert len(set(numbers)) == len(numbers) >= 5 and tuned.searched["feasible"]


def test_ray_runs_the_same_work(searched, no_loading, monkeypatch):
    study, settings = searched
    calls = []

    def remote(**needs):
        calls.append(needs)
        return lambda work: types.SimpleNamespace(remote=lambda *arguments: work(*arguments))

    fake = types.SimpleNamespace(
        init=lambda address: calls.append(address), remote=remote, get=lambda done: done,
        wait=lambda waiting, timeout: (waiting, []), shutdown=lambda: calls.append("shutdown"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", fake)
    tuned = tune(study, settings, ray="10.0.0.1:6379", workers=2)
    assert calls == ["10.0.0.1:6379", {"num_cpus": 1, "num_gpus": 0}, "shutdown"] and tuned.searched["feasible"]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidValue, match=r"pip install 'foveate\[ray\]'"):
        tuning._on_ray(study, settings, 1, "local", lambda: None)


def test_too_few_questions_are_refused(folder, tmp_path):
    with pytest.raises(InvalidValue, match="too few to hold some out"):
        begin(tmp_path / "s", Settings(dataset=str(folder / "questions.jsonl"), limit=2))
    assert not (tmp_path / "s").exists()
