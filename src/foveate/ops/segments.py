"""Segments of a video: where frames change, windows in which most stays the same, scenes by clusters of frames."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .cluster import assign_nearest, density_peaks
from .select import top_k, unit


def similarity_cuts(centres: Float[Tensor, "B F D"], fewest: int, threshold: float) -> Int[Tensor, "B F"]:
    """The segment of each frame: a new one begins where the cosine to the frame before is below the threshold.

    Where that makes fewer than `fewest` segments the least similar of the other transitions follow, ties to the earlier
    one. Source: FastVID (arXiv 2503.11187), FlashVID.
    """
    u = unit(centres)
    change = 1 - (u[:, 1:] * u[:, :-1]).sum(2)
    cut = change > 1 - threshold
    most = min(fewest - 1, change.shape[1])
    if most > 0:
        cut = cut.scatter(1, top_k(change, most), True)
    return torch.nn.functional.pad(cut.long(), (1, 0)).cumsum(1)


def first_of_segment(segment: Int[Tensor, "B F"]) -> Int[Tensor, "B F"]:
    """The first frame of each frame's segment."""
    begins = torch.nn.functional.pad(segment.diff(dim=1) != 0, (1, 0), value=True)
    here = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    return torch.where(begins, here, 0).cummax(1).values


def segment_lengths(first: Int[Tensor, "B F"]) -> Int[Tensor, "B F"]:
    """How many frames the segment of each frame has."""
    counted = torch.zeros_like(first).scatter_add(1, first, torch.ones_like(first))
    return counted.gather(1, first)


def static_windows(same: Bool[Tensor, "B f N"]) -> Int[Tensor, "B F"]:
    """The first frame of each frame's window, of the division of the video that saves most; f is F - 1 transitions.

    `same` says for each place whether it stays from a frame to the next. In a window of frames s to e the places that
    stay throughout become one token each and save e - s; the division that saves most in all is found by dynamic
    programming, the shorter last window first of equals. Cost: F x F x N. Source: HoliTom (arXiv 2505.21334).
    """
    b, f, n = same.shape
    frames = f + 1
    runs = torch.zeros(b, frames, n, dtype=torch.long, device=same.device)  # how long each place stays from here on
    for t in reversed(range(f)):
        runs[:, t] = (runs[:, t + 1] + 1) * same[:, t]
    length = torch.arange(frames, device=same.device)
    saved = torch.stack([(runs >= n_).sum(2) * n_ for n_ in length.tolist()], dim=2)  # [B, F, length]
    best = torch.zeros(b, frames + 1, dtype=torch.long, device=same.device)
    begins = torch.zeros(b, frames + 1, dtype=torch.long, device=same.device)
    for end in range(1, frames + 1):
        starts = length[:end].flip(0)  # the latest first, so that of equals it wins
        value = best[:, starts] + saved[:, starts, end - 1 - starts]
        top = value.amax(1, keepdim=True)
        chosen = (value == top).int().argmax(1)
        best[:, end], begins[:, end] = top[:, 0], starts[chosen]
    first = torch.empty(b, frames, dtype=torch.long, device=same.device)
    now = begins[:, frames]
    for t in reversed(range(frames)):
        now = torch.where(t < now, begins[:, t + 1], now)
        first[:, t] = now
    return first


def scenes(centres: Float[Tensor, "B F D"], clusters: int, neighbours: int) -> Int[Tensor, "B F"]:
    """The first frame of each frame's scene: frames in clusters by density peaks, made contiguous.

    Of each cluster the longest run of frames stays (the earliest of equals), if it is longer than one frame; every
    other run joins the longer of the runs beside it, the left one of equals, and goes where that goes. Cost: F x F x D.
    Source: PruneVid (arXiv 2412.16117).
    """
    b, f, _ = centres.shape
    if f == 1 or clusters < 1:
        return torch.zeros(b, f, dtype=torch.long, device=centres.device)
    label = assign_nearest(centres, density_peaks(centres, min(clusters, f), neighbours))
    first = first_of_segment(label)
    length = segment_lengths(first)
    here = torch.arange(f, device=centres.device).expand(b, f)
    # the longest run of a cluster: compare runs, each at its first frame, by length and then by place
    weight = torch.where(first == here, length * f - here, -1)
    rival = (label[:, :, None] == label[:, None]) & (weight[:, None] > weight[:, :, None])
    stays = (first == here) & ~rival.any(2) & (length > 1)
    left = torch.where(first > 0, first.gather(1, (first - 1).clamp(min=0)), first)
    after = (first + length).clamp(max=f - 1)
    right = torch.where(first + length < f, first.gather(1, after), first)
    left_length = torch.where(first > 0, length.gather(1, left), -1)
    right_length = torch.where(first + length < f, length.gather(1, right), -1)
    into = torch.where(left_length >= right_length, left, right)
    into = torch.where(stays.gather(1, first), first, into)
    for _ in range(f.bit_length()):  # follow where they go, twice as far each time
        into = into.gather(1, into)
    return first_of_segment(into)


def runs_of(first: Int[Tensor, "B F"], same: Bool[Tensor, "B f N"]) -> Bool[Tensor, "B F N"]:
    """Which places stay the same throughout the window of each frame; none in windows of one frame."""
    b, f, n = same.shape
    frames = f + 1
    inside = torch.nn.functional.pad(
        first[:, 1:] == first[:, :-1], (0, 1)
    )  # the transition behind a frame is in its window
    changes = torch.nn.functional.pad(~same, (0, 0, 0, 1)) & inside[..., None]
    index = first[..., None].expand(-1, -1, n)
    changed = torch.zeros(b, frames, n, dtype=torch.long, device=same.device).scatter_add(1, index, changes.long())
    long = segment_lengths(first) > 1
    return (changed.gather(1, index) == 0) & long[..., None]
