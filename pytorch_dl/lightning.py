"""Training by the Trainer of PyTorch Lightning: an `OptimizedTransformer` and its configuration as a LightningModule.

    module = TransformerModule(model, config, data_module)
    pytorch_lightning.Trainer(max_epochs=10).fit(module)

Loss, dropout, optimizer, schedule and clipping are those of our own trainer, so that one process comes to the same
weights. Of the configuration `optimizer`, `scheduler`, the seed and, of `training`, learning rate, label smoothing and
gradient norm count; length, precision, accumulation and checkpoints are the Trainer's.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.accumulation import steps_per_epoch
from pytorch_dl.training.objective import batch_loss, dropout_keys
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.schedule import learning_rate_factor

try:
    import pytorch_lightning
except ImportError:
    raise ImportError("this needs the package pytorch-lightning: pip install 'pytorch-dl[lightning]'") from None


class TransformerModule(pytorch_lightning.LightningModule):  # type: ignore[misc]
    """A model with what it is trained by, for `Trainer.fit`; it logs train_loss, train_nll, val_loss and val_ppl.

    With `data`, whose `setup` was called, it has its loaders, in another order each epoch; else the Trainer is given
    loaders of `Batch`. With accumulation each batch counts alike there, however many tokens it has.
    """

    def __init__(self, model: OptimizedTransformer, config: Config, data: DataModule | None = None) -> None:
        super().__init__()
        self.model, self.config, self.data = model, config, data
        self._val_nll, self._val_tokens = torch.zeros((), dtype=torch.float64), 0

    def setup(self, stage: str) -> None:
        """Refuse several processes: each would train on all batches."""
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"got {self.trainer.world_size} processes, and batches are not shared out here",
                where="Trainer",
                fix="give devices=1, or train on several devices by torchrun and `pytorch_dl train`",
            )

    def train_dataloader(self) -> "EpochBatches":
        """The batches of the training text."""
        return EpochBatches(self._batches, self._place)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Those of the validation text; none where there is none."""
        loader = self.data.val_dataloader() if self.data else None
        return [] if loader is None else loader

    def on_train_epoch_start(self) -> None:
        """Refuse a loader of the first epoch's batches."""
        if isinstance(self.trainer.train_dataloader, BatchLoader):
            raise ConfigError(
                "the loader would give the first epoch's batches in each", fix="give TransformerModule the DataModule"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take one of an epoch's last batch for one of the epoch's end: Lightning would count the epoch twice."""
        loops = checkpoint.get("loops", {}).get("fit_loop")
        if not loops or not loops["epoch_loop.batch_progress"]["is_last_batch"]:
            return
        batches = loops["epoch_loop.batch_progress"]
        batches["is_last_batch"] = False  # of those that are to come, or, where it failed, it is to come again
        if batches["current"]["processed"] < batches["current"]["ready"]:
            return
        batches["current"] = dict.fromkeys(batches["current"], 0)
        for counts in (*loops["epoch_progress"].values(), batches["total"]):
            counts.update(dict.fromkeys(counts, counts["ready"]))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch there."""
        return batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, divided by its target tokens."""
        keys = dropout_keys(batch, seed=self.config.system.seed, step=self.global_step + 1)
        loss = batch_loss(self.model, batch, label_smoothing=self.config.training.label_smoothing, keys=keys)
        tokens = batch.num_tgt_tokens
        self.log("train_loss", loss.smoothed.detach() / tokens, prog_bar=True, batch_size=tokens)
        self.log("train_nll", loss.nll / tokens, batch_size=tokens)
        return loss.smoothed / tokens

    def on_validation_epoch_start(self) -> None:
        """Begin the sums over the whole set."""
        self._val_nll, self._val_tokens = torch.zeros((), dtype=torch.float64, device=self.device), 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to them."""
        self._val_nll += batch_loss(self.model, batch).nll
        self._val_tokens += batch.num_tgt_tokens

    def on_validation_epoch_end(self) -> None:
        """Log the loss over all target tokens, and its exponential."""
        if self._val_tokens:
            loss = float(self._val_nll) / self._val_tokens
            self.log("val_loss", loss, prog_bar=True)
            self.log("val_ppl", math.exp(min(loss, 700.0)))

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and the schedule of the configuration, over the steps that the Trainer makes."""
        optimizer = make_optimizer(self.model, self.config.optimizer, learning_rate=self.config.training.learning_rate)
        total = self._total_steps()
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: learning_rate_factor(self.config.scheduler, done + 1, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As the Trainer says, else by the configuration's max_grad_norm."""
        most = gradient_clip_val or self.config.training.max_grad_norm
        if most:
            self.clip_gradients(
                optimizer, gradient_clip_val=most, gradient_clip_algorithm=gradient_clip_algorithm or "norm"
            )

    @cached_property
    def _batches(self) -> BatchLoader:
        if self.data is None:
            raise ConfigError("there is no training text", fix="give TransformerModule a DataModule, or fit a loader")
        return self.data.train_dataloader()

    def _place(self) -> tuple[int, int]:
        """The epoch that goes on, and its batches that are done: as Lightning counts when it asks for batches.

        On a resume that is before it has put right what the checkpoint holds, `current_epoch` among it.
        """
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        return epochs.processed, batches.processed if epochs.ready > epochs.processed else 0

    def _total_steps(self) -> int:
        trainer, limits = self.trainer, []
        if trainer.max_steps > 0:
            limits.append(float(trainer.max_steps))
        if (trainer.max_epochs or 0) > 0 and self.data is not None:
            steps = steps_per_epoch(self._batches, size=trainer.accumulate_grad_batches)
            limits.append(float(trainer.max_epochs * steps))
        if self.data is None and not limits:
            limits.append(float(trainer.estimated_stepping_batches))
        total = min(limits, default=math.inf)
        if not math.isfinite(total):
            raise ConfigError(
                "how many steps there will be is not known, and the schedule needs it", fix="give max_steps"
            )
        return int(total)


class EpochBatches:
    """The rest of an epoch's batches; of later epochs there may be a few more or fewer, so it has no length."""

    def __init__(self, loader: BatchLoader, place: Callable[[], tuple[int, int]]) -> None:
        self.loader, self.place = loader, place

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.batches(*self.place())
