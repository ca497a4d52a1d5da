"""Bench: counts are right, everyone runs in turn, and what cannot be measured is told. No time decides."""

import pytest

import foveate
from foveate.engine.run import compress
from foveate.errors import InvalidValue
from foveate.families import family_of
from foveate.measure import benchmark
from foveate.measure.clock import Parts
from foveate.measure.contender import Level
from foveate.measure.samples import Opened, Picture, inputs_of, synthetic_pictures
from foveate.measure.study import Study
from foveate.plan import make_plan
from foveate.recipe import Recipe
from foveate.tokens import Grid

SHARE = Level(share=0.25)


@pytest.fixture
def small():
    return Picture("small", "what?", tuple(synthetic_pictures(168, 168)))


@pytest.fixture(scope="module")
def picture():
    """64 visual tokens, 8 x 8."""
    return Picture("picture", "What is it?", tuple(synthetic_pictures(224, 224)))


@pytest.fixture(scope="module")
def rows(embedded, picture):
    found = foveate.measure.bench(
        embedded, [picture], ["divprune", "aim", "fastv"], [SHARE], batches=(1, 2), runs=3, new_tokens=2
    )
    return {(r["method"], r["batch"]): r for r in found.rows}


def test_counted_flops_are_the_computed_ones(rows):
    """Where a method has no matrix products of its own, to the last one; its own come on top."""
    for name in ("uncompressed", "uniform", "resolution"):
        for batch in (1, 2):
            row = rows[name, batch]
            assert row["prefill_flops"] == row["prefill_flops_computed"], name
    assert 1 < rows["aim", 1]["prefill_flops"] / rows["aim", 1]["prefill_flops_computed"] < 1.1
    plain, small = rows["uncompressed", 1], rows["resolution", 1]
    assert plain["total_flops"] > plain["vision_flops"] + plain["prefill_flops"]
    assert plain["vision_flops"] == rows["aim", 1]["vision_flops"] > 3 * small["vision_flops"]


def test_tokens_and_bytes_are_those_of_the_run(rows, embedded, picture):
    plain, aim = rows["uncompressed", 1], rows["aim", 1]
    inputs = inputs_of(embedded, [Opened.of(picture)])
    text = inputs["input_ids"].shape[1] - 64
    assert plain["tokens_per_layer"] == [64] * 8 and plain["t_eq"] == 64 and plain["text_tokens"] == text
    with compress(embedded.model, "aim", keep=aim["settings"]["keep"]) as run:
        embedded.model(**inputs, use_cache=True)
    assert aim["tokens_per_layer"] == run.trace.tokens_per_layer and aim["t_eq"] == run.trace.t_eq
    assert aim["kv_bytes"] == run.trace.kv_bytes
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    assert plain["kv_bytes"] == 8 * (64 + text) * 2 * shape.kv_heads * shape.head_dim * 4
    assert rows["uncompressed", 2]["kv_bytes"] == 2 * plain["kv_bytes"]
    assert {r["visual_tokens"] for r in rows.values() if not r["error"]} == {64}
    assert rows["resolution", 1]["tokens_per_layer"] == [16] * 8


def test_every_contender_has_a_row_with_times_and_words(rows):
    names = {"uncompressed", "divprune", "aim", "random", "uniform", "pool", "resolution"}
    assert {n for n, b in rows if b == 2} == names and {n for n, b in rows if b == 1} == names | {"fastv"}
    for (name, batch), row in rows.items():
        if name == "fastv":
            assert "out of reach" in row["error"] and row["sample"] is None
            continue
        for part in ("vision_ms", "prefill_ms", "ttft_ms", "total_ms", "decode_ms_per_token"):
            assert 0 < row[f"{part}_q1"] <= row[part] <= row[f"{part}_q3"]
        assert row["prompts_per_s"] == pytest.approx(batch * 1e3 / row["total_ms"])
        assert row["tokens_per_s"] == pytest.approx(2 * row["prompts_per_s"])
        assert row["error"] is None and (row["verdict"] is None) == (name == "uncompressed")
        assert (row["selection_ms"] > 0) == (name not in ("uncompressed", "resolution"))
        assert row["peak_memory_kind"] and row["runs"] == 3


