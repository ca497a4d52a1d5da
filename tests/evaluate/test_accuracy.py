"""evaluate_compression on the embedded model: its numbers are those of the samples, and it loses none."""

import dataclasses
import json

import pytest

import foveate
from foveate.errors import InvalidValue
from foveate.evaluate.accuracy import CompressionMetrics, check_metric, compared, evaluate_compression
from foveate.evaluate.answers import Reply, answer
from foveate.evaluate.dataset import Broken, Dataset, load_dataset
from foveate.evaluate.judge import Graded
from foveate.evaluate.record import pairs_of, rows_of
from foveate.families import family_of
from foveate.measure.judge import Judge
from foveate.measure.samples import Opened, visual_grids
from foveate.measure.samples import inputs_of as model_inputs
from foveate.plan import make_plan
from foveate.scenes import is_correct


@pytest.fixture(scope="module")
def evaluation(embedded, questions):
    return evaluate_compression(embedded, questions, "fastv", keep=0.25, batch=5, max_new_tokens=8)


def test_it_is_a_public_name():
    assert foveate.evaluate_compression is evaluate_compression and foveate.CompressionMetrics is CompressionMetrics


def test_accuracies_are_those_of_the_answers(evaluation, questions):
    assert len(evaluation.pairs) == len(questions.samples) and not evaluation.broken
    for side, accuracy in (("original", evaluation.original_accuracy), ("compressed", evaluation.compressed_accuracy)):
        right = [is_correct(getattr(p, side).answer, p.sample.answers[0]) for p in evaluation.pairs]
        assert accuracy == pytest.approx(sum(right) / len(right))
    assert evaluation.accuracy_drop == pytest.approx(evaluation.original_accuracy - evaluation.compressed_accuracy)
    same = [p.original.answer == p.compressed.answer for p in evaluation.pairs]
    assert evaluation.agreement.mean == pytest.approx(sum(same) / len(same))
    assert evaluation.lost - evaluation.gained == pytest.approx(evaluation.accuracy_drop * len(evaluation.pairs))
    assert sum(n for _, _, n in evaluation.kinds.values()) == len(evaluation.pairs)
    assert evaluation.original_accuracy > 0.5, "the embedded model sees"


def test_tokens_and_flops_are_those_of_the_plan(evaluation, embedded, questions):
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    method = foveate.get_method("fastv", keep=0.25)
    for pair in evaluation.pairs:
        inputs = model_inputs(embedded, [Opened.of(pair.sample)])
        plan = make_plan(method.steps(shape), shape, visual_grids(embedded, inputs))
        assert pair.compressed.tokens_per_layer == plan.per_layer
        text = inputs["input_ids"].shape[1] - plan.visual_tokens
        assert pair.compressed.lm_flops == plan.lm_flops(text)
        assert pair.original.t_eq == pair.original.visual_tokens == plan.visual_tokens


def test_an_adaptive_budget_is_counted_as_it_was_spent(embedded, questions):
    asked = [Opened.of(s) for s in questions.samples[:4]]
    method = foveate.get_method("divprune", adaptive=(0.1, 0.6))
    together = answer(embedded, asked, [method], 4)
    alone = [answer(embedded, [one], [method], 4)[0] for one in asked]
    counts = [[r[0].tokens_per_layer for r in replies] for replies in (together, alone)]
    assert counts[0] == counts[1] and len({c[0] for c in counts[0]}) > 1


def test_keeping_everything_changes_nothing(embedded, questions):
    few = Dataset("few", questions.samples[:5])
    e = evaluate_compression(embedded, few, "divprune", keep=1.0, batch=5, max_new_tokens=8)
    assert (e.accuracy_drop, e.lost, e.gained, e.p_value, e.agreement.mean) == (0, 0, 0, 1, 1)
    c = e.compression
    assert (c.compression_ratio, c.flops_reduction, c.efficiency_score) == (1, 0, 0)


def test_compression_metrics_follow_their_definitions():
    m = CompressionMetrics(
        visual_tokens=100, t_eq=25, final_tokens=10, flops=8e9, flops_compressed=2e9, accuracy=0.8,
        accuracy_compressed=0.6,
    )  # fmt: skip
    assert m.compression_ratio == 0.25 and m.flops_reduction == 0.75
    assert m.accuracy_retention == pytest.approx(0.75) and m.efficiency_score == pytest.approx(0.75 * 0.75)
    never_right = dataclasses.replace(m, accuracy=0.0)
    assert never_right.accuracy_retention is None and never_right.efficiency_score is None
    assert json.loads(json.dumps(m.as_dict()))["efficiency_score"] == pytest.approx(0.5625)


