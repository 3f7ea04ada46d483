"""Attention against loops over its definition, in values and gradients, and the module around it."""

import itertools
import math

import pytest
import torch
from small_models import assert_same, randomised
from torch import Tensor

from pytorch_dl.models.attention import ATTENTION, MultiHeadAttention, plain_attention, sdpa_attention
from pytorch_dl.models.kv_cache import KeyValue
from pytorch_dl.models.masks import additive

B, H, T, S, D = 2, 4, 3, 5, 6


def by_definition(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, one query at a time; query head h reads key head h // (H / K)."""
    out = torch.empty_like(q)
    bias = torch.zeros(1, 1, 1, 1) if bias is None else bias
    bias = bias.expand(q.size(0), 1, q.size(2), k.size(2))
    group = q.size(1) // k.size(1)
    for b, h, t in itertools.product(range(q.size(0)), range(q.size(1)), range(q.size(2))):
        scores = torch.stack([q[b, h, t] @ key / math.sqrt(q.size(-1)) for key in k[b, h // group]]) + bias[b, 0, t]
        weights = scores.exp() / scores.exp().sum()
        out[b, h, t] = weights @ v[b, h // group]
    return out


def biases(queries: int, keys: int) -> dict[str, Tensor | None]:
    mask = torch.rand(B, 1, queries, keys) < 0.6
    mask[..., 0] = True
    return {
        "none": None,
        "one for each query": additive(mask, torch.float64),
        "one for all queries": additive(mask[:, :, :1], torch.float64),
        "causal": additive(torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(), torch.float64),
        "numbers": torch.randn(B, 1, queries, keys),
    }


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("keys", [T, S], ids=["self", "cross"])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", list(biases(1, 1)))
@pytest.mark.parametrize("name", list(ATTENTION))
def test_each_kernel_is_the_definition(name: str, kind: str, key_heads: int, keys: int) -> None:
    inputs = [torch.randn(B, heads, tokens, D) for heads, tokens in ((H, T), (key_heads, keys), (key_heads, keys))]
    weight = torch.randn(B, H, T, D)
    bias = biases(T, keys)[kind]
    results = []
    for function in (lambda *args: ATTENTION[name](*args, 0.0), by_definition):
        q, k, v = (tensor.clone().requires_grad_() for tensor in inputs)
        out = function(q, k, v, bias)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for part, actual, expected in zip("oqkv", *results, strict=True):
        assert_same(actual, expected, relative=1e-12, what=part)


def test_the_kernels_agree_in_single_precision() -> None:
    q, k, v = (torch.randn(B, H, S, D) for _ in range(3))
    bias = biases(S, S)["causal"]
    assert_same(sdpa_attention(q, k, v, bias, 0.0), plain_attention(q, k, v, bias, 0.0), relative=1e-5)


def test_plain_attention_takes_the_softmax_of_half_precision_in_single_precision() -> None:
    q, k, v = (torch.randn(B, H, S, D) for _ in range(3))
    exact = plain_attention(q, k, v, None, 0.0)
    out = plain_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, 0.0)
    assert out.dtype == torch.bfloat16
    assert_same(out.float(), exact, relative=0.05)


def test_attention_dropout_drops_whole_weights_and_keeps_the_mean() -> None:
    q, k = torch.randn(1, 1, 1, D), torch.randn(1, 1, 4, D)
    v = torch.eye(4).view(1, 1, 4, 4)  # the output is the row of weights
    weights = plain_attention(q, k, v, None, 0.0)
    draws = torch.stack([plain_attention(q, k, v, None, 0.25) for _ in range(2000)])
    kept = draws != 0
    assert torch.allclose(draws[kept], (weights / 0.75).expand_as(draws)[kept])
    assert abs(kept.float().mean().item() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / kept.numel())


def test_attention_dropout_is_for_training_only() -> None:
    attention = MultiHeadAttention(16, 4, dropout=0.5)
    x = torch.randn(2, 3, 16)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_grouped_heads_are_full_heads_with_shared_keys_and_values(n_kv_heads: int) -> None:
    grouped = randomised(MultiHeadAttention(16, 4, n_kv_heads=n_kv_heads, bias=True))
    full = MultiHeadAttention(16, 4, bias=True)
    q, k, v = grouped.qkv_proj.weight.split([16, 4 * n_kv_heads, 4 * n_kv_heads])
    repeated = [rows.view(n_kv_heads, 4, 16).repeat_interleave(4 // n_kv_heads, dim=0).view(16, 16) for rows in (k, v)]
    with torch.no_grad():
        full.qkv_proj.weight.copy_(torch.cat((q, *repeated)))
        bias_q, bias_k, bias_v = grouped.qkv_proj.bias.split([16, 4 * n_kv_heads, 4 * n_kv_heads])
        biases = [b.view(n_kv_heads, 4).repeat_interleave(4 // n_kv_heads, dim=0).view(16) for b in (bias_k, bias_v)]
        full.qkv_proj.bias.copy_(torch.cat((bias_q, *biases)))
    full.out_proj.load_state_dict(grouped.out_proj.state_dict())
    x = torch.randn(2, 5, 16)
    assert_same(grouped(x), full(x), relative=1e-12)


def test_memory_and_its_projection_give_the_same() -> None:
    attention = MultiHeadAttention(16, 4, n_kv_heads=2, cross=True)
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    kept = attention.project_memory(memory)
    assert kept.keys.shape == kept.values.shape == (2, 2, 5, 4)
    assert isinstance(kept, KeyValue)
    assert torch.equal(attention(x, kept), attention(x, memory))


def test_one_product_makes_queries_keys_and_values() -> None:
    own, cross = MultiHeadAttention(16, 4, n_kv_heads=2), MultiHeadAttention(16, 4, cross=True)
    assert {name: tuple(p.shape) for name, p in own.named_parameters()} == {
        "qkv_proj.weight": (32, 16),
        "out_proj.weight": (16, 16),
    }
    assert {name: tuple(p.shape) for name, p in cross.named_parameters()} == {
        "q_proj.weight": (16, 16),
        "kv_proj.weight": (32, 16),
        "out_proj.weight": (16, 16),
    }


def test_an_attention_function_can_be_passed_in() -> None:
    seen = []

    def uniform(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        seen.append((tuple(q.shape), bias, dropout))
        return v.mean(dim=2, keepdim=True).expand_as(q)

    attention = MultiHeadAttention(16, 4, dropout=0.1, attention=uniform)
    out = attention(torch.randn(2, 3, 16))
    assert torch.allclose(out[:, 0], out[:, 2])
    attention.eval()(torch.randn(2, 3, 16))
    assert seen == [((2, 4, 3, 4), None, 0.1), ((2, 4, 3, 4), None, 0.0)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cross", [False, True])
def test_gradients_are_those_of_finite_differences(cross: bool) -> None:
    attention = randomised(MultiHeadAttention(8, 2, n_kv_heads=1, bias=True, cross=cross))
    bias = additive(torch.ones(3, 3, dtype=torch.bool).tril(), torch.float64)
    inputs = [torch.randn(1, 3, 8, requires_grad=True) for _ in range(2 if cross else 1)]
    assert torch.autograd.gradcheck(lambda *args: attention(*args, bias=bias), inputs)


def test_errors_tell_the_values() -> None:
    with pytest.raises(ValueError, match=r"^d_model \(10\) must be divisible by n_heads \(4\)$"):
        MultiHeadAttention(10, 4)
    with pytest.raises(ValueError, match=r"^n_heads \(4\) must be divisible by n_kv_heads \(3\)$"):
        MultiHeadAttention(16, 4, n_kv_heads=3)
    with pytest.raises(ValueError, match=r"^attention must be a callable or one of auto, sdpa, plain, got 'flash'$"):
        MultiHeadAttention(16, 4, attention="flash")
