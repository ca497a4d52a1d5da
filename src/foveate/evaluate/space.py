"""What a search may choose: a method, and its fields that are a budget, a schedule, a score or a layer.

Fields are found by their types, so a method that is new is searched like the others; what cannot be searched keeps its
default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from ..method import Method, all_methods
from ..ops.schedule import SCHEDULES, AimSchedule, Pyramid, Schedule
from ..pieces import Score
from ..plan import ModelShape
from ..spelling import IMPORTANCES

#: Of the merge ratio 1 - keep: below 2 % kept nothing is right, above 98 % nothing is saved.
KEEP = (0.02, 0.98)
#: Every schedule but the explicit one, which has a number for each layer.
SEARCHED_SCHEDULES = tuple(sorted(name for name in SCHEDULES if name != "explicit"))


def suggest(trial: Any, methods: Sequence[str], shape: ModelShape) -> Method:
    """A method with its settings, as an Optuna trial proposes them.

    Parameters are named METHOD.FIELD, so that those of different methods do not mix.
    """
    name = trial.suggest_categorical("method", list(methods))
    cls = all_methods()[name]
    hints = get_type_hints(cls)
    chosen: dict[str, Any] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        key = f"{name}.{field.name}"
        if field.name == "keep" and float in kinds and type(None) not in kinds:
            chosen["keep"] = trial.suggest_float(key, *KEEP)
        elif Schedule in kinds:
            chosen[field.name] = _schedule(trial, key)
        elif Score in kinds:
            chosen[field.name] = IMPORTANCES[trial.suggest_categorical(key, sorted(IMPORTANCES))]()
        elif field.name == "layer" and int in kinds:
            chosen["layer"] = trial.suggest_int(key, 1, shape.layers - 1)
        elif field.name in ("ratio", "stages"):
            chosen[field.name] = _stage(trial, key, field.name)
    return cls(**chosen)


def _schedule(trial: Any, key: str) -> Schedule:
    """A schedule with its final ratio, or the layers between which it falls, as fractions of the depth."""
    name = trial.suggest_categorical(key, list(SEARCHED_SCHEDULES))
    cls: Any = SCHEDULES[name]
    if cls is AimSchedule:
        start = trial.suggest_float(f"{key}.start", 0.0, 0.9)
        return AimSchedule(start, min(1.0, start + trial.suggest_float(f"{key}.span", 0.1, 1.0)))
    if cls is Pyramid:
        return Pyramid(_stage(trial, f"{key}.ratio", "ratio"), _stage(trial, f"{key}.stages", "stages"))
    schedule: Schedule = cls(trial.suggest_float(f"{key}.final_ratio", 0.0, 1.0))
    return schedule


def _stage(trial: Any, key: str, what: str) -> Any:
    return trial.suggest_float(key, 0.1, 1.0) if what == "ratio" else trial.suggest_int(key, 2, 6)
