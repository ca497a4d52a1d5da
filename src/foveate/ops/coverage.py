"""Greedy coverage: the tokens whose company leaves nothing of the whole without a near one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from .select import Cosines, check_count, first_argmax, unit

DENSE = 1024
"""Tokens up to which a pick walks over all their values; beyond, over the rows that it covers better."""
CHUNK = 1024
"""Rows of values that exist at a time where not all are kept."""


def coverage(
    covered: Sequence[Coverable], count: int, weight: Float[Tensor, "B N"] | None = None
) -> Int[Tensor, "B T"]:
    """Greedy maximum coverage: again and again the token that adds most, ascending in the end; ties to the lower index.

    Every row r of `covered` has a value V_ri >= 0 for each token i, and is covered as well as by the best token chosen
    so far, C_r. A token adds sum_r max(0, V_ri - C_r), times its `weight` (>= 0). Up to DENSE tokens a pick costs
    rows x N; beyond, only the rows that the last pick covers better change the sums, about N^2 log T for all picks, and
    their number is read on the host once a pick. Raises InvalidValue unless 1 <= count <= N.
    Source: SCOPE (arXiv 2510.24214), which walks N x N for every pick; MMTok (arXiv 2508.18264).
    """
    gains = [c.total() for c in covered]
    b, n = gains[0].shape
    check_count(count, n)
    best = [c.nothing() for c in covered]
    taken = torch.zeros(b, n, dtype=torch.bool, device=gains[0].device)
    picks: list[Int[Tensor, " B"]] = []
    while True:
        gain = torch.stack(gains).sum(0)
        gain = gain if weight is None else gain * weight
        picks.append(first_argmax(gain.masked_fill(taken, -torch.inf)))
        if len(picks) == count:
            return torch.stack(picks, dim=1).sort(dim=1).values
        taken.scatter_(1, picks[-1][:, None], True)
        for i, c in enumerate(covered):
            before, best[i] = best[i], torch.maximum(best[i], c.column(picks[-1]))
            gains[i] = c.gains(gains[i], before, best[i])


class Coverable(ABC):
    """Values [B, R, N]: how well each of N tokens covers each of R rows; 0 is not at all."""

    @abstractmethod
    def nothing(self) -> Float[Tensor, "B R"]:
        """How well each row is covered before the first pick: 0."""

    @abstractmethod
    def total(self) -> Float[Tensor, "B N"]:
        """What each token would add as the first: its values summed over rows."""

    @abstractmethod
    def column(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B R"]:
        """The values of one token of each batch row."""

    @abstractmethod
    def gains(
        self, gains: Float[Tensor, "B N"], before: Float[Tensor, "B R"], best: Float[Tensor, "B R"]
    ) -> Float[Tensor, "B N"]:
        """What each token adds once rows are covered as `best`, given what it added `before` that."""


@dataclass(frozen=True, eq=False)
class Kept(Coverable):
    """All values, as they are."""

    values: Float[Tensor, "B R N"]

    def nothing(self) -> Float[Tensor, "B R"]:
        return torch.zeros_like(self.values[:, :, 0])

    def total(self) -> Float[Tensor, "B N"]:
        return self.values.sum(1)

    def column(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B R"]:
        return self.values.gather(2, token[:, None, None].expand(-1, self.values.shape[1], 1))[..., 0]

    def gains(
        self, gains: Float[Tensor, "B N"], before: Float[Tensor, "B R"], best: Float[Tensor, "B R"]
    ) -> Float[Tensor, "B N"]:
        return (self.values - best[..., None]).clamp_(min=0).sum(1)


@dataclass(frozen=True, eq=False)
class Computed(Coverable):
    """Values of tokens for each other from their cosines, for the rows that are asked for.

    max(0, cosine); or with a temperature the softmax of a row, exp(cosine / temperature - log_sum), times `scale`.
    """

    cosines: Cosines
    temperature: float | None = None
    log_sum: Float[Tensor, "B N"] | None = None
    scale: float = 1.0

    def nothing(self) -> Float[Tensor, "B N"]:
        return torch.zeros_like(self.cosines.u[:, :, 0])

    def total(self) -> Float[Tensor, "B N"]:
        total = self.nothing()
        for part in _every(self.cosines):
            total += self._rows(part).sum(1)
        return total

    def column(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B N"]:
        cosine = self.cosines.rows(token[:, None])[:, 0]
        return self._value(cosine, self.log_sum)

    def gains(
        self, gains: Float[Tensor, "B N"], before: Float[Tensor, "B N"], best: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B N"]:
        risen = best > before
        most = int(risen.sum(1).max())
        changed = risen.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
        for part in torch.split(changed, CHUNK, dim=1):
            low, high = before.gather(1, part)[..., None], best.gather(1, part)[..., None]
            gains = gains - (self._rows(part).clamp_(min=low, max=high) - low).sum(1)
        return gains

    def _rows(self, index: Int[Tensor, "B m"]) -> Float[Tensor, "B m N"]:
        return self._value(
            self.cosines.rows(index), None if self.log_sum is None else self.log_sum.gather(1, index)[..., None]
        )

    def _value(self, cosine: Tensor, log_sum: Tensor | None) -> Tensor:
        if self.temperature is None:
            return cosine.clamp_(min=0).mul_(self.scale)
        assert log_sum is not None, "a softmax has its sum"
        return cosine.div_(self.temperature).sub_(log_sum).exp_().mul_(self.scale)


def each_other(
    x: Float[Tensor, "B N D"], temperature: float | None = None, scale: float = 1.0, centre: bool = False
) -> Coverable:
    """Tokens as what tokens are to cover: by max(0, cosine), or by the softmax of cosine / temperature over tokens.

    `centre` subtracts the mean token first; `scale` multiplies all values. Memory N x N where cosines fit, as in
    `Cosines`, else CHUNK x N. Raises InvalidValue for temperature <= 0.
    """
    _check_temperature(temperature)
    cosines = Cosines.of(x, centre)
    log_sum = None
    if temperature is not None:
        log_sum = torch.cat([(cosines.rows(part) / temperature).logsumexp(2) for part in _every(cosines)], dim=1)
    values = Computed(cosines, temperature, log_sum, scale)
    if x.shape[1] > DENSE:
        return values
    return Kept(torch.cat([values._rows(part) for part in _every(cosines)], dim=1))


def by_tokens(
    rows: Float[Tensor, "B R D"], x: Float[Tensor, "B N D"], temperature: float, scale: float = 1.0
) -> Coverable:
    """Other vectors (words) as what tokens are to cover: by the softmax of cosine / temperature over tokens.

    Raises InvalidValue for temperature <= 0.
    """
    _check_temperature(temperature)
    return Kept((unit(rows) @ unit(x).transpose(1, 2)).div_(temperature).softmax(2).mul_(scale))


def _every(cosines: Cosines) -> Sequence[Int[Tensor, "B c"]]:
    """All rows, in chunks."""
    b, n, _ = cosines.u.shape
    return torch.split(torch.arange(n, device=cosines.u.device).expand(b, n), CHUNK, dim=1)


def _check_temperature(temperature: float | None) -> None:
    if temperature is not None and not temperature > 0:
        raise InvalidValue(f"a temperature must be above 0, got {temperature}")
