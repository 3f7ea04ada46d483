"""Attention of short rows in one program against attention written out; without a GPU, in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_dl.models.attention import plain_attention
from pytorch_dl.models.tile_attention import DIMS, LONGEST, fits, tile_attention

SHAPES = [(2, 2, 9, 13, 16), (2, 3, 16, 16, 16), (1, 2, 33, 20, 32), (2, 2, 70, 128, 64)]  # B, H, T, S, D
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
LIMITS = {"cpu": 1e-5, "cuda": 5e-3}


def inputs(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries that lie within a larger projection, as a model's do, keys and values, and a bias that masks some."""
    batch, heads, queries, keys, dim = shape
    torch.manual_seed(0)
    options: dict[str, Any] = {"device": device, "dtype": DTYPES[device]}
    q = torch.randn(batch, queries, 3 * heads, dim, **options)[:, :, :heads].transpose(1, 2)
    k, v = torch.randn(batch, keys, 2 * heads, dim, **options).transpose(1, 2).chunk(2, dim=1)
    hidden = torch.rand(batch, 1, queries, keys, device=device) < 0.4
    hidden[..., 0] = False
    bias = torch.zeros(batch, 1, queries, keys, **options).masked_fill(hidden, -torch.inf)
    return (*(part.detach().requires_grad_() for part in (q, k, v)), bias)


def check(shape: tuple[int, ...], device: str) -> None:
    """Output and gradients are those of attention written out in float64."""
    q, k, v, bias = inputs(shape, device)
    out = tile_attention(q, k, v, bias)
    assert out.shape == q.shape and out.transpose(1, 2).is_contiguous()
    grad = torch.randn_like(out)
    found = out, *torch.autograd.grad(out, (q, k, v), grad)
    again = tile_attention(q, k, v, bias)
    assert all(map(torch.equal, found, (again, *torch.autograd.grad(again, (q, k, v), grad))))
    wide = [part.detach().double().requires_grad_() for part in (q, k, v)]
    whole = plain_attention(*wide, bias.double(), 0.0)
    for one, other in zip(found, (whole, *torch.autograd.grad(whole, wide, grad.double())), strict=True):
        assert (one.double() - other).norm() < LIMITS[device] * other.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gpu_computes_attention(shape: tuple[int, ...]) -> None:
    check(shape, "cuda")


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_the_interpreter_computes_attention() -> None:
    code = "import test_tile_attention as t\nfor shape in t.SHAPES: t.check(shape, 'cpu')\nprint(len(t.SHAPES), 'hold')"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=os.path.dirname(__file__), env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "4 hold", done.stderr


def test_only_short_rows_in_half_precision_on_a_gpu_are_computed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, bias = inputs((2, 2, 16, 16, 16), "cpu")
    half, narrow, values = q.bfloat16(), k.bfloat16(), v.bfloat16()
    assert not fits(half, narrow, values, bias), "there is no GPU"
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr("pytorch_dl.models.tile_attention.CAN_COMPILE", True)
    assert fits(half, narrow, values, bias)
    assert not fits(q, k, v, bias) and not fits(half, narrow, v, bias), "float32"
    assert not fits(half.half(), narrow.half(), values.half(), bias), "GPUs with no bf16 have less memory for a tile"
    assert not fits(half, narrow[:, :1], values[:, :1], bias), "grouped queries"
    assert not fits(half, narrow, values[..., :8], bias), "values of another width, as for the weights"
    assert not fits(half, narrow, values, bias.clone().requires_grad_()), "a bias that is learnt"
    assert not fits(half, narrow, values, bias.expand(2, 2, 16, 16)), "a bias for each head"
    long = torch.zeros(1, 2, LONGEST + 1, 16, dtype=torch.bfloat16)
    assert not fits(long, narrow, values, bias) and not fits(half, long, long, bias)
    odd = half.new_zeros(2, 2, 16, 24)
    assert 24 not in DIMS and not fits(odd, odd, odd, bias)
    monkeypatch.setattr("pytorch_dl.models.tile_attention.CAN_COMPILE", False)
    assert not fits(half, narrow, values, bias)
