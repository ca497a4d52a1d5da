"""Options that several commands share, and how they become a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from ..errors import InvalidValue

if TYPE_CHECKING:
    from ..method import Method

Keep = Annotated[str | None, typer.Option("--keep", help="Fraction of the visual tokens to keep, in (0, 1].")]
MergeRatio = Annotated[str | None, typer.Option(help="Fraction merged away before the language model: 1 - keep.")]
ScheduleName = Annotated[
    str | None,
    typer.Option("--schedule", help="aim, linear, exponential, step, cosine or pyramid, over the depth of the LLM."),
]
FinalPruneRatio = Annotated[str | None, typer.Option(help="Fraction the schedule has removed at the last layer.")]
Importance = Annotated[
    str | None, typer.Option(help="attention, text, received, norm, hybrid, pagerank or random, inside the LLM.")
]
AdaptiveRange = Annotated[
    str | None, typer.Option("--adaptive", metavar="LOW:HIGH", help="Keep by the complexity of each image.")
]
Positions = Annotated[str | None, typer.Option(help="keep or compact: the position ids of survivors.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the method.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
Model = Annotated[str | None, typer.Option(help="Folder or hub id; the embedded model by default.")]


def words(
    keep: str | None = None,
    merge_ratio: str | None = None,
    schedule: str | None = None,
    final_prune_ratio: str | None = None,
    importance: str | None = None,
    adaptive: str | None = None,
    positions: str | None = None,
    given: list[str] | None = None,
) -> dict[str, Any]:
    """What was written on the command line, as overrides for `get_method`."""
    found: dict[str, Any] = {
        "keep": number("--keep", keep),
        "merge_ratio": number("--merge-ratio", merge_ratio),
        "schedule": schedule,
        "final_prune_ratio": number("--final-prune-ratio", final_prune_ratio),
        "importance": importance,
        "adaptive": _range(adaptive),
        "positions": positions,
    }
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidValue(f"--set takes NAME=VALUE, got {pair!r}")
        if found.get(name) is not None:
            raise InvalidValue(f"{name} is given twice; give it once")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InvalidValue(f"--set {name}: cannot read the value {value!r}") from None
    return {name: value for name, value in found.items() if value is not None}


def make_method(name: str, overrides: dict[str, Any], default_keep: float | None = None) -> Method:
    """The method, with `default_keep` where nothing else sets its budget."""
    from ..method import get_method

    if default_keep is not None and not {"keep", "merge_ratio", "adaptive"} & set(overrides):
        overrides = {"keep": default_keep, **overrides}
    return get_method(name, **overrides)


def number(option: str, text: str | None) -> float | None:
    """A number, or the error that names the option."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(f"{option} takes a number, got {text!r}") from None


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, colon, high = text.partition(":")
    if not colon:
        raise InvalidValue(f"--adaptive takes LOW:HIGH, as in 0.1:0.4, got {text!r}")
    return number("--adaptive", low), number("--adaptive", high)  # type: ignore[return-value]
