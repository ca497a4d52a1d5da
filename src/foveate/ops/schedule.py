"""Schedules: what fraction of the visual tokens that entered the language model each of its layers runs on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from ..errors import InvalidValue


class Schedule(ABC):
    """A fraction for each layer that never grows with depth. `final_ratio` is what is removed at the last layer."""

    @abstractmethod
    def kept(self, layer: int, layers: int) -> float:
        """Fraction in [0, 1] of the tokens that entered the language model on which layer `layer` of `layers` runs.

        Layers count from 0. Raises InvalidValue for a layer that does not exist.
        """

    def per_layer(self, layers: int) -> tuple[float, ...]:
        """The fraction of each layer. Raises InvalidValue unless there is at least one layer."""
        if layers < 1:
            raise InvalidValue(f"layers must be at least 1, got {layers}")
        return tuple(self.kept(layer, layers) for layer in range(layers))


@dataclass(frozen=True)
class AimSchedule(Schedule):
    """Everything up to `start`, then linearly down to nothing at `end`: text only from there on.

    Each bound is an absolute layer (int) or a fraction of the depth (float), rounded half up; the defaults are the
    released (14, 22) of 28 layers. As in the released code the rate of layer l masks what layer l + 1 attends to, so
    layer `start` still runs on everything and layer `end` is the first without visual tokens. Bounds beyond the last
    layer are allowed. Source: AIM (arXiv 2412.03248); its FLOPs script charges each rate one layer earlier.
    """

    start: int | float = 0.5
    end: int | float = 11 / 14

    def __post_init__(self) -> None:
        for name, bound in (("start", self.start), ("end", self.end)):
            if isinstance(bound, bool) or not (bound >= 0 if isinstance(bound, int) else 0 <= bound <= 1):
                raise InvalidValue(
                    f"{name} must be a layer (int >= 0) or a fraction of the depth in 0.0..1.0, got {bound}"
                )
        if isinstance(self.start, int) == isinstance(self.end, int) and self.end <= self.start:
            raise InvalidValue(f"end must lie behind start, got start={self.start} and end={self.end}")

    def bounds(self, layers: int) -> tuple[int, int]:
        """The two bounds as layers; of fractions the second is at least one layer behind the first."""
        start, end = (b if isinstance(b, int) else math.floor(b * layers + 0.5) for b in (self.start, self.end))
        if isinstance(self.start, int) == isinstance(self.end, int):
            end = max(end, start + 1)
        if end <= start:
            raise InvalidValue(f"end must lie behind start, but in {layers} layers they are {end} and {start}")
        return start, end

    def rate(self, layer: int, layers: int) -> float:
        """The retain rate that the released code lists for this layer: what the next one attends to."""
        start, end = self.bounds(layers)
        return 1.0 if layer < start else max(0.0, 1 - (layer - start + 1) / (end - start))

    def kept(self, layer: int, layers: int) -> float:
        _check_layer(layer, layers)
        return self.rate(layer - 1, layers)


@dataclass(frozen=True)
class Linear(Schedule):
    """Nothing removed at the first layer, `final_ratio` at the last, a straight line between."""

    final_ratio: float = 0.7

    def __post_init__(self) -> None:
        _check_fraction("final_ratio", self.final_ratio)

    def kept(self, layer: int, layers: int) -> float:
        return 1 - self.final_ratio * _depth(layer, layers)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Most is removed early: removed = final_ratio * (1 - exp(-rate x)) / (1 - exp(-rate)), x the depth from 0 to 1."""

    final_ratio: float = 0.7
    rate: float = 3.0

    def __post_init__(self) -> None:
        _check_fraction("final_ratio", self.final_ratio)
        if not 0 < self.rate < math.inf:
            raise InvalidValue(f"rate must be above 0, got {self.rate}; for a straight line use linear")

    def kept(self, layer: int, layers: int) -> float:
        return 1 - self.final_ratio * math.expm1(-self.rate * _depth(layer, layers)) / math.expm1(-self.rate)


@dataclass(frozen=True)
class Steps(Schedule):
    """Equal stages of the depth: the first removes nothing, the last `final_ratio`, those between in equal steps.

    A model with fewer layers than stages passes over some stages.
    """

    final_ratio: float = 0.7
    stages: int = 4

    def __post_init__(self) -> None:
        _check_fraction("final_ratio", self.final_ratio)
        if self.stages < 2:
            raise InvalidValue(f"stages must be at least 2, got {self.stages}")

    def kept(self, layer: int, layers: int) -> float:
        return 1 - self.final_ratio * _stage(layer, layers, self.stages) / (self.stages - 1)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Gentle at both ends: removed = final_ratio * (1 - cos(pi x)) / 2, x the depth from 0 to 1."""

    final_ratio: float = 0.7

    def __post_init__(self) -> None:
        _check_fraction("final_ratio", self.final_ratio)

    def kept(self, layer: int, layers: int) -> float:
        return 1 - self.final_ratio * (1 - math.cos(math.pi * _depth(layer, layers))) / 2


@dataclass(frozen=True)
class Pyramid(Schedule):
    """Each of `stages` equal parts of the depth runs on `ratio` of what the part before it ran on.

    Part i starts at layer layers * i // stages. Source: PyramidDrop (arXiv 2410.17247): one half, 4 stages.
    """

    ratio: float = 0.5
    stages: int = 4

    def __post_init__(self) -> None:
        _check_fraction("ratio", self.ratio)
        if self.stages < 1:
            raise InvalidValue(f"stages must be at least 1, got {self.stages}")

    def kept(self, layer: int, layers: int) -> float:
        return float(self.ratio ** _stage(layer, layers, self.stages))


@dataclass(frozen=True)
class Explicit(Schedule):
    """One fraction for each layer, as given."""

    fractions: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if not self.fractions:
            raise InvalidValue("fractions must name at least one layer, got none")
        for fraction in self.fractions:
            _check_fraction("fractions", fraction)
        for layer, (a, b) in enumerate(pairwise(self.fractions)):
            if b > a:
                raise InvalidValue(f"fractions must not grow, got {a} at layer {layer} and {b} after it")

    def kept(self, layer: int, layers: int) -> float:
        _check_layer(layer, layers)
        if len(self.fractions) != layers:
            raise InvalidValue(f"the model has {layers} layers, got {len(self.fractions)} fractions; give one for each")
        return self.fractions[layer]


SCHEDULES: dict[str, type[Schedule]] = {
    "aim": AimSchedule,
    "linear": Linear,
    "exponential": Exponential,
    "step": Steps,
    "cosine": Cosine,
    "pyramid": Pyramid,
    "explicit": Explicit,
}


def _depth(layer: int, layers: int) -> float:
    """0 at the first layer, 1 at the last; a single layer is the first."""
    _check_layer(layer, layers)
    return layer / max(1, layers - 1)


def _stage(layer: int, layers: int, stages: int) -> int:
    """Which of the equal stages a layer is in; stage i starts at layers * i // stages, only the first at layer 0."""
    _check_layer(layer, layers)
    return sum(layer >= max(1, layers * stage // stages) for stage in range(1, stages))


def _check_layer(layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise InvalidValue(f"layer must lie in 0..{layers - 1}, got {layer}")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidValue(f"{name} must lie in [0, 1], got {value}")
