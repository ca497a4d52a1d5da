"""Driving lmms-eval: a stand-in plays its failures, all of which end with 0, and each is found."""

import json
import os
import sys
from pathlib import Path

import pytest

from foveate.errors import InvalidValue
from foveate.evaluate import harness, session
from foveate.evaluate.accuracy import evaluate_compression
from foveate.evaluate.harness import HarnessFailed, Job
from foveate.evaluate.tasks import evaluate_tasks, job_for
from foveate.measure.study import Study
from foveate.method import get_method

FAKE = '''
"""Plays lmms-eval: even questions are right, odd ones wrong, and compressed the first one too; PLAY says what fails."""
import json, os, sys
from pathlib import Path

play, words = os.environ["PLAY"], dict(zip(sys.argv[1::2], sys.argv[2::2]))
arguments = dict(pair.split("=", 1) for pair in words["--model_args"].split(","))
if play == "crash":
    raise SystemExit(3)
if play == "error":
    print("\\x1b[31mERROR Error during evaluation: Tasks not found: nope. Please set `--verbosity=DEBUG`\\x1b[0m")
    raise SystemExit(0)
n, out = int(words.get("--limit", 4)), Path(words["--output_path"]) / "model"
out.mkdir(parents=True)
compressed = "recipe" in arguments
scores = [float(i % 2 == 0 and not (compressed and i == 0)) for i in range(n)]
answers = Path(arguments["answers"]) / "rank_0"
answers.mkdir(parents=True, exist_ok=True)
results = {"results": {}, "groups": {}, "n-samples": {}, "throughput": {"avg_t_eq": 36.0, "avg_visual_tokens": 144.0}}
for task in words["--tasks"].split(","):
    if play == "missing task" and task == "second":
        continue
    value = float("nan") if play == "nan" else sum(scores) / n
    metrics = {"alias": task, "score,none": value, "score_stderr,none": "N/A"}
    results["results"][task] = {"alias": task} if play == "no metric" else metrics
    results["n-samples"][task] = {"original": n, "effective": n}
    rows = [{"doc_id": i, "target": "x", "input": "q?", "filtered_resps": "" if play == "empty" else str(s), "score": s}
            for i, s in enumerate(scores)]
    rows = rows[:-1] if play == "short" else rows
    (out / f"1_samples_{task}.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
    with open(answers / "rows.jsonl", "a") as file:
        for i, s in enumerate(scores):
            row = {"key": f"{task}{i}", "task": task, "doc": i, "answer": str(s), "visual_tokens": 144.0, "t_eq": 36.0}
            file.write(json.dumps(row) + "\\n")
if play != "nothing":
    (out / "1_results.json").write_text(json.dumps(results))
Path(os.environ["SEEN"]).write_text(json.dumps(sys.argv[1:]))
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package lmms_eval in front of any other; returns the file where it writes what it was called with."""
    package = tmp_path / "fake" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("PLAY", "well")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setattr(harness, "LOOK_EVERY", 0.05)
    return tmp_path / "seen.json"


def job(tmp_path, *tasks, **more):
    return job_for(None, tasks or ("first",), tmp_path / "job", "cpu", **more)


FAILURES = {
    "crash": "ended with 3",
    "error": r"ended with 0\): .*Tasks not found: nope",
    "nothing": "wrote no results",
    "missing task": "no results for second",
    "nan": "score is nan",
    "no metric": "computed no metric",
    "short": "4 questions, but 3 answers",
    "empty": "every answer is empty",
}


@pytest.mark.parametrize("play", FAILURES)
def test_every_failure_is_found_though_it_ends_with_0(fake, tmp_path, monkeypatch, play):
    monkeypatch.setenv("PLAY", play)
    with pytest.raises(HarnessFailed, match=FAILURES[play]):
        harness.run(job(tmp_path, "first", "second"))


def test_what_lmms_eval_is_called_with(fake, tmp_path):
    wanted = job(tmp_path, "mlvu", "own_task", limit=6, batch=2, arguments={"max_num_frames": "8"}, include=tmp_path)
    harness.run(wanted)
    seen = json.loads(fake.read_text())
    words = dict(zip(seen[::2], seen[1::2], strict=False))
    assert words["--tasks"] == "mlvu_dev,own_task" and words["--limit"] == "6" and words["--batch_size"] == "2"
    assert words["--model"] == "foveate_qwen2_5_vl" and words["--include_path"] == str(tmp_path)
    for part in ("device_map=cpu", "max_num_frames=8", "as_shipped=True", f"answers={tmp_path / 'job' / 'answers'}"):
        assert part in words["--model_args"].split(",")


def test_both_sides_are_compared_question_by_question(fake, tmp_path):
    study = Study.create(tmp_path / "study", "eval")
    told = []
    found = evaluate_tasks(
        job(tmp_path, "first", limit=8), get_method("fastv", keep=0.5), study=study, answered=lambda *x: told.append(x)
    )
    [difference] = found.differences
    assert (difference.value, difference.compressed, difference.drop.mean) == (0.5, 0.375, 0.125)
    assert difference.p_value == 1.0 and difference.samples == 8 and found.counted["t_eq"] == 36.0
    assert ("uncompressed", 8) in told and ("fastv", 8) in told
    rows = study.rows()
    assert len(rows) == 16 and {r["method"] for r in rows} == {"uncompressed", "fastv"}
    assert rows[-1]["t_eq"] == 36.0 and rows[-1]["keep"] == 0.5 and rows[-1]["question_kind"] == "first"
    json.dumps(found.as_dict())


def test_what_failed_is_run_again(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("PLAY", "short")
    with pytest.raises(HarnessFailed):
        harness.run(job(tmp_path))
    monkeypatch.setenv("PLAY", "well")
    assert harness.run(job(tmp_path)).tasks[0].metrics == {"score": 0.5}


def test_a_finished_side_is_not_run_again_and_rows_stay_single(fake, tmp_path, monkeypatch):
    study, method = Study.create(tmp_path / "study", "eval"), get_method("fastv", keep=0.5)
    first = evaluate_tasks(job(tmp_path), method, study=study)
    monkeypatch.setenv("PLAY", "crash")
    again = evaluate_tasks(job(tmp_path), method, study=study)
    assert again.as_dict() == first.as_dict() and len(study.rows()) == 8


def test_without_a_baseline_there_is_no_drop(fake, tmp_path):
    found = evaluate_tasks(job(tmp_path), get_method("fastv", keep=0.5), baseline=False)
    assert found.differences[0].value is None and found.differences[0].drop is None


def test_processes_are_started_as_torch_does_it(tmp_path):
    one = Job("m", ("t",), {}, tmp_path, "cpu")
    assert one.command(tmp_path)[:3] == [sys.executable, "-m", "lmms_eval"]
    two = Job("m", ("t",), {}, tmp_path, "cpu", processes=2).command(tmp_path)
    assert two[1:7] == ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m"]
    far = Job("m", ("t",), {}, tmp_path, "cuda", processes=4, machines=2, machine=1, main="10.0.0.1:1234")
    text = " ".join(far.command(tmp_path))
    assert "--nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 1234 -m lmms_eval" in text and far.parallel


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"machines": 2}, "must know the first one"),
        ({"machines": 2, "main": "a:1", "machine": 2}, "machine must lie in 0..1"),
        ({"arguments": {"x": "a,b"}}, "cannot take a comma"),
    ],
)
def test_jobs_that_cannot_be_run_are_refused(fake, tmp_path, more, message):
    with pytest.raises(InvalidValue, match=message):
        job(tmp_path, **more)


def test_a_missing_lmms_eval_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidValue, match=r"pip install 'foveate\[eval\]'"):
        job(tmp_path)


def test_a_model_without_a_compressed_class_is_refused(fake, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "idefics3"}))
    with pytest.raises(InvalidValue, match="no compressed model for 'idefics3'"):
        job_for(str(tmp_path), ["first"], tmp_path / "job", "cpu")


def test_a_local_dataset_goes_through_lmms_eval_with_its_broken_rows_counted(fake, tmp_path, folder):
    questions = tmp_path / "q.jsonl"
    good = {"image": str(folder / "0.png"), "question": "?", "answer": "x"}
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    rows = [{"id": i, **good} for i in range(4)] + [{"id": "cut", **good, "image": "cut.png"}]
    questions.write_text("\n".join(map(json.dumps, rows)))
    settings = session.Settings(dataset=str(questions), harness=True)
    method = get_method("fastv", keep=0.5)
    study = session.begin(tmp_path / "study", settings, method)
    found = session.evaluate_outside(study, settings, method)
    assert [b.id for b in found.broken] == ["cut"] and "foveate_q" in json.loads(fake.read_text())
    study, again, same = session.resume(tmp_path / "study")
    assert (again, same) == (settings, method) and study.about["results"]["tasks"][0]["task"] == "foveate_q"
    assert [r["sample"] for r in study.rows() if r["error"]] == ["cut"]


# ── the real one ─────────────────────────────────────────────────────────────────────────────────────────────────

REAL = pytest.mark.skipif(
    harness.importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed (pip install '.[eval]')"
)


@pytest.fixture
def offline(monkeypatch):
    """No network, and a torchvision built for CUDA made importable on a CPU: see shim/sitecustomize.py."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    shim = Path(__file__).parent / "shim"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(shim), os.environ.get("PYTHONPATH")))))


@REAL
@pytest.mark.parametrize("processes", [1, 2])
def test_lmms_eval_gives_the_accuracy_that_foveate_gives(offline, tmp_path, processes):
    settings = session.Settings(dataset="embedded", harness=True, limit=14, processes=processes, max_new_tokens=8)
    method = get_method("visionzip", keep=0.25)
    study = session.begin(tmp_path / "study", settings, method)
    theirs = session.evaluate_outside(study, settings, method)
    ours = evaluate_compression(None, "embedded", method, limit=14, max_new_tokens=8)
    [difference] = theirs.differences
    assert (difference.value, difference.compressed) == (ours.original_accuracy, ours.compressed_accuracy)
    answers = {r["sample"].split("/")[1]: r["answer"] for r in study.rows() if r["method"] == "visionzip"}
    assert answers == {p.sample.id: p.compressed.answer for p in ours.pairs}
    assert theirs.counted["visual_tokens"] == 144 and theirs.counted["t_eq"] == 36
