"""The loader: the same batches with and without threads, from any batch on."""

import threading

import pytest
import torch
from tiny import tiny_loader

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.planning import Plan, Planner
from pytorch_dl.errors import DataError


def equal(first: Batch, second: Batch) -> bool:
    pairs = [(value, getattr(second, name)) for name, value in vars(first).items()]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def loader(workers: int = 0, *, packed: bool = False) -> BatchLoader:
    return tiny_loader(90, packed=packed, workers=workers)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_epoch_from_any_batch_on(workers: int, packed: bool) -> None:
    straight, other = loader(packed=packed), loader(workers, packed=packed)
    for epoch in (0, 2, 1):
        whole = list(straight.batches(epoch))
        assert len(whole) > 3
        for start in range(len(whole) + 1):
            rest = list(other.batches(epoch, start))
            assert len(rest) == len(whole) - start
            assert all(map(equal, rest, whole[start:]))


def test_epochs_differ_and_iteration_is_the_first() -> None:
    made = loader()
    first, second = list(made.batches(0)), list(made.batches(1))
    assert not all(map(equal, first, second))
    assert all(map(equal, made, first))
    assert len(made) == len(first) == len(made.plan(0))


def test_length_is_of_the_first_epoch_whichever_was_asked_for() -> None:
    made = tiny_loader(60, corpora=[(0, 60, 1.5)])
    lengths = [len(list(made.batches(epoch))) for epoch in range(6)]
    assert len(set(lengths)) > 1, "there is something to confuse"
    assert len(made) == lengths[0]
    assert len(list(made.batches(3))) == lengths[3]


def test_threads_prepare_a_bounded_number_ahead_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = loader(2)
    prepared = []
    real = BatchLoader._batch
    monkeypatch.setattr(BatchLoader, "_batch", lambda *args: prepared.append(args[2]) or real(*args))
    batches = made.batches(0)
    next(batches)
    assert len(prepared) <= 2 * made.prefetch + 1 < len(made)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_an_error_in_a_thread_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Batch:
        raise OSError("the disk is gone")

    monkeypatch.setattr(BatchLoader, "_batch", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        next(loader(2).batches(0))


def test_pinning_without_a_gpu_does_nothing() -> None:
    made = loader()
    pinned = BatchLoader(
        made.planner,
        made.src,
        made.tgt,
        made.special,
        vocab_sizes=made.vocab_sizes,
        workers=0,
        prefetch=1,
        pin_memory=True,
    )
    assert pinned.pin_memory == torch.cuda.is_available()
    assert equal(next(iter(pinned)), next(iter(made)))


def test_the_next_epoch_is_planned_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[tuple[int, str]] = []
    real = Planner.plan

    def plan(planner: Planner, epoch: int) -> Plan:
        planned.append((epoch, threading.current_thread().name))
        return real(planner, epoch)

    monkeypatch.setattr(Planner, "plan", plan)
    made, straight = loader(1), loader()
    for epoch in range(3):
        assert all(map(equal, made.batches(epoch), straight.batches(epoch)))
    mine = [place for place in planned if place[1] == "plan"]
    assert [epoch for epoch, _ in mine] == [1, 2, 3]
    assert [epoch for epoch, name in planned if name != "plan"] == [0, 0, 1, 2]


def test_a_plan_that_fails_in_the_thread_arrives_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = loader(1), Planner.plan

    def plan(planner: Planner, epoch: int) -> Plan:
        if epoch == 1:
            raise DataError("no pair is drawn")
        return real(planner, epoch)

    monkeypatch.setattr(Planner, "plan", plan)
    assert len(list(made.batches(0))) == len(made)
    with pytest.raises(DataError, match="no pair is drawn"):
        next(made.batches(1))
