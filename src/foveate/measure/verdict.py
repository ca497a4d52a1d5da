"""Does a method pay, on this machine at this size? In words, from the rows of a bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(row: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """One sentence on the time to the first token beside that of the uncompressed model.

    It pays when the quartiles of the two do not touch; otherwise the sentence says where the time went.
    """
    mine, theirs = row["ttft_ms"], plain["ttft_ms"]
    times = f"{mine:.1f} ms against {theirs:.1f} ms"
    if row["ttft_ms_q3"] < plain["ttft_ms_q1"]:
        return f"pays: the first token comes {theirs / mine:.2f}x sooner, {times}"
    if row["ttft_ms_q1"] > plain["ttft_ms_q3"]:
        return f"does not pay here: the first token comes {mine / theirs:.2f}x later, {times}; {_why(row, plain)}"
    return f"no clear gain here: {times} to the first token, within the spread of the runs; {_why(row, plain)}"


def _why(row: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    saved = plain["prefill_ms"] - (row["prefill_ms"] - row["selection_ms"])
    reading = row["vision_ms"] - plain["vision_ms"]
    words = [f"the shorter prefill saves {saved:.1f} ms" if saved > 0 else "the shorter prefill saves nothing"]
    if row["selection_ms"] > 0.1 * max(saved, 0.0):
        words.append(f"choosing the tokens takes {row['selection_ms']:.1f} ms")
    if reading > 0.1 * max(saved, 0.0):
        words.append(f"the vision tower takes {reading:.1f} ms more")
    return ", ".join(words)
