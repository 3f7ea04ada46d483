"""Saves in the background: the bits of those in between, and whatever is asked of them, they are whole by then."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import make, resumed, signalled, straight, trained
from tiny import tiny_model, tiny_trainer
from torch import Tensor, nn

from pytorch_dl.doctor.faults import Call, announced, killed_when
from pytorch_dl.errors import Interrupted, NonFiniteError, ResourceError
from pytorch_dl.files import damage
from pytorch_dl.training import background
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.background import Background
from pytorch_dl.training.diagnosis import explained, kept
from pytorch_dl.training.trainer import OptimizedTrainer

SAVES = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9}
SLOW = 0.15  # seconds that a save takes; some steps
PATIENCE = 30  # seconds after which something hangs
Put = Callable[..., Path]


def beside(folder: Path, **settings: Any) -> OptimizedTrainer:
    return make(folder, **{**SAVES, **settings, "save_in_background": True})


def steps_in(folder: Path) -> list[int]:
    """Of the checkpoints in a run, all of which are whole."""
    found = ckpt.checkpoints(folder / "checkpoints")
    assert [damage(path) for path in found] == [None] * len(found)
    assert not list((folder / "checkpoints").glob(".*"))
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def beside_only() -> bool:
    return threading.current_thread().name == "checkpoint"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Saves take their time; when they begin and when they end."""
    save, seen = ckpt.save_checkpoint, list[str]()

    def slowly(folder: Path, step: int, *rest: Any, **options: Any) -> Path:
        seen.append(f"begin {step}")
        time.sleep(SLOW)
        path = save(folder, step, *rest, **options)
        seen.append(f"end {step}")
        return path

    monkeypatch.setattr(ckpt, "save_checkpoint", slowly)
    return seen


