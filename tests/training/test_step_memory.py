"""What lives in a step whose passes are replayed is what lives in one whose passes are not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.models import cuda_graphs
from pytorch_dl.training import compilation
from pytorch_dl.training import trainer as trainer_module
from pytorch_dl.training.profiling import TABLE, profiled
from pytorch_dl.training.step_memory import Memory, memory_of, watched_step
from pytorch_dl.training.trainer import OptimizedTrainer


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA graphs: as theirs, its replays allocate nothing; what they should compute stays undone."""

    def record(work: Callable[[], None]) -> Callable[[], None]:
        for _ in range(1 + cuda_graphs.WARM_UPS):
            work()
        return lambda: None

    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)
    monkeypatch.setattr(cuda_graphs, "record", record)


def made(*, max_tokens: int = 800, **settings: object) -> OptimizedTrainer:
    return tiny_trainer(
        settings={"max_steps": 18, **settings},
        model=tiny_model(d_model=64),
        train_dataloader=tiny_loader(200, max_tokens=max_tokens, packed=True),
    )


def held(trainer: OptimizedTrainer, *, batches: int) -> Memory:
    """At its third step."""
    rows = list(trainer.train_dataloader.batches(0))[:batches]  # type: ignore[attr-defined]
    for _ in range(2):
        trainer.train_step(rows, total_steps=3)
    with watched_step(trainer) as live:
        trainer.train_step(rows, total_steps=3)
    return memory_of(trainer, [live.peak])


@pytest.mark.parametrize("max_tokens", [800, 30])
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.usefixtures("replays")
def test_of_replayed_passes(max_tokens: int, batches: int) -> None:
    settings = {"max_tokens": max_tokens, "gradient_accumulation_steps": batches}
    plain, replaying = made(**settings), made(**settings)
    replaying.record_passes()
    assert replaying.replays_passes and not plain.replays_passes
    expected, found = held(plain, batches=batches), held(replaying, batches=batches)
    assert (found.weights, found.optimizer) == (expected.weights, expected.optimizer)
    assert (expected.activations > 10 * expected.weights) == (max_tokens == 800)
    assert found.activations == pytest.approx(expected.activations, rel=0.01)
    spare = expected.gradients if batches > 1 and max_tokens == 30 else 0  # few activations: it is a bound then
    assert 0.99 * expected.peak < found.peak < 1.01 * (expected.peak + spare)


def test_a_moving_average_counts() -> None:
    plain, averaging = held(made(), batches=1), held(made(ema_decay=0.9), batches=1)
    assert (plain.average, averaging.average) == (0, averaging.weights)
    assert averaging.peak - plain.peak == pytest.approx(averaging.average, rel=0.01)


@pytest.mark.usefixtures("replays")
def test_a_profile_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for compiled in (False, True):  # which is when passes are recorded
        monkeypatch.setattr(compilation, "compiles", lambda *_, compiled=compiled, **__: compiled)
        trainer = made()
        with profiled(trainer, tmp_path / str(compiled), lambda _: None):
            trainer.train()
        table = (tmp_path / str(compiled) / TABLE).read_text()
        told.append([_megabytes(table, name) for name in ("activations at their peak", "all at the peak of the step")])
    assert told[1] == pytest.approx(told[0], rel=0.1)


def _megabytes(table: str, name: str) -> float:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return float(line.split("|")[2])
