"""The clock: each part is what lies between its two readings, and the model is left as it was."""

import statistics
import sys

import pytest
import torch

from foveate.engine.run import compress
from foveate.measure.clock import Gauge, HostTime, Spread, parts, peak_memory, timer
from foveate.measure.samples import inputs_of
from foveate.testing import _state


class Ticks(Gauge):
    """Ticks when told to; so amounts are exact, and time decides nothing."""

    def __init__(self):
        self.at = 0

    def now(self):
        return self.at

    def between(self, start, end):
        return end - start


@pytest.mark.parametrize("method", [None, "fastv"])
def test_parts_are_told_apart(method, embedded, opened):
    """The vision tower adds 1, each layer 100, the LM head 10,000: what is in a part can be read off its digits."""
    ticks, model = Ticks(), embedded.model
    layers = model.model.language_model.layers

    def add(amount):
        def hook(*args):
            ticks.at += amount

        return hook

    handles = [model.model.visual.register_forward_hook(add(1)), model.lm_head.register_forward_hook(add(10_000))]
    handles += [layer.register_forward_hook(add(100)) for layer in layers]
    before = _state(model)
    context = compress(model, method, keep=0.25) if method else torch.no_grad()
    try:
        with context, parts(model, ticks) as found:
            model.generate(**inputs_of(embedded, opened[:1]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    finally:
        assert _state(model) == before, "the model is not as it was"
        for handle in handles:
            handle.remove()
    each = 100 * len(layers)
    assert (found.vision, found.prefill, found.decode) == (1, each, each + 10_000)
    assert found.total == 1 + 3 * (each + 10_000)


def test_one_token_has_no_decoding(embedded, opened):
    with parts(embedded.model, Ticks()) as found:
        embedded.model.generate(**inputs_of(embedded, opened[:1]), max_new_tokens=1, do_sample=False)
    assert found.decode is None


def test_an_exception_leaves_the_model_as_it_was(embedded, opened):
    before = _state(embedded.model)
    with pytest.raises(KeyboardInterrupt), compress(embedded.model, "fastv"), parts(embedded.model, Ticks()):
        raise KeyboardInterrupt
    assert _state(embedded.model) == before


def test_a_method_does_its_work_inside_the_prefill(embedded, opened):
    """What its context does at the language model's door must be in what is measured as prefill, not before it."""
    ticks = Ticks()

    def work(*args):
        ticks.at += 7

    with compress(embedded.model, "fastv", keep=0.25) as run:
        handle = run.decoder.register_forward_pre_hook(work)
        with parts(embedded.model, ticks) as found:
            embedded.model.generate(**inputs_of(embedded, opened[:1]), max_new_tokens=1, do_sample=False)
        handle.remove()
    assert found.prefill == 7


def test_spread_is_median_and_quartiles():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert Spread.of(values) == Spread(3, 2, 4) and Spread.of([7.0]) == Spread(7, 7, 7)
    assert Spread.of([1.0, 2.0]).median == statistics.median([1, 2])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of the resident set")
def test_the_peak_of_memory_is_seen_though_it_is_gone():
    megabyte = 2**20
    found = []
    for size in (64, 8):  # the second must not be hidden by the first, which was higher
        with peak_memory(torch.device("cpu")) as peak:
            x = torch.ones(size * megabyte // 4)
            del x
        found.append(peak.bytes / megabyte)
    assert 60 < found[0] < 100 and 6 < found[1] < 40
    assert "resident set" in peak.kind


def test_a_cpu_is_timed_by_the_host():
    clock = timer(torch.device("cpu"))
    assert isinstance(clock, HostTime) and clock.between(1.0, 1.5) == 500
