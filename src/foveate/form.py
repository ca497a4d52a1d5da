"""What is wrong with a method, in words: with its class before it runs, with its scores and choices while it runs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor

from .errors import FoveateError
from .method import Card, Method
from .pieces.base import Budget, Selection
from .plan import ModelShape, Step, check_steps
from .tokens import Reduction, VisualTokens

if TYPE_CHECKING:
    from .testing import Case


def made(method: Method | type) -> Method:
    """The method, at its defaults if a class is given.

    Raises AssertionError that lists, in words, what its class lacks.
    """
    cls = method if isinstance(method, type) else type(method)
    faults = list(_faults(cls))
    if not faults and isinstance(method, type):
        bare = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
        faults += [f"its field {name!r} has no default: give it one, or check an instance" for name in bare]
    assert not faults, "\n".join([f"{cls.__name__} is no method yet:", *faults])
    return method() if isinstance(method, type) else method


def _faults(cls: type) -> Iterator[str]:
    if not issubclass(cls, Method):
        yield "it does not derive from foveate.Method"
        return
    if cls.__abstractmethods__:
        yield "it has no `steps`: write steps(self, model), which yields one Step for each cut"
    card = getattr(cls, "card", None)
    if not isinstance(card, Card):
        yield "it has no card: write card = Card(name, title) in the class, without an annotation"
    elif not card.name or card.name != "".join(card.name.lower().split()):
        yield f"its card's name is {card.name!r}: give it one in lower case without spaces"
    if "__dataclass_fields__" not in vars(cls):
        yield "it is no dataclass: write @dataclass(frozen=True) above it"
        return
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield "it can be changed after it was made: write @dataclass(frozen=True) above it"
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if "card" in fields:
        yield "its card is a setting: write card = Card(...) without an annotation"
    if "keep" not in fields and not cls.parts:
        yield "it has no field `keep`: without one nothing can set its budget"
    if "positions" not in fields:
        yield "it has no field `positions`: add positions: Positions | None = None, so that it can be chosen"
    try:
        get_type_hints(cls)
    except NameError as error:
        yield f"the annotation {error.name!r} of a field is not known at run time: import it outside TYPE_CHECKING"


def planned(method: Method, shape: ModelShape) -> tuple[Step, ...]:
    """The steps of a method on a model of this shape.

    Raises AssertionError when they are no steps, and what `check_steps` raises when the model cannot run them.
    """
    steps = tuple(method.steps(shape))
    assert steps, "it yields nothing, so nothing would be cut"
    for step in steps:
        assert isinstance(step, Step), f"it yields {step!r}: yield a Step for each cut"
    return check_steps(steps, shape)


def judge(cases: Sequence[Case], promises: Sequence[Callable[[Case], None]]) -> None:
    """Run all promises of a method on all families; raises AssertionError that lists what is broken, why and where.

    The first promise is that its pieces give something well formed: where it is broken, the others are not run.
    """
    broken: dict[str, list[str]] = {}
    refused = []
    for case in cases:
        title = case.family.title
        try:
            planned(case.method, case.family.shape(case.model.config))
        except FoveateError as error:
            refused.append(f"{title}: {error}")
            continue
        except Exception as error:
            broken.setdefault(f"steps: {_said(error)}", []).append(title)
            continue
        for promise in promises:
            try:
                promise(case)
            except Exception as error:
                broken.setdefault(f"{promise.__name__.replace('_', ' ')}: {_said(error)}", []).append(title)
                if promise is promises[0]:
                    break
    name = type(cases[0].method).__name__
    assert len(refused) < len(cases), "\n".join([f"{name} runs on no family:", *refused])
    lines = [f"{words} ({', '.join(titles)})" for words, titles in broken.items()]
    assert not broken, "\n".join([f"{name} breaks its promises:", *lines])


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Watched(Method):
    """A method whose scores, choices and merges are checked each time they are made.

    A wrong one raises AssertionError that names the piece and what is wrong with what it gave.
    """

    method: Method

    card = Card("watched", "A method that is watched while it runs")
    parts = ("method",)

    def steps(self, model: ModelShape) -> Iterator[Step]:
        for step in self.method.steps(model):
            words = {
                "score": None if step.score is None else _watching(step.score, _check_score),
                "select": _watching(step.select, _check_choice),
                "merge": _watching(step.merge, _check_merge),
                "keep": _watching(step.keep, _check_budget, "keep") if isinstance(step.keep, Budget) else step.keep,
            }
            yield replace(step, **words)


def _watching(word: Any, check: Callable[..., None], verb: str = "__call__") -> Any:
    """The same score, selector, merger or budget, with what it gives checked.

    Its class is derived from the word's own, so that whatever else the word declares stays as it is.
    """
    cls = type(word)
    name, give = cls.__name__, getattr(cls, verb)

    def call(self: Any, tokens: VisualTokens, *rest: Any) -> Any:
        try:
            given = give(self, tokens, *rest)
        except KeyError as error:
            raise AssertionError(f"{name}: {error.args[0]}; add what it reads there") from error
        check(name, given, tokens, *rest)
        same = _same(given, give(self, tokens, *rest))
        assert same, f"{name} gives something else the second time: draw random numbers from a seeded generator"
        for i in range(tokens.x.shape[0]):
            alone = give(self, _row(tokens, i), *(_row(r, i) for r in rest))
            same = _same(alone, _row(given, i), within=1e-4)
            assert same, f"{name} gives something else for an image alone than beside others: each row must stand alone"
        return given

    twin = copy.copy(word)
    object.__setattr__(twin, "__class__", type(name, (cls,), {"__slots__": (), verb: call}))
    return twin


def _check_budget(name: str, keep: Any, tokens: VisualTokens) -> None:
    b = tokens.x.shape[0]
    assert isinstance(keep, list) and len(keep) == b, f"{name} gives {keep!r}: give a list of one fraction per row"


def _check_score(name: str, score: Any, tokens: VisualTokens) -> None:
    b, n, _ = tokens.x.shape
    assert isinstance(score, Tensor), f"{name} gives {type(score).__name__}: give a tensor of one number per token"
    assert score.shape == (b, n), f"{name} gives {list(score.shape)} for {b} x {n} tokens: give one number per token"
    assert score.dtype == torch.float32, f"{name} gives {score.dtype}: compute scores in float32"
    assert bool(score.isfinite().all()), f"{name} gives NaN or infinity: such tokens cannot be ranked"


def _check_choice(name: str, choice: Any, tokens: VisualTokens, score: Tensor | None, count: int) -> None:
    assert isinstance(choice, Selection), f"{name} gives {type(choice).__name__}: give Selection.of(kept)"
    _check_kept(name, choice.kept, tokens, count)
    assert choice.receives.shape == choice.kept.shape, f"{name}: `receives` needs one bool for each token kept"


def _check_kept(name: str, kept: Tensor, tokens: VisualTokens, count: int) -> None:
    b, n, _ = tokens.x.shape
    assert kept.shape == (b, count), (
        f"{name} keeps {kept.shape[-1]} tokens where {count} were planned: keep exactly `count`, or let `possible` say "
        "which count it can reach"
    )
    assert not kept.is_floating_point(), f"{name} gives kept tokens as {kept.dtype}: give their indices"
    low, high = int(kept.min()), int(kept.max())
    assert low >= 0 and high < n, (
        f"{name} keeps token {high if high >= n else low} of {n}: indices count from 0 within the tokens it is given"
    )
    steps = kept.diff()
    assert bool((steps >= 0).all()), f"{name} gives kept indices that do not ascend: sort them"
    assert bool((steps > 0).all()), f"{name} keeps a token twice"


def _check_merge(name: str, merged: Any, tokens: VisualTokens, selection: Selection) -> None:
    b, n, d = tokens.x.shape
    t = selection.kept.shape[1]
    assert isinstance(merged, Reduction), f"{name} gives {type(merged).__name__}: give a Reduction"
    _check_kept(name, merged.kept, tokens, t)
    source = merged.source
    assert source.shape == (b, n), f"{name}: `source` needs a rank, or -1, for each of the {n} tokens"
    assert int(source.min()) >= -1 and int(source.max()) < t, f"{name}: `source` must hold ranks 0 to {t - 1}, or -1"
    own = source.gather(1, merged.kept)
    assert torch.equal(own, torch.arange(t).expand(b, t)), f"{name}: a survivor must stand for itself in `source`"
    assert merged.size.shape == (b, t) and bool((merged.size > 0).all()), f"{name}: each survivor needs a size above 0"
    if merged.x is not None:
        assert merged.x.shape == (b, t, d), f"{name} gives features {list(merged.x.shape)}, not {[b, t, d]}"
        assert bool(merged.x.isfinite().all()), f"{name} gives features with NaN or infinity"


def _row(value: Any, i: int) -> Any:
    """Row `i` of what pieces take and give."""
    if isinstance(value, Tensor | list):
        return value[i : i + 1]
    if isinstance(value, Reduction):
        return value.rows(i, i + 1)
    if isinstance(value, Selection):
        return Selection(*(x[i : i + 1] for x in value))
    if not isinstance(value, VisualTokens):
        return value
    text = value.text
    return replace(
        value,
        x=value.x[i : i + 1],
        where=value.where[i : i + 1],
        size=value.size[i : i + 1],
        signal=lambda reading: value.signal(reading)[i : i + 1],
        text=None if text is None else lambda *reading: text(*reading)[i : i + 1],
    )


def _same(a: Any, b: Any, within: float = 0.0) -> bool:
    """Whether a piece gave the same twice; numbers may differ by `within`, choices may not."""
    if isinstance(a, Reduction):
        same = torch.equal(a.kept, b.kept) and torch.equal(a.source, b.source)
        return same and (a.x is None or _same(a.x, b.x, within))
    if isinstance(a, Selection):
        return torch.equal(a.kept, b.kept)
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=within, atol=within))
