"""No function reads a tensor's values on the host: fake tensors have none, and refuse `.item()` and `nonzero`."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from foveate.ops import (
    aggregate,
    attention,
    cluster,
    collapse,
    complexity,
    coverage,
    dedup,
    distance_clusters,
    dpp,
    frames,
    groups,
    linkage,
    merge,
    pagerank,
    pivots,
    quadtree,
    quota,
    recycle,
    representative,
    residual,
    select,
    sums,
    temporal,
)

CALLS = {
    "rows_attention": lambda q, k, x, kept, some: attention.rows_attention(q, k, kept, 0.5, row_valid=some),
    "last_query_attention": lambda q, k, x, kept, some: attention.last_query_attention(q, k, 0.5),
    "received_attention": lambda q, k, x, kept, some: attention.received_attention(q, k, 0.5, chunk=5),
    "pagerank": lambda q, k, x, kept, some: pagerank.pagerank(q, k, 0.5, chunk=5),
    "pagerank_all": lambda q, k, x, kept, some: pagerank.pagerank(q, k, 0.5, causal=False, chunk=5),
    "top_k": lambda q, k, x, kept, some: select.top_k(x[..., 0], 3),
    "max_min": lambda q, k, x, kept, some: select.max_min(x, 3),
    "max_min_seeded": lambda q, k, x, kept, some: select.max_min(x, 5, seeds=kept),
    "tiered_top_k": lambda q, k, x, kept, some: select.tiered_top_k(kept.new_zeros(2, 12), x[..., 0], 3),
    "coverage": lambda q, k, x, kept, some: coverage.coverage(
        [coverage.each_other(x, 0.2), coverage.by_tokens(x[:, :2], x, 0.1)], 3, x[..., 0]
    ),
    "dpp": lambda q, k, x, kept, some: dpp.dpp(x, 3, x[..., 0]),
    "dedup": lambda q, k, x, kept, some: dedup.dedup(x, kept.new_zeros(2, 12), 3, 2),
    "largest_remainder": lambda q, k, x, kept, some: quota.largest_remainder(x[..., 0], 3, kept.new_zeros(2, 12), 1),
    "top_in_groups": lambda q, k, x, kept, some: groups.top_in_groups(
        x[..., 0], kept.new_zeros(2, 12), kept.new_zeros(2, 12), 3
    ),
    "local_variance": lambda q, k, x, kept, some: groups.local_variance(x, 5),
    "principal_groups": lambda q, k, x, kept, some: groups.principal_groups(x, 3),
    "reconstruction_error": lambda q, k, x, kept, some: residual.reconstruction_error(x, residual.far_apart(x, 3)),
    "attention_sum": lambda q, k, x, kept, some: aggregate.attention_sum(x, kept, x[..., 0], x, 2),
    "neighbourhood_mean": lambda q, k, x, kept, some: aggregate.neighbourhood_mean(x, kept, some, x[..., :3], x, 2.0),
    "density_peaks": lambda q, k, x, kept, some: cluster.density_peaks(x, 3),
    "assign_nearest": lambda q, k, x, kept, some: cluster.assign_nearest(x, kept, receives=some),
    "complexity": lambda q, k, x, kept, some: complexity.complexity(x),
    "bipartite_merge": lambda q, k, x, kept, some: merge.bipartite_merge(x, 3, metric=k[:, 0]),
    "bipartite_merge_as_published": lambda q, k, x, kept, some: merge.bipartite_merge(x, 3, weighted=False),
    "nearest_mean": lambda q, k, x, kept, some: merge.nearest_mean(x, kept, receives=some),
    "contextual_mean": lambda q, k, x, kept, some: merge.contextual_mean(x, kept, some, metric=x),
    "salient_heads": lambda q, k, x, kept, some: attention.salient_heads_attention(
        q, k, kept, 0.5, 2, torch.ones(2, 12, dtype=torch.bool), divisor=torch.ones(2, 3, 12)
    ),
    "peak_attention": lambda q, k, x, kept, some: attention.peak_attention(q, k, kept, 0.5, row_valid=some),
    "pooled_query": lambda q, k, x, kept, some: attention.pooled_query_attention(
        q, k, 0.5, torch.ones(2, 12, dtype=torch.bool)
    ),
    "recycle": lambda q, k, x, kept, some: recycle.recycle(x, kept[:, :2], kept, 2),
    "least_like": lambda q, k, x, kept, some: pivots.least_like(x, x[:, :2], x[..., 0] > 9, [2, 1]),
    "representativeness": lambda q, k, x, kept, some: representative.representativeness(x),
    "distance_clusters": lambda q, k, x, kept, some: distance_clusters.distance_clusters(x, x, kept, 2, 1.5),
    "collapse": lambda q, k, x, kept, some: collapse.collapse(x, collapse.whole_windows(1, 3, 4, 3), x[:, :1, 0], 1),
    "window_mean": lambda q, k, x, kept, some: merge.window_mean(x, 1, 3, 4, 2, 2),
    "group_sum": lambda q, k, x, kept, some: sums.group_sum(x, kept.repeat(1, 4), 3),
    "unit_range_in": lambda q, k, x, kept, some: sums.unit_range_in(x[..., 0], kept.repeat(1, 4), 3),
    "curvature": lambda q, k, x, kept, some: frames.curvature(x),
    "change": lambda q, k, x, kept, some: temporal.change(x, temporal.predecessors(kept.repeat(1, 4))),
    "find": lambda q, k, x, kept, some: temporal.find(kept, kept, 12),
    "earlier_survivor": lambda q, k, x, kept, some: temporal.earlier_survivor(kept.repeat(1, 4), kept),
    "steadiest_channels": lambda q, k, x, kept, some: temporal.steadiest_channels(x, 0.5),
    "gaussian_similarity": lambda q, k, x, kept, some: temporal.gaussian_similarity(x, x, kept.repeat(1, 4)),
    "sink_level": lambda q, k, x, kept, some: temporal.sink_level(x[..., 0], kept.repeat(1, 4), 3, 1.1),
    "components": lambda q, k, x, kept, some: linkage.components(kept, kept, some, 12),
    "single_linkage": lambda q, k, x, kept, some: linkage.single_linkage(kept, kept, x[:, :3, 0], kept[:, 0], 12),
    "quadtree_merge": lambda q, k, x, kept, some: quadtree.quadtree_merge(x, 3, 2, 2, 5),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_value_is_copied_to_the_host(name, monkeypatch):
    monkeypatch.setattr(attention, "_exp_is_safe", lambda q, k, scale: False)  # what devices other than a CPU get
    with FakeTensorMode():
        q, k, x = torch.randn(2, 4, 12, 8), torch.randn(2, 2, 12, 8), torch.randn(2, 12, 6)
        kept, some = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
        CALLS[name](q, k, x, kept, some)


def test_the_check_sees_a_copy():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.randn(3).argmax().item()
