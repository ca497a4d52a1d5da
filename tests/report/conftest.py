"""Studies written by hand: a comparison with broken samples, hostile text and overlays; an evaluation; a search."""

import random

import pytest
from handmade import FASTV, HOSTILE, LEVELS, accuracy, bench, overlay, times, trial
from PIL import Image

from foveate.measure.study import Study


@pytest.fixture(scope="session")
def comparison(tmp_path_factory):
    """Twenty samples; fastv loses some of them, visionzip none; one is broken, one budget is out of reach."""
    folder = tmp_path_factory.mktemp("studies") / "comparison"
    recipes = {name: {"method": name} for name in ("uncompressed", "resolution")}
    recipes |= {"fastv": {"format": 1, "method": "fastv"}, "mine": {"format": 1, "method": "visionzip"}}
    settings = {"model": None, "dtype": "auto", "judge": "accuracy"}
    command = ["foveate", "compare", "--methods", "fastv,mine=visionzip"]
    study = Study.create(folder, "compare", settings=settings, recipes=recipes, command=command, samples=21)
    draw = random.Random(0)
    samples = [f"s{i}" for i in range(20)]
    study.append(*(accuracy("uncompressed", None, s, True) for s in samples))
    for budget, lost in zip(LEVELS, (0.2, 0.5), strict=True):
        solved = {"settings": FASTV, "t_eq": 8.0 if budget == LEVELS[0] else 4.0}
        study.append(*(accuracy("fastv", budget, s, s != "s3" and draw.random() > lost, **solved) for s in samples))
        study.append(*(accuracy("resolution", budget, s, s != "s5", t_eq=6.0) for s in samples))
        study.append({**accuracy("fastv", budget, "s20", False), "error": f"no picture: {HOSTILE}"})
    study.append(*(accuracy("mine", LEVELS[0], s, True, settings={"keep": 0.3}, t_eq=8.0) for s in samples))
    reach = {"kind": "accuracy", "method": "mine", "settings": {}, "budget": LEVELS[1], "keep": None, "sample": None}
    study.append(reach | {"error": "t_eq=4 is out of reach"})
    study.append(bench("uncompressed", None, times(10, 0, 40, 90), [16] * 4))
    study.append(bench("fastv", LEVELS[0], times(10, 14, 90, 130), [16, 8, 4, 4]))
    study.append(bench("fastv", LEVELS[1], times(10, 4, 20, 60), [8, 4, 4, 0]))
    album = Study(folder / "overlays")
    album.folder.mkdir()
    Image.new("RGB", (64, 32), "teal").save(album.folder / "one.jpg")
    album.append({"kind": "picture", "sample": "s3", "question": HOSTILE, "files": {"0": "one.jpg"}, "error": None})
    album.append(*(overlay("fastv", budget, "s3") for budget in LEVELS))
    album.append({**overlay("mine", LEVELS[0], "s3"), "error": "RuntimeError: it broke"})
    study.finish()
    return folder


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory):
    """As eval writes it: no budgets, times of each answer, results."""
    folder = tmp_path_factory.mktemp("studies") / "evaluation"
    study = Study.create(folder, "eval", title="fastv on data", recipes={"fastv": {"method": "fastv"}})
    took = {"vision_ms": 5.0, "prefill_ms": 10.0, "total_ms": 20.0, "lm_flops": 10**9, "tokens_per_layer": [16, 8]}
    for method in ("uncompressed", "fastv"):
        for i in range(6):
            row = accuracy(method, None, f"s{i}", method == "uncompressed" or i > 1)
            del row["budget"]
            study.append(row | took | {"batch": "s0", "score": float(row["correct"])})
    span = {"mean": 0.333, "low": 0.0, "high": 0.7, "n": 6}
    spans = dict.fromkeys(("drop", "agreement", "speedup", "end_to_end"), span)
    study.update(results=spans | {"lost": 2, "gained": 0, "p_value": 0.5, "samples": 6})
    return folder


@pytest.fixture(scope="session")
def search(tmp_path_factory):
    """As tune writes it: trials that hold the target, miss it, are given up and refused."""
    folder = tmp_path_factory.mktemp("studies") / "search"
    study = Study.create(folder, "tune", settings={"target": "agreement>=0.9", "minimise": "t_eq"})
    study.append(*(accuracy("uncompressed", None, f"s{i}", True) for i in range(8)))
    tried = [(12.0, 1.0, "complete", True), (9.0, 1.0, "complete", True), (3.0, 0.5, "complete", False)]
    for i, (cost, agreement, state, feasible) in enumerate(tried):
        study.append(trial(i, state, feasible=feasible, cost=cost, t_eq=cost, agreement=agreement))
    study.append(trial(3, "given up", why="too dear"), trial(4, "refused", error="no such layer"))
    return folder
