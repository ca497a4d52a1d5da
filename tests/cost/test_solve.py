"""Targets become keeps."""

import pytest

from foveate.cost.deployment import Deployment
from foveate.cost.ledger import ledger_of
from foveate.cost.solve import TARGETS, solve
from foveate.cost.tokens import Inputs, Video, prompt_of
from foveate.errors import InvalidValue
from foveate.method import get_method
from foveate.plan import make_plan
from foveate.plan import solve as solve_plan
from foveate.tokens import Grid

CLIP = Inputs(videos=(Video(16, 384, 384),), new_tokens=30)


@pytest.fixture(scope="module")
def deployment():
    return Deployment.of("llava-onevision-7b", "rtx-4090")


def reached(deployment, inputs, method, target):
    prompt = prompt_of(deployment.arch, inputs)
    ledger = ledger_of(method, deployment.arch, prompt)
    return TARGETS[target](deployment.costs("", prompt, ledger, inputs.new_tokens))


@pytest.mark.parametrize(
    ("name", "target"), [("divprune", t) for t in TARGETS] + [("fastv", "ttft_ms"), ("aim", "kv_mb")]
)
def test_the_keep_that_is_found_meets_the_target(deployment, name, target):
    method = get_method(name)
    low, high = (reached(deployment, CLIP, method.replaced(keep=k), target) for k in (0.2, 0.6))
    wanted = (low + high) / 2
    found = solve(deployment, CLIP, method, target, wanted)
    assert 0.2 < found.settings()["keep"] < 0.6
    # a token more or less in each of 16 frames is all that lies between two keeps
    assert reached(deployment, CLIP, found, target) == pytest.approx(wanted, rel=0.02)


def test_t_eq_is_solved_as_plans_are(deployment):
    grid = Grid(16, 14, 14)
    shape = deployment.arch.shape()
    found = solve(deployment, CLIP, get_method("fastv"), "t_eq", 1500)
    assert found == solve_plan(get_method("fastv"), shape, grid, 1500)
    assert make_plan(found.steps(shape), shape, grid).t_eq == pytest.approx(1500, abs=1)


WRONG = {
    "unknown": (lambda: get_method("aim"), "ttft", 5, "did you mean 'ttft_ms'"),
    "too little": (lambda: get_method("aim"), "ttft_ms", 1, "out of reach: this method, model and input allow"),
    "too much": (lambda: get_method("fastv"), "kv_mb", 1e6, "out of reach"),
    "t_eq": (lambda: get_method("fastv"), "t_eq", 1, "out of reach"),
    "nan": (lambda: get_method("aim"), "tflops", float("nan"), "out of reach"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_target_that_cannot_be_met(deployment, name):
    method, target, value, message = WRONG[name]
    with pytest.raises(InvalidValue, match=message):
        solve(deployment, CLIP, method(), target, value)


def test_a_prompt_without_images_has_nothing_to_solve(deployment):
    with pytest.raises(InvalidValue, match="no visual tokens"):
        solve(deployment, Inputs(), get_method("aim"), "t_eq", 5)
