"""The kernels of `tile_attention`, in Triton: a program has all of one row and head, and its numbers stay in registers.

Shapes: T queries, S keys, D head_dim; blocks are the next powers of two.
"""

import triton
import triton.language as tl


@triton.jit
def _weights(q, k, bias, queries, keys, scale, t, s):
    """Softmax of the scores: (T, D), (S, D) -> (T, S). Queries beyond the row look at all keys, and nobody at them."""
    scores = tl.dot(q, tl.trans(k)) * scale
    inside = (t[:, None] < queries) & (s[None, :] < keys)
    scores += tl.load(bias + t[:, None] * keys + s[None, :], mask=inside, other=0.0).to(tl.float32)
    scores = tl.where(s[None, :] < keys, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _tile(start, stride_b, stride_h, stride_t, row, head, t, d):
    """Where (T, D) of a row and head of a tensor (B, H, T, D) lie."""
    return start + row.to(tl.int64) * stride_b + head * stride_h + t[:, None] * stride_t + d[None, :]


@triton.jit
def _load(start, stride_b, stride_h, stride_t, row, head, t, d, tokens):
    """(T, D) of a row and head, with zeros behind the row's tokens."""
    return tl.load(_tile(start, stride_b, stride_h, stride_t, row, head, t, d), mask=t[:, None] < tokens, other=0.0)


@triton.jit
def _store(tile, start, stride_b, stride_h, stride_t, row, head, t, d, tokens):
    """Write (T, D) of a row and head, as far as the row has tokens."""
    place = _tile(start, stride_b, stride_h, stride_t, row, head, t, d)
    tl.store(place, tile.to(start.dtype.element_ty), mask=t[:, None] < tokens)


@triton.jit(do_not_specialize=["queries", "keys"])  # or other lengths would be compiled anew
def forward(
    q_start, q_b, q_h, q_t,
    k_start, k_b, k_h, k_t,
    v_start, v_b, v_h, v_t,
    out_start, out_b, out_h, out_t,
    bias_start,
    heads, queries, keys, scale,
    T: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write the output of one row and head."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    t, s, d = tl.arange(0, T), tl.arange(0, S), tl.arange(0, D)
    q = _load(q_start, q_b, q_h, q_t, row, head, t, d, queries)
    k = _load(k_start, k_b, k_h, k_t, row, head, s, d, keys)
    v = _load(v_start, v_b, v_h, v_t, row, head, s, d, keys)
    weights = _weights(q, k, bias_start + row.to(tl.int64) * queries * keys, queries, keys, scale, t, s)
    out = tl.dot(weights.to(v.dtype), v)
    _store(out, out_start, out_b, out_h, out_t, row, head, t, d, queries)


@triton.jit(do_not_specialize=["queries", "keys"])
def backward(
    q_start, q_b, q_h, q_t,
    k_start, k_b, k_h, k_t,
    v_start, v_b, v_h, v_t,
    grad_start, grad_b, grad_h, grad_t,
    q_grad_start, q_grad_b, q_grad_h, q_grad_t,
    k_grad_start, k_grad_b, k_grad_h, k_grad_t,
    v_grad_start, v_grad_b, v_grad_h, v_grad_t,
    bias_start,
    heads, queries, keys, scale,
    T: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one row and head."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    t, s, d = tl.arange(0, T), tl.arange(0, S), tl.arange(0, D)
    q = _load(q_start, q_b, q_h, q_t, row, head, t, d, queries)
    k = _load(k_start, k_b, k_h, k_t, row, head, s, d, keys)
    v = _load(v_start, v_b, v_h, v_t, row, head, s, d, keys)
    grad = _load(grad_start, grad_b, grad_h, grad_t, row, head, t, d, queries)
    weights = _weights(q, k, bias_start + row.to(tl.int64) * queries * keys, queries, keys, scale, t, s)
    v_grad = tl.dot(tl.trans(weights.to(grad.dtype)), grad)
    _store(v_grad, v_grad_start, v_grad_b, v_grad_h, v_grad_t, row, head, s, d, keys)
    of_weights = tl.dot(grad, tl.trans(v))
    of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
    of_scores = of_scores.to(q.dtype)
    q_grad = tl.dot(of_scores, k)
    _store(q_grad, q_grad_start, q_grad_b, q_grad_h, q_grad_t, row, head, t, d, queries)
    k_grad = tl.dot(tl.trans(of_scores), q)
    _store(k_grad, k_grad_start, k_grad_b, k_grad_h, k_grad_t, row, head, s, d, keys)