def test_broken_samples_are_reported_and_counted(embedded, folder, tmp_path):
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    good = {"image": str(folder / "0.png"), "question": "What color is it?", "answer": "red"}
    rows = [
        good | {"id": "good"}, good | {"id": "cut", "image": "cut.png"}, good | {"id": "empty", "question": ""},
        good | {"id": "gone", "image": "gone.png"}, good | {"id": "placeholder", "question": "<|image_pad|>?"},
    ]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    e = evaluate_compression(embedded, tmp_path / "q.jsonl", "uniform", keep=0.5, max_new_tokens=2)
    assert [p.sample.id for p in e.pairs] == ["good"]
    assert {b.id for b in e.broken} == {"cut", "empty", "gone", "placeholder"}
    assert all(b.reason for b in e.broken) and len(e.as_dict()["broken"]) == 4


def test_a_dataset_of_broken_samples_is_refused(embedded, tmp_path, folder):
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": "cut.png", "question": "?", "answer": "x"}))
    with pytest.raises(InvalidValue, match="none of the 1 samples"):
        evaluate_compression(embedded, tmp_path / "q.jsonl", "uniform", keep=0.5)


def test_answers_survive_a_study_and_are_not_asked_again(evaluation, embedded, questions, monkeypatch):
    rows = json.loads(json.dumps(list(rows_of(evaluation.pairs, evaluation.method, "fastv"))))
    rows += rows_of([Broken(questions.samples[0].id, "was broken for a while")], evaluation.method, "fastv")
    known = list(pairs_of(rows, questions, "fastv"))
    assert [(p.original, p.compressed) for p in known] == [(p.original, p.compressed) for p in evaluation.pairs]
    monkeypatch.setattr("foveate.evaluate.accuracy.answer", lambda *a, **k: pytest.fail("asked again"))
    again = evaluate_compression(embedded, questions, evaluation.method, known=known)
    assert again.as_dict() == evaluation.as_dict()


def test_identical_methods_do_not_differ_and_two_runs_agree(embedded, questions, evaluation):
    again = evaluate_compression(embedded, questions, "fastv", keep=0.25, batch=5, max_new_tokens=8)
    assert [p.compressed.answer for p in again.pairs] == [p.compressed.answer for p in evaluation.pairs]
    twins = tuple(
        dataclasses.replace(p, original=p.compressed, original_score=p.compressed_score) for p in evaluation.pairs
    )
    same = compared("twins", evaluation.method, twins)
    assert same.p_value == 1 and same.accuracy_drop == 0 and not same.drop.excludes_zero


def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(questions):
    with pytest.raises(InvalidValue, match="did you mean 'exact'"):
        check_metric("exat", questions)
    with pytest.raises(InvalidValue, match="vqa counts the votes"):
        check_metric("vqa", questions)
    with pytest.raises(InvalidValue, match="needs its processor"):
        evaluate_compression(object(), questions, "fastv", keep=0.5)
    with pytest.raises(InvalidValue, match="batch must be at least 1"):
        evaluate_compression(None, questions, "fastv", keep=0.5, batch=0)


def test_the_judge_scores_as_the_evaluation_does(embedded, questions, evaluation):
    judge: Judge = Graded(max_new_tokens=8)
    opened = [Opened.of(s) for s in questions.samples[:4]]
    judge.begin(embedded, opened)
    numbers = judge(embedded, opened)
    assert [n[judge.score] for n in numbers] == [p.original_score for p in evaluation.pairs[:4]]
    assert [n["answer"] for n in numbers] == [p.original.answer for p in evaluation.pairs[:4]]


def test_multiple_choice_questions_are_scored_by_letter(embedded, folder, tmp_path):
    row = {"image": str(folder / "0.png"), "question": "?", "answer": "yes", "choices": ["yes", "no"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    e = evaluate_compression(embedded, load_dataset(tmp_path / "q.jsonl"), "uniform", keep=0.5, max_new_tokens=4)
    [pair] = e.pairs
    assert pair.original_score == float(pair.original.answer.strip(" .").lower() in ("a", "yes"))


def test_times_are_shared_by_a_batch():
    reply = Reply("x", 4, (4, 2), 10, 1.0, 1.0, 2.0, "first")
    assert reply.t_eq == 3 and Reply.of_row(json.loads(json.dumps(reply.as_row()))) == reply
