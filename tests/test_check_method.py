"""`check_method` says in plain words what is wrong: each way to break a method, and the words it must answer with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch

from foveate.errors import InvalidValue
from foveate.form import Watched, made
from foveate.method import Card, Method, all_methods
from foveate.pieces import Adaptive, Complexity, Drop, EvenGrid, Norm, Selection, VisionReceived
from foveate.plan import Layer, ModelShape, Positions, Projector, Step, Vision
from foveate.testing import Case, check_method, families, what_its_pieces_give_is_well_formed
from foveate.tokens import Grid, Reduction, VisualTokens

if TYPE_CHECKING:
    from fractions import Fraction

# ── classes that are no method yet ───────────────────────────────────────────────────────────────────────────────


class Whole(Method):
    """All that the broken ones below lack."""

    card = Card("broken", "Broken on purpose")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), 0.25, score=Norm())


class NoMethod:
    """Anything."""


@dataclass(frozen=True)
class NoSteps(Method):
    keep: float = 0.25
    positions: Positions | None = None
    card = Card("broken", "Broken on purpose")


@dataclass(frozen=True)
class NoCard(Method):
    keep: float = 0.25
    positions: Positions | None = None

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Projector(), self.keep, score=Norm())


@dataclass(frozen=True)
class CardIsASetting(Whole):
    keep: float = 0.25
    positions: Positions | None = None
    card: Card = Whole.card


@dataclass(frozen=True)
class NameWithSpaces(Whole):
    keep: float = 0.25
    positions: Positions | None = None
    card = Card("My Method", "Broken on purpose")


class NoDataclass(Whole):
    keep = 0.25


@dataclass
class NotFrozen(Whole):
    keep: float = 0.25
    positions: Positions | None = None


@dataclass(frozen=True)
class NoKeep(Whole):
    positions: Positions | None = None


@dataclass(frozen=True)
class NoPositions(Whole):
    keep: float = 0.25


@dataclass(frozen=True)
class NoDefault(Whole):
    keep: float
    positions: Positions | None = None


@dataclass(frozen=True)
class UnknownAnnotation(Whole):
    keep: "Fraction | None" = None
    positions: Positions | None = None


CLASSES = {
    NoMethod: "does not derive from foveate.Method",
    NoSteps: "has no `steps`: write steps(self, model)",
    NoCard: "has no card: write card = Card(name, title)",
    CardIsASetting: "its card is a setting",
    NameWithSpaces: "'My Method': give it one in lower case",
    NoDataclass: "is no dataclass: write @dataclass(frozen=True)",
    NotFrozen: "can be changed after it was made",
    NoKeep: "has no field `keep`",
    NoPositions: "has no field `positions`: add positions: Positions | None = None",
    NoDefault: "its field 'keep' has no default",
    UnknownAnnotation: "'Fraction' of a field is not known at run time",
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_a_class_is_told_what_it_lacks(cls):
    with pytest.raises(AssertionError) as error:
        check_method(cls)
    first, *faults = str(error.value).splitlines()
    assert first == f"{cls.__name__} is no method yet:"
    assert len(faults) == 1 and CLASSES[cls] in faults[0]


def test_an_instance_may_have_settings_without_default():
    assert made(NoDefault(0.5)) == NoDefault(0.5)


@pytest.mark.parametrize("name", all_methods())
def test_what_ships_lacks_nothing(name):
    assert isinstance(made(all_methods()[name]), Method)


# ── steps that cannot be ─────────────────────────────────────────────────────────────────────────────────────────


def method(steps):
    """A method whose steps are those of a function of the method."""

    @dataclass(frozen=True)
    class Broken(Method):
        """Broken on purpose."""

        keep: float = 0.25
        positions: Positions | None = None
        card = Card("broken", "Broken on purpose")

        def steps(self, model: ModelShape) -> Iterator[Step]:
            return iter(steps(self))

    return Broken()


STEPS = {
    "grow": (
        lambda m: [Step(Projector(), 0.25, score=Norm()), Step(Layer(2), 0.5, score=Norm())],
        "runs on no family",
        "must go forward and shrink: projector keeps 0.25, then layer 2 keeps 0.5",
    ),
    "too deep": (lambda m: [Step(Layer(99), m.keep, score=Norm())], "runs on no family", "cannot cut before layer 99"),
    "too much": (lambda m: [Step(Projector(), 3.0, score=Norm())], "runs on no family", "keep must lie in (0, 1]"),
    "none": (lambda m: [], "breaks its promises", "steps: it yields nothing, so nothing would be cut"),
    "no step": (lambda m: [0.5], "breaks its promises", "steps: it yields 0.5: yield a Step for each cut"),
    "raise": (lambda m: [m.kep], "breaks its promises", "steps: AttributeError: 'Broken' object has no attribute"),
    "ignore keep": (
        lambda m: [Step(Projector(), 0.5, score=Norm())],
        "breaks its promises",
        "keeping all is the identity: with keep=1 it still cuts (keep 0.5 at projector)",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_told_what_is_wrong_once_for_all_families(name):
    steps, first, why = STEPS[name]
    with pytest.raises(AssertionError) as error:
        check_method(method(steps))
    said = str(error.value)
    assert said.startswith(f"Broken {first}:") and why in said
    lines = said.splitlines()[1:]
    titles = {f.title for f in families().values()}
    assert len(lines) == (1 if first == "breaks its promises" else len(titles)) and all(t in said for t in titles)


# ── pieces that give something malformed ─────────────────────────────────────────────────────────────────────────


class NaN(Norm):
    def __call__(self, tokens):
        return super().__call__(tokens) * float("nan")


class TwoNumbersEach(Norm):
    def __call__(self, tokens):
        return super().__call__(tokens)[..., None].expand(-1, -1, 2)


class HalfPrecision(Norm):
    def __call__(self, tokens):
        return super().__call__(tokens).half()


class Dice(Norm):
    def __call__(self, tokens):
        return torch.rand(tokens.x.shape[:2])


class BesideOthers(Norm):
    def __call__(self, tokens):
        return (tokens.x - tokens.x.mean((0, 1))).norm(dim=-1)


class Undeclared(Norm):
    def __call__(self, tokens):
        return tokens.signal(VisionReceived())


class Choice(EvenGrid):
    def __call__(self, tokens, score, count):
        kept = self.chosen(tokens.x.shape[1], count)
        return Selection.of(kept.expand(tokens.x.shape[0], -1))


class OneFewer(Choice):
    def chosen(self, n, count):
        return torch.arange(count - 1)


class Backwards(Choice):
    def chosen(self, n, count):
        return torch.arange(count).flip(0)


class Twice(Choice):
    def chosen(self, n, count):
        return torch.zeros(count, dtype=torch.long)


class Outside(Choice):
    def chosen(self, n, count):
        return torch.arange(n - count + 1, n + 1)


class Negative(Choice):
    def chosen(self, n, count):
        return torch.arange(-1, count - 1)


class Bare(EvenGrid):
    def __call__(self, tokens, score, count):
        return super().__call__(tokens, score, count).kept


class StandsForTheFirst(Drop):
    def __call__(self, tokens, selection):
        r = super().__call__(tokens, selection)
        return Reduction(r.kept, r.source.clamp(max=0), r.size)


class RankTooHigh(Drop):
    def __call__(self, tokens, selection):
        r = super().__call__(tokens, selection)
        return Reduction(r.kept, r.source + 1, r.size)


class NoSize(Drop):
    def __call__(self, tokens, selection):
        r = super().__call__(tokens, selection)
        return Reduction(r.kept, r.source, r.size * 0)


class NaNFeatures(Drop):
    def __call__(self, tokens, selection):
        r = super().__call__(tokens, selection)
        return Reduction(r.kept, r.source, r.size, r.gather(tokens.x) / 0)


class OneForAll(Adaptive):
    def keep(self, tokens):
        return [0.2]


@dataclass(frozen=True)
class Broken(Method):
    """Broken in the words it is given."""

    score: Norm = field(default_factory=Norm)
    select: EvenGrid | None = None
    merge: Drop = field(default_factory=Drop)
    keep: float | Adaptive = 0.25
    positions: Positions | None = None
    card = Card("broken", "Broken on purpose")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        chosen = {} if self.select is None else {"select": self.select}
        yield Step(Vision(), self.keep, score=self.score, merge=self.merge, **chosen)


PIECES = {
    "NaN": (Broken(NaN()), "NaN gives NaN or infinity"),
    "shape": (Broken(TwoNumbersEach()), "TwoNumbersEach gives ["),
    "precision": (Broken(HalfPrecision()), "HalfPrecision gives torch.float16: compute scores in float32"),
    "dice": (Broken(Dice()), "Dice gives something else the second time"),
    "beside": (Broken(BesideOthers()), "BesideOthers gives something else for an image alone than beside others"),
    "undeclared": (Broken(Undeclared()), f"Undeclared: {VisionReceived()} was not declared in `reads`"),
    "fewer": (Broken(select=OneFewer()), "keep exactly `count`"),
    "backwards": (Broken(select=Backwards()), "Backwards gives kept indices that do not ascend: sort them"),
    "twice": (Broken(select=Twice()), "Twice keeps a token twice"),
    "outside": (Broken(select=Outside()), "indices count from 0 within the tokens it is given"),
    "negative": (Broken(select=Negative()), "Negative keeps token -1 of"),
    "bare": (Broken(select=Bare()), "Bare gives Tensor: give Selection.of(kept)"),
    "source": (Broken(merge=StandsForTheFirst()), "StandsForTheFirst: a survivor must stand for itself"),
    "rank": (Broken(merge=RankTooHigh()), "RankTooHigh: `source` must hold ranks 0 to"),
    "size": (Broken(merge=NoSize()), "NoSize: each survivor needs a size above 0"),
    "features": (Broken(merge=NaNFeatures()), "NaNFeatures gives features with NaN or infinity"),
    "budget": (
        Broken(keep=OneForAll(Complexity(), 0.1, 0.3)), "OneForAll gives [0.2]: give a list of one fraction per row",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_is_named_with_what_it_does_wrong(name):
    broken, why = PIECES[name]
    with pytest.raises(AssertionError) as error:
        check_method(broken)
    lines = str(error.value).splitlines()
    assert lines[0] == "Broken breaks its promises:"
    assert all("what its pieces give is well formed: " in line and why in line for line in lines[1:])


def test_watching_changes_nothing():
    shape = next(iter(families().values())).shape(Case(next(iter(families().values())), Broken()).model.config)
    (plain,), (watched,) = Broken().steps(shape), Watched(Broken()).steps(shape)
    assert watched.words() == plain.words() and watched.reads == plain.reads
    tokens = VisualTokens.of(torch.randn(2, 12, 8), Grid(1, 3, 4))
    assert torch.equal(watched.score(tokens), plain.score(tokens))


@dataclass(frozen=True)
class OnlyWithCls(Whole):
    keep: float = 0.25
    positions: Positions | None = None

    def steps(self, model: ModelShape) -> Iterator[Step]:
        if not model.has_cls:
            raise InvalidValue("it needs a CLS token")
        yield Step(Projector(), self.keep, score=Norm())


def test_a_family_that_cannot_run_it_is_passed_over():
    check_method(OnlyWithCls)


def test_the_promise_holds_for_a_good_method():
    for family in set(families().values()):
        what_its_pieces_give_is_well_formed(Case(family, Broken()))
