"""Resumed training equals training in one go, bit by bit: from every step, several times over, however interrupted."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from failing_calls import number_of_calls
from resuming import EPOCH, Crash, crashing, differences, make, placed, resumed, signalled, straight, trained
from tiny import tiny_model, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.doctor.faults import killed_at
from pytorch_dl.errors import CheckpointError, Interrupted, UserError
from pytorch_dl.files import MANIFEST, damage, write_json
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.trainer import OptimizedTrainer


class Counting(torch.optim.SGD):
    """Steps that grow smaller by what it counts in its groups, rather than by a parameter's own state."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            group["total"], group["is_odd"] = 0.0, False

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["total"] += group["k"] / 3
            group["is_odd"] = not group["is_odd"]
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"] * (1 + group["is_odd"]) / group["total"])


class TestEveryStep:
    @pytest.mark.parametrize("ema_decay", [0.0, 0.9], ids=["raw", "averaged"])
    @pytest.mark.parametrize("accumulation", [1, 3])
    @pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
    def test_is_a_place_to_resume(self, packed: bool, accumulation: int, ema_decay: float, tmp_path: Path) -> None:
        settings = {"gradient_accumulation_steps": accumulation, "ema_decay": ema_decay}
        whole = make(tmp_path / "whole", packed=packed, save_every=1, keep_checkpoints=99, **settings)
        expected = trained(whole)
        places = ckpt.checkpoints(tmp_path / "whole" / "checkpoints")
        assert len(places) == whole.state.step >= 3
        for number, place in enumerate(places):
            folder = placed(place, tmp_path / place.name)
            again = resumed(make(folder, packed=packed, workers=number % 3, **settings))
            lost = differences(trained(again), expected)
            assert not lost, f"{place.name}: {', '.join(lost)}"

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")
    def test_of_compiled_layers(self, tmp_path: Path) -> None:
        whole = make(tmp_path / "whole", packed=True, save_every=1, keep_checkpoints=99)
        whole.compile = True
        expected = trained(whole)
        assert whole.state.compiled and expected != straight(packed=True)
        places = ckpt.checkpoints(tmp_path / "whole" / "checkpoints")
        for place in (places[0], places[len(places) // 2]):
            again = resumed(
                make(placed(place, tmp_path / place.name), packed=True)
            )  # which does not ask for it: the state does
            assert trained(again) == expected, place.name

    def test_after_killed_lives_of_three_steps(self, tmp_path: Path) -> None:
        settings = {"ema_decay": 0.9, "save_every": 2}
        expected = straight(**settings)
        folder, lives, lost = tmp_path / "killed", 0, []
        while True:
            trainer = make(folder, **settings)
            if lives:
                resumed(trainer)
            crashing(trainer, after=3)
            begun = trainer.state.step
            try:
                assert trained(trainer) == expected
                break
            except Crash:
                lives += 1
                lost.append(begun + 3 - trainer.checkpoints.saved_step)
        assert lives >= 3
        assert max(lost) <= 2

    def test_twice_at_one_place(self, tmp_path: Path) -> None:
        expected = straight(save_every=4)
        folder = tmp_path / "killed"
        with pytest.raises(Crash):
            crashing(make(folder, save_every=4), after=7).train()
        for _ in range(2):
            with pytest.raises(Crash):
                crashing(resumed(make(folder, save_every=4)), after=1).train()
        assert trained(resumed(make(folder, save_every=4))) == expected

    def test_of_a_finished_run_nothing_is_left_to_do(self, tmp_path: Path) -> None:
        expected = trained(make(tmp_path, ema_decay=0.9, save_every=3))
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
        again = crashing(resumed(make(tmp_path, ema_decay=0.9, save_every=3)), after=0)
        assert trained(again) == expected
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before

    def test_with_what_draws_from_the_generator(self, tmp_path: Path) -> None:
        """Attention dropout, and a user's layer, use torch's generators, of which no checkpoint holds the state."""

        def drawing(folder: Path) -> OptimizedTrainer:
            trainer = make(folder, save_every=1, keep_checkpoints=99, gradient_accumulation_steps=2)
            for layer in (*trainer.model.encoder_layers, *trainer.model.decoder_layers):
                layer.self_attention.dropout = 0.3
            return trainer

        expected = trained(drawing(tmp_path / "whole"))
        assert expected != straight(save_every=1, keep_checkpoints=99, gradient_accumulation_steps=2)
        for place in ckpt.checkpoints(tmp_path / "whole" / "checkpoints"):
            folder = placed(place, tmp_path / place.name)
            assert trained(resumed(drawing(folder))) == expected, place.name

    def test_with_what_counts_in_a_buffer(self, tmp_path: Path) -> None:
        """A user's layer that counts its passes, in which what is tried beside the training does not count."""

        def count(layer: torch.nn.Module, _: object) -> None:
            layer.passes += layer.training

        def counting(folder: Path) -> OptimizedTrainer:
            trainer = make(folder, save_every=1, keep_checkpoints=99)
            layer = trainer.model.encoder_layers[0]
            layer.register_buffer("passes", torch.zeros(()))
            layer.register_forward_pre_hook(count)
            return trainer

        whole = counting(tmp_path / "whole")
        expected = trained(whole)
        last = ckpt.checkpoints(tmp_path / "whole" / "checkpoints")
        passes = ckpt.read_tensors(last[0] / ckpt.MODEL)["encoder_layers.0.passes"]
        assert passes == whole.state.step
        for place in last:
            folder = placed(place, tmp_path / place.name)
            again = counting(folder)
            assert again.resume()
            assert trained(again) == expected, place.name

    def test_with_an_optimizer_that_counts_in_its_groups(self, tmp_path: Path) -> None:
        """As schedule-free optimizers do; one of the numbers is there only once a step was done."""

        def counting(folder: Path) -> OptimizedTrainer:
            model, settings = tiny_model(), {"num_epochs": 2, "save_every": 1, "keep_checkpoints": 99}
            return tiny_trainer(folder, model=model, optimizer=Counting(model.parameters()), settings=settings)

        whole = counting(tmp_path / "whole")
        expected = trained(whole)
        places = ckpt.checkpoints(tmp_path / "whole" / "checkpoints")
        assert len(places) == whole.state.step >= 8
        for place in (places[0], places[3], places[-1]):
            again = resumed(counting(placed(place, tmp_path / place.name)))
            (group,) = again.update.optimizer.param_groups
            assert (group["k"], group["is_odd"]) == (again.state.step, again.state.step % 2 == 1)
            assert [type(group[name]) for name in ("k", "total", "is_odd")] == [int, float, bool]
            assert trained(again) == expected, place.name

    @pytest.mark.parametrize("stop", [4, 5, 8, 9])
    def test_in_the_middle_of_patience(self, stop: int, tmp_path: Path) -> None:
        """Validations that were no better still count, and so does the best so far: training ends at the same step."""

        def impatient(folder: Path) -> OptimizedTrainer:
            trainer = make(folder, eval_every=2, max_steps=40, early_stopping_patience=3)
            losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 1.0}
            trainer.validate = lambda: ({"val_loss": losses[trainer.state.step]}, [])  # type: ignore[method-assign]
            return trainer

        expected = trained(whole := impatient(tmp_path / "whole"))
        assert (whole.state.step, whole.state.best_step, whole.state.stale_validations) == (10, 4, 3)
        with pytest.raises(Interrupted):
            impatient(tmp_path / "stopped").train(stop_after=stop)
        again = resumed(impatient(tmp_path / "stopped"))
        stale = (stop - 4) // 2
        assert (again.state.best_step, again.state.best_value, again.state.stale_validations) == (4, 1.0, stale)
        assert trained(again) == expected
        assert again.state.step == 10
        assert "no better val_loss in 3 validations" in again.reporter.progress.console.file.getvalue()

    def test_dropout_is_not_a_draw(self, tmp_path: Path) -> None:
        """The oracle sees dropout: with another seed of it, other weights come out."""
        first, second = make(tmp_path / "1"), make(tmp_path / "2")
        second.seed = 2
        assert trained(first) != trained(second)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.parametrize("at", [1, 3, EPOCH, 3 * EPOCH], ids=lambda step: f"step {step}")
    def test_during_a_step(self, at: int, number: int, tmp_path: Path) -> None:
        expected = straight(ema_decay=0.9)
        trainer = signalled(make(tmp_path / "run", ema_decay=0.9), at=at, number=number)
        handlers = signal.getsignal(number)
        with pytest.raises(Interrupted) as caught:
            trainer.train()
        assert str(caught.value) == (
            f"{tmp_path / 'run'}: stopped by signal {number} at step {at}, which is saved. "
            f"Fix: go on with `pytorch-dl resume {tmp_path / 'run'}`."
        )
        assert caught.value.exit_code == 75
        assert signal.getsignal(number) == handlers
        again = resumed(make(tmp_path / "run", ema_decay=0.9))
        assert again.state.step == at, "nothing is lost"
        assert trained(again) == expected

    @pytest.mark.parametrize("ema_decay", [0.0, 0.9], ids=["raw", "averaged"])
    @pytest.mark.parametrize("validation", [1, 2, 3])
    @pytest.mark.parametrize("where", ["loss", "decode"])
    def test_during_a_validation(self, validation: int, where: str, ema_decay: float, tmp_path: Path) -> None:
        expected = straight(ema_decay=ema_decay)
        trainer = make(tmp_path / "run", ema_decay=ema_decay)
        count = iter(range(1, 99))

        def come() -> None:
            if next(count) == validation:
                os.kill(os.getpid(), signal.SIGTERM)

        if where == "decode":

            def decode(model: Any, poll: Callable[[], None]) -> Any:
                come()
                poll()
                return type("Decoded", (), {"scores": {}, "samples": []})

            trainer.decode = decode
        else:
            batches = trainer.val_dataloader.batches

            def interrupted_batches(epoch: int, start: int) -> Iterator[Batch]:
                come()
                yield from batches(epoch, start)

            trainer.val_dataloader.batches = interrupted_batches
        with pytest.raises(Interrupted, match=f"at step {EPOCH * validation}, which is saved"):
            trainer.train()
        again = resumed(make(tmp_path / "run", ema_decay=ema_decay))
        assert again.state.step == EPOCH * validation
        assert trained(again) == expected

    def test_during_the_last_save(self, tmp_path: Path) -> None:
        expected, last = straight(), 3 * EPOCH
        trainer = make(tmp_path / "run")
        save = trainer.save

        def interrupted_save() -> None:
            if trainer.state.step == last:
                os.kill(os.getpid(), signal.SIGTERM)
            save()

        trainer.save = interrupted_save  # type: ignore[method-assign]
        with pytest.raises(Interrupted, match=f"at step {last}, which is saved"):
            trainer.train()
        assert trained(resumed(make(tmp_path / "run"))) == expected

    def test_at_the_start(self, tmp_path: Path) -> None:
        trainer = make(tmp_path / "run")
        stop = trainer._stop
        real = type(stop).__enter__

        class Sooner(type(stop)):  # type: ignore[misc]
            def __enter__(self) -> Any:
                entered = real(self)
                os.kill(os.getpid(), signal.SIGTERM)
                return entered

        trainer._stop = Sooner()
        with pytest.raises(Interrupted, match="before the first step; nothing had to be saved"):
            trainer.train()
        assert not make(tmp_path / "run").resume()
        assert trained(make(tmp_path / "run")) == straight()

    def test_without_a_checkpoint_folder(self) -> None:
        with pytest.raises(Interrupted, match="at step 2; nothing was saved, as there is no checkpoint_dir"):
            signalled(tiny_trainer(), at=2).train()

    def test_the_same_trainer_goes_on(self, tmp_path: Path) -> None:
        trainer = signalled(make(tmp_path / "run"), at=3)
        with pytest.raises(Interrupted):
            trainer.train()
        assert trained(trainer) == straight()


class TestKilledWhileSaving:
    """At each call of a save in turn: there are always two whole checkpoints once there were, and the best is one."""

    def saved(self, folder: Path) -> OptimizedTrainer:
        """A trainer that has saved the steps 1, 2 and 3, of which 1 is the best."""
        trainer = make(folder, ema_decay=0.9, keep_checkpoints=2)
        for trainer.state.step in (1, 2, 3):
            trainer.state.best_step, trainer.state.seconds = 1, 0.0
            trainer.save()
        return trainer

    @pytest.mark.parametrize("step", [3, 4], ids=["again", "the next"])
    def test_old_or_new(self, step: int, tmp_path: Path) -> None:
        trainer, number, seconds = self.saved(tmp_path / "saved"), 0, []
        trainer.state.step, trainer.state.seconds = step, 7.0
        trainer.checkpoints.folder = tmp_path / "run" / "checkpoints"
        probe = make(tmp_path / "run", ema_decay=0.9)
        while True:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(tmp_path / "saved", tmp_path / "run")
            if not killed_at(number + 1, trainer.save):
                break
            number += 1
            assert probe.resume()
            assert not list(trainer.checkpoint_dir.glob(".*"))
            seconds.append(probe.state.seconds)
            whole = [path.name[-1] for path in ckpt.checkpoints(trainer.checkpoint_dir) if damage(path) is None]
            assert whole in (["3", "2", "1"], ["4", "3", "2", "1"], ["4", "3", "1"])
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "saved", tmp_path / "run")
        assert number == number_of_calls(trainer.save) > 20
        assert seconds == sorted(seconds)
        assert set(seconds) == {0.0, 7.0}


