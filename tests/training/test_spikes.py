"""A loss that leaps takes training back to its last checkpoint, and on without the batches since."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import signalled
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import CheckpointError, Interrupted, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation, update
from pytorch_dl.training.loss import Loss
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.objective import batch_loss
from pytorch_dl.training.spikes import MOST_RETURNS, STEPS, LossSpike, SpikeWatch
from pytorch_dl.training.train_state import Sums, TrainState
from pytorch_dl.training.trainer import OptimizedTrainer

LEAP = 2  # the batch, of the second epoch, whose loss leaps


def loss_of(value: float) -> Sums:
    return Sums(steps=1, loss=value * 10, nll=value * 10, tgt_tokens=10)


class TestSpikeWatch:
    def test_the_usual_loss_is_a_running_mean(self) -> None:
        watch, state = SpikeWatch(2.0), TrainState()
        for step, loss in enumerate((4.0, 2.0, 3.0), 1):
            watch.look(state, loss_of(loss), step=step)
        assert state.usual_loss == pytest.approx(3.0)
        watch.look(state, loss_of(5.0), step=10 * STEPS)
        assert state.usual_loss == pytest.approx(3.0 + 2.0 / STEPS)

    def test_a_spike_is_not_counted(self) -> None:
        watch, state = SpikeWatch(2.0), TrainState(usual_loss=3.0)
        watch.look(state, loss_of(6.0), step=7)
        before = state.usual_loss
        with pytest.raises(LossSpike, match=r"step 8: the loss is 9\.000, and 3\.4\d+ is usual"):
            watch.look(state, loss_of(9.0), step=8)
        assert state.usual_loss == before

    def test_off(self) -> None:
        state = TrainState()
        SpikeWatch(None).look(state, loss_of(9.0), step=1)
        assert state.usual_loss is None

    def test_returns_that_do_not_help(self) -> None:
        watch, state = SpikeWatch(2.0), TrainState(step=12)
        for _ in range(MOST_RETURNS):
            watch.note_return(state)
        with pytest.raises(NonFiniteError, match=f"from step 12: it went back {MOST_RETURNS} times"):
            watch.note_return(state)


class Crash(Exception):
    """Stands for a process that is killed."""


def leaping(
    folder: Path,
    patched: pytest.MonkeyPatch,
    *,
    in_epoch: int = 1,
    times: float = 3.0,
    log_every: int = 1,
    **settings: Any,
) -> OptimizedTrainer:
    """A trainer of three epochs, in one of which the loss of one batch is some times as high as it should be."""
    given = {"num_epochs": 3, "save_every": 2, "undo_loss_spikes": 1.5, "ema_decay": 0.9, **settings}
    loader, model = tiny_loader(24, max_tokens=40), tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, fused=True)
    logging = LoggingConfig(log_every=log_every, tensorboard=False)
    trainer = tiny_trainer(
        folder, settings=given, train_dataloader=loader, model=model, optimizer=optimizer, logging=logging
    )
    one_of_it = int(list(loader.batches(in_epoch))[LEAP].pair_ids[0, 0])

    def loss(model: OptimizedTransformer, batch: Batch, **how: Any) -> Loss:
        found = batch_loss(model, batch, **how)
        leaps = model.training and trainer.state.epoch == in_epoch and bool((batch.pair_ids == one_of_it).any())
        return Loss(found.smoothed * times, found.nll * times) if leaps else found

    patched.setattr("pytorch_dl.training.step.batch_loss", loss)
    return trainer


def said(trainer: OptimizedTrainer) -> str:
    return str(trainer.reporter.progress.console.file.getvalue())  # type: ignore[attr-defined]


def outcome(trainer: OptimizedTrainer, folder: Path) -> list[object]:
    tensors = [*trainer.model.parameters(), *trainer.update.average.weights.values()]  # type: ignore[union-attr]
    return [(folder / METRICS).read_text(), [tensor.detach().numpy().tobytes() for tensor in tensors]]


def stopped(folder: Path, patched: pytest.MonkeyPatch, *, after: Iterable[int], **settings: Any) -> OptimizedTrainer:
    """The same training, stopped after these steps, as by signals, and ended."""
    for number, step in enumerate(after):
        trainer = leaping(folder, patched, **settings)
        assert trainer.resume() == bool(number)
        with pytest.raises(Interrupted, match=f"at step {step}, which is saved"):
            trainer.train(stop_after=step)
    trainer = leaping(folder, patched, **settings)
    assert trainer.resume()
    trainer.train()
    return trainer


def signalled_after_return(trainer: OptimizedTrainer) -> OptimizedTrainer:
    """The trainer, to which a signal comes while it makes the first step after it went back."""
    step = trainer.begin_step

    def begin_step(*given: Any, **how: Any) -> Any:
        if trainer.state.returns:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*given, **how)

    trainer.begin_step = begin_step  # type: ignore[method-assign]
    return trainer


class TestTraining:
    def test_goes_back_and_on_without_the_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = leaping(tmp_path / "leaps", monkeypatch)
        epoch = len(trainer.train_dataloader)  # type: ignore[arg-type]
        trainer.train()
        step = epoch + LEAP + 1
        back = (step - 1) // 2 * 2
        assert re.search(
            rf"step {step}: the loss is \S+, and \S+ is usual: back to step {back}, and on with batch {LEAP + 1} of "
            r"epoch 2",
            said(trainer),
        )
        assert trainer.state.step == 3 * epoch - (step - back)
        steps = [json.loads(line)["step"] for line in (tmp_path / "leaps" / METRICS).read_text().splitlines()]
        assert steps == sorted(steps)

        by_hand = leaping(tmp_path / "by hand", monkeypatch, times=1.0)
        with pytest.raises(Interrupted):
            by_hand.train(stop_after=back)
        by_hand = leaping(tmp_path / "by hand", monkeypatch, times=1.0)
        assert by_hand.resume()
        assert (by_hand.state.epoch, by_hand.state.batch) == (1, back - epoch)
        by_hand.state.batch = LEAP + 1
        by_hand.train()
        assert outcome(by_hand, tmp_path / "by hand") == outcome(trainer, tmp_path / "leaps")

    def test_a_kill_after_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        unbroken = leaping(tmp_path / "unbroken", monkeypatch)
        unbroken.train()
        killed = leaping(tmp_path / "killed", monkeypatch)
        go_back = killed._go_back

        def kill(*given: Any) -> None:
            go_back(*given)
            raise Crash

        monkeypatch.setattr(killed, "_go_back", kill)
        with pytest.raises(Crash):
            killed.train()
        again = leaping(tmp_path / "killed", monkeypatch)
        assert again.resume()
        again.train()
        assert "back to step" in said(again)
        assert outcome(again, tmp_path / "killed") == outcome(unbroken, tmp_path / "unbroken")

    @pytest.mark.parametrize("saved", [{}, {"save_every": None}, {"save_every": 7, "eval_every": 5}], ids=str)
    def test_a_stop_changes_nothing(
        self, saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither one nor several, whose checkpoints would push out that of step 7, which is not the best one."""
        unbroken = leaping(tmp_path / "unbroken", monkeypatch, **saved)
        leap = len(unbroken.train_dataloader) + LEAP + 1  # type: ignore[arg-type]
        unbroken.train()
        assert "back to step" in said(unbroken)
        expected = outcome(unbroken, tmp_path / "unbroken")
        lives = [1], [leap - 2], [leap - 1], [leap - 2, leap - 1], range(1, leap + 1)
        for number, after in enumerate(lives):
            folder = tmp_path / str(number)
            trainer = stopped(folder, monkeypatch, after=after, **saved)
            assert outcome(trainer, folder) == expected, f"stopped after {[*after]}"

    def test_a_stop_is_no_place_to_return_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before the first checkpoint that is due, nothing is undone, with stops or without."""
        trainer = stopped(tmp_path, monkeypatch, after=range(1, LEAP + 1), in_epoch=0, save_every=None)
        assert "back to step" not in said(trainer)
        assert trainer.state.step == 3 * len(trainer.train_dataloader)  # type: ignore[arg-type]

    def test_what_comes_after_the_place_of_return_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kill after it must not find the checkpoint of a stop, to which no record fits any more."""
        trainer = leaping(tmp_path, monkeypatch, save_every=None)
        epoch = len(trainer.train_dataloader)  # type: ignore[arg-type]
        with pytest.raises(Interrupted):
            trainer.train(stop_after=epoch + LEAP)
        trainer = leaping(tmp_path, monkeypatch, save_every=None)
        assert trainer.resume()
        assert trainer.state.step == epoch + LEAP
        go_back = trainer._go_back

        def kill(*given: Any) -> None:
            go_back(*given)
            raise Crash

        monkeypatch.setattr(trainer, "_go_back", kill)
        with pytest.raises(Crash):
            trainer.train()
        assert [path.name for path in ckpt.checkpoints(tmp_path / "checkpoints")] == [ckpt.name_of(epoch)]

    def test_returns_are_counted_over_stops_until_the_next_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unbroken = leaping(tmp_path / "unbroken", monkeypatch)
        leap = len(unbroken.train_dataloader) + LEAP + 1  # type: ignore[arg-type]
        unbroken.train()
        assert unbroken.state.returns == 0
        back = (leap - 1) // 2 * 2
        trainer = leaping(tmp_path / "stopped", monkeypatch)
        with pytest.raises(Interrupted):
            trainer.train(stop_after=back)
        trainer = leaping(tmp_path / "stopped", monkeypatch)
        assert trainer.resume()
        with pytest.raises(Interrupted):
            signalled_after_return(trainer).train()
        assert (trainer.state.step, trainer.state.returns) == (back + 1, 1)
        trainer = leaping(tmp_path / "stopped", monkeypatch)
        assert trainer.resume()
        assert trainer.state.returns == 1
        trainer.train()
        assert trainer.state.returns == 0
        assert outcome(trainer, tmp_path / "stopped") == outcome(unbroken, tmp_path / "unbroken")

    def test_a_place_of_return_that_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = leaping(tmp_path, monkeypatch, save_every=None)
        monkeypatch.setattr(rotation, "rotate", lambda folder, **_: shutil.rmtree(folder))
        step = len(trainer.train_dataloader)  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=f"the checkpoint of step {step} to return to is gone"):
            trainer.train()

    @pytest.mark.parametrize("how", ["in between", "at the last step", "at a signal"])
    def test_on_a_device_that_is_read_late(self, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of it may lie unread where training ends, nor take the next step's batches with it."""
        step = len(tiny_loader(24, max_tokens=40)) + LEAP + 1
        ends = {"max_steps": step} if how == "at the last step" else {}
        found = []
        for devices in ((), ("cpu",)):
            monkeypatch.setattr(update, "LATE_DEVICES", devices)
            folder = tmp_path / f"late on {devices}"
            trainer = leaping(folder, monkeypatch, save_every=None, log_every=1000, **ends)
            assert trainer.update.reads_late == bool(devices)
            if how == "at a signal" and devices:
                with pytest.raises(Interrupted, match="which is saved"):
                    signalled(trainer, at=step).train()
                trainer = leaping(folder, monkeypatch, save_every=None, log_every=1000, **ends)
                assert trainer.resume()
            trainer.train()
            assert f"step {step}: the loss is" in said(trainer)
            found.append(outcome(trainer, folder))
        assert found[0] == found[1]

    def test_it_goes_back_to_what_is_being_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        at_once = leaping(tmp_path / "at once", monkeypatch)
        at_once.train()
        trainer = leaping(tmp_path / "beside", monkeypatch)
        trainer.settings.save_in_background = True
        save, go_back, asked = ckpt.save_checkpoint, trainer.checkpoints.go_back, threading.Event()
        last = (len(trainer.train_dataloader) + LEAP) // 2 * 2  # type: ignore[arg-type]

        def late(folder: Path, step: int, *rest: Any, **options: Any) -> Path:
            assert step != last or asked.wait(30)
            return save(folder, step, *rest, **options)

        def noted(*given: Any) -> TrainState:
            asked.set()
            return go_back(*given)

        monkeypatch.setattr(ckpt, "save_checkpoint", late)
        monkeypatch.setattr(trainer.checkpoints, "go_back", noted)
        trainer.train()
        assert f"back to step {last}," in said(trainer)
        assert outcome(trainer, tmp_path / "beside") == outcome(at_once, tmp_path / "at once")

    def test_without_a_checkpoint_there_is_no_way_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = leaping(tmp_path, monkeypatch, in_epoch=0, save_every=None)
        trainer.train()
        assert "back to step" not in said(trainer)
        assert trainer.state.step == 3 * len(trainer.train_dataloader)  # type: ignore[arg-type]
