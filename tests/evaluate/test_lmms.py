"""The lmms-eval plugin without lmms-eval: what model_args mean, which models there are, what is remembered."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from foveate.errors import InvalidValue
from foveate.evaluate.benchmarks import BENCHMARKS, of_medium, tasks
from foveate.evaluate.dataset import load_dataset
from foveate.evaluate.export import doc_to_messages, export_task, process_results
from foveate.evaluate.finished import Finished, count, finished_rows
from foveate.evaluate.lmms import ALIASES, CLASSES, MODELS, Arguments
from foveate.families import families
from foveate.method import get_method
from foveate.ops.schedule import Exponential
from foveate.recipe import Recipe


def test_the_plugin_is_registered():
    [point] = [p for p in entry_points(group="lmms_eval.models") if p.name == "foveate"]
    assert point.value == "foveate.evaluate.lmms:manifests"


def test_every_model_belongs_to_a_family_that_has_an_adapter():
    assert set(MODELS) <= set(families()) and set(MODELS.values()) == set(CLASSES) and set(ALIASES) <= set(CLASSES)


def test_words_become_the_method_and_the_rest_goes_on():
    found = Arguments.of(
        {
            "pretrained": "x/y", "method": "aim", "merge_ratio": 0.5, "prune_scheduler": "exponential",
            "final_prune_ratio": 0.9, "importance": "norm", "attn_implementation": "sdpa", "answers": "out",
        }
    )  # fmt: skip
    assert found.method.settings()["keep"] == 0.5
    assert found.method.settings()["schedule"] == Exponential(0.9)
    assert found.theirs == {"pretrained": "x/y", "attn_implementation": "sdpa"} and str(found.answers) == "out"


def test_without_a_method_the_model_runs_uncompressed():
    found = Arguments.of({"pretrained": "x/y"})
    assert found.method.settings()["keep"] == 1.0 and found.answers is None


def test_a_recipe_is_a_method(tmp_path):
    method = get_method("divprune", keep=0.3)
    Recipe.of(method).save(tmp_path / "r.yaml")
    assert Arguments.of({"recipe": str(tmp_path / "r.yaml")}).method == method
    assert Arguments.of({"recipe": str(tmp_path / "r.yaml"), "keep": 0.1}).method == get_method("divprune", keep=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.5}, "keep without a method"),
        ({"method": "fastvv"}, "did you mean 'fastv'"),
        ({"method": "fastv", "recipe": "r.yaml"}, "leave method out"),
        ({"method": "divprune", "adaptive": "0.1"}, "LOW:HIGH"),
        ({"method": "fastv", "keep": 2}, "keep must lie in"),
        ({"method": "fastv", "prune_scheduler": "linear"}, "schedule"),
    ],
)
def test_mistakes_in_model_args_are_refused(given, message):
    with pytest.raises(InvalidValue, match=message):
        found = Arguments.of(given)
        list(found.method.steps(families()["qwen2_5_vl"].shape(families()["qwen2_5_vl"].tiny().config)))


def test_what_an_answer_depends_on_is_its_fingerprint():
    base = {"pretrained": "x/y", "method": "fastv", "keep": 0.5}
    prints = [
        json.dumps(Arguments.of(base | more).fingerprint) for more in ({}, {"answers": "a"}, {"device_map": "cpu"})
    ]
    assert len(set(prints)) == 1
    for other in ({"keep": 0.4}, {"pretrained": "z"}, {"max_pixels": 9}):
        assert json.dumps(Arguments.of(base | other).fingerprint) not in prints


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_found_again_by_any_process_and_a_torn_line_is_not(tmp_path):
    first = Finished(tmp_path, 0, {"m": 1})
    keys = [first.key("task", i, 0, "what?", {"max_new_tokens": 4}) for i in range(3)]
    first.add([{"key": k, "answer": str(i)} for i, k in enumerate(keys[:2])])
    with open(tmp_path / "rank_0" / "rows.jsonl", "a") as file:
        file.write('{"key": "torn')
    second = Finished(tmp_path, 1, {"m": 1})
    assert [second.get(k, {}) and second.get(k, {})["answer"] for k in keys] == ["0", "1", None]
    second.add([{"key": keys[2], "answer": "2"}])
    Finished(tmp_path, 0, {"m": 1}).add([{"key": "other", "answer": "3"}])
    assert count(tmp_path) == 4 and sorted(r["answer"] for r in finished_rows(tmp_path)) == ["0", "1", "2", "3"]


def test_a_key_changes_with_all_that_an_answer_depends_on_and_with_nothing_else():
    finished = Finished(None, 0, {"m": 1})
    same = {"max_new_tokens": 4}
    key = finished.key("task", 1, 0, "what?", same)
    assert key == finished.key("task", "1", "0", "what?", same | {"image_sizes": [(1, 2)]})
    others = [
        finished.key("task2", 1, 0, "what?", same), finished.key("task", 2, 0, "what?", same),
        finished.key("task", 1, 0, "why?", same), finished.key("task", 1, 0, "what?", {"max_new_tokens": 5}),
        Finished(None, 0, {"m": 2}).key("task", 1, 0, "what?", same),
    ]  # fmt: skip
    assert len({key, *others}) == 6


def test_what_is_drawn_at_random_is_asked_again(tmp_path):
    Finished(tmp_path, 0, {}).add([{"key": "k", "answer": "a"}])
    again = Finished(tmp_path, 0, {})
    assert again.get("k", {"temperature": 0})["answer"] == "a"
    assert again.get("k", {"temperature": 0.7}) is None and again.get("k", {"do_sample": True}) is None


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_papers_benchmarks_are_there():
    names = {b.name for b in BENCHMARKS}
    assert {"videomme", "mlvu", "longvideobench", "mvbench", "egoschema", "nextqa", "perceptiontest"} <= names
    assert {"gqa", "vqav2", "mme", "textvqa", "scienceqa", "mmbench", "pope"} == set(of_medium("image"))
    assert list(tasks(["mlvu", "some_task"])) == ["mlvu_dev", "some_task"] and len(names) == len(BENCHMARKS)


def test_a_dataset_becomes_a_task(folder, tmp_path):
    data = load_dataset(folder / "questions.jsonl", limit=3)
    name = export_task(data, tmp_path, None, 16)
    config = (tmp_path / name / f"{name}.yaml").read_text()
    plain = yaml.safe_load(config.replace("!function ", ""))
    assert plain["task"] == name == "foveate_questions" and plain["generation_kwargs"]["max_new_tokens"] == 16
    lines = Path(plain["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [r["id"] for r in rows] == ["0", "1", "2"]
    [turn] = doc_to_messages(rows[0])
    assert turn["content"][0]["url"].size == (168, 168) and turn["content"][1]["text"] == data.samples[0].prompt
    assert process_results(rows[0], [data.samples[0].answers[0]]) == {"score": 1.0}
    assert process_results(rows[0], ["nonsense"]) == {"score": 0.0}


def test_pictures_in_memory_are_written_beside_the_task(tmp_path):
    name = export_task(load_dataset("embedded", limit=2), tmp_path, None, 8)
    assert len(list((tmp_path / name / "images").glob("*.png"))) == 2