def scaler(**fields: float) -> dict[str, Any]:
    """Of a state of training in fp16, whose scaler has these fields changed."""
    begun = torch.amp.GradScaler("cpu")
    begun.scale(torch.zeros(()))  # makes its scale
    return {"precision": "fp16", "scaler": {**begun.state_dict(), **fields}}


def with_state(run: Path, values: dict[str, Any]) -> Path:
    """Change the state of the newest checkpoint, and its sums with it, as someone who wants to deceive would."""
    newest = ckpt.checkpoints(run / "checkpoints")[0]
    write_json(newest / ckpt.STATE, {**ckpt.read_state(newest), **values})
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in newest.glob("*.*")}
    del sums[MANIFEST]
    write_json(newest / MANIFEST, sums)
    return newest


class TestDamage:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """A run killed after step 5, with checkpoints of steps 2 and 4."""
        with pytest.raises(Crash):
            crashing(make(tmp_path / "run", save_every=2), after=5).train()
        assert [path.name[-1] for path in ckpt.checkpoints(tmp_path / "run" / "checkpoints")] == ["4", "2"]
        return tmp_path / "run"

    def test_the_checkpoint_before_is_used_and_that_is_said(self, run: Path) -> None:
        newest = ckpt.checkpoints(run / "checkpoints")[0]
        (newest / ckpt.AVERAGE).write_bytes(b"")  # not in the manifest: harmless
        (newest / ckpt.OPTIMIZER).write_bytes(b"torn")
        trainer = resumed(make(run, save_every=2))
        assert trainer.state.step == 2
        said = trainer.reporter.progress.console.file.getvalue()
        assert "skipping checkpoint step-00000004: optimizer.safetensors does not match its checksum" in said
        assert trained(trainer) == straight(save_every=2)

    def test_a_damaged_one_does_not_push_out_a_whole_one(self, run: Path) -> None:
        (ckpt.checkpoints(run / "checkpoints")[0] / MANIFEST).unlink()
        trainer = crashing(resumed(make(run, save_every=1)), after=1)
        with pytest.raises(Crash):
            trainer.train()
        found = ckpt.checkpoints(run / "checkpoints")
        assert [(path.name[-1], damage(path)) for path in found] == [("3", None), ("2", None)]

    def test_a_folder_with_another_step_s_name(self, run: Path) -> None:
        newest = ckpt.checkpoints(run / "checkpoints")[0]
        shutil.copytree(newest, newest.with_name("step-00000009"))
        with pytest.raises(CheckpointError, match="step-00000009: its state is of step 4"):
            make(run).resume()

    def test_a_folder_that_only_looks_like_a_checkpoint(self, run: Path) -> None:
        newest, older = ckpt.checkpoints(run / "checkpoints")
        for name in ("step-goodcopy", "step-000000\u0669\u0669", "step-00000002x"):
            shutil.copytree(older, older.with_name(name))
        assert ckpt.checkpoints(run / "checkpoints") == [newest, older]
        assert resumed(make(run)).state.step == 4

    def test_the_best_of_the_one_before_is_there_when_the_newest_is_damaged(self, tmp_path: Path) -> None:
        """Training goes on from step 6 after a new best at 8, and ends with what was best until then."""

        def scripted() -> OptimizedTrainer:
            trainer = make(tmp_path, eval_every=2, max_steps=10)
            losses = {2: 1.0, 4: 2.0, 6: 3.0, 8: 0.5, 10: 4.0}
            trainer.validate = lambda: ({"val_loss": losses[trainer.state.step]}, [])  # type: ignore[method-assign]
            return trainer

        with pytest.raises(Interrupted):
            scripted().train(stop_after=8)
        assert [path.name[-1] for path in ckpt.checkpoints(tmp_path / "checkpoints")] == ["8", "6", "2"]
        (tmp_path / "checkpoints" / ckpt.name_of(8) / ckpt.MODEL).write_bytes(b"torn")
        again = resumed(scripted())
        assert (again.state.step, again.state.best_step) == (6, 2)
        again.settings.time_limit = 1e-9
        again.train()
        best = ckpt.weights_of(tmp_path / "checkpoints", 2)
        assert all(torch.equal(best[name], parameter) for name, parameter in again.model.named_parameters())

    def scripted(self, folder: Path, **settings: Any) -> OptimizedTrainer:
        """The best validation is that of step 2; of those in the last three checkpoints, that of step 10."""
        trainer = make(folder, eval_every=2, max_steps=12, keep_checkpoints=3, **settings)
        losses = {2: 1.0, 4: 2.0, 6: 3.0, 8: 6.0, 10: 4.0, 12: 5.0}
        trainer.validate = lambda: ({"val_loss": self.loss_of(trainer, losses)}, [])  # type: ignore[method-assign]
        return trainer

    def loss_of(self, trainer: OptimizedTrainer, losses: dict[int, float]) -> float:
        """At the end of training, of the checkpoint whose weights the model has."""
        if not trainer.best.are_in_use:
            return losses[trainer.state.step]
        assert trainer.checkpoint_dir
        now = trainer.model.state_dict()
        for path in ckpt.checkpoints(trainer.checkpoint_dir):
            if all(torch.equal(now[name], it) for name, it in ckpt.read_tensors(path / ckpt.MODEL).items()):
                return losses[int(path.name[-8:])]
        return 7.0  # an average

    @pytest.mark.parametrize("average", [0, 3])
    def test_a_damaged_best_one_does_not_block_the_run(self, average: int, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            self.scripted(tmp_path, average_checkpoints=average).train(stop_after=8)
        best = tmp_path / "checkpoints" / ckpt.name_of(2)
        content = bytearray((best / ckpt.MODEL).read_bytes())
        content[-1] ^= 1
        (best / ckpt.MODEL).write_bytes(content)
        damaged = "is damaged (model.safetensors does not match its checksum)"
        for _ in range(2):
            again = resumed(self.scripted(tmp_path, average_checkpoints=average))
            said = again.reporter.progress.console.file
            assert said.getvalue().splitlines() == [
                f"warning: the best checkpoint so far, step-00000002, {damaged}: restore it from a backup, or training "
                "ends with the best of the others, if no better one comes"
            ]
            again.train()
            assert [path.name[-2:] for path in ckpt.checkpoints(tmp_path / "checkpoints")] == ["12", "10", "08", "02"]
            assert (again.state.step, again.state.best_step, again.state.best_value) == (12, 10, 4.0)
            kept = ckpt.weights_of(tmp_path / "checkpoints", 10)
            assert all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in kept.items())
            assert (
                f"warning: the best checkpoint, step-00000002, {damaged}: training ends with "
                "step-00000010, the best of 3 that are whole\n"
            ) in said.getvalue()
            verdict = "average of the last 3 checkpoints: val_loss 7.0000, not better than 4.0000\n"
            assert (verdict in said.getvalue()) == bool(average)
        last = ckpt.read_train_state(ckpt.checkpoints(tmp_path / "checkpoints")[0])
        assert (last.best_step, last.best_value) == (2, 1.0), "where it is restored from a backup, it is the best again"

    def test_a_better_one_makes_up_for_a_damaged_best_one(self, tmp_path: Path) -> None:
        trainer = self.scripted(tmp_path)
        with pytest.raises(Interrupted):
            trainer.train(stop_after=8)
        (tmp_path / "checkpoints" / ckpt.name_of(2) / MANIFEST).unlink()
        again = resumed(self.scripted(tmp_path))
        again.validate = lambda: ({"val_loss": 0.5}, [])  # type: ignore[method-assign]
        again.train()
        assert again.state.best_step == 10
        assert again.reporter.progress.console.file.getvalue().count("damaged") == 1

    def test_without_validation_the_last_whole_one_is_used(self, tmp_path: Path) -> None:
        """The last is the best then: it is damaged between its save and its use."""
        trainer = make(tmp_path, save_every=1)
        trainer.val_dataloader, wait = None, trainer.checkpoints.wait_together

        def damaging() -> None:
            wait()
            (tmp_path / "checkpoints" / ckpt.name_of(trainer.state.step) / ckpt.MODEL).write_bytes(b"torn")

        trainer.checkpoints.wait_together = damaging  # type: ignore[method-assign]
        trainer.train()
        assert trainer.state.best_step == trainer.state.step - 1
        kept = ckpt.weights_of(tmp_path / "checkpoints", trainer.state.best_step)
        assert all(torch.equal(tensor, trainer.model.state_dict()[name]) for name, tensor in kept.items())

    def test_none_whole(self, run: Path) -> None:
        for path in ckpt.checkpoints(run / "checkpoints"):
            (path / ckpt.STATE).write_text("{}")
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole"):
            make(run).resume()
        with pytest.raises(CheckpointError, match="the folder already holds checkpoints"):
            make(run).train()

    def test_a_run_that_was_begun_is_not_begun_again(self, run: Path) -> None:
        with pytest.raises(CheckpointError, match=r"call resume\(\) before train\(\), or choose another folder"):
            make(run).train()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"step": -3}, "state step: "),
            ({"precision": "fp8"}, "state precision: "),
            ({"scaler": {"scale": 2.0}}, r"scaler of fp32 training has the fields \['scale'\]"),
            ({"precision": "fp16"}, r"scaler of fp16 training has the fields \[\]"),
            ({"precision": "fp16", "scaler": {"scale": 2.0}}, r"scaler of fp16 training has the fields \['scale'\]"),
            (scaler(scale=0), "scaler of fp16 training: scale is 0"),
            (scaler(scale=1e39), r"scaler of fp16 training: scale is 1e\+39"),
            (scaler(growth_interval=0), "scaler of fp16 training: growth_interval is 0"),
            (scaler(backoff_factor=1e300), r"scaler of fp16 training: backoff_factor is 1e\+300"),
            (scaler(_growth_tracker=0.5), "scaler of fp16 training: _growth_tracker is 0.5"),
            (scaler(_growth_tracker=2**53), "scaler of fp16 training: _growth_tracker is 9007199254740992"),
            (scaler(_growth_tracker=-1), "scaler of fp16 training: _growth_tracker is -1"),
        ],
    )
    def test_a_hostile_state(self, values: dict[str, Any], message: str, run: Path) -> None:
        newest = with_state(run, values)
        with pytest.raises(CheckpointError, match=f"{newest.name}: {message}"):
            make(run).resume()

    def test_no_number_of_a_state_is_a_bug(self, tmp_path: Path) -> None:
        """Large and small ones in each field: training ends, or what is wrong is said."""
        settings = {"mixed_precision": "fp16", "undo_loss_spikes": 3.0}
        with pytest.raises(Interrupted):
            make(tmp_path / "run", save_every=1, **settings).train(stop_after=6)
        state = ckpt.read_state(ckpt.checkpoints(tmp_path / "run" / "checkpoints")[0])
        numbers = [name for name, value in state.items() if type(value) in (int, float)]
        inside = [(part, name) for part in ("since_log", "this_epoch", "scaler") for name in state[part]]
        refused = []
        for part, name in [*(("", name) for name in numbers), *inside]:
            for value in (0, 2**53, 1e12, 1e300, 1e308, -1e300):
                folder = Path(shutil.copytree(tmp_path / "run", tmp_path / f"{part}-{name}-{value}"))
                with_state(folder, {part: {**state[part], name: value}} if part else {name: value})
                trainer = make(folder, time_limit=1e9, **settings)
                try:
                    trainer.resume()
                    trainer.train()
                except UserError as error:
                    refused.append(error)
        assert len(numbers) > 8 and len(inside) > 13
        assert 0 < len(refused) < 4 * (len(numbers) + len(inside))

    def test_another_model(self, run: Path) -> None:
        trainer = make(run)
        other = tiny_trainer(run, model=tiny_model(d_ff=8))
        with pytest.raises(CheckpointError, match=r"step-00000004: tensor .* has shape .*, the model expects"):
            other.resume()
        assert trainer.resume()

    def test_a_moving_average_that_is_switched_on_begins_with_the_weights(self, run: Path) -> None:
        trainer = resumed(make(run, ema_decay=0.5, max_steps=6))
        weights = ckpt.read_tensors(run / "checkpoints" / ckpt.name_of(4) / ckpt.MODEL)
        assert trainer.update.average is not None
        assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.update.average.weights.items())
        said = trainer.reporter.progress.console.file.getvalue()
        assert "the checkpoint holds no moving average of the weights: it begins at step 4\n" in said
        trainer.train()
        again = resumed(make(run, ema_decay=0.5, max_steps=6))
        assert "moving average" not in again.reporter.progress.console.file.getvalue()
        assert (run / "checkpoints" / ckpt.name_of(6) / ckpt.AVERAGE).exists()

    def test_a_record_that_is_gone_is_not_filled_with_zeros(self, run: Path) -> None:
        size = (run / METRICS).stat().st_size
        (run / METRICS).unlink()
        trainer = resumed(make(run))
        had = trainer.state.metrics_position
        assert 0 < had <= size
        trainer.train()
        assert (run / METRICS).read_text().startswith('{"step": 5, ')
        said = trainer.reporter.progress.console.file.getvalue()
        told = (
            f"warning: {run / METRICS}, of 0 bytes, is not as it was at the checkpoint of step 4, which had {had:,}: "
        )
        assert f"{told}another one begins\n" in said

    @pytest.mark.parametrize("kind", ["shorter", "another", "longer"])
    def test_another_record_is_set_aside_as_it_is(self, run: Path, kind: str) -> None:
        """One that has lost its end, and those of another training in the same folder."""
        own = (run / METRICS).read_bytes()
        lines = own.splitlines(keepends=True)
        others = {
            "shorter": lines[0] + b'{"step": 2, "ki',
            "another": own.replace(b"2", b"3"),
            "longer": lines[0] + own,
        }
        (run / METRICS).write_bytes(others[kind])
        trainer = resumed(make(run))
        trainer.train()
        assert (run / "metrics.1.jsonl").read_bytes() == others[kind]
        straight_on = [line for line in lines if json.loads(line)["step"] > 4]
        assert (run / METRICS).read_bytes().splitlines(keepends=True)[: len(straight_on)] == straight_on
        said = trainer.reporter.progress.console.file.getvalue()
        assert (
            said.count("warning: ") == 1 and f"it is kept as {run / 'metrics.1.jsonl'}, and another one begins" in said
        )

    def test_a_torn_last_line_of_the_record_is_cut(self, run: Path) -> None:
        with open(run / METRICS, "a") as file:
            file.write('{"step": 5, "ki')
        assert trained(resumed(make(run, save_every=2))) == straight(save_every=2)


def test_without_a_checkpoint_folder_there_is_nothing_to_resume() -> None:
    with pytest.raises(ValueError, match="nothing to resume from without a checkpoint_dir"):
        tiny_trainer().resume()
