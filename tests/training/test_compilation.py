"""When the layers are compiled, what is said when they cannot be, and that a run goes on as it was begun."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import compilation
from pytorch_dl.training.compilation import Compile, compile_layers, compiles, missing_for_compilation


class Loader:
    """One batch of two padded pairs, again and again."""

    def __init__(self, *, has_one_shape: bool = True) -> None:
        self.has_one_shape = has_one_shape

    def __iter__(self):
        yield torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])


def model() -> OptimizedTransformer:
    torch.manual_seed(0)
    return OptimizedTransformer(
        src_vocab_size=12, tgt_vocab_size=12, d_model=8, n_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[OptimizedTransformer]:
    """The models that would have been compiled."""
    found: list[OptimizedTransformer] = []
    monkeypatch.setattr(OptimizedTransformer, "compile_layers", lambda model: found.append(model))
    return found


def decided(
    wanted: Compile,
    *,
    steps: int = 1000,
    loader: Loader | None = None,
    time_limit: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    return compiles(wanted, model(), loader or Loader(), steps=steps, time_limit=time_limit, precision="fp32", say=say)


@pytest.fixture(autouse=True)
def one_second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_step_seconds", lambda *_: 1.0)
    monkeypatch.setattr(compilation, "missing_for_compilation", lambda _: None)


def test_what_is_asked_for_is_done(compiled):
    assert decided(True, steps=1) and len(compiled) == 1
    assert not decided(False) and len(compiled) == 1


def test_by_itself_only_a_long_training_is_compiled(compiled):
    assert decided("auto", steps=150) and not decided("auto", steps=149)
    assert not decided("auto", time_limit=149.0) and decided("auto", time_limit=150.0)
    assert len(compiled) == 2


def test_by_itself_only_batches_of_one_shape_are_compiled(compiled):
    assert not decided("auto", loader=Loader(has_one_shape=False)) and not compiled


def test_by_itself_nothing_is_compiled_without_a_compiler(compiled, monkeypatch):
    monkeypatch.setattr(compilation, "missing_for_compilation", lambda _: "a C++ compiler")
    assert not decided("auto") and not compiled


@pytest.fixture
def broken(compiled, monkeypatch):
    def fail(*_):
        raise torch._dynamo.exc.TorchDynamoException("the compiler is broken\nand more")

    monkeypatch.setattr(compilation, "_step_seconds", lambda *_: 1.0 if not compiled else fail())


@pytest.mark.usefixtures("broken")
def test_a_compiler_that_fails_is_told_and_done_without():
    said: list[str] = []
    assert not decided("auto", say=said.append)
    assert said[-1].startswith("warning: training without compiled layers, which would be faster: the layers cannot be")
    assert "the compiler is broken" in said[-1] and "and more" not in said[-1]


@pytest.mark.usefixtures("broken")
def test_a_compiler_that_fails_is_an_error_where_it_was_asked_for():
    with pytest.raises(ConfigError, match=r"cannot be compiled: the compiler is broken.*set system\.compile to false"):
        decided(True)


def test_what_a_compiler_needs(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_for_compilation("cpu") == "a C++ compiler"
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert missing_for_compilation("cpu") == "Python.h"
    (tmp_path / "Python.h").touch()
    assert missing_for_compilation("cpu") is None


def test_timing_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.undo()
    made = model()
    before = copy.deepcopy(made.state_dict())
    compiles("auto", made, Loader(), steps=1, time_limit=None, precision="fp32", say=print)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_copy_of_a_compiled_model_is_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda layer: layer)
    made = model()
    made.compile_layers()
    twin = copy.deepcopy(made)
    assert made._compiled and not twin._compiled
    made.forget_compiled()
    assert not made._compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_a_compiler_that_does_not_work_is_found_out(monkeypatch, tmp_path):
    monkeypatch.undo()
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tmp_path) / "cache"))
    made = model()
    broken = inductor.patch({"cpp.cxx": (str(tmp_path / "g++"),)})
    with broken, pytest.raises(ConfigError, match="the layers cannot be compiled"):
        compile_layers(made, Loader(), precision="fp32", say=print)
    assert not made._compiled and all(parameter.grad is None for parameter in made.parameters())
