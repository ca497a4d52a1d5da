"""Compare: the same again is the same ranking, twins do not differ, and the front is what nobody beats."""

import random

import pytest

import foveate
from foveate.errors import InvalidValue
from foveate.measure.comparison import summary
from foveate.measure.rows import front
from foveate.measure.samples import Picture
from foveate.measure.study import Study


@pytest.fixture(scope="module")
def twice(embedded, small_questions):
    """The same comparison, with two names for one method."""
    methods = ["divprune", "a twin=divprune", "random", "its twin=random"]
    options = dict(samples=small_questions, batch=4, runs=3, new_tokens=1)
    return [foveate.measure.compare(embedded, methods, [0.5], **options) for _ in range(2)]


def test_two_runs_agree_on_the_ranking(twice):
    first, second = twice
    assert first.ranking() == second.ranking() and first.judge == "accuracy"
    for one, other in zip(first.entries, second.entries, strict=True):
        assert (one.score, one.change, one.t_eq) == (other.score, other.change, other.t_eq)
    assert first.entries[0].label == "uncompressed" and first.entries[0].change is None
    assert [e.budget for e in first.entries] == [None] + ["T_eq 50%"] * 7


def test_one_method_under_two_names_does_not_differ(twice):
    for found in twice:
        for a, b in (("divprune", "a twin"), ("random", "its twin")):
            difference = found.difference((a, "T_eq 50%"), (b, "T_eq 50%"))
            assert (difference.mean, difference.low, difference.high) == (0, 0, 0) and not difference.excludes_zero
            labels = [label for label, budget in found.ranking() if budget == "T_eq 50%"]
            assert labels.index(min(a, b)) < labels.index(max(a, b)), "ties stand in the order of names"
        assert found.difference(("divprune", "T_eq 50%"), ("nobody", None)) is None


def test_entries_are_timed_and_compared_on_the_same_samples(twice):
    for entry in twice[0].entries:
        assert entry.ttft_ms > 0 and entry.total_ms > entry.ttft_ms and entry.score.n == 7 and entry.broken == 0
        assert (entry.above_random is None) == (entry.label == "random" or entry.budget is None)
        assert (entry.verdict is None) == (entry.label == "uncompressed")
    assert any(e.best_for_time for e in twice[0].entries) and any(e.best_for_t_eq for e in twice[0].entries)


def row(method, sample, correct, budget="T_eq 25%", t_eq=36.0, **more):
    return {
        "kind": "accuracy", "method": method, "budget": budget, "sample": sample, "correct": correct, "t_eq": t_eq,
        "error": None, **more,
    }  # fmt: skip


def test_a_difference_that_is_there_is_found():
    rows = [row("good", str(i), i % 10 != 0) for i in range(60)] + [row("bad", str(i), i % 2) for i in range(60)]
    rows += [row("random", str(i), i % 2) for i in range(60)]
    found = summary(rows, "accuracy", "correct")
    assert found.difference(("good", "T_eq 25%"), ("bad", "T_eq 25%")).excludes_zero
    good, bad, _ = found.entries
    assert good.above_random.excludes_zero and not bad.above_random.excludes_zero
    assert good.score.mean == 0.9 and good.change is None and good.ttft_ms is None and not good.best_for_time


def test_a_sample_that_one_lost_counts_for_neither():
    rows = [row("a", "1", True), row("a", "2", False), row("b", "1", True), row("b", "2", None, error="broke")]
    found = summary(rows, "accuracy", "correct")
    assert found.difference(("a", "T_eq 25%"), ("b", "T_eq 25%")).n == 1
    assert found.broken == {"2": "broke"} and {e.label: e.broken for e in found.entries} == {"a": 0, "b": 1}


def test_the_front_is_who_nobody_beats():
    generator = random.Random(0)
    for _ in range(50):
        n = generator.randrange(1, 12)
        costs = [generator.randrange(4) for _ in range(n)]
        scores = [generator.randrange(4) for _ in range(n)]

        def beaten(i, costs=costs, scores=scores, n=n):
            return any(
                costs[j] <= costs[i] and scores[j] >= scores[i] and (costs[j] < costs[i] or scores[j] > scores[i])
                for j in range(n)
            )

        assert front(costs, scores) == [not beaten(i) for i in range(n)]


def test_stopped_in_the_middle_it_goes_on(embedded, small_questions, tmp_path):
    options = dict(samples=small_questions[:4], batch=2, runs=3, new_tokens=1)
    whole = foveate.measure.compare(embedded, [], [0.5], **options)
    study = Study.create(tmp_path / "s", "compare")

    def stop(done, total):
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foveate.measure.compare(embedded, [], [0.5], study=study, progress=stop, **options)
    held = [r for r in study.rows() if r["kind"] == "accuracy"]
    assert 0 < len(held) < 20
    again = foveate.measure.compare(embedded, [], [0.5], study=study, **options)
    assert again.ranking() == whole.ranking() and len(again.rows) == len(study.rows()) == 4 * 5 + 5
    assert [e.score for e in again.entries] == [e.score for e in whole.entries]


def test_without_answers_it_judges_by_fidelity_and_counts_the_broken(embedded, small_questions, tmp_path):
    samples = [Picture(q.id, q.prompt, q.images) for q in small_questions[:3]]
    samples.insert(0, Picture("gone", "what?", (tmp_path / "gone.png",)))
    found = foveate.measure.compare(embedded, ["fastv"], [0.1], samples=samples, runs=3, new_tokens=1)
    assert (found.judge, found.score) == ("fidelity", "agreement") and set(found.broken) == {"gone"}
    assert found.entries[0].score.mean == 1 and found.entries[0].label == "uncompressed"
    assert set(found.missing) == {("fastv", "T_eq 10%"), ("resolution", "T_eq 10%")}
    assert all(e.ttft_ms for e in found.entries)
    with pytest.raises(InvalidValue, match="nothing to ask"):
        foveate.measure.compare(embedded, ["fastv"], [0.1], samples=[])
