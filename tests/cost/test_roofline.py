"""Time of operations: by hand, against kernels that others measured, and what must hold on any device."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.cost.count import decode, operations, prefill
from foveate.cost.hardware import all_hardware, get_hardware
from foveate.cost.hf import arch_of
from foveate.cost.ledger import Ledger
from foveate.cost.ops import Op
from foveate.cost.parallel import HOP_S, Parallel
from foveate.cost.precision import Precision
from foveate.cost.roofline import Roofline
from foveate.cost.tokens import Prompt
from foveate.errors import InvalidValue

A100 = get_hardware("a100-80gb")
VICUNA, QWEN2 = arch_of("llava-1.5-7b"), arch_of("llava-onevision-7b")
LINEAR = Op(
    "q_proj", "prefill", 0, "matmul", 2 * 512 * 100 * 300, 2 * 512 * 100 * 300, 30_000, 51_200, 153_600, rows=512
)


def roofline(hardware=A100, dtype=None, **options):
    return Roofline(hardware, Precision.of(hardware, dtype), **options)


def prefill_ops(arch, tokens):
    ledger = Ledger(tuple(tokens), 0)
    return list(prefill(arch, Prompt((), tokens[0]), ledger))


def seconds(line, ops):
    return sum(t.seconds for t in line.times(ops))


def test_a_matmul_by_hand():
    timed = roofline().time(LINEAR)
    reached = A100.efficiency
    assert timed.bytes == 2 * (30_000 + 51_200 + 153_600)
    assert timed.memory_s == pytest.approx(timed.bytes / (2039e9 * reached.memory))
    assert timed.compute_s == pytest.approx(LINEAR.flops / (312e12 * reached.gemm.at(512)))
    assert timed.seconds == max(timed.compute_s, timed.memory_s) + 3e-6
    assert timed.bound == "launch" and timed.intensity == LINEAR.flops / timed.bytes
    ideal = roofline().ideal().time(LINEAR)
    assert ideal.seconds == max(LINEAR.flops / 312e12, timed.bytes / 2039e9) and ideal.bound == "memory"


def test_repeats_add_up():
    once, often = roofline().time(LINEAR), roofline().time(replace(LINEAR, repeat=7))
    for field in ("flops", "bytes", "compute_s", "memory_s", "launch_s"):
        assert getattr(often, field) == pytest.approx(7 * getattr(once, field))


def test_elementwise_runs_at_the_vector_peak_and_its_own_bandwidth():
    op = Op("act", "prefill", 0, "elementwise", 10**9, 10**9, reads=2 * 10**6, writes=10**6)
    timed, reached = roofline().time(op), A100.efficiency
    assert timed.compute_s == pytest.approx(1e9 / (19.5e12 * reached.vector))
    assert timed.memory_s == pytest.approx(6e6 / (2039e9 * reached.elementwise.at(6e6)))


# ── fused and eager attention ────────────────────────────────────────────────────────────────────────────────────

# GB that eager attention moves more than fused, in fp16, metered tensor by tensor on the models of transformers
EAGER_GB = {(VICUNA, 616): 42.7 - 29.9, (QWEN2, 1668): 123.1 - 50.6, (QWEN2, 6372): 1184 - 153.2}


@pytest.mark.parametrize(("arch", "n"), EAGER_GB, ids=lambda x: getattr(x, "name", x))
def test_eager_attention_moves_its_scores_sixteen_times(arch, n):
    ops = prefill_ops(arch, [n] * len(arch.language.blocks))
    fused, eager = (sum(t.bytes for t in roofline(dtype="fp16", attention=a).times(ops)) for a in ("fused", "eager"))
    assert (eager - fused) / 1e9 == pytest.approx(EAGER_GB[arch, n], rel=0.04)


def test_fused_attention_moves_q_k_v_and_its_output_only():
    n, lm = 1000, QWEN2.language.blocks[0].attention
    op = next(o for o in prefill_ops(QWEN2, [n] * 28) if o.kind == "attention")
    q, kv = n * lm.heads * lm.head_dim, n * lm.kv_heads * lm.head_dim
    assert roofline().time(op).bytes == 2 * (2 * q + 2 * kv)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 5000), layers=st.just(28))
def test_fused_is_never_slower_than_eager(n, layers):
    ops = prefill_ops(QWEN2, [n] * layers)
    assert seconds(roofline(), ops) <= seconds(roofline(attention="eager"), ops)


def test_causal_attention_does_half_the_work_eager_does_all():
    op = next(o for o in prefill_ops(VICUNA, [2000] * 32) if o.kind == "attention")
    fused, eager = roofline().ideal().time(op), roofline(attention="eager").ideal().time(op)
    assert eager.compute_s / fused.compute_s == pytest.approx(2, rel=1e-3)


# ── against measured kernels ─────────────────────────────────────────────────────────────────────────────────────

AIM = [1668] * 14 + [1472, 1276, 1080, 884, 688, 492, 296] + [100] * 7
# milliseconds of prefills on an A100-80GB in bf16, each the sum of kernel times that NVIDIA published (AIConfigurator)
COMPOSED_MS = [
    (VICUNA, [626] * 32, 37.6), (VICUNA, [626] * 2 + [338] * 30, 23.3), (VICUNA, [626] * 2 + [194] * 30, 19.4),
    (VICUNA, [626] * 8 + [338] * 8 + [194] * 8 + [122] * 8, 22.7), (VICUNA, [178] * 32, 17.7),
    (VICUNA, [114] * 32, 12.4), (VICUNA, [128] * 32, 12.5), (VICUNA, [2048] * 32, 117.5), (QWEN2, [6322] * 28, 373.0),
    (QWEN2, [1618] * 28, 93.0), (QWEN2, AIM, 67.0), (QWEN2, [677] * 28, 41.0),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "tokens", "ms"), COMPOSED_MS, ids=lambda x: str(x)[:20])
def test_the_efficiency_of_gpus_tells_composed_kernels(arch, tokens, ms):
    assert 1e3 * seconds(roofline(), prefill_ops(arch, tokens)) == pytest.approx(ms, rel=0.05)


# ── what must hold everywhere ────────────────────────────────────────────────────────────────────────────────────

NAMES = sorted(all_hardware())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.integers(1, 4000), st.integers(0, 4000), st.sampled_from(["fused", "eager"]))
def test_fewer_tokens_never_cost_more(name, n, more, attention):
    line = roofline(get_hardware(name), attention=attention)
    few, many = (prefill_ops(QWEN2, [x] * 28) for x in (n, n + more))
    assert seconds(line, few) <= seconds(line, many) * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.integers(1, 4000), st.integers(1, 64))
def test_peaks_are_never_beaten(name, n, new_tokens):
    line = roofline(get_hardware(name))
    ops = operations(VICUNA, Prompt((), n), Ledger((0,) * 32, n), new_tokens=new_tokens)
    for reached, ideal in zip(line.times(ops), line.ideal().times(ops), strict=True):
        assert reached.seconds >= ideal.seconds


# ── precision ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hardware", "w", "a", "operand", "unpacked"),
    [
        ("a100", 8, 8, "int8", False), ("h100", 8, 8, "fp8", False), ("b200", 4, 4, "fp4", False),
        ("h100", 4, 4, "fp8", True), ("a100", 4, 16, "bf16", True), ("m2-max", 8, 8, "bf16", True),
        ("b200", 4, 8, "fp8", True), ("t4", 16, 16, "fp16", False),
    ],
)  # fmt: skip
def test_the_narrowest_units_that_hold_both_operands(hardware, w, a, operand, unpacked):
    device = get_hardware(hardware)
    precision = Precision.of(device, w_bits=w, a_bits=a)
    assert precision.operand(LINEAR, device) == operand
    assert bool(precision.unpacking(LINEAR, operand)) == unpacked
    vision = replace(LINEAR, part="vision")
    assert precision.operand(vision, device) == device.default_type, "the tower stays in dtype"


def test_bytes_of_quantised_weights_and_caches():
    step = next(op for op in decode(VICUNA, Ledger((0,) * 32, 500), 1, 1) if op.kind == "attention")
    linear = next(op for op in decode(VICUNA, Ledger((0,) * 32, 500), 1, 1) if op.name == "q_proj")
    wide, narrow = Precision.of(A100), Precision.of(A100, w_bits=4, kv_bits=8)
    assert wide.traffic(linear) - narrow.traffic(linear) == pytest.approx(linear.weights * (2 - (4 + 16 / 128) / 8))
    assert wide.traffic(step) - narrow.traffic(step) == step.kv_reads
    assert Precision.of(get_hardware("h100"), "fp8") == Precision("bf16", 8, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dtype="bf17"), "did you mean 'bf16'"), (dict(dtype="fp8"), "no units for fp8; it has: bf16"),
        (dict(w_bits=5), "w_bits must be one of"), (dict(kv_bits=0), "kv_bits must be one of"),
        (dict(a_bits=-4), "a_bits must be one of"),
    ],
)  # fmt: skip
def test_a_format_that_is_not_there(options, message):
    with pytest.raises(InvalidValue, match=message):
        Precision.of(A100, **options)


# ── tensor parallelism ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tp", [2, 4, 7, 28])
def test_devices_together_do_all_of_it(tp):
    """Every FLOP of every matrix is done, those of keys and values more than once where there are fewer heads."""
    share = Parallel.of(QWEN2, tp, A100)
    for op in prefill_ops(QWEN2, [900] * 28):
        mine = share.share(op)
        if op.name in ("k_proj", "v_proj"):
            copies = -(-4 // tp) * tp / 4
            assert tp * mine.flops == pytest.approx(op.flops * copies)
            assert tp * mine.weights == pytest.approx(op.weights * copies, rel=1e-3)
        elif op.kind in ("matmul", "attention"):
            assert tp * mine.flops == pytest.approx(op.flops, rel=1e-6)
        elif op.name in ("input_norm", "residual"):
            assert mine == op


def test_an_all_reduce_follows_what_brings_shares_together():
    share, precision = Parallel.of(QWEN2, 4, A100), Precision.of(A100)
    ops = prefill_ops(QWEN2, [900] * 28)
    followed = [op for op in ops if share.link_seconds(op, A100, precision)]
    assert {op.name for op in followed} == {"o_proj", "down_proj", "lm_head"}
    reduced = next(op for op in followed if op.name == "o_proj")
    moved = 900 * 3584 * 2 * 3 / 4 / (300e9 * A100.efficiency.link)
    assert share.link_seconds(reduced, A100, precision) == pytest.approx(2 * (moved + 3 * HOP_S))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([2, 4, 7, 14]), st.integers(1, 4000))
def test_more_devices_are_faster_but_never_more_than_there_are(tp, n):
    ops = prefill_ops(QWEN2, [n] * 28)
    one = seconds(roofline().ideal(), ops)
    several = seconds(Roofline(A100, Precision.of(A100), Parallel.of(QWEN2, tp, A100)).ideal(), ops)
    assert several >= one / tp


@pytest.mark.parametrize(
    ("tp", "hardware", "message"),
    [(0, "a100", "at least 1, got 0"), (-2, "a100", "at least 1"), (3, "a100", "use one of"), (2, "m2-max", "no link")],
)
def test_a_degree_that_cannot_be(tp, hardware, message):
    with pytest.raises(InvalidValue, match=message):
        Parallel.of(QWEN2, tp, get_hardware(hardware))
