"""Mergers of whole videos: tubes of what stays put, anchors that draw in their segment, trees through time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidValue
from ..ops.anchors import join_every_anchor_frame
from ..ops.connected import connected_merge
from ..ops.groups import top_in_groups
from ..ops.peaks import peak_scores, peaks_flops
from ..ops.quota import largest_remainder
from ..ops.segments import runs_of, segment_lengths, static_windows
from ..ops.select import max_min, max_min_flops
from ..ops.spanning import spanning_flops
from ..ops.trees import grow_trees
from ..ops.tubes import alike_throughout, stays_put, tube_merge
from ..tokens import Grid, Reduction, VisualTokens
from .base import Merge, Reading, Score, Select, Selection
from .extent import Extent
from .merges import reduction_of
from .segments import CutsWhereFramesChange, Scenes, Segments, by_frame

Scores = Float[Tensor, "B N"] | None


@dataclass(frozen=True)
class StillWindows(Merge):
    """The windows in which most stays put; still places become tubes thinned to density peaks, the rest is ranked.

    A place is still while its cosine to the frame before is above `threshold`; `score` ranks the tokens that move.
    Shares of the budget are in proportion to what there is. Needs the whole grid; see `ops.tubes` (HoliTom).
    """

    score: Score | None = None
    threshold: float = 0.8
    neighbours: int = 7
    own: float = 0.6

    def __post_init__(self) -> None:
        _check(self.threshold, self.neighbours, self.own)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.score is None else self.score.reads

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        x = by_frame(tokens, tokens.x)
        same = stays_put(x, self.threshold)
        first = static_windows(same)
        score = None if self.score is None else by_frame(tokens, self.score(tokens))
        merged = tube_merge(
            x, first, runs_of(first, same), selection.kept.shape[1],
            score=score, neighbours=self.neighbours, own=self.own,
        )  # fmt: skip
        return reduction_of(tokens, merged)

    def flops(self, of: Extent) -> int:
        own = 0 if self.score is None else self.score.flops(of)
        times = 2 if self.score is not None else 4
        return own + times * peaks_flops(of.frames, of.n // of.frames, of.width)


@dataclass(frozen=True)
class StillSegments(Merge):
    """In each segment the places that look alike throughout become tubes; tubes, and each frame's rest, are clustered.

    Alike means a mean cosine over pairs of frames above `threshold`. Shares of the budget are in proportion to what
    there is. Needs the whole grid; see `ops.tubes` (PruneVid).
    """

    segments: Segments = field(default_factory=Scenes)
    threshold: float = 0.8
    neighbours: int = 7

    def __post_init__(self) -> None:
        _check(self.threshold, self.neighbours, 0)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        x, first = by_frame(tokens, tokens.x), self.segments(tokens)
        static = alike_throughout(x, first, self.threshold)
        merged = tube_merge(x, first, static, selection.kept.shape[1], score=None, neighbours=self.neighbours, own=None)
        return reduction_of(tokens, merged)

    def flops(self, of: Extent) -> int:
        return self.segments.flops(of) + 4 * peaks_flops(of.frames, of.n // of.frames, of.width)


@dataclass(frozen=True)
class SalientAndAnchors(Select):
    """The highest scores of every frame, and density peaks of the rest in every `every`-th frame, which may absorb.

    `context` of the count are anchors. Anchor frames are counted from the last frame of each segment backwards, and
    share the anchors in proportion to the frames they stand for (FastVID).
    """

    context: float = 0.4
    every: int = 4
    neighbours: int = 4
    segments: Segments = field(default_factory=CutsWhereFramesChange)
    needs_score = True

    def __post_init__(self) -> None:
        if not 0 <= self.context <= 1 or self.every < 1 or self.neighbours < 1:
            raise InvalidValue(
                "SalientAndAnchors needs context in [0, 1], every >= 1 and neighbours >= 1, got "
                f"{self.context}, {self.every} and {self.neighbours}"
            )

    def __call__(self, tokens: VisualTokens, score: Scores, count: int) -> Selection:
        assert score is not None, "Step sees to it"
        x, first = by_frame(tokens, tokens.x), self.segments(tokens)
        b, f, n, _ = x.shape
        frame = torch.arange(f, device=x.device).repeat_interleave(n).expand(b, -1)
        size = torch.full((b, f), n, device=x.device)
        anchors = min(int(self.context * count + 0.5), f * n - (count - int(self.context * count + 0.5)))
        salient = count - anchors
        taken = largest_remainder(torch.ones(b, f, device=x.device), salient, size)
        chosen = torch.zeros(b, f * n, dtype=torch.bool, device=x.device)
        chosen.scatter_(1, top_in_groups(score, frame, taken, salient), True)
        free = ~chosen.view(b, f, n)
        peaks = peak_scores(x.flatten(0, 1), free.flatten(0, 1), self.neighbours).view(b, f * n)
        quota = largest_remainder(self._weights(first), anchors, n - taken)
        picked = top_in_groups(peaks, frame, quota, anchors)
        receives = torch.zeros_like(chosen).scatter(1, picked, True)
        kept = (~(chosen | receives)).int().sort(dim=1, stable=True).indices[:, :count]
        return Selection(kept, receives.gather(1, kept))

    def _weights(self, first: Int[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """For each anchor frame the frames of its segment over its anchor frames, 0 for the others."""
        length = segment_lengths(first)
        place = torch.arange(first.shape[1], device=first.device) - first
        anchor = (length - 1 - place) % self.every == 0
        number = (length + self.every - 1) // self.every
        return torch.where(anchor, length / number, 0.0)

    def possible(self, count: int, grid: Grid, n: int) -> int:
        if n != grid.n:
            raise InvalidValue("frames need the whole grid: put the step before every other cut")
        return count

    def flops(self, of: Extent) -> int:
        return self.segments.flops(of) + peaks_flops(of.frames, of.n // of.frames, of.width)


@dataclass(frozen=True)
class JoinEveryAnchorFrame(Merge):
    """Every dropped token joins, in each anchor frame of its segment, the receiving survivor most like it.

    A survivor becomes w of itself and 1 - w of the mean of what joined, w = max(`own`, 1 / (m + 1)) for m of them
    (FastVID). The representative of a token is the most similar of those it joined.
    """

    own: float = 0.6
    segments: Segments = field(default_factory=CutsWhereFramesChange)

    def __post_init__(self) -> None:
        _check(0, 1, self.own)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        first = self.segments(tokens)
        n = tokens.grid.frame.n
        merged = join_every_anchor_frame(tokens.x, selection.kept, selection.receives, first, n, self.own)
        return reduction_of(tokens, merged)

    def flops(self, of: Extent) -> int:
        return self.segments.flops(of) + 4 * of.n * of.count * of.width


@dataclass(frozen=True)
class DistinctThenTrees(Merge):
    """A share of every frame by weighted farthest points; the rest becomes trees through time, thinned to peaks.

    Farthest points compare cosine distances times `score`. A token hangs on the most similar one of the frame before
    while the cosine is above `threshold`, inside its segment. Needs the whole grid; see `ops.trees` (FlashVID).
    """

    score: Score | None = None
    share: float = 0.7
    threshold: float = 0.8
    neighbours: int = 7
    segments: Segments = field(default_factory=CutsWhereFramesChange)

    def __post_init__(self) -> None:
        _check(self.threshold, self.neighbours, self.share)

    @property
    def reads(self) -> tuple[Reading, ...]:  # type: ignore[override]
        return () if self.score is None else self.score.reads

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        x, first = by_frame(tokens, tokens.x), self.segments(tokens)
        b, f, n, _ = x.shape
        count = selection.kept.shape[1]
        picks = self._picks(count, f, n)
        picked = torch.zeros(b * f, n, dtype=torch.bool, device=x.device)
        if picks:
            weight = None if self.score is None else by_frame(tokens, self.score(tokens)).flatten(0, 1)
            weight = None if weight is None else weight.clamp(min=torch.finfo(torch.float32).tiny)
            picked.scatter_(1, max_min(x.flatten(0, 1), picks, weight=weight), True)
        return reduction_of(tokens, grow_trees(x, first, picked.view(b, f, n), self.threshold, count, self.neighbours))

    def _picks(self, count: int, frames: int, places: int) -> int:
        return min(int(self.share * count / frames + 1e-9), places)

    def flops(self, of: Extent) -> int:
        n = of.n // of.frames
        picks = self._picks(of.count, of.frames, n)
        own = 0 if self.score is None else self.score.flops(of)
        far = of.frames * max_min_flops(n, picks, of.width) if picks else 0
        links = 2 * (of.frames - 1) * n * n * of.width
        return own + self.segments.flops(of) + far + links + 2 * peaks_flops(of.frames, n, of.width)

    def rounds(self, of: Extent) -> int:
        return self._picks(of.count, of.frames, of.n // of.frames) + of.frames


@dataclass(frozen=True)
class ConnectedMerge(Merge):
    """Connected components of each frame above a cosine, then of their means until the count is met (LLaVA-Scissor).

    Needs the whole grid; see `ops.connected`.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        _check(self.threshold, 1, 0)

    def __call__(self, tokens: VisualTokens, selection: Selection) -> Reduction:
        count = selection.kept.shape[1]
        return reduction_of(tokens, connected_merge(by_frame(tokens, tokens.x), count, self.threshold))

    def flops(self, of: Extent) -> int:
        frame = of.n // of.frames
        spans = of.frames * spanning_flops(frame, of.width) + spanning_flops(of.n, of.width)
        return spans + 2 * of.n * of.count * of.width

    def other_flops(self, of: Extent) -> int:
        return of.n**2 * max(1, (of.n - 1).bit_length())


def _check(threshold: float, neighbours: int, own: float) -> None:
    if not -1 <= threshold <= 1 or neighbours < 1 or not 0 <= own <= 1:
        raise InvalidValue(
            "a merger of videos needs threshold in [-1, 1], neighbours >= 1 and own in [0, 1], got "
            f"{threshold}, {neighbours} and {own}"
        )
