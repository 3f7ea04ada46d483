"""What the trainer does over many steps: when it ends, what it keeps, which weights it leaves, what it accepts."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import QUIET, VOCAB, silent, tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation
from pytorch_dl.training.accumulation import groups, steps_per_epoch
from pytorch_dl.training.ending import end_reason, seconds_left
from pytorch_dl.training.signals import StopNow, StopRequest
from pytorch_dl.training.train_state import TrainState
from pytorch_dl.training.trainer import OptimizedTrainer, create_trainer
from pytorch_dl.training.validation import Decoded


def said(trainer: OptimizedTrainer) -> str:
    text: str = trainer.reporter.progress.console.file.getvalue()  # type: ignore[attr-defined]
    return text


def steps_of(folder: Path) -> list[int]:
    return [int(path.name[-8:]) for path in ckpt.checkpoints(folder / "checkpoints")]


def scripted(trainer: OptimizedTrainer, values: list[float], *, metric: str = "val_loss") -> OptimizedTrainer:
    """The trainer, whose validations give these values of the metric."""
    left = iter(values)
    trainer.validate = lambda: ({"val_loss": 1.0, "val_ppl": 2.0, metric: next(left)}, [])  # type: ignore[method-assign]
    return trainer


def same_weights(model: OptimizedTransformer, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())


class TestEnding:
    def test_after_the_epochs(self) -> None:
        trainer = tiny_trainer()
        state = trainer.train(num_epochs=3)
        assert (state.epoch, state.batch) == (3, 0)
        assert state.step == sum(len(trainer.train_dataloader.plan(epoch)) for epoch in range(3))
        assert "training ended: all epochs are done" in said(trainer)

    def test_epochs_of_the_settings(self) -> None:
        assert tiny_trainer(settings={"num_epochs": 1}).train().epoch == 1

    def test_after_max_steps_in_place_of_epochs(self) -> None:
        trainer = tiny_trainer(settings={"max_steps": 30, "num_epochs": 1})
        state = trainer.train()
        assert state.step == 30
        assert state.epoch > 1
        assert "training ended: all steps are done" in said(trainer)

    def test_after_the_time(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, settings={"time_limit": 1e-6})
        state = trainer.train()
        assert state.step == state.validated_step == 1
        assert steps_of(tmp_path) == [1]
        assert "training ended: the time limit of 0:00 is reached" in said(trainer)

    def test_saving_takes_time_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = tiny_trainer(tmp_path, settings={"time_limit": 1000.0, "save_every": 1, "max_steps": 9})
        clock, rotate = [0.0], rotation.rotate

        def slow(*arguments: Any, **options: Any) -> None:
            clock[0] += 400.0
            rotate(*arguments, **options)

        monkeypatch.setattr(rotation, "rotate", slow)
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        assert trainer.train().step == 3
        assert "the time limit of 16:40 is reached" in said(trainer)

    @pytest.mark.parametrize("saved", [False, True], ids=["in memory", "saved"])
    def test_no_epochs_are_none(self, saved: bool, tmp_path: Path) -> None:
        assert tiny_trainer(tmp_path if saved else None).train(num_epochs=0).step == 0
        assert steps_of(tmp_path) == []

    @pytest.mark.parametrize(
        ("metric", "values"),
        [
            ("val_loss", [3.0, 2.0, 2.5, 2.0, 2.1]),
            ("bleu", [1.0, 9.0, 2.0, 9.0, 8.9]),
            ("chrf", [1.0, 9.0, 2.0, 9.0, 8.9]),
            ("exact_match", [0.0, 0.5, 0.0, 0.5, 0.1]),
        ],
    )
    def test_without_progress(self, metric: str, values: list[float]) -> None:
        settings = {"eval_every": 2, "early_stopping_patience": 3, "early_stopping_metric": metric, "max_steps": 99}
        trainer = tiny_trainer(settings=settings, decode=lambda model, poll: Decoded({}, []))
        state = scripted(trainer, values, metric=metric).train()
        assert (state.step, state.best_step, state.best_value) == (10, 4, values[1])
        assert f"training ended: no better {metric} in 3 validations" in said(trainer)

    def test_decoded_scores_decide(self) -> None:
        scores = iter([0.1, 0.3, 0.2, 0.25])

        def decode(model: OptimizedTransformer, poll: Callable[[], None]) -> Decoded:
            assert not model.training
            poll()
            return Decoded({"bleu": next(scores)}, [])

        settings = {"eval_every": 1, "early_stopping_patience": 2, "early_stopping_metric": "bleu", "max_steps": 99}
        state = tiny_trainer(settings=settings, decode=decode).train()
        assert (state.step, state.best_step, state.best_value) == (4, 2, 0.3)

    def test_a_score_that_nobody_computes(self) -> None:
        with pytest.raises(ConfigError, match=r"early_stopping_metric: chrf needs translations\. Fix: give `decode`"):
            tiny_trainer(settings={"early_stopping_metric": "chrf"})
        tiny_trainer(settings={"early_stopping_metric": "chrf"}, val_dataloader=None)

    def test_small_progress_is_none(self) -> None:
        settings = {"eval_every": 1, "early_stopping_patience": 2, "early_stopping_min_delta": 0.5, "max_steps": 99}
        assert scripted(tiny_trainer(settings=settings), [3.0, 2.8, 2.6, 2.4]).train().step == 3

    @pytest.mark.parametrize(
        ("state", "settings", "reason"),
        [
            (TrainState(step=5), {"max_steps": 5}, "all steps are done"),
            (TrainState(step=4, epoch=9), {"max_steps": 5}, None),
            (TrainState(epoch=2), {}, "all epochs are done"),
            (TrainState(epoch=1, batch=7), {}, None),
            (TrainState(seconds=3600.0), {"time_limit": "1h"}, "the time limit of 1:00:00 is reached"),
            (TrainState(stale_validations=9), {}, None),
        ],
    )
    def test_reasons(self, state: TrainState, settings: dict[str, Any], reason: str | None) -> None:
        assert end_reason(state, TrainingConfig(**settings), 2) == reason

    def test_time_left(self) -> None:
        state = TrainState(step=10, seconds=20.0)
        assert seconds_left(state, TrainingConfig(), 40) == 60.0
        assert seconds_left(state, TrainingConfig(time_limit=30), 40) == 10.0
        assert seconds_left(state, TrainingConfig(time_limit=5), 40) == 0.0
        assert seconds_left(TrainState(), TrainingConfig(), 40) == 0.0


class TestKeeping:
    def test_newest_and_best(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, settings={"eval_every": 2, "max_steps": 12, "keep_checkpoints": 2})
        scripted(trainer, [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]).train()
        assert steps_of(tmp_path) == [12, 10, 4]
        assert same_weights(trainer.model, ckpt.weights_of(tmp_path / "checkpoints", 4))

    def test_between_validations(self, tmp_path: Path) -> None:
        settings = {"eval_every": 5, "save_every": 2, "max_steps": 7, "keep_checkpoints": 9}
        tiny_trainer(tmp_path, settings=settings).train()
        assert steps_of(tmp_path) == [7, 6, 5, 4, 2]

    def test_never_less_than_two(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="greater than or equal to 2"):
            tiny_trainer(tmp_path, settings={"keep_checkpoints": 1})

    def test_without_validation_the_last_is_used(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, val_dataloader=None, settings={"max_steps": 5, "ema_decay": 0.5})
        state = trainer.train()
        assert (state.best_step, state.best_value) == (5, None)
        assert same_weights(trainer.model, ckpt.weights_of(tmp_path / "checkpoints", 5))

    def test_the_moving_average_is_validated_and_used(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, settings={"num_epochs": 2, "ema_decay": 0.9})
        state = trainer.train()
        last = tmp_path / "checkpoints" / f"step-{state.best_step:08d}"
        average, raw = ckpt.read_tensors(last / ckpt.AVERAGE), ckpt.read_tensors(last / ckpt.MODEL)
        assert same_weights(trainer.model, average)
        assert not same_weights(trainer.model, raw)
        plain = tiny_trainer(model=trainer.model)
        assert plain.validate()[0]["val_loss"] == state.best_value

    def test_without_a_folder_the_moving_average_is_used(self) -> None:
        trainer = tiny_trainer(settings={"max_steps": 4, "ema_decay": 0.9})
        trainer.train()
        assert trainer.update.average is not None
        assert not same_weights(trainer.model, trainer.update.average.weights), "which now holds the raw ones"
        assert tiny_trainer(model=trainer.model).validate()[0]["val_loss"] == trainer.state.best_value

    @pytest.mark.parametrize("ema_decay", [0.0, 0.9])
    @pytest.mark.parametrize(("value", "used"), [(0.5, True), (1.0, False), (1.5, False)])
    def test_an_average_of_checkpoints_must_be_better(
        self, value: float, used: bool, ema_decay: float, tmp_path: Path
    ) -> None:
        settings = {"eval_every": 2, "max_steps": 8, "average_checkpoints": 3, "ema_decay": ema_decay}
        trainer = tiny_trainer(tmp_path, settings=settings)
        scripted(trainer, [2.0, 1.0, 3.0, 3.0, value]).train()
        folder = tmp_path / "checkpoints"
        assert steps_of(tmp_path) == [8, 6, 4], "as many as are averaged"
        mean = ckpt.averaged(trainer.model, ckpt.checkpoints(folder))
        expected = mean if used else ckpt.weights_of(folder, 4)
        assert same_weights(trainer.model, expected)
        verdict = "used" if used else "not better than 1.0000"
        assert f"average of the last 3 checkpoints: val_loss {value:.4f}, {verdict}" in said(trainer)
        assert trainer.best.are_average == used
        assert (trainer.update.average is not None) == bool(ema_decay)

    def test_an_average_that_is_hardly_better_is_not(self, tmp_path: Path) -> None:
        settings = {"eval_every": 2, "max_steps": 4, "average_checkpoints": 2, "early_stopping_min_delta": 0.5}
        trainer = tiny_trainer(tmp_path, settings=settings)
        scripted(trainer, [1.0, 3.0, 0.75]).train()
        assert "average of the last 2 checkpoints: val_loss 0.7500, not better than 1.0000 by 0.5" in said(trainer)
        assert same_weights(trainer.model, ckpt.weights_of(tmp_path / "checkpoints", 2))

    def test_of_a_score_the_higher_is_better(self, tmp_path: Path) -> None:
        settings = {"eval_every": 2, "max_steps": 4, "average_checkpoints": 2, "early_stopping_metric": "bleu"}
        trainer = tiny_trainer(tmp_path, settings=settings, decode=lambda model, poll: Decoded({}, []))
        scripted(trainer, [7.0, 5.0, 9.0], metric="bleu").train()
        assert "bleu 9.0000, used" in said(trainer)

    def test_a_real_average_is_validated_without_the_moving_one(self, tmp_path: Path) -> None:
        settings = {"eval_every": 2, "max_steps": 6, "average_checkpoints": 2, "ema_decay": 0.9}
        trainer = tiny_trainer(tmp_path, settings=settings)
        trainer.train()
        mean = ckpt.averaged(trainer.model, ckpt.checkpoints(tmp_path / "checkpoints")[:2])
        probe = tiny_model()
        ckpt.load_weights(probe, mean, where="here")
        loss = tiny_trainer(model=probe).validate()[0]["val_loss"]
        assert f"average of the last 2 checkpoints: val_loss {loss:.4f}" in said(trainer)


class TestValidation:
    def test_is_due_at_each_epoch_or_so_many_steps(self) -> None:
        for settings, expected in (({}, [8, 16]), ({"eval_every": 6}, [6, 12, 16])):
            trainer = tiny_trainer(train_dataloader=tiny_loader(batch_size=3), settings=settings)
            assert len(trainer.train_dataloader) == 8
            at = []
            validate = trainer.validate
            trainer.validate = lambda v=validate, t=trainer, a=at: a.append(t.state.step) or v()  # type: ignore
            trainer.train()
            assert at == expected

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_model_and_mode_as_they_were(self, training: bool) -> None:
        trainer = tiny_trainer(settings={"ema_decay": 0.9})
        trainer.model.train(training)
        with torch.no_grad():
            trainer.model.encoder_norm.weight.add_(1)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        first, _ = trainer.validate()
        assert trainer.validate()[0] == first, "dropout is off"
        assert trainer.model.training == training
        assert same_weights(trainer.model, before)

    def test_an_error_in_it_leaves_the_weights(self) -> None:
        def decode(model: OptimizedTransformer, poll: Callable[[], None]) -> Decoded:
            raise MemoryError

        trainer = tiny_trainer(settings={"ema_decay": 0.9}, decode=decode)
        with torch.no_grad():
            trainer.model.encoder_norm.weight.add_(1)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        with pytest.raises(MemoryError):
            trainer.validate()
        assert same_weights(trainer.model, before)
        assert trainer.model.training


class TestLoaders:
    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(3)
        made = []
        for _ in range(4):
            src, tgt = torch.randint(3, VOCAB, (2, 5)), torch.randint(3, VOCAB, (2, 6))
            src[0, 3:] = 0
            tgt[1, 4:] = 0
            made.append((src, tgt))
        return made

    def weights_after(self, loader: object) -> torch.Tensor:
        trainer = tiny_trainer(train_dataloader=loader, val_dataloader=loader, settings={"max_steps": 6})
        trainer.train()
        return torch.nn.utils.parameters_to_vector(trainer.model.parameters())

    def test_padded_pairs_of_any_iterable(self) -> None:
        pairs = self.pairs()
        expected = self.weights_after(pairs)
        assert not torch.equal(expected, torch.nn.utils.parameters_to_vector(tiny_model().parameters()))
        for loader in (
            [list(pair) for pair in pairs],
            [{"src": src, "tgt": tgt} for src, tgt in pairs],
            [Batch.from_padded(src, tgt, pad_id=0, first_pair=2 * i) for i, (src, tgt) in enumerate(pairs)],
            torch.utils.data.DataLoader(pairs, batch_size=None),
        ):
            assert torch.equal(self.weights_after(loader), expected)

    def test_of_such_pairs_each_has_its_own_dropout(self) -> None:
        pairs = self.pairs()
        trainer = tiny_trainer(train_dataloader=pairs)
        group = next(groups(pairs, trainer.state, size=4, model=tiny_model()))
        assert [batch.pair_ids.flatten().tolist() for batch in group.batches.values()] == [
            [0, 1],
            [2, 3],
            [4, 5],
            [6, 7],
        ]

    def test_resuming_skips_what_is_done(self) -> None:
        pairs = self.pairs()
        group = next(groups(pairs, TrainState(batch=3), size=2, model=tiny_model()))
        assert group.ends_epoch
        assert [batch.pair_ids.flatten().tolist() for batch in group.batches.values()] == [[6, 7]]

    @pytest.mark.parametrize("item", ["text", (torch.zeros(1, 2),), {"input_ids": 1}, 7])
    def test_anything_else_is_refused(self, item: object) -> None:
        name = type(item).__name__
        with pytest.raises(DataError, match=f"a data loader yielded {name}. Fix: yield Batch objects, or "):
            tiny_trainer(train_dataloader=[item]).train()

    @pytest.mark.parametrize(
        ("src", "tgt", "message"),
        [
            ([[7] * 65], [[1, 7, 2]], "a source of 65 tokens is longer than model.max_seq_len (64)"),
            ([[7, 2]], [[1] + [7] * 65], "a target of 65 tokens is longer than model.max_seq_len (64)"),
            ([[7, 48]], [[1, 7, 2]], "the source has a token id 48, but the model was made for 48 tokens"),
            ([[7, 2]], [[1, 50, 2]], "the target has a token id 50, but the model was made for 48 tokens"),
            ([[7, -100]], [[1, 7, 2]], "the source has a token id -100, but the model was made for 48 tokens"),
            ([[7, 2]], [[1, 7, -100]], "the target has a token id -100, but the model was made for 48 tokens"),
            ([], [], "no pair has a target token"),
            ([[7, 2]], [[1, 0, 0]], "no pair has a target token"),
        ],
    )
    def test_what_the_model_cannot_take(self, src: list[list[int]], tgt: list[list[int]], message: str) -> None:
        shapes = (len(src), -1) if src else (0, 3)
        pairs = [*self.pairs()[:1], tuple(torch.tensor(side, dtype=torch.int64).view(shapes) for side in (src, tgt))]
        with pytest.raises(DataError) as caught:
            tiny_trainer(train_dataloader=pairs).train()
        assert str(caught.value).startswith(f"batch 1 of the data loader: {message}. Fix: ")

    def test_packed_rows_may_be_wider_than_the_model_reads(self) -> None:
        batches = list(tiny_loader(packed=True, max_tokens=60))
        assert {batch.src.size(1) for batch in batches} == {batches[0].src.size(1)} != {9}
        model = tiny_model(max_seq_len=10)
        tiny_trainer(model=model, train_dataloader=batches, val_dataloader=None, settings={"max_steps": 2}).train()

    def test_resuming_one_that_may_shuffle(self, tmp_path: Path) -> None:
        def trainer(loader: object) -> OptimizedTrainer:
            return tiny_trainer(tmp_path, train_dataloader=loader, settings={"max_steps": 3})

        trainer(self.pairs()).train()
        again = trainer(self.pairs())
        assert again.resume()
        assert said(again) == (
            "warning: the training loader begins epoch 1 anew, without its first 3 batches: if it shuffles, some pairs "
            "come twice and others not at all\n"
        )
        assert trainer(tiny_loader()).resume()

    def test_validation_data_that_is_used_up(self) -> None:
        trainer = tiny_trainer(val_dataloader=iter(self.pairs()), settings={"eval_every": 2, "max_steps": 9})
        with pytest.raises(ConfigError, match=r"gave no target token at step 4\. Fix: give a loader"):
            trainer.train()
        assert trainer.state.best_step == 2

    def test_an_empty_one(self) -> None:
        with pytest.raises(ConfigError, match="the training data gave no batch in epoch 1"):
            tiny_trainer(train_dataloader=[]).train()

    def test_one_without_length_needs_max_steps(self) -> None:
        class Endless:
            def __iter__(self) -> Iterator[Batch]:
                return iter(tiny_loader())

        with pytest.raises(ConfigError, match=r"the training loader has no length\. Fix: set training\.max_steps"):
            tiny_trainer(train_dataloader=Endless()).train()
        assert tiny_trainer(train_dataloader=Endless(), settings={"max_steps": 3}).train().step == 3

    @pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 8), (3, [3, 3, 2]), (4, [4, 4]), (99, [8])])
    def test_groups(self, size: int, sizes: list[int]) -> None:
        loader, state = tiny_loader(batch_size=3), TrainState()
        made = groups(loader, state, size=size, model=tiny_model())
        for state.epoch in (0, 1):
            found = [next(made) for _ in sizes]
            assert [len(group.batches) for group in found] == sizes
            assert [group.ends_epoch for group in found] == [False] * (len(sizes) - 1) + [True]
            order = [batch.pair_ids.tolist() for group in found for batch in group.batches.values()]
            assert order == [batch.pair_ids.tolist() for batch in loader.batches(state.epoch)]
        assert steps_per_epoch(loader, size=size) == len(sizes)


class TestTrainingTwice:
    @pytest.mark.parametrize("saved", [False, True], ids=["in memory", "saved"])
    def test_goes_on_from_the_last_weights(self, saved: bool, tmp_path: Path) -> None:
        """Rather than from the best ones, or the moving average, with which the first training ended."""

        def trainer(name: str) -> OptimizedTrainer:
            settings = {"ema_decay": 0.9, "num_epochs": 2}
            return scripted(tiny_trainer(tmp_path / name if saved else None, settings=settings), [1.0, 2.0, 3.0, 4.0])

        once, twice = trainer("once"), trainer("twice")
        once.train(num_epochs=3)
        twice.train(num_epochs=2)
        twice.train(num_epochs=3)
        assert same_weights(once.model, dict(twice.model.named_parameters()))
        assert once.update.average is not None
        assert twice.update.average is not None
        for name, average in once.update.average.weights.items():
            assert torch.equal(average, twice.update.average.weights[name])

    def test_validating_and_saving_after_the_end(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, settings={"ema_decay": 0.9})
        state = trainer.train()
        last = ckpt.read_tensors(ckpt.checkpoints(tmp_path / "checkpoints")[0] / ckpt.MODEL)
        assert trainer.validate()[0]["val_loss"] == state.best_value
        trainer.save()
        again = ckpt.read_tensors(ckpt.checkpoints(tmp_path / "checkpoints")[0] / ckpt.MODEL)
        assert all(torch.equal(last[name], again[name]) for name in last)
        in_memory = tiny_trainer(settings={"ema_decay": 0.9})
        assert in_memory.train().best_value == pytest.approx(in_memory.validate()[0]["val_loss"], abs=0)

    def test_another_training_keeps_the_record_of_the_first(self, tmp_path: Path) -> None:
        records = []
        for number in range(3):
            trainer = tiny_trainer(log_dir=tmp_path, settings={"max_steps": number + 1})
            trainer.train()
            records.append((tmp_path / "metrics.jsonl").read_text())
        assert (tmp_path / "metrics.1.jsonl").read_text() == records[0]
        assert (tmp_path / "metrics.2.jsonl").read_text() == records[1]
        assert f"the record of an earlier training is kept as {tmp_path / 'metrics.2.jsonl'}" in said(trainer)

    def test_without_folders_it_goes_on(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(log_dir=tmp_path)
        trainer.train(num_epochs=1)
        first = (tmp_path / "metrics.jsonl").read_text()
        state = trainer.train(num_epochs=2)
        assert state.epoch == 2
        record = (tmp_path / "metrics.jsonl").read_text()
        assert record.startswith(first)
        assert record.count('"kind": "epoch"') == 2

    def test_saving_after_the_end_keeps_the_record(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path)
        trainer.train()
        record = (tmp_path / "metrics.jsonl").read_text()
        trainer.save()
        again = tiny_trainer(tmp_path)
        assert again.resume()
        again.train()
        assert (tmp_path / "metrics.jsonl").read_text() == record


class TestSettings:
    def test_arguments_go_over_the_settings(self) -> None:
        trainer = tiny_trainer(settings={"gradient_accumulation_steps": 4}, gradient_accumulation_steps=2)
        assert trainer.settings.gradient_accumulation_steps == 2
        assert tiny_trainer(mixed_precision="bf16").state.precision == "bf16"
        assert tiny_trainer(settings={"mixed_precision": "bf16"}, mixed_precision=False).state.precision == "fp32"

    def test_the_names_of_the_specification(self, tmp_path: Path) -> None:
        trainer = OptimizedTrainer(
            model=tiny_model(),
            train_dataloader=tiny_loader(4),
            val_dataloader=tiny_loader(2),
            optimizer=None,
            mixed_precision=False,
            gradient_accumulation_steps=2,
            log_dir=str(tmp_path / "logs"),
            checkpoint_dir=str(tmp_path / "checkpoints"),
            logging=QUIET,
            progress=silent(),
        )
        assert trainer.train(num_epochs=1).epoch == 1
        assert (tmp_path / "logs" / "metrics.jsonl").exists()

    def config(self, **sections: dict[str, Any]) -> Config:
        base = {"training": {"mixed_precision": False, "max_steps": 2}, "logging": {"tensorboard": False}}
        return Config.model_validate({**base, **sections})

    def test_create_trainer(self, tmp_path: Path) -> None:
        config = self.config(
            optimizer={"name": "sgd", "weight_decay": 0.2},
            scheduler={"name": "linear", "warmup": 0},
            training={"mixed_precision": False, "max_steps": 4, "learning_rate": 0.5},
            system={"seed": 9},
        )
        trainer = create_trainer(
            model=tiny_model(), train_dataloader=tiny_loader(), config=config, run_dir=tmp_path, progress=silent()
        )
        assert isinstance(trainer.update.optimizer, torch.optim.SGD)
        assert trainer.seed == 9
        trainer.train()
        assert trainer.update.learning_rate == 0.0, "at the end of the schedule"
        assert trainer.update.highest_rates == [0.5, 0.5]
        assert steps_of(tmp_path) == [4]
        assert (tmp_path / "metrics.jsonl").exists()

    @pytest.mark.parametrize(("src", "tgt", "side"), [(VOCAB + 1, VOCAB, "src"), (VOCAB, VOCAB + 2, "tgt")])
    def test_a_vocabulary_that_does_not_fit(self, src: int, tgt: int, side: str) -> None:
        loader = tiny_loader()
        loader.vocab_sizes = (src, tgt)
        message = f"the data has {max(src, tgt)} {side} tokens, but the model was made with {side}_vocab_size={VOCAB}"
        with pytest.raises(ConfigError, match=message):
            create_trainer(model=tiny_model(), train_dataloader=loader, config=self.config(), run_dir="nowhere")


class TestStopRequest:
    def test_handlers_come_and_go(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest() as stop:
            stop.poll()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
            with pytest.raises(StopNow):
                stop.poll()
        assert signal.getsignal(signal.SIGTERM) == before
        with stop:
            stop.poll()

    def test_the_second_signal_ends_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytorch_dl.training.signals.ONE_REQUEST_SECONDS", 0.0)
        child = os.fork()
        if child == 0:
            with StopRequest():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGINT

    def test_signals_that_come_together_are_one_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until a time after the first, however many there are, and whichever."""
        clock = [1000.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        child = os.fork()
        if child == 0:
            with StopRequest() as stop:
                for clock[0] in (1000.0, 1000.005, 1001.0, 1001.99):
                    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                        os.kill(os.getpid(), number)
                        assert stop.signal == signal.SIGTERM
                clock[0] = 1002.01
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGINT

    def test_an_ignored_signal_stays_ignored(self) -> None:
        """As under nohup."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with StopRequest() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.signal is None
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)


def test_it_learns(tmp_path: Path) -> None:
    """A handful of pairs by heart."""
    loader = tiny_loader(6, batch_size=6)
    trainer = tiny_trainer(
        tmp_path,
        model=tiny_model(dropout=0.0),
        train_dataloader=loader,
        val_dataloader=loader,
        settings={"max_steps": 150, "learning_rate": 0.02, "label_smoothing": 0.0, "eval_every": 150},
    )
    first = trainer.validate()[0]["val_loss"]
    state = trainer.train()
    assert first > 0.8 * math.log(VOCAB)
    assert state.best_value is not None
    assert state.best_value < 0.1
