"""A loss that leaps takes training back to its last checkpoint, and on without the batches since."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_loader, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import Interrupted, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
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
        watch = SpikeWatch(2.0)
        for _ in range(MOST_RETURNS):
            watch.count_return(12)
        watch.count_return(14)
        with pytest.raises(NonFiniteError, match=f"from step 12: it went back {MOST_RETURNS} times"):
            watch.count_return(12)


class Crash(Exception):
    """Stands for a process that is killed."""


def leaping(
    folder: Path, patched: pytest.MonkeyPatch, *, in_epoch: int = 1, times: float = 3.0, **settings: Any
) -> OptimizedTrainer:
    """A trainer of three epochs, in one of which the loss of one batch is some times as high as it should be."""
    given = {"num_epochs": 3, "save_every": 2, "undo_loss_spikes": 1.5, "ema_decay": 0.9, **settings}
    loader = tiny_loader(24, max_tokens=40)
    trainer = tiny_trainer(folder, settings=given, train_dataloader=loader)
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

    def test_it_goes_back_to_what_is_being_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        at_once = leaping(tmp_path / "at once", monkeypatch)
        at_once.train()
        trainer = leaping(tmp_path / "beside", monkeypatch)
        trainer.settings.save_in_background = True
        save, restore, asked = ckpt.save_checkpoint, trainer.checkpoints.restore, threading.Event()
        last = (len(trainer.train_dataloader) + LEAP) // 2 * 2  # type: ignore[arg-type]

        def late(folder: Path, step: int, *rest: Any, **options: Any) -> Path:
            assert step != last or asked.wait(30)
            return save(folder, step, *rest, **options)

        def noted(*given: Any) -> TrainState | None:
            asked.set()
            return restore(*given)

        monkeypatch.setattr(ckpt, "save_checkpoint", late)
        monkeypatch.setattr(trainer.checkpoints, "restore", noted)
        trainer.train()
        assert f"back to step {last}," in said(trainer)
        assert outcome(trainer, tmp_path / "beside") == outcome(at_once, tmp_path / "at once")

    def test_without_a_checkpoint_there_is_no_way_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = leaping(tmp_path, monkeypatch, in_epoch=0, save_every=None)
        trainer.train()
        assert "back to step" not in said(trainer)
        assert trainer.state.step == 3 * len(trainer.train_dataloader)  # type: ignore[arg-type]
