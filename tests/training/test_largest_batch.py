"""What training takes of memory, beside what is known of tensors; and the numbers that follow, for all processes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_model
from torch import Tensor

from pytorch_dl.config import Config
from pytorch_dl.errors import ResourceError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import largest_batch
from pytorch_dl.training import step as step_module
from pytorch_dl.training.largest_batch import DeviceMemory, _live_bytes, resolve
from pytorch_dl.training.peers import Peers

CPU = torch.device("cpu")
AUTO = Config().update(
    data={"max_tokens_per_batch": "auto", "max_length": 40}, training={"tokens_per_step": 400, "mixed_precision": False}
)
LACKS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried 9"),
    MemoryError(),
)


def wide_model() -> OptimizedTransformer:
    return tiny_model(d_model=64)


def memory(**changes: Any) -> DeviceMemory:
    return DeviceMemory.of(AUTO, tiny_loader(60, max_tokens=400, **changes), wide_model, CPU)


def test_live_bytes_are_those_of_tensors_that_live_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1 << 20)  # 4 MiB
        second = first + 1
        del first
        third = torch.zeros(1 << 18)  # 1 MiB, beside the second alone
        del second
        torch.zeros(1 << 18).add_(third)

    assert (8 << 20) <= _live_bytes(work) < (8 << 20) + 4096


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_takes_weights_gradients_and_moments_and_grows_evenly(packed: bool) -> None:
    measured = memory(packed=packed)
    peaks = {tokens: measured.peak(tokens) for tokens in (64, 640, 6400)}
    held = 16 * wide_model().num_parameters()
    assert held < peaks[64] < peaks[640] < peaks[6400]
    predicted = peaks[640] + (peaks[640] - peaks[64]) * 10
    assert peaks[6400] == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("packed", [True, False])
def test_no_batch_is_fuller_than_the_fullest(packed: bool) -> None:
    loader = tiny_loader(200, max_tokens=130, packed=packed)
    full = loader.fullest(130)
    rows, src, tgt = full.src.size(0), full.src.size(1), full.tgt_in.size(1)
    assert (rows - 1) * max(src, tgt) < 130
    assert int(full.src_positions.max()) < loader.planner.longest
    count = 0
    for epoch in range(3):
        for batch in loader.batches(epoch):
            b, s, t = batch.src.size(0), batch.src.size(1), batch.tgt_in.size(1)
            assert b * (s + t) <= rows * (src + tgt)
            assert b * (s * s + s * t + t * t) <= rows * (src * src + src * tgt + tgt * tgt)
            count += 1
    assert count > 5


@pytest.mark.parametrize("error", LACKS, ids=lambda error: type(error).__name__)
def test_what_is_refused_does_not_fit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Iterator[Tensor]:
        raise error

    monkeypatch.setattr(step_module, "batch_loss", refuse)
    assert memory().peak(64) is None


def test_another_error_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Iterator[Tensor]:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(step_module, "batch_loss", refuse)
    with pytest.raises(RuntimeError, match="shapes differ"):
        memory().peak(64)


def test_processes_of_one_machine_have_a_part_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largest_batch, "available_memory", lambda: 1000)
    assert memory().allowed == 800
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory().allowed == 200


class Others(Peers):
    """Two processes, of which the other has found so many batches."""

    def __init__(self, found: int) -> None:
        super().__init__(0, 2)
        self.found = found

    def add_up(self, numbers: Tensor) -> Tensor:
        return numbers + torch.tensor([0, self.found])


@pytest.mark.parametrize(("other", "batches"), [(2, 2), (4, 4)])
def test_the_process_with_the_least_room_counts(other: int, batches: int) -> None:
    loader = tiny_loader(60, max_tokens=400)
    config, line = resolve(AUTO, loader, tiny_model, device=CPU, peers=Others(other))
    assert config.data.max_tokens_per_batch == 400 // batches
    assert config.training.gradient_accumulation_steps == batches
    assert config.training.tokens_per_step is None
    assert config.problems() == []
    assert line.startswith(f"data.max_tokens_per_batch is {400 // batches} from now on, {batches} batches a step (")
    assert AUTO.data.max_tokens_per_batch == "auto"


def test_too_little_memory_anywhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = tiny_loader(60, max_tokens=400)
    with pytest.raises(ResourceError, match=r"not even batches of the longest pairs fit into the .* MB"):
        resolve(AUTO, loader, tiny_model, device=CPU, peers=Others(0))
    monkeypatch.setattr(largest_batch, "available_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="not even batches of the longest pairs fit into the 0 MB"):
        resolve(AUTO, loader, tiny_model, device=CPU, peers=Peers())


def test_the_longest_allowed_pair_fits_into_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largest_batch, "ENOUGH_ON_A_CPU", 1)
    found, _ = resolve(AUTO, tiny_loader(60, max_tokens=400), tiny_model, device=CPU, peers=Peers())
    assert found.problems() == []
    assert found.data.max_tokens_per_batch == AUTO.data.max_length