@pytest.mark.parametrize("precision", [False, "fp16"], ids=["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_the_bytes_are_those_of_a_save_at_once(
    optimizer: type[torch.optim.Optimizer],
    precision: bool | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the step that was saved, although training has gone on before the first of them is written."""
    settings = {"mixed_precision": precision, "max_steps": 3, "ema_decay": 0.9, "save_in_background": True}
    model = tiny_model()
    made = optimizer(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    trainer = tiny_trainer(tmp_path / "run", model=model, optimizer=made, settings=settings)
    trainer.train()
    checkpoints, state = trainer.checkpoints, trainer.state
    state.seconds = 1.5
    checkpoints.folder = tmp_path / "at once"
    checkpoints.save(state)
    state.seconds = 1.5
    checkpoints.folder = tmp_path / "beside"
    save, gone_on = ckpt.save_checkpoint, threading.Event()

    def late(*given: Any, **options: Any) -> Path:
        assert gone_on.wait(PATIENCE)
        return save(*given, **options)

    monkeypatch.setattr(ckpt, "save_checkpoint", late)
    with checkpoints.beside_training(pytest.fail):
        checkpoints.save(state)
        with torch.no_grad():
            average = trainer.update.average
            assert average
            live = [*trainer.model.state_dict().values(), *average.weights.values()]
            live += [part for parts in made.state.values() for part in parts.values() if isinstance(part, Tensor)]
            for tensor in live:
                tensor.add_(1)
        state.step, state.best_step, state.since_log.loss, state.scaler = 9, 9, 9.0, {"scale": 9.0}
        gone_on.set()
    expected = content(tmp_path / "at once")
    assert len(expected) == 5
    assert content(tmp_path / "beside") == expected


@pytest.mark.parametrize(
    "settings",
    [{}, {"save_every": 1}, {"average_checkpoints": 3, "ema_decay": 0.0}, {"gradient_accumulation_steps": 3}],
    ids=["some", "every step", "averaged", "accumulated"],
)
def test_training_ends_with_the_same_bits(settings: dict[str, Any], slow: list[str], tmp_path: Path) -> None:
    expected = straight(**{**SAVES, **settings})
    slow.clear()
    trainer = beside(tmp_path, **settings)
    assert trained(trainer) == expected
    assert slow == [f"{what} {seen.split()[1]}" for seen in slow[::2] for what in ("begin", "end")], "one at a time"
    assert len(slow) >= 6


def test_training_goes_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save of step 2 ends after step 4 has begun."""
    save, step, at_four = ckpt.save_checkpoint, OptimizedTrainer.begin_step, threading.Event()
    trainer = beside(tmp_path, save_every=2)

    def waiting(folder: Path, number: int, *rest: Any, **options: Any) -> Path:
        assert number != 2 or at_four.wait(PATIENCE), "training waits for it"
        return save(folder, number, *rest, **options)

    def begin_step(*given: Any, **options: Any) -> Any:
        if trainer.state.step == 3:
            at_four.set()
        return step(trainer, *given, **options)

    trainer.begin_step = begin_step  # type: ignore[method-assign]
    monkeypatch.setattr(ckpt, "save_checkpoint", waiting)
    trainer.train()
    assert at_four.is_set()


def test_outside_of_training_saves_are_whole_at_once(slow: list[str], tmp_path: Path) -> None:
    trainer = beside(tmp_path)
    trainer.state.step = 1
    trainer.save()
    assert slow == ["begin 1", "end 1"]
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("at", [2, 3, 6])
def test_a_signal_ends_it_when_all_is_written(at: int, slow: list[str], tmp_path: Path) -> None:
    expected = straight(**SAVES)
    with pytest.raises(Interrupted, match=f"at step {at}, which is saved") as caught:
        signalled(beside(tmp_path), at=at).train()
    assert caught.value.exit_code == 75
    assert at in steps_in(tmp_path)
    assert len(slow) % 2 == 0
    again = resumed(beside(tmp_path))
    assert again.state.step == at
    assert trained(again) == expected


class TestFailures:
    @contextmanager
    def failing(self, number: int, *, of: int, after: threading.Event | None = None) -> Iterator[None]:
        """Let what a thread writes fail from the first sync of a step's files on, once something else has come."""
        save, failing = ckpt.save_checkpoint, threading.Event()

        def chosen(folder: Path, step: int, *rest: Any, **options: Any) -> Path:
            if step == of:
                assert after is None or after.wait(PATIENCE)
                failing.set()
            return save(folder, step, *rest, **options)

        def fail(call: Call) -> None:
            if failing.is_set() and beside_only() and call.name == "fsync":
                raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as patched, announced(fail):
            patched.setattr(ckpt, "save_checkpoint", chosen)
            yield

    @pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "no space left"), (errno.EIO, "cannot write here")])
    @pytest.mark.parametrize("of", [2, 4, 6])
    def test_end_training_soon_and_cost_nothing_that_was_saved(
        self, of: int, number: int, told: str, tmp_path: Path
    ) -> None:
        expected = straight(**SAVES)
        trainer = beside(tmp_path)
        with self.failing(number, of=of), pytest.raises(ResourceError, match=rf"step-0000000{of}.*: {told}") as caught:
            trainer.train()
        assert caught.value.exit_code == 6
        assert of <= trainer.state.step <= of + 2
        assert steps_in(tmp_path) == list(range(2, of, 2))[-2:]
        assert trainer.checkpoints.saved_step == of - 2, "of the last one that is whole"
        again = beside(tmp_path)
        assert again.resume() == (of > 2)
        assert trained(again) == expected

    def test_are_raised_at_the_next_step(self, tmp_path: Path) -> None:
        """Not only at the next save."""
        trainer = beside(tmp_path, max_steps=12, save_every=2, eval_every=99)
        step = trainer.begin_step

        def begin_step(*given: Any, **options: Any) -> Any:
            if trainer.state.step == 2:
                trainer.checkpoints.settle()
            return step(*given, **options)

        trainer.begin_step = begin_step  # type: ignore[method-assign]
        with self.failing(errno.EIO, of=2), pytest.raises(ResourceError):
            trainer.train()
        assert trainer.state.step in (2, 3)

    def test_are_told_where_a_signal_comes_first(self, slow: list[str], tmp_path: Path) -> None:
        trainer = signalled(beside(tmp_path, eval_every=99), at=2)
        with self.failing(errno.ENOSPC, of=2), pytest.raises(ResourceError, match="no space left"):
            trainer.train()

    def spoilt(self, folder: Path) -> tuple[OptimizedTrainer, threading.Event]:
        """A trainer whose third step is not finite, and what is set in it."""
        trainer, third = beside(folder, eval_every=99), threading.Event()

        def spoil(module: nn.Module, given: Any, made: Tensor) -> Tensor:
            if trainer.state.step != 3:
                return made
            third.set()
            return made * float("nan")

        trainer.model.encoder_norm.register_forward_hook(spoil)
        return trainer, third

    def test_are_said_where_something_else_ends_training(self, tmp_path: Path) -> None:
        trainer, third = self.spoilt(tmp_path)
        with self.failing(errno.ENOSPC, of=2, after=third), pytest.raises(NonFiniteError, match="at step 3"):
            trainer.train()
        said = trainer.reporter.progress.console.file.getvalue()  # type: ignore[attr-defined]
        assert "warning: the last checkpoint was not written: " in said
        assert "no space left on the disk" in said
        assert trainer.checkpoints.saved_step == 0

    def test_what_a_failed_step_leaves_is_not_swept_away_by_a_save(self, slow: list[str], tmp_path: Path) -> None:
        trainer, _ = self.spoilt(tmp_path)
        seen: list[int] = []

        def noted(*given: Any, **options: Any) -> NonFiniteError:
            seen.append(len(slow) % 2)
            return explained(*given, **options)

        with pytest.MonkeyPatch.context() as patched, pytest.raises(NonFiniteError, match="failed-step-00000003"):
            patched.setattr("pytorch_dl.training.trainer.explained", noted)
            trainer.train()
        assert seen == [0], "no save was under way"
        assert steps_in(tmp_path) == [2]
        assert kept(tmp_path / "checkpoints", make(tmp_path / "other").model)

    def test_memory_that_does_not_suffice_for_the_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(tensor: Tensor) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

        monkeypatch.setattr(background, "_copy", refused)
        with pytest.raises(ResourceError, match=r"out of memory for a copy .* set training\.save_in_background to"):
            beside(tmp_path).train()
        assert steps_in(tmp_path) == []

    def test_weights_are_looked_at_before(self, tmp_path: Path) -> None:
        trainer = beside(tmp_path)
        trainer.state.step = 7
        with torch.no_grad():
            trainer.model.encoder_norm.weight[0] = float("inf")
        begun: list[object] = []
        with pytest.MonkeyPatch.context() as patched, trainer.checkpoints.beside_training(pytest.fail):
            patched.setattr(Background, "begin", lambda self, work: begun.append(work))
            with pytest.raises(NonFiniteError, match="the update of step 7"):
                trainer.save()
        assert begun == []


def killed_beside(number: int, action: Callable[[], object]) -> bool:
    """Run the action in a child that dies before this call of the thread; False when it ended before."""
    calls = 0

    def is_time(call: Call) -> bool:
        nonlocal calls
        if not beside_only():
            return False
        time.sleep(0.002)  # training goes on
        calls += 1
        return calls == number

    return killed_when(is_time, action)


@pytest.mark.parametrize("number", range(2, 100, 9))
def test_killed_while_it_writes(number: int, tmp_path: Path) -> None:
    expected = straight(**SAVES)
    assert killed_beside(number, beside(tmp_path).train)
    again = beside(tmp_path)
    if again.resume():
        assert again.state.step in (2, 4, 6)
        assert not list((tmp_path / "checkpoints").glob(".*"))
    assert trained(again) == expected
