"""Fidelity: one forced pass says what really generating would, and nothing differs where nothing is removed."""

import math

import pytest
import torch

import foveate
from foveate.engine.run import compress
from foveate.errors import InvalidValue
from foveate.measure.contender import Level
from foveate.measure.divergence import Fidelity, Reference, _compared, forced_logits
from foveate.measure.samples import Opened, Picture, greedy, inputs_of


def until_end(ids, end):
    return ids[: ids.index(end) + 1] if end in ids else ids


@pytest.fixture(scope="module")
def judge(embedded, opened):
    """It has seen the uncompressed model's answers."""
    begun = Fidelity(max_new_tokens=8)
    with torch.no_grad():
        begun.begin(embedded, opened)
    return begun


@pytest.mark.parametrize(("method", "keep"), [("random", 0.1), ("fastv", 0.1), ("pool", 0.2)])
def test_one_forced_pass_finds_where_generated_answers_part(method, keep, judge, embedded, opened):
    end = embedded.model.generation_config.eos_token_id
    with compress(embedded.model, method, keep=keep):
        found = judge(embedded, opened)
        generated = greedy(embedded, inputs_of(embedded, opened), 8).tolist()
    parted = 0
    for one, numbers, ids in zip(opened, found, generated, strict=True):
        expected, got = judge.known[one.sample.id].ids, until_end(ids, end)
        first = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
        assert numbers["first_divergence"] == first and numbers["exact"] == (first is None)
        assert numbers["answer_tokens"] == len(expected)
        parted += first is not None
    assert 2 <= parted < len(opened), "both cases must occur"


def test_nothing_removed_is_nothing_changed(embedded, questions):
    found = foveate.measure.fidelity(embedded, questions[:6], ["uniform", "aim:schedule=linear"], [1.0], batch=3)
    whole, pruned = found.cells
    assert (whole.kl_nats.mean, whole.agreement.mean, whole.exact.mean) == (0, 1, 1) and whole.t_eq == 144
    assert {r["kl_max_nats"] for r in found.rows if r["method"] == "uniform"} == {0}
    assert pruned.kl_nats.mean > 0 and pruned.t_eq < 144


def test_less_kept_is_further_away(embedded, questions):
    found = foveate.measure.fidelity(embedded, questions[:7], ["random"], [0.6, 0.05])
    near, far = found.cells
    assert near.kl_nats.mean < far.kl_nats.mean and near.agreement.mean > far.agreement.mean
    assert near.budget == "keep 0.6" and near.kl_nats.low <= near.kl_nats.mean <= near.kl_nats.high


def test_a_batch_of_forced_answers_equals_each_alone(judge, embedded, opened):
    opened = opened[2:8]
    answers = [judge.known[o.sample.id].ids for o in opened]
    assert len(set(map(len, answers))) > 1, "answers of different lengths"
    with compress(embedded.model, "fastv", keep=0.25):
        together = forced_logits(embedded, inputs_of(embedded, opened), answers)
        for one, ids, row in zip(opened, answers, together, strict=True):
            alone = forced_logits(embedded, inputs_of(embedded, [one]), [ids])[0]
            torch.testing.assert_close(row[: len(ids)], alone, atol=1e-4, rtol=1e-4)


def test_the_answer_has_no_say_in_what_is_kept(embedded, opened):
    inputs, kept = inputs_of(embedded, opened[:1]), []
    with compress(embedded.model, "fastv", keep=0.25) as run:
        for answer in ([5], [30, 31, 32, 33, 34, 35], [60, 61, 62, 63, 64, 65]):
            forced_logits(embedded, inputs, [answer])
            kept.append(run.trace.cuts[0].reduction.kept)
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])


def test_numbers_of_small_distributions_by_hand():
    p, q = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.7, 0.1]])
    found = _compared(Reference((0, 1), p.log()), q.log(), lambda ids, **_: " ".join(map(str, ids)))
    kl = [0.5 * math.log(2) - 0.25 * math.log(2), 0.1 * math.log(0.5) + 0.8 * math.log(8 / 7)]
    assert found["kl_nats"] == pytest.approx(sum(kl) / 2) and found["kl_max_nats"] == pytest.approx(max(kl))
    assert (found["agreement"], found["exact"], found["first_divergence"]) == (0.5, False, 0)
    assert (found["expected_token"], found["found_token"], found["answer"]) == ("0", "1", "0 1")


def test_a_token_that_cannot_come_adds_nothing():
    log_p = torch.tensor([[0.0, -math.inf]])
    found = _compared(Reference((0,), log_p), torch.tensor([[3.0, -math.inf]]), lambda ids, **_: "")
    assert found["kl_nats"] == 0 and found["exact"]


def test_logits_that_are_no_numbers_are_an_error_not_a_result():
    with pytest.raises(InvalidValue, match="NaN or infinity"):
        _compared(Reference((0,), torch.zeros(1, 2).log_softmax(-1)), torch.tensor([[math.nan, 0.0]]), str)


def test_out_of_reach_and_broken_samples_are_told(embedded, questions, tmp_path):
    samples = [*questions[:2], Picture("gone", "what?", (tmp_path / "gone.png",)), Picture("mute", "  ", ())]
    found = foveate.measure.fidelity(embedded, samples, ["fastv", "random"], [Level(share=0.1)], batch=2)
    assert list(found.missing) == [("fastv", "T_eq 10%")] and "out of reach" in found.missing["fastv", "T_eq 10%"]
    assert set(found.broken) == {"gone", "mute"} and "no image at" in found.broken["gone"]
    (cell,) = found.cells
    assert (cell.label, cell.exact.n, cell.broken) == ("random", 2, 2)
    with pytest.raises(InvalidValue, match="nothing to ask"):
        foveate.measure.fidelity(embedded, [], ["random"], [0.5])


def test_questions_about_one_picture_are_resampled_together(embedded, questions):
    (image,) = questions[0].images
    several = [Picture(f"one#{i}", q.prompt, (image,)) for i, q in enumerate(questions[:3])]
    assert foveate.measure.fidelity(embedded, several, ["random"], [0.2]).cells[0].kl_nats.low is None
    others = [Picture(f"{i}", q.prompt, q.images) for i, q in enumerate(questions[:3])]
    assert foveate.measure.fidelity(embedded, others, ["random"], [0.2]).cells[0].kl_nats.low is not None


def test_a_sample_without_a_picture_is_judged(embedded):
    words = Opened.of(Picture("words", "How many stars are there?", ()))
    judge = Fidelity()
    judge.begin(embedded, [words])
    with compress(embedded.model, "fastv", keep=0.1):
        assert judge(embedded, [words])[0]["kl_nats"] == 0
