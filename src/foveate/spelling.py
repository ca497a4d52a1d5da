"""Words a person types for settings: names of importances and schedules, merge ratios, adaptive budgets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any

from . import pieces
from .errors import InvalidValue, unknown_name
from .ops.schedule import SCHEDULES, Explicit, Schedule
from .pieces import (
    Adaptive,
    Bias,
    Complexity,
    Hybrid,
    LastQuery,
    Merge,
    Norm,
    PageRank,
    Random,
    Read,
    Received,
    Score,
    Select,
    TextRows,
)

if TYPE_CHECKING:
    from .method import Method

IMPORTANCES: dict[str, Callable[[], Score]] = {
    "attention": lambda: Read(LastQuery()),
    "hybrid": Hybrid,
    "norm": Norm,
    "pagerank": lambda: Read(PageRank()),
    "random": Random,
    "received": lambda: Read(Received()),
    "text": lambda: Read(TextRows()),
}


#: words of a step that can be swapped in any method, and what each must be
SWAPS: dict[str, type] = {"score": Score, "select": Select, "merge": Merge, "bias": Bias}


def pieces_named(kind: type) -> dict[str, Callable[[], Any]]:
    """The pieces of a kind that need no settings, by name: `NearestMean` is nearest-mean."""
    found = {}
    for name in pieces.__all__:
        cls = getattr(pieces, name)
        if not issubclass(cls, kind) or inspect.isabstract(cls):
            continue
        if all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(cls)):
            found[re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()] = cls
    return IMPORTANCES | found if kind is Score else found


def swaps(cls: type[Method], words: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The words that swap a part of every step (as objects), and the rest; a field of the method comes first."""
    own = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    swapped = {n: w for n, w in words.items() if n in SWAPS and n not in own and w is not None}
    rest = {n: w for n, w in words.items() if n not in swapped}
    for name, word in swapped.items():
        if isinstance(word, str):
            swapped[name] = _named(pieces_named(SWAPS[name]), name, word)()
    return swapped, rest


def settings(cls: type[Method], given: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """Overrides as fields of a method: `given` are its present settings, `words` what a person wrote.

    merge_ratio=r (the fraction merged away) is keep=1-r; final_prune_ratio=r (the fraction removed at the last layer)
    sets that of the schedule; adaptive=(low, high) is a keep that follows the complexity of the image; schedule and
    importance may be names. Raises InvalidValue for a word the method has no field for, or two that contradict.
    """
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    words = dict(words)
    one = [w for w in ("keep", "merge_ratio", "adaptive") if words.get(w) is not None]
    if len(one) > 1:
        raise InvalidValue(f"{' and '.join(one)} say the same thing; give one of them")
    if "merge_ratio" in words:
        ratio = _number("merge_ratio", words.pop("merge_ratio"))
        if not 0 <= ratio < 1:
            raise InvalidValue(f"merge_ratio is the fraction merged away and must lie in [0, 1), got {ratio:g}")
        words["keep"] = 1 - ratio
    if "adaptive" in words:
        low, high = words.pop("adaptive")
        words["keep"] = Adaptive(Complexity(), _number("low", low), _number("high", high))
    final = words.pop("final_prune_ratio", None)
    for name in words:
        if name not in known:
            raise unknown_name(f"setting of {cls.card.name}", name, known)
    if isinstance(words.get("importance"), str):
        words["importance"] = _named(pieces_named(Score), "importance", words["importance"])()
    if isinstance(words.get("bias"), str):
        words["bias"] = _named(pieces_named(Bias), "bias", words["bias"])()
    if isinstance(words.get("base"), str):
        from .method import get_method

        words["base"] = get_method(words["base"])
    if isinstance(words.get("schedule"), str):
        schedule = _named(SCHEDULES, "schedule", words["schedule"])
        if schedule is Explicit:
            raise InvalidValue("an explicit schedule needs its fractions: pass Explicit((1.0, 0.5, ...)) in Python")
        words["schedule"] = schedule()
    if final is not None:
        words["schedule"] = _ending(cls, words.get("schedule", _present(cls, given)), final)
    return words


def _present(cls: type[Method], given: dict[str, Any]) -> Schedule | None:
    if "schedule" in given:
        return given["schedule"]  # type: ignore[no-any-return]
    field = next((f for f in fields(cls) if f.name == "schedule"), None)  # type: ignore[arg-type]
    return None if field is None or field.default_factory is MISSING else field.default_factory()


def _ending(cls: type[Method], schedule: Schedule | None, final: Any) -> Schedule:
    ratio = _number("final_prune_ratio", final)
    able = ", ".join(n for n, s in sorted(SCHEDULES.items()) if any(f.name == "final_ratio" for f in fields(s)))  # type: ignore[arg-type]
    if schedule is None:
        raise InvalidValue(f"{cls.card.name} has no schedule, so no final_prune_ratio; use aim or progressive")
    if not any(f.name == "final_ratio" for f in fields(schedule)):  # type: ignore[arg-type]
        raise InvalidValue(f"{type(schedule).__name__} has no final ratio; choose a schedule that has one: {able}")
    return replace(schedule, final_ratio=ratio)  # type: ignore[type-var]


def _named(table: dict[str, Any], kind: str, name: str) -> Any:
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidValue(f"{name} must be a number, got {value!r}") from None
