"""Quadtrees linked over time against a recursion over boxes and a union of one link after the other."""

import pytest
import torch

from foveate.ops.quadtree import quadtree_merge


def random_x(b, n, d=5, seed=0, spread=0.6):
    """Tokens around a common direction, so that cosines lie on both sides of the usual thresholds."""
    return 1 + spread * torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


class Box:
    """Rows y0..y1 and columns x0..x1 of a frame, with the boxes it is made of."""

    def __init__(self, frame, y, x, mean, parts):
        self.frame, self.y, self.x, self.mean, self.parts = frame, y, x, mean, parts
        alike = [cosine(mean, p.mean) for p in parts] if len(parts) > 1 else [p.closes for p in parts]
        self.closes = min(alike, default=float("inf"))

    def contains(self, other):
        return all(a[0] <= b[0] and b[1] <= a[1] for a, b in ((self.y, other.y), (self.x, other.x)))

    def beside(self, other):
        apart = sorted(max(a[0], b[0]) - min(a[1], b[1]) for a, b in ((self.y, other.y), (self.x, other.x)))
        return apart[0] <= 0 and apart[1] == 1

    def kept_whole(self, likeness):
        """The largest boxes from here down that are alike enough."""
        return [self] if self.closes >= likeness else [b for p in self.parts for b in p.kept_whole(likeness)]

    def all(self):
        return [self] + [b for p in self.parts for b in p.all()]


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def roots(x, t, h, w, root):
    """The largest boxes of each frame."""
    boxes = []
    for f in range(t):
        level = [[Box(f, (y, y), (c, c), x[(f * h + y) * w + c], []) for c in range(w)] for y in range(h)]
        levels = [level]
        while len(level) * len(level[0]) > 1:
            level = paired(level)
            levels.append(level)
        boxes += [b for row in levels[max(0, len(levels) - 1 - root)] for b in row]
    return boxes


def paired(level):
    """Two by two; at an odd side the first line is alone."""
    lines = lambda n: [[0]] * (n % 2) + [[i, i + 1] for i in range(n % 2, n, 2)]
    result = []
    for ys in lines(len(level)):
        row = []
        for xs in lines(len(level[0])):
            parts = [level[y][x] for y in ys for x in xs]
            mean = torch.stack([p.mean for p in parts]).mean(0)
            y, x = (parts[0].y[0], parts[-1].y[1]), (parts[0].x[0], parts[-1].x[1])
            row.append(Box(parts[0].frame, y, x, mean, parts))
        result.append(row)
    return result


class Clusters:
    def __init__(self, boxes):
        self.boxes, self.of = boxes, list(range(len(boxes)))

    def join(self, i, j):
        a, b = sorted((self.of[i], self.of[j]))
        self.of = [a if c == b else c for c in self.of]

    @property
    def number(self):
        return len(set(self.of))


def links(boxes):
    """Pairs of boxes that may be joined: over time first, then side by side, the most alike first."""
    over_time, side_by_side = [], []
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            if a.frame + 1 == b.frame and (a.contains(b) or b.contains(a)):
                over_time.append((-cosine(a.mean, b.mean), i, j))
            if a.frame == b.frame and i < j and a.beside(b):
                side_by_side.append((-cosine(a.mean, b.mean), i, j))
    return sorted(over_time), sorted(side_by_side)


