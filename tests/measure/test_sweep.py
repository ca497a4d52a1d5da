"""The sweep: one row for each contender, budget and sample, however it is interrupted and whatever breaks."""

from dataclasses import dataclass, field

import pytest

from foveate.measure.contender import Level
from foveate.measure.judge import ExactAnswer
from foveate.measure.lineup import line_up
from foveate.measure.rows import broken, key_of, missing
from foveate.measure.samples import Picture, answers_of
from foveate.measure.study import Study
from foveate.measure.sweep import cells_of, sweep


@dataclass
class Counting:
    """A judge that asks the model nothing; it fails on the ids in `bad`, and is stopped by its `stop`-th call."""

    bad: frozenset = frozenset()
    stop: int = -1
    calls: list = field(default_factory=list)
    begun: list = field(default_factory=list)
    name = "accuracy"
    score = "correct"

    def begin(self, loaded, batch):
        self.begun.append([o.sample.id for o in batch])

    def __call__(self, loaded, batch):
        ids = [o.sample.id for o in batch]
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(ids)
        if self.bad & set(ids):
            raise RuntimeError("this picture\nis too much")
        return [{"correct": i} for i in range(len(ids))]


class Asking(Counting):
    """It asks the model for one token, so that what it took is known."""

    def __call__(self, loaded, batch):
        answers_of(loaded, batch, 1)
        return super().__call__(loaded, batch)


@pytest.fixture
def cells():
    return cells_of(line_up(["fastv"]), [Level(share=0.5), Level(share=0.1)])


def ids(rows):
    return [(*key_of(r), r["sample"]) for r in rows]


def test_every_cell_has_a_row_of_every_sample(embedded, questions, cells):
    steps = []
    rows = sweep(embedded, questions[:5], cells, Asking(), batch=3, progress=lambda *p: steps.append(p))
    # uncompressed, then random, uniform, pool, resolution and fastv at two budgets, of which fastv reaches one
    assert len(cells) == 11 and len(rows) == 10 * 5 + 1 and len(set(ids(rows))) == len(rows)
    assert steps[-1] == (55, 55) and [d for d, _ in steps] == sorted(d for d, _ in steps)
    assert missing(rows) == {("fastv", "T_eq 10%"): rows[ids(rows).index(("fastv", "T_eq 10%", None))]["error"]}
    t_eq = {key_of(r): r["t_eq"] for r in rows if not r["error"]}
    assert t_eq["uncompressed", None] == 144 and t_eq["fastv", "T_eq 50%"] == pytest.approx(72, abs=1)
    assert t_eq["resolution", "T_eq 10%"] == 16 and {r.get("visual_tokens") for r in rows} == {144, None}
    asked = {q.id: q.kind for q in questions}
    assert all(r["question_kind"] == asked[r["sample"]] for r in rows if r["sample"])


def test_stopped_and_resumed_is_as_if_never_stopped(embedded, questions, cells, tmp_path):
    whole = sweep(embedded, questions[:5], cells, Counting(), batch=2)
    study = Study.create(tmp_path / "s", "compare")
    for stop in (0, 3, 7):
        with pytest.raises(KeyboardInterrupt):
            sweep(embedded, questions[:5], cells, Counting(stop=stop), study=study, batch=2)
    held = len(study.rows())
    assert 0 < held < len(whole)
    last = Counting()
    rows = sweep(embedded, questions[:5], cells, last, study=study, batch=2)
    assert sorted(ids(rows), key=str) == sorted(ids(whole), key=str) == sorted(ids(study.rows()), key=str)
    assert sorted(study.rows(), key=str) == sorted(whole, key=str)
    assert sum(map(len, last.calls)) < sum(not r["error"] for r in whole), "what was there was not made again"
    idle = Counting()
    sweep(embedded, questions[:5], cells, idle, study=study, batch=2)
    assert not idle.calls and not idle.begun


def test_a_batch_cut_off_in_its_rows_is_completed(embedded, questions, cells, tmp_path):
    study = Study.create(tmp_path / "s", "compare")
    whole = sweep(embedded, questions[:4], cells, Counting(), study=study, batch=4)
    lines = study._rows.read_bytes().splitlines(keepends=True)
    study._rows.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    rows = sweep(embedded, questions[:4], cells, Counting(), study=study, batch=4)
    assert sorted(rows, key=str) == sorted(whole, key=str), "numbers too: the batch was run whole"


def test_a_sample_that_breaks_the_run_is_found_and_the_others_stay(embedded, questions, cells):
    bad = questions[2].id
    rows = sweep(embedded, questions[:4], cells[:2], Counting(bad=frozenset({bad})), batch=4)
    assert broken(rows) == {bad: "RuntimeError: this picture is too much"}
    assert sum(not r["error"] for r in rows) == 2 * 3 and not missing(rows)


def test_samples_that_cannot_be_asked_have_rows_in_every_cell(embedded, questions, cells, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    wrong = [
        Picture("cut", "what?", (tmp_path / "cut.png",)),
        Picture("gone", "what?", (tmp_path / "gone.png",)),
        Picture("mute", "\n", questions[0].images),
        Picture("placed", "what <|image_pad|>?", questions[0].images),
    ]
    steps = []
    rows = sweep(embedded, [*questions[:2], *wrong], cells[3:6], Asking(), batch=3, progress=lambda *p: steps.append(p))
    assert set(broken(rows)) == {"cut", "gone", "mute", "placed"} and len(rows) == 3 * 6 and steps[-1] == (18, 18)
    assert "placeholder" in broken(rows)["placed"] and broken(rows)["mute"] == "the question is empty"


def test_when_all_is_broken_that_is_what_is_missing(embedded, tmp_path, cells):
    rows = sweep(embedded, [Picture("gone", "what?", (tmp_path / "gone.png",))], cells[:1], Counting())
    assert "no image" in missing(rows)["uncompressed", None]


def test_a_budget_that_only_large_pictures_reach_is_told(embedded, questions, small_questions):
    """10 % of 36 tokens are fewer than the processor makes; 10 % of 144 are not."""
    cells = [c for c in cells_of(line_up([]), [Level(share=0.1)]) if c.contender.label == "resolution"]
    rows = sweep(embedded, [questions[0], small_questions[0]], cells, Counting())
    assert [r["sample"] for r in rows] == [questions[0].id, None]
    assert missing(rows)["resolution", "T_eq 10%"].startswith("for pictures of some sizes: t_eq=3.6 is out of reach")


def test_accuracy_needs_right_answers(embedded, questions, cells):
    judge = ExactAnswer()
    rows = sweep(embedded, [questions[0], Picture("x", "what?", questions[0].images)], cells[:1], judge)
    assert rows[0]["correct"] is True and rows[0]["truth"] == questions[0].answers[0]
    assert "judge by fidelity" in broken(rows)["x"]


def test_a_budget_that_no_model_has_is_told_not_raised(embedded, questions):
    rows = sweep(embedded, questions[:1], cells_of(line_up(["fastv:layer=99"]), [Level(share=0.5)]), Counting())
    assert "layers 0 to 7" in missing(rows)["fastv:layer=99", "T_eq 50%"]
