"""Any tensors: what is loaded has the bits of what was saved, and numbers that are not finite are refused."""

import math
from pathlib import Path

import pytest
import torch
from few_examples import fewer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
OTHERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
LAYOUTS = {
    "whole": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.mT if tensor.ndim > 1 else tensor,
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 1],
    "a part": lambda tensor: torch.stack([tensor, tensor])[1],
    "expanded": lambda tensor: tensor[..., :1].expand(tensor.shape) if tensor.ndim else tensor,
}
shapes = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any kind, shape and layout in memory, 0-d and empty ones among them; finite."""
    dtype, shape = draw(st.sampled_from([*FLOATS, *OTHERS])), draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    numbers = torch.randn(shape, generator=generator) * draw(st.sampled_from([0.0, 1.0, 50.0]))
    numbers = numbers.clamp(0, 255).to(dtype) if dtype in OTHERS else numbers.to(dtype)
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](numbers)


class Tensors(nn.Module):
    """Parameters for what has gradients, buffers for the rest."""

    def __init__(self, found: list[Tensor], tied: list[int]) -> None:
        super().__init__()
        for number, tensor in enumerate(found):
            if tensor.is_floating_point():
                self.register_parameter(f"p{number}", nn.Parameter(tensor, requires_grad=tensor.dtype in FLOATS[:4]))
            else:
                self.register_buffer(f"b{number}", tensor)
        for number, place in enumerate(tied):
            same = list(self.parameters())[place % len(list(self.parameters()))] if list(self.parameters()) else None
            self.register_parameter(f"tied{number}", same)


def bits(tensor: Tensor) -> list[int]:
    packed = tensor.detach().clone(memory_format=torch.contiguous_format)  # a single number may have any stride
    return packed.flatten().view(torch.uint8).tolist() if tensor.numel() else []


def save(folder: Path, model: nn.Module) -> Path:
    optimizer = torch.optim.SGD(model.parameters() if list(model.parameters()) else [torch.zeros(1)])
    average = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return ckpt.save_checkpoint(folder, 1, ckpt.contents(model, optimizer, average), state={"step": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@fewer(2)
@given(st.lists(tensors(), min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=2))
def test_every_bit_comes_back(folder: Path, found: list[Tensor], tied: list[int]) -> None:
    path = save(folder, Tensors(found, tied))
    assert damage(path) is None
    other = Tensors([torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in found], tied)
    ckpt.load_weights(other, ckpt.read_tensors(path / ckpt.MODEL), where="here")
    ckpt.load_tensors(dict(other.named_parameters()), ckpt.read_tensors(path / ckpt.AVERAGE), where="here")
    state = other.state_dict()
    for number, tensor in enumerate(found):
        again = state[f"{'p' if tensor.is_floating_point() else 'b'}{number}"]
        assert (again.dtype, again.shape, bits(again)) == (tensor.dtype, tensor.shape, bits(tensor))
    assert len(ckpt.read_tensors(path / ckpt.MODEL)) == len(found), "a tied one is saved once"


@fewer(2)
@given(tensors(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 99))
def test_what_is_not_finite_is_refused_and_nothing_is_changed(
    folder: Path, tensor: Tensor, number: float, place: int
) -> None:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.dtype == torch.float8_e4m3fn:
        return
    spoilt = tensor.clone(memory_format=torch.contiguous_format)
    spoilt.view(-1)[place % spoilt.numel()] = number
    path = save(folder, Tensors([torch.ones(2), spoilt], []))
    other = Tensors([torch.zeros(2), torch.zeros(tensor.shape, dtype=tensor.dtype)], [])
    with pytest.raises(CheckpointError, match="tensor 'p1' holds numbers that are not finite"):
        ckpt.load_weights(other, ckpt.read_tensors(path / ckpt.MODEL), where="here")
    assert other.state_dict()["p0"].tolist() == [0, 0]