def brute_force(x, t, h, w, count, likeness, root, weighted):
    x = x.double()
    tops = roots(x, t, h, w, root)

    def boxes_at(likeness):
        found = [b for top in tops for b in top.kept_whole(likeness)]
        return sorted(found, key=lambda b: (b.frame, b.y[0], b.x[0]))

    def fewest(boxes):
        clusters = Clusters(boxes)
        for _, i, j in links(boxes)[0]:
            clusters.join(i, j)
        return clusters.number

    values = sorted({b.closes for top in tops for b in top.all()})
    least = max(count, fewest(boxes_at(values[0])))
    low = max(v for v in values if fewest(boxes_at(v)) <= least)
    high = min(v for v in values if len(boxes_at(v)) >= count)
    boxes = boxes_at(max(min(likeness, low), high))
    clusters = Clusters(boxes)
    for some in links(boxes):
        for _, i, j in some:
            if clusters.number > count:
                clusters.join(i, j)
    assert clusters.number == count
    source, features, first = torch.full((t * h * w,), -1), [], []
    for rank, cluster in enumerate(sorted(set(clusters.of), key=lambda c: position(boxes[c], h, w))):
        members = [b for b, c in zip(boxes, clusters.of, strict=True) if c == cluster]
        area = [(b.y[1] - b.y[0] + 1) * (b.x[1] - b.x[0] + 1) if weighted else 1 for b in members]
        features.append(sum(a * b.mean for a, b in zip(area, members, strict=True)) / sum(area))
        first.append(min(position(b, h, w) for b in members))
        for b in members:
            for y in range(b.y[0], b.y[1] + 1):
                source[[(b.frame * h + y) * w + c for c in range(b.x[0], b.x[1] + 1)]] = rank
    return first, source.tolist(), torch.stack(features)


def position(box, h, w):
    return (box.frame * h + box.y[0]) * w + box.x[0]


GRIDS = [(1, 4, 4), (3, 2, 2), (2, 3, 5), (4, 1, 6), (1, 5, 3), (2, 1, 1)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("root", "spread", "weighted"), [(0, 0.6, False), (1, 0.3, True)])
def test_boxes_and_links_are_the_definition(grid, root, spread, weighted):
    t, h, w = grid
    n = t * h * w
    x = random_x(2, n, seed=root, spread=spread)
    for count in sorted({1, 2, n // 3, n // 2, n - 1, n} & set(range(1, n + 1))):
        for likeness in (-1.0, 0.8, 1.0):
            merged = quadtree_merge(x, t, h, w, count, likeness=likeness, root=root, weighted=weighted)
            for b in range(2):
                kept, source, features = brute_force(x[b], t, h, w, count, likeness, root, weighted)
                assert merged.kept[b].tolist() == kept
                assert merged.source[b].tolist() == source
                torch.testing.assert_close(merged.x[b], features.float(), atol=1e-5, rtol=1e-4)
                assert merged.size[b].tolist() == [source.count(r) for r in range(count)]


def test_a_still_video_of_even_squares_is_four_tokens():
    """Four colours, one a quarter, in every frame: one box a quarter, one token for all frames."""
    colours = torch.eye(4)
    quarter = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]).flatten()
    x = colours[quarter.repeat(3)][None]
    merged = quadtree_merge(x, 3, 4, 4, 4, likeness=0.9)
    assert merged.kept.tolist() == [[0, 2, 8, 10]] and merged.size.tolist() == [[12.0] * 4]
    assert torch.equal(merged.x[0], colours)


def test_the_last_link_is_the_threshold_over_time():
    """Fixed likeness, a count that links reach: nothing is joined that is less alike than what is left apart."""
    x = random_x(1, 3 * 4 * 4, seed=5)
    merged = quadtree_merge(x, 3, 4, 4, 30, likeness=1.0)
    u = torch.nn.functional.normalize(x[0], dim=-1)
    over_time = (u[:-16] * u[16:]).sum(1)
    joined = merged.source[0, :-16] == merged.source[0, 16:]
    assert over_time[joined].min() > over_time[~joined].max() and int(joined.sum()) == 48 - 30


def test_what_cannot_be_merged_is_refused():
    x = random_x(1, 12)
    for wrong, message in (
        (lambda: quadtree_merge(x, 2, 2, 2, 3), "do not fill a grid"),
        (lambda: quadtree_merge(x, 3, 2, 2, 0), "count must lie in 1..12"),
        (lambda: quadtree_merge(x, 3, 2, 2, 3, likeness=2), "likeness must lie in"),
        (lambda: quadtree_merge(x, 3, 2, 2, 3, root=-1), "root be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
