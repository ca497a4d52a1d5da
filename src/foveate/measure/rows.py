"""What the rows of a study say: about whom they are, what has no result, which samples are broken, who is beaten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .study import Row

#: a contender's label, and the budget it was set to
Key = tuple[str, str | None]


def key_of(row: Row) -> Key:
    """Which contender at which budget a row is about."""
    return row["method"], row["budget"]


def missing(rows: Iterable[Row]) -> dict[Key, str]:
    """Contenders at budgets that were out of reach, or broke on every sample; and why."""
    rows = list(rows)
    good = {key_of(r) for r in rows if not r["error"]}
    found: dict[Key, str] = {}
    for row in sorted(rows, key=lambda r: r["sample"] is not None):  # rows without a sample say most
        key = key_of(row)
        if row["error"] and key not in good:
            found.setdefault(key, row["error"])
        elif row["error"] and row["sample"] is None:
            found.setdefault(key, f"for pictures of some sizes: {row['error']}")
    return found


def broken(rows: Iterable[Row]) -> dict[str, str]:
    """Samples that could not be judged, under some contender or all; and why."""
    return {r["sample"]: r["error"] for r in rows if r["error"] and r["sample"] is not None}


def front(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Which points nobody beats: no other has at most the cost and at least the score, and one of them better."""
    points = list(zip(costs, scores, strict=True))
    return [not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points) for cost, score in points]
