"""Verdicts: in words, and from the quartiles alone."""

import pytest

from foveate.measure.verdict import verdict


def row(ttft, spread=1.0, vision=20.0, selection=0.0):
    return {
        "ttft_ms": ttft, "ttft_ms_q1": ttft - spread, "ttft_ms_q3": ttft + spread, "vision_ms": vision,
        "selection_ms": selection, "prefill_ms": ttft - vision,
    }  # fmt: skip


PLAIN = row(100)


def test_a_clear_gain_pays():
    assert verdict(row(50), PLAIN) == "pays: the first token comes 2.00x sooner, 50.0 ms against 100.0 ms"


def test_a_loss_says_where_the_time_went():
    said = verdict(row(110, selection=40), PLAIN)
    assert said.startswith("does not pay here: the first token comes 1.10x later, 110.0 ms against 100.0 ms")
    assert "the shorter prefill saves 30.0 ms, choosing the tokens takes 40.0 ms" in said
    assert "vision" not in said
    assert "the vision tower takes 25.0 ms more" in verdict(row(115, vision=45), PLAIN)
    assert "the shorter prefill saves nothing" in verdict(row(120), PLAIN)


@pytest.mark.parametrize("ttft", [95.0, 101.0])
def test_a_difference_within_the_spread_is_no_gain(ttft):
    said = verdict(row(ttft, spread=6), row(100, spread=6))
    assert said.startswith("no clear gain here:") and "within the spread of the runs" in said
