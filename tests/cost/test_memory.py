"""What must be in memory: against a tensor meter, against a real cache, and what must hold for any prompt."""

from dataclasses import replace

import pytest
import torch

import foveate
from foveate.cost.arch import Arch
from foveate.cost.deployment import Deployment
from foveate.cost.hardware import get_hardware
from foveate.cost.hf import arch_of
from foveate.cost.ledger import Ledger, ledger_of
from foveate.cost.memory import USABLE, MemoryModel, most
from foveate.cost.parallel import Parallel
from foveate.cost.precision import Precision
from foveate.cost.tokens import Grid, Inputs, Prompt, Video, Visual, prompt_of
from foveate.families.qwen2_5_vl import Qwen25VL

A100 = get_hardware("a100-80gb")
VICUNA, QWEN2 = arch_of("llava-1.5-7b"), arch_of("llava-onevision-7b")


def model(arch: Arch, attention="fused", tp=1, **precision):
    return MemoryModel(arch, Precision.of(A100, "fp16", **precision), Parallel.of(arch, tp, A100), attention, 80e9)


def uncompressed(arch, n):
    return Prompt((), n), Ledger((0,) * len(arch.language.blocks), n)


# GB of live storages, metered tensor by tensor on the models of transformers: prefill fused, eager, cache, LM weights
METERED_GB = [
    (VICUNA, 616, 0.061, 0.142, 0.3230, 13.48), (QWEN2, 1668, 0.238, 0.852, 0.0956, 15.23),
    (QWEN2, 6372, 0.910, 11.65, 0.3654, 15.23),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "n", "fused", "eager", "kv", "weights"), METERED_GB, ids=lambda x: getattr(x, "name", x)
)
def test_the_terms_are_what_a_meter_saw(arch, n, fused, eager, kv, weights):
    prompt, ledger = uncompressed(arch, n)
    assert model(arch).of(prompt, ledger).prefill_bytes / 1e9 == pytest.approx(fused, rel=0.005)
    assert model(arch, "eager").of(prompt, ledger).prefill_bytes / 1e9 == pytest.approx(eager, rel=0.005)
    assert model(arch).of(prompt, ledger).kv_bytes / 1e9 == pytest.approx(kv, rel=2e-3)
    parts = arch.parameters()
    tower = 2 * (parts["vision"] + parts["projector"])
    assert (model(arch).weights() - tower) / 1e9 == pytest.approx(weights, rel=1e-3)


@pytest.mark.parametrize("method", ["divprune", "fastv", "aim"])
def test_the_cache_is_the_one_a_compressed_model_fills(method):
    family = Qwen25VL()
    tiny = family.tiny(0)
    inputs = family.tiny_inputs(tiny, [[(6, 8)]], text=9)
    chosen = foveate.get_method(method, keep=0.5)
    with foveate.compress(tiny, chosen) as run, torch.no_grad():
        tiny(**inputs, use_cache=True)
    arch = arch_of(tiny.config.to_dict())
    image = Visual("image", (Grid(1, 12, 16),), (Grid(1, 6, 8),))
    prompt = Prompt((image,), inputs["input_ids"].shape[1] - 48)
    found = replace(model(arch), precision=Precision.of(A100, "fp32")).of(prompt, ledger_of(chosen, arch, prompt))
    assert found.kv_bytes == run.trace.kv_bytes


def test_weights_are_the_parameters_of_the_model():
    tiny = Qwen25VL().tiny(0)
    arch = arch_of(tiny.config.to_dict())
    assert model(arch).weights() == 2 * sum(p.numel() for p in tiny.parameters())


def test_a_window_bounds_its_layers():
    blocks = list(QWEN2.language.blocks)
    blocks[3] = replace(blocks[3], attention=replace(blocks[3].attention, window=100))
    windowed = replace(QWEN2, language=replace(QWEN2.language, blocks=tuple(blocks)))
    ledger = Ledger((0,) * 28, 500)
    assert model(QWEN2).kv(ledger) - model(windowed).kv(ledger) == 400 * QWEN2.language.kv_elements(3) * 2


def test_new_tokens_and_batch_and_bits():
    prompt, ledger = uncompressed(QWEN2, 500)
    one = model(QWEN2).of(prompt, ledger)
    assert model(QWEN2).of(prompt, ledger, new_tokens=11).kv_bytes == one.kv_bytes * 510 / 500
    assert model(QWEN2).of(replace(prompt, batch=3), ledger).kv_bytes == 3 * one.kv_bytes
    assert model(QWEN2, kv_bits=8).of(prompt, ledger).kv_bytes == one.kv_bytes / 2
    assert model(QWEN2, w_bits=4).weights() < 0.45 * model(QWEN2).weights()
    shared = model(QWEN2, tp=2).of(prompt, ledger)
    assert shared.kv_bytes == one.kv_bytes / 2 and one.weights_bytes / 2 < shared.weights_bytes < one.weights_bytes
    many = model(QWEN2, tp=14).of(prompt, ledger)
    assert many.kv_bytes == one.kv_bytes / 4, "four key-value heads cannot be shared by more than four"


def test_the_peak_is_of_one_moment():
    prompt = prompt_of(QWEN2, Inputs(videos=(Video(64, 384, 384),)))
    found = model(QWEN2).of(prompt, ledger_of([100] * 28, QWEN2, prompt))
    assert found.vision_bytes > found.kv_bytes + found.prefill_bytes
    assert found.peak_bytes == found.weights_bytes + found.vision_bytes


def test_the_eager_tower_needs_all_pictures_scores_at_once():
    prompt = prompt_of(QWEN2, Inputs(videos=(Video(8, 384, 384),)))
    scores = 16 * 8 * 729**2 * 2
    assert model(QWEN2, "eager").vision(prompt) > 5 * scores > model(QWEN2).vision(prompt)


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 7, 8, 9, 100, 1023, 1024])
def test_most_is_the_largest_that_fits(bound):
    asked = []

    def fits(n):
        asked.append(n)
        return n <= bound

    assert most(fits, limit=1024) == bound
    assert len(asked) < 25 and max(asked) <= 1024


@pytest.mark.parametrize("method", [None, "divprune"])
def test_the_capacity_fits_and_one_more_does_not(method):
    deployment = Deployment.of("llava-onevision-7b", "rtx-4090")
    inputs = Inputs(videos=(Video(16, 384, 384),), new_tokens=100)
    prompt = prompt_of(deployment.arch, inputs)
    chosen = None if method is None else foveate.get_method(method, keep=0.25)
    found = deployment.capacity(chosen, inputs, prompt, ledger_of(chosen, deployment.arch, prompt))

    def peak(batch=1, frames=16):
        longer = prompt_of(deployment.arch, replace(inputs, videos=(Video(frames, 384, 384),), batch=batch))
        return deployment.memory.of(longer, ledger_of(chosen, deployment.arch, longer), 100).peak_bytes

    assert peak(batch=found.largest_batch) <= USABLE * 24e9 < peak(batch=found.largest_batch + 1)
    assert peak(frames=found.most_frames) <= USABLE * 24e9 < peak(frames=found.most_frames + 2)
