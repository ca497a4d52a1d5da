"""Attention read-outs against plain softmax, the goldens of AIM, and their own chunking."""

import json
from pathlib import Path

import pytest
import torch

from foveate.ops import attention
from foveate.ops.attention import (
    last_query_attention,
    mean_key,
    received_attention,
    rows_attention,
)
from foveate.ops.pagerank import pagerank, pagerank_from_logits

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "aim.json").read_text())["prune"]


def random_qk(b=2, h=4, hk=2, n=13, d=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, h, n, d, generator=g), torch.randn(b, hk, n, d, generator=g), d**-0.5


def brute_force(q, k, scale, causal, valid=None):
    """All probabilities [B, H, N, N], rows without a visible key as zeros."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    n = q.shape[2]
    seen = torch.ones(n, n, dtype=torch.bool)
    seen = (seen.tril() if causal else seen).expand(q.shape[0], 1, n, n)
    if valid is not None:
        seen = seen & valid[:, None, None]
    logits = (q.float() @ k.float().transpose(-1, -2) * scale).masked_fill(~seen, -torch.inf)
    return logits.softmax(-1).nan_to_num(0)


def padded(n=13):
    """One row padded on the left by 4, one whole."""
    valid = torch.ones(2, n, dtype=torch.bool)
    valid[0, :4] = False
    return valid


@pytest.fixture(params=[2**23, 100], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", {"cpu": request.param})


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("use_valid", [True, False])
@pytest.mark.parametrize("chunk", [1, 5, 13, 256])
def test_received_attention_is_the_column_mean(block, causal, use_valid, chunk):
    q, k, scale = random_qk()
    valid = padded() if use_valid else None
    p = brute_force(q, k, scale, causal, valid)
    rows = valid if use_valid else torch.ones(2, 13, dtype=torch.bool)
    expected = (p * rows[:, None, :, None]).sum(2).mean(1) / rows.sum(1, keepdim=True)
    got = received_attention(q, k, scale, valid=valid, causal=causal, chunk=chunk)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(1), torch.ones(2))
    assert not use_valid or (got[~valid] == 0).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("use_valid", [True, False])
def test_rows_attention_is_the_mean_of_the_rows(block, causal, use_valid):
    q, k, scale = random_qk()
    valid = padded() if use_valid else None
    rows = torch.tensor([[12, 5, 5], [0, 7, 9]])
    row_valid = torch.tensor([[True, True, False], [True, True, True]])
    p = brute_force(q, k, scale, causal, valid)
    expected = torch.stack([p[0][:, [12, 5]].mean((0, 1)), p[1][:, [0, 7, 9]].mean((0, 1))])
    got = rows_attention(q, k, rows, scale, row_valid=row_valid, valid=valid, causal=causal)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("use_valid", [True, False])
def test_received_attention_of_logits_that_would_overflow_exp(use_valid):
    q, k, _ = random_qk()
    valid = padded() if use_valid else None
    p = brute_force(q, k, 100.0, False, valid)
    rows = valid if use_valid else torch.ones(2, 13, dtype=torch.bool)
    expected = (p * rows[:, None, :, None]).sum(2).mean(1) / rows.sum(1, keepdim=True)
    torch.testing.assert_close(received_attention(q, k, 100.0, valid=valid), expected)


def test_many_rows_are_chunked_to_the_same_result():
    q, k, scale = random_qk(n=300)
    rows = torch.arange(300).expand(2, -1)
    torch.testing.assert_close(rows_attention(q, k, rows, scale), received_attention(q, k, scale, causal=True, chunk=7))


@pytest.mark.parametrize("use_valid", [True, False])
def test_last_query_attention_is_the_last_row(block, use_valid):
    q, k, scale = random_qk()
    valid = padded() if use_valid else None
    expected = brute_force(q, k, scale, True, valid)[:, :, -1].mean(1)
    torch.testing.assert_close(last_query_attention(q, k, scale, valid=valid), expected)
    torch.testing.assert_close(last_query_attention(q[:, :, -1:], k, scale, valid=valid), expected)


def test_no_valid_row_and_no_visible_key_give_zeros_not_nan():
    q, k, scale = random_qk(b=1)
    nothing = torch.zeros(1, 13, dtype=torch.bool)
    rows = torch.tensor([[12]])
    for got in (
        rows_attention(q, k, rows, scale, valid=nothing),
        rows_attention(q, k, rows, scale, row_valid=torch.tensor([[False]])),
        last_query_attention(q, k, scale, valid=nothing),
        received_attention(q, k, scale, valid=nothing),
        pagerank(q, k, scale, valid=nothing),
        pagerank(q, k, scale, valid=nothing, causal=False),
    ):
        assert (got == 0).all()


@pytest.mark.parametrize(
    "name, kwargs",
    [
        ("p1_importance_nomask", {"causal": False}),
        ("p2_importance_causal_2heads", {}),
        ("p3_importance_damped", {"temperature": 1.0, "iterations": 3, "damping": 0.15}),
    ],
)
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_pagerank_equals_the_published_code(name, kwargs, chunk):
    case = GOLDEN[name]
    logits = torch.tensor(GOLDEN[case["logits_from"]]["logits"] if "logits_from" in case else case["logits"])
    expected = torch.tensor(case["out"])
    torch.testing.assert_close(pagerank_from_logits(logits, **kwargs), expected, atol=1e-5, rtol=0)
    identity = torch.eye(logits.shape[-1]).expand_as(logits)
    torch.testing.assert_close(pagerank(logits, identity, 1.0, chunk=chunk, **kwargs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("use_valid", [True, False])
@pytest.mark.parametrize("damping", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 3, 5, 13, 256])
def test_pagerank_in_chunks_equals_its_formula(block, causal, use_valid, damping, chunk):
    q, k, scale = random_qk()
    valid = padded() if use_valid else None
    logits = q @ k.repeat_interleave(2, dim=1).transpose(-1, -2) * scale
    options = {"valid": valid, "causal": causal, "damping": damping}
    expected = pagerank_from_logits(logits, **options)
    torch.testing.assert_close(pagerank(q, k, scale, chunk=chunk, **options), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_pagerank_conserves_mass_of_one_head(causal):
    q, k, scale = random_qk(h=1, hk=1, n=37)
    torch.testing.assert_close(pagerank(q, k, scale, causal=causal, damping=0.1, chunk=8).sum(1), torch.ones(2))


@pytest.mark.parametrize("causal", [True, False])
def test_left_padding_changes_nothing(causal):
    q, k, scale = random_qk(b=1, n=9)
    pad = torch.full((1, 4, 5, 8), 7.0)
    q2, k2 = torch.cat([pad, q], 2), torch.cat([pad[:, :2], k], 2)
    valid = torch.arange(14)[None] >= 5
    last = torch.tensor([[8]])
    for read, extra in ((pagerank, {}), (received_attention, {})):
        plain = read(q, k, scale, causal=causal, chunk=4, **extra)
        torch.testing.assert_close(read(q2, k2, scale, valid=valid, causal=causal, chunk=4)[:, 5:], plain)
    plain = rows_attention(q, k, last, scale, causal=causal)
    torch.testing.assert_close(rows_attention(q2, k2, last + 5, scale, valid=valid, causal=causal)[:, 5:], plain)


@pytest.mark.parametrize("causal", [True, False])
def test_a_batch_equals_its_rows(causal):
    q, k, scale = random_qk(b=3, n=70, d=16)
    rows = torch.tensor([[3, 69], [0, 8], [5, 6]])
    for i in range(3):
        one = slice(i, i + 1)
        for read in (pagerank, received_attention):
            whole = read(q, k, scale, causal=causal, chunk=32)
            assert torch.equal(whole[one], read(q[one], k[one], scale, causal=causal, chunk=32))
        whole = rows_attention(q, k, rows, scale, causal=causal)
        assert torch.equal(whole[one], rows_attention(q[one], k[one], rows[one], scale, causal=causal))
        assert torch.equal(last_query_attention(q, k, scale)[one], last_query_attention(q[one], k[one], scale))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_runs_in_float32_for_half_inputs(dtype):
    q, k, scale = random_qk()
    q, k = q.to(dtype), k.to(dtype)
    rows = torch.tensor([[12], [4]])
    for read in (
        lambda q, k: rows_attention(q, k, rows, scale),
        lambda q, k: last_query_attention(q, k, scale),
        lambda q, k: received_attention(q, k, scale),
        lambda q, k: pagerank(q, k, scale),
    ):
        got = read(q, k)
        assert got.dtype == torch.float32 and torch.equal(got, read(q.float(), k.float()))
    assert mean_key(k).dtype == dtype


def test_mean_key_averages_heads():
    _, k, _ = random_qk()
    torch.testing.assert_close(mean_key(k), (k[:, 0] + k[:, 1]) / 2)


def test_one_token_gets_everything():
    q, k, scale = random_qk(n=1)
    for got in (
        pagerank(q, k, scale), pagerank(q, k, scale, causal=False), received_attention(q, k, scale),
        last_query_attention(q, k, scale), rows_attention(q, k, torch.zeros(2, 1, dtype=torch.long), scale),
    ):  # fmt: skip
        assert torch.equal(got, torch.ones(2, 1))


def test_large_logits_stay_finite():
    q, k, _ = random_qk()
    assert pagerank(q * 100, k * 100, 1.0).isfinite().all()
    torch.testing.assert_close(received_attention(q * 100, k * 100, 1.0).sum(1), torch.ones(2))


def test_bad_arguments_are_named():
    q, k, scale = random_qk(h=4, hk=2)
    with pytest.raises(ValueError, match="5 query heads cannot share 2"):
        last_query_attention(torch.cat([q, q[:, :1]], 1), k, scale)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        received_attention(q, k, scale, chunk=0)
    for bad in ({"temperature": 0.0}, {"iterations": 0}, {"damping": 1.0}, {"damping": -0.1}, {"chunk": 0}):
        with pytest.raises(ValueError, match="got"):
            pagerank(q, k, scale, **bad)
