"""An evaluation as rows of a study, and back, so that a killed one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..method import Method
from ..recipe import Recipe
from .accuracy import RIGHT, Pair
from .answers import Reply
from .dataset import Broken, Dataset, Sample

UNCOMPRESSED = "uncompressed"


def rows_of(results: Sequence[Pair | Broken], method: Method, label: str) -> Iterator[dict[str, Any]]:
    """Two rows for each answered sample, without and with compression; one, with its error, for a broken one."""
    settings = Recipe.of(method).settings
    for result in results:
        if isinstance(result, Broken):
            yield broken_row(result) | {"method": label, "settings": settings}
        else:
            sample, row = result.sample, {"method": label, "settings": settings, "keep": keep_of(settings)}
            yield uncompressed_row(sample, result.original, result.original_score)
            yield uncompressed_row(sample, result.compressed, result.compressed_score) | row


def uncompressed_row(sample: Sample, reply: Reply, score: float) -> dict[str, Any]:
    """A row for a sample that was answered without compression."""
    return {
        "kind": "accuracy", "method": UNCOMPRESSED, "settings": {}, "keep": None, "sample": sample.id,
        "question_kind": sample.kind, "question": sample.question, "truth": sample.answers[0], **reply.as_row(),
        "score": score, "correct": score >= RIGHT, "error": None,
    }  # fmt: skip


def broken_row(broken: Broken) -> dict[str, Any]:
    """A row for a sample that could not be asked at all."""
    return {
        "kind": "accuracy", "method": UNCOMPRESSED, "settings": {}, "keep": None, "sample": broken.id,
        "error": broken.reason,
    }  # fmt: skip


def keep_of(settings: dict[str, Any]) -> float | None:
    """The `keep` of a recipe's settings, where it is one number."""
    keep = settings.get("keep")
    return keep if isinstance(keep, float | int) else None


def pairs_of(rows: Iterable[dict[str, Any]], data: Dataset, label: str) -> Iterator[Pair]:
    """The pairs that these rows hold for samples of a dataset; of rows about the same thing the last counts."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row.get("kind") == "accuracy" and row["error"] is None:
            found[row["method"], row["sample"]] = row
    for sample in data.samples:
        before, after = found.get((UNCOMPRESSED, sample.id)), found.get((label, sample.id))
        if before is not None and after is not None:
            yield Pair(sample, Reply.of_row(before), Reply.of_row(after), before["score"], after["score"])
