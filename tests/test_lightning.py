"""The Trainer of PyTorch Lightning makes of a model what our own trainer makes of it, and logs what ours does."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import silent
from tiny_runs import write_tsv

from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.errors import ConfigError
from pytorch_dl.training.trainer import OptimizedTrainer, create_trainer
from pytorch_dl.training.validation import validation_nll

EPOCHS = 3


def config(**training: object) -> Config:
    return Config().update(
        model={
            **{"d_model": 16, "n_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_seq_len": 40},
            "dropout": 0.1,
        },
        data={"tokenizer_name": "char", "vocab_size": 300, "max_length": 40, "max_tokens_per_batch": 120},
        training={
            **{"mixed_precision": False, "num_epochs": EPOCHS, "max_grad_norm": None, "learning_rate": 3e-3},
            **training,
        },
        scheduler={"warmup": 4},
        system={"compile": False, "seed": 5},
        logging={"tensorboard": False, "log_every": 1},
    )


@pytest.fixture
def data(tmp_path: Path) -> DataModule:
    """Rows of pairs of like length: epochs differ in their batches, and in how many there are."""
    given = config().data.model_copy(
        update={
            "train_data_path": str(write_tsv(tmp_path / "train.tsv", 50)),
            "val_data_path": str(write_tsv(tmp_path / "val.tsv", 20, first=50)),
            "layout": "padded",
            "num_workers": 0,
        }
    )
    made = DataModule(data=given, seed=5, cache_dir=tmp_path / "cache", report=lambda _: None)
    made.setup()
    return made


def ours(settings: Config, data: DataModule) -> OptimizedTrainer:
    """What our own trainer comes to."""
    trainer = create_trainer(
        model=build_model(settings, data.tokenizers),
        train_dataloader=data.train_dataloader(),
        val_dataloader=None,
        config=settings,
        run_dir=None,
        progress=silent(),
    )
    trainer.train()
    return trainer


def pairs_of(batch: Batch) -> list[int]:
    return batch.pair_ids[batch.pair_ids >= 0].tolist()


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pytorch_dl.lightning", raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ImportError, match=r"pip install 'pytorch-dl\[lightning\]'"):
        import pytorch_dl.lightning  # noqa: F401


@pytest.mark.filterwarnings("ignore")
class TestTrainer:
    """With the package: warnings of its own are its own."""

    @pytest.fixture(autouse=True)
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
        from pytorch_dl import lightning as adapter

        self.adapter = adapter
        monkeypatch.chdir(tmp_path)

    def trainer(self, **given: object):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return self.lightning.Trainer(accelerator="cpu", **{**quiet, "enable_model_summary": False, **given})

    def module(self, settings: Config, data: DataModule | None):
        assert data is not None
        return self.adapter.TransformerModule(build_model(settings, data.tokenizers), settings, data)

    def test_the_weights_are_those_of_our_own_trainer_with_dropout_and_schedule(self, data: DataModule) -> None:
        settings = config()
        expected = ours(settings, data)
        module = self.module(settings, data)
        trainer = self.trainer(max_epochs=EPOCHS)
        trainer.fit(module)
        assert trainer.global_step == expected.state.step > EPOCHS
        for one, other in zip(module.model.parameters(), expected.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_gradients_are_clipped_by_the_configuration_or_the_trainer(self, data: DataModule) -> None:
        settings = config(max_grad_norm=0.3)
        expected = ours(settings, data)
        for given, norm in (({}, 0.3), ({"gradient_clip_val": 0.3}, None)):
            module = self.module(config(max_grad_norm=norm), data)
            self.trainer(max_epochs=EPOCHS, **given).fit(module)
            for one, other in zip(module.model.parameters(), expected.model.parameters(), strict=True):
                assert torch.allclose(one, other, atol=1e-5)
        plain = ours(config(), data)
        assert not torch.allclose(plain.model.src_embedding.weight, expected.model.src_embedding.weight, atol=1e-5)

    def test_accumulated_batches_are_as_many_steps_as_the_schedule_thinks(self, data: DataModule) -> None:
        module = self.module(config(), data)
        trainer = self.trainer(max_epochs=EPOCHS, accumulate_grad_batches=2)
        trainer.fit(module)
        batches = [len(data.train_dataloader().plan(epoch)) for epoch in range(EPOCHS)]
        assert trainer.global_step == sum(math.ceil(count / 2) for count in batches)
        last = trainer.lr_scheduler_configs[0].scheduler
        total = EPOCHS * math.ceil(batches[0] / 2)
        assert last.lr_lambdas[0](total - 1) == 0.0
        assert last.lr_lambdas[0](total - 2) > 0.0

    def watched(self, data: DataModule, *, resume: Path | None = None, callbacks: Sequence[object] = (), **limit: int):
        """The pairs of each batch that a training saw, and its weights."""
        seen: list[list[int]] = []

        class Watching(self.adapter.TransformerModule):  # type: ignore[misc]
            def training_step(self, batch, batch_idx):
                seen.append(pairs_of(batch))
                return super().training_step(batch, batch_idx)

        settings = config()
        module = Watching(build_model(settings, data.tokenizers), settings, data)
        trainer = self.trainer(enable_checkpointing=bool(callbacks), callbacks=[*callbacks], **limit)
        trainer.fit(module, ckpt_path=resume)
        return seen, [*module.model.parameters()]

    def test_each_epoch_has_its_own_batches_all_of_them_once(self, data: DataModule) -> None:
        seen, _ = self.watched(data, max_epochs=EPOCHS)
        loader = data.train_dataloader()
        expected = [pairs_of(batch) for epoch in range(EPOCHS) for batch in loader.batches(epoch)]
        assert seen == expected
        assert seen[: len(expected) // EPOCHS] != seen[len(expected) // EPOCHS : 2 * (len(expected) // EPOCHS)]

    @pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
    @pytest.mark.parametrize(
        "saved",
        [
            {"every_n_train_steps": 1},  # in the middle of epochs, and with the last batch of each
            {"every_n_epochs": 1, "save_on_train_epoch_end": True},
            {"every_n_epochs": 1, "save_on_train_epoch_end": False},  # after the validation
        ],
        ids=["steps", "epochs", "validations"],
    )
    def test_resumed_anywhere_it_is_the_straight_training(
        self, data: DataModule, saved: dict[str, int], limit: str, tmp_path: Path
    ) -> None:
        counts = [len(data.train_dataloader().plan(epoch)) for epoch in range(EPOCHS)]
        ends = [sum(counts[: epoch + 1]) for epoch in range(EPOCHS)]
        limits = {limit: EPOCHS if limit == "max_epochs" else ends[-1]}
        saving = self.lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **saved)
        batches, weights = self.watched(data, callbacks=[saving], **limits)
        assert min(counts) > 1
        between = [1, ends[0] - 1, ends[0] + 1, ends[-1] - 1] if "every_n_train_steps" in saved else []
        for step in (*between, *ends[:-1]):
            left, resumed = self.watched(data, resume=tmp_path / f"step={step}.ckpt", **limits)
            assert left == batches[step:]
            assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))

    def test_resumed_after_a_failure_the_batch_comes_again(self, data: DataModule, tmp_path: Path) -> None:
        batches, weights = self.watched(data, max_epochs=EPOCHS)
        for step in (1, len(data.train_dataloader()) - 1):  # that is the last batch of an epoch

            class Failing(self.lightning.Callback):  # type: ignore[misc]
                def on_train_batch_start(self, trainer, module, batch, batch_idx, step=step):
                    if trainer.global_step == step:
                        raise OSError("no more power")

                def on_exception(self, trainer, module, exception):
                    trainer.save_checkpoint(tmp_path / "failed.ckpt")

            with pytest.raises(OSError, match="no more power"):
                self.watched(data, callbacks=[Failing()], max_epochs=EPOCHS)
            left, resumed = self.watched(data, resume=tmp_path / "failed.ckpt", max_epochs=EPOCHS)
            assert left == batches[step:]
            assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))

    def test_validation_is_over_the_tokens_of_the_whole_set(self, data: DataModule) -> None:
        module = self.module(config(), data)
        trainer = self.trainer(max_epochs=1)
        trainer.fit(module)
        module.model.eval()
        nll, tokens = validation_nll(module.model, data.val_dataloader(), precision="fp32", poll=lambda: None)
        assert len(data.val_dataloader()) > 1
        assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(nll / tokens, rel=1e-6)
        assert float(trainer.callback_metrics["val_ppl"]) == pytest.approx(math.exp(nll / tokens), rel=1e-5)
        assert {"train_loss", "train_nll"} <= trainer.callback_metrics.keys()

    def test_without_validation_text_it_trains_all_the_same(self, tmp_path: Path) -> None:
        path = str(write_tsv(tmp_path / "only.tsv", 20))
        made = DataModule(
            data=config().data.model_copy(update={"train_data_path": path}),
            cache_dir=tmp_path / "cache",
            report=lambda _: None,
        )
        made.setup()
        trainer = self.trainer(max_steps=2)
        trainer.fit(self.module(config(), made))
        assert trainer.global_step == 2
        assert "val_loss" not in trainer.callback_metrics

    def test_a_loader_of_ones_own_is_taken_and_ours_alone_is_refused(self, data: DataModule) -> None:
        settings = config()
        module = self.adapter.TransformerModule(build_model(settings, data.tokenizers), settings)
        batches = torch.utils.data.DataLoader([*data.train_dataloader()], batch_size=None)
        trainer = self.trainer(max_epochs=2)
        trainer.fit(module, train_dataloaders=batches)
        assert trainer.global_step == 2 * len(batches)
        with pytest.raises(ConfigError, match="the loader would give the first epoch's batches in each"):
            self.trainer(max_epochs=1).fit(module, train_dataloaders=data.train_dataloader())
        with pytest.raises(ConfigError, match="there is no training text"):
            self.trainer(max_epochs=1).fit(module)

    def test_how_long_it_takes_must_be_known(self, data: DataModule) -> None:
        with pytest.raises(ConfigError, match="how many steps there will be is not known"):
            self.trainer(max_epochs=-1).fit(self.module(config(), data))

    def test_several_processes_are_refused(self, data: DataModule) -> None:
        module = self.module(config(), data)
        trainer = self.trainer(max_epochs=1)

        class Several:
            world_size = 2

        module._trainer = Several()
        with pytest.raises(ConfigError, match="got 2 processes"):
            module.setup("fit")
        module._trainer = trainer
