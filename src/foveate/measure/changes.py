"""Which samples are answered otherwise under compression, the worst first; from the rows of a study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .rows import Key
from .study import Row

UNCOMPRESSED = "uncompressed"


@dataclass(frozen=True)
class Change:
    """A sample that a contender at a budget answers otherwise than the uncompressed model.

    before, after  the two answers; of a fidelity study `after` is the first token that differs, at `token`
    loss           score without less score with compression; 0 where right answers are not known
    kl_nats        mean divergence of the next-token distributions, where it was measured
    """

    sample: str
    key: Key
    before: str
    after: str
    loss: float = 0.0
    kl_nats: float = 0.0
    token: int | None = None


def changes(rows: Iterable[Row]) -> dict[str, list[Change]]:
    """The changes of each sample: first the samples that most contenders get wrong which the uncompressed model gets
    right, then those that most answer otherwise."""
    good = [row for row in rows if not row["error"] and row["sample"] is not None]
    plain = {row["sample"]: row for row in good if row["kind"] == "accuracy" and row["method"] == UNCOMPRESSED}
    found: dict[str, list[Change]] = {}
    for row in good:
        change = None
        if row["kind"] == "fidelity":
            change = _parted(row)
        elif row["kind"] == "accuracy" and row["sample"] in plain:
            change = _changed(row, plain[row["sample"]])
        if change is not None:
            found.setdefault(change.sample, []).append(change)
    return dict(sorted(found.items(), key=lambda item: _badness(item[1]), reverse=True))


def score_of(row: Row) -> float:
    """How right an answer is, 0 to 1."""
    return float(row["score"] if "score" in row else row["correct"])


def _changed(row: Row, plain: Row) -> Change | None:
    before, after = str(plain.get("answer", "")), str(row.get("answer", ""))
    loss = score_of(plain) - score_of(row)
    if before == after and not loss:
        return None
    return Change(row["sample"], (row["method"], row.get("budget")), before, after, loss)


def _parted(row: Row) -> Change | None:
    token = row["first_divergence"]
    if token is None:
        return None
    key = (row["method"], row.get("budget"))
    return Change(row["sample"], key, row["answer"], row["found_token"], kl_nats=row["kl_nats"], token=token)


def _badness(some: list[Change]) -> tuple[float, int, float]:
    return sum(max(0.0, c.loss) for c in some), len(some), sum(c.kl_nats for c in some)