def test_contenders_run_in_turn_and_the_warm_up_is_not_counted(embedded, small, monkeypatch, tmp_path):
    """With a clock that says how often a contender has run, medians show which of its runs were counted."""
    order, ran = [], {}
    run = benchmark._run

    def counting(entry, new, gauge, synchronize=False):
        label = entry.cell.contender.label
        ran[label] = ran.get(label, 0) + 1
        order.append(label)
        _, trace, out = run(entry, 1, gauge, synchronize)
        return Parts(vision=1.0, prefill=float(ran[label]), decode=0.5, total=2.0), trace, out

    monkeypatch.setattr(benchmark, "_run", counting)
    study = Study.create(tmp_path / "s", "bench")
    steps = []
    found = foveate.measure.bench(
        embedded, [small], ["random"], [Level(share=0.5)], runs=5, study=study, progress=lambda *p: steps.append(p)
    )
    assert {r["prefill_ms"] for r in found.rows} == {6.0}, "runs 4 to 8 count, the first three are warm-up and counts"
    labels = ["uncompressed", "random", "uniform", "pool", "resolution"]
    rounds = [order[i : i + 5] for i in range(15, 40, 5)]
    assert order[:5] == labels and all(sorted(r) == sorted(labels) for r in rounds)
    assert [r[0] for r in rounds] == labels, "nobody is always first"
    assert steps[-1][0] == steps[-1][1]
    n = len(order)
    again = foveate.measure.bench(embedded, [small], ["random"], [Level(share=0.5)], runs=5, study=study)
    assert len(order) == n and list(again.rows) == study.rows() == list(found.rows)


def test_one_that_breaks_leaves_the_others(embedded, small, monkeypatch):
    run = benchmark._run

    def failing(entry, new, gauge, synchronize=False):
        if entry.cell.contender.label == "pool" and entry.inputs["input_ids"].shape[0] == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return run(entry, new, gauge, synchronize)

    monkeypatch.setattr(benchmark, "_run", failing)
    found = foveate.measure.bench(embedded, [small], [], [Level(share=0.5)], batches=(1, 2), runs=3, new_tokens=1)
    errors = {(r["method"], r["batch"]): r["error"] for r in found.rows if r["error"]}
    assert errors == {("pool", 2): "out of memory at batch 2"} and len(found.rows) == 10
    assert found.broken == {small.id: "out of memory at batch 2"} and not found.missing


def test_broken_samples_are_told_and_the_others_averaged(embedded, tmp_path):
    pictures = [Picture(f"{w}", "what?", tuple(synthetic_pictures(w, 112))) for w in (112, 224)]
    gone = Picture("gone", "what?", (tmp_path / "gone.png",))
    found = foveate.measure.bench(embedded, [pictures[0], gone, pictures[1]], [], [SHARE], runs=3, new_tokens=1)
    assert set(found.broken) == {"gone"} and sum(r["sample"] == "gone" for r in found.rows) == 5
    costs = {c["method"]: c for c in found.costs}
    plain = [r for r in found.rows if r["method"] == "uncompressed" and not r["error"]]
    assert costs["uncompressed"]["visual_tokens"] == (16 + 32) / 2 and costs["uncompressed"]["batch"] == 1
    assert costs["uncompressed"]["ttft_ms"] == pytest.approx(sum(r["ttft_ms"] for r in plain) / 2)
    assert costs["pool"]["verdict"] and set(costs) == {"uncompressed", "random", "uniform", "pool"}
    assert list(found.missing) == [("resolution", "T_eq 25%")], "these pictures are as small as the processor makes any"


def test_videos_are_measured_beside_fewer_frames(watching):
    video = Picture("v", "what?", tuple(synthetic_pictures(112, 112, 4)), video=True)
    found = foveate.measure.bench(watching, [video], ["divprune"], [Level(share=0.5)], runs=3, new_tokens=1)
    rows = {r["method"]: r for r in found.rows}
    assert not found.missing.keys() - {("resolution", "T_eq 50%")}
    assert rows["frames"]["settings"] == {"frames": 2} and rows["frames"]["tokens_per_layer"] == [16] * 8
    assert rows["uncompressed"]["visual_tokens"] == 32 and rows["divprune"]["t_eq"] == 16
    assert rows["frames"]["vision_flops"] * 2 == rows["uncompressed"]["vision_flops"]


def test_a_plan_prices_a_method_by_its_own_settings(rows, embedded):
    shape = family_of(embedded.model.config).shape(embedded.model.config)
    row = rows["divprune", 1]
    method = Recipe(method="divprune", settings=row["settings"]).to_method()
    plan = make_plan(method.steps(shape), shape, Grid(1, 8, 8))
    assert row["prefill_flops_computed"] == plan.lm_flops(row["text_tokens"]) and row["t_eq"] == plan.t_eq == 16


@pytest.mark.parametrize("wrong", [{"runs": 2}, {"batches": (0,)}, {"new_tokens": 0}])
def test_what_shows_nothing_is_refused(wrong, embedded, small):
    with pytest.raises(InvalidValue):
        foveate.measure.bench(embedded, [small], [], [SHARE], **wrong)
