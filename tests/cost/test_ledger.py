"""Every way to say what is kept becomes tokens per layer, or is refused in words."""

import pytest

from foveate.cost.count import operations
from foveate.cost.hf import arch_of
from foveate.cost.ledger import AimParameters, Ledger, ledger_of, ledgers_of
from foveate.cost.ops import of_part, total_flops
from foveate.cost.tokens import Inputs, Video, prompt_of
from foveate.errors import InvalidValue
from foveate.method import get_method

ARCH = arch_of("llava-onevision-7b")
PROMPT = prompt_of(ARCH, Inputs(videos=(Video(32, 640, 480),), text=99))


def test_nothing_said_is_nothing_removed():
    for what in (None, "none"):
        assert ledger_of(what, ARCH, PROMPT) == Ledger((6272,) * 28, 100)
    assert ledger_of("fastv", ARCH, prompt_of(ARCH, Inputs(text=5))) == Ledger((0,) * 28, 5)


def test_aim_parameters_are_the_tables_of_the_paper():
    paper, released, masked = (
        ledger_of(AimParameters(timing=t), ARCH, PROMPT) for t in ("paper", "released", "masked")
    )
    assert paper.tokens[13:23] == (1668, 1472, 1276, 1080, 884, 688, 492, 296, 100, 100)
    assert released.tokens[14:24] == (1668, 1472, 1276, 1080, 884, 688, 492, 296, 100, 100)
    assert set(masked.tokens) == {1668}
    assert ledger_of("aim", ARCH, PROMPT).visual == released.visual


def test_an_adaptive_method_has_two_ends():
    low, high = ledgers_of(get_method("divprune", adaptive=(0.1, 0.4)), ARCH, PROMPT)
    assert (low.visual[0], high.visual[0]) == (627, 2509)
    measured = [next(op for op in x.method_ops if "Adaptive" in op.name) for x in (low, high)]
    assert measured[0] == measured[1]
    low, high = ledgers_of("divprune", ARCH, PROMPT)
    assert low is high


def test_own_work_is_of_the_whole_batch():
    one, four = (prompt_of(ARCH, Inputs(videos=(Video(4, 640, 480),), batch=b)) for b in (1, 4))
    for name in ("aim", "visionzip", "pyramiddrop"):
        own = [sum(op.flops * op.repeat for op in ledger_of(name, ARCH, p).method_ops) for p in (one, four)]
        assert own[1] == 4 * own[0] > 0


def test_caches_hold_what_their_layers_ran_on_and_decoding_pays_for_it():
    full, half = ledger_of(None, ARCH, PROMPT), ledger_of([6272] * 14 + [3136] * 14, ARCH, PROMPT)
    assert half.kept == half.tokens
    steps = [
        [op for op in of_part(operations(ARCH, PROMPT, x, new_tokens=11), "decode") if op.name == "attention"]
        for x in (full, half)
    ]
    saved = steps[0][20].kv_reads - steps[1][20].kv_reads
    assert saved == 3136 * ARCH.language.kv_elements(20)
    assert steps[0][3] == steps[1][3]
    forgotten = Ledger(half.visual, half.text, cached=(3136,) * 28)
    decoded = [
        op for op in of_part(operations(ARCH, PROMPT, forgotten, new_tokens=11), "decode") if op.name == "attention"
    ]
    assert decoded[3].kv_reads == steps[1][20].kv_reads
    assert {op.repeat for op in decoded} == {10}
    assert total_flops(of_part(operations(ARCH, PROMPT, full), "decode")) == 0


def test_steps_add_up_whatever_their_number():
    """Ten steps are one to ten, each over one token more."""
    ledger = ledger_of("fastv", ARCH, PROMPT)
    ten = total_flops(of_part(operations(ARCH, PROMPT, ledger, new_tokens=11), "decode"))
    each = 0
    for i in range(10):
        longer = Ledger(ledger.visual, ledger.text + i)
        each += total_flops(of_part(operations(ARCH, PROMPT, longer, new_tokens=2), "decode"))
    assert ten == each


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ([6272] * 27, "28 layers"),
        ([6273] + [0] * 27, r"0\.\.6272"),
        ([-1] * 28, r"0\.\.6272"),
        ([10] * 14 + [20] * 14, "cannot be more"),
        ("fastw", "did you mean 'fastv'"),
        ("missing.yaml", "cannot read the recipe"),
    ],
)
def test_what_makes_no_sense_is_refused(what, says):
    with pytest.raises(InvalidValue, match=says):
        ledger_of(what, ARCH, PROMPT)


@pytest.mark.parametrize("fields", [{"keep": 0}, {"keep": 1.5}, {"start": 9, "end": 9}])
def test_wrong_parameters_of_aim_are_refused(fields):
    with pytest.raises(InvalidValue):
        AimParameters(**fields)


def test_a_keep_of_nothing_is_refused():
    with pytest.raises(InvalidValue, match="keep"):
        ledger_of(get_method("divprune", keep=0), ARCH, PROMPT)
