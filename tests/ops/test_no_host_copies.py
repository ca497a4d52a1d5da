"""No function reads a tensor's values on the host: fake tensors have none, and refuse `.item()` and `nonzero`."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from foveate.ops import attention, cluster, complexity, merge, select

CALLS = {
    "rows_attention": lambda q, k, x, kept, some: attention.rows_attention(q, k, kept, 0.5, row_valid=some),
    "last_query_attention": lambda q, k, x, kept, some: attention.last_query_attention(q, k, 0.5),
    "received_attention": lambda q, k, x, kept, some: attention.received_attention(q, k, 0.5, chunk=5),
    "pagerank": lambda q, k, x, kept, some: attention.pagerank(q, k, 0.5, chunk=5),
    "pagerank_all": lambda q, k, x, kept, some: attention.pagerank(q, k, 0.5, causal=False, chunk=5),
    "top_k": lambda q, k, x, kept, some: select.top_k(x[..., 0], 3),
    "max_min": lambda q, k, x, kept, some: select.max_min(x, 3),
    "density_peaks": lambda q, k, x, kept, some: cluster.density_peaks(x, 3),
    "assign_nearest": lambda q, k, x, kept, some: cluster.assign_nearest(x, kept, receives=some),
    "complexity": lambda q, k, x, kept, some: complexity.complexity(x),
    "bipartite_merge": lambda q, k, x, kept, some: merge.bipartite_merge(x, 3, metric=k[:, 0]),
    "bipartite_merge_as_published": lambda q, k, x, kept, some: merge.bipartite_merge(x, 3, weighted=False),
    "nearest_mean": lambda q, k, x, kept, some: merge.nearest_mean(x, kept, receives=some),
    "contextual_mean": lambda q, k, x, kept, some: merge.contextual_mean(x, kept, some, metric=x),
    "window_mean": lambda q, k, x, kept, some: merge.window_mean(x, 1, 3, 4, 2, 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_value_is_copied_to_the_host(name):
    with FakeTensorMode():
        q, k, x = torch.randn(2, 4, 12, 8), torch.randn(2, 2, 12, 8), torch.randn(2, 12, 6)
        kept, some = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
        CALLS[name](q, k, x, kept, some)


def test_the_check_sees_a_copy():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.randn(3).argmax().item()
