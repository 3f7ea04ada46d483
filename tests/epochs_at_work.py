"""What each process of G3 does: an epoch on so many pairs, then on others: epochs_at_work.py FOLDER [TRAIN,VAL ...]

FOLDER/TRAIN-VAL-RANK.json tells what this process computed, and what it then knew of all.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
from tiny import tiny_loader, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.training.objective import batch_loss
from pytorch_dl.training.peers import Peers, joined
from pytorch_dl.training.trainer import OptimizedTrainer

SLOTS = 4  # batches of a step


def epoch(train: int, val: int, peers: Peers) -> dict[str, Any]:
    """Train on so many pairs, and validate on so many."""
    own: dict[str, list[int]] = {"train": [], "val": []}
    begin_step = OptimizedTrainer.begin_step

    def begun(trainer: OptimizedTrainer, group: Any, *, total_steps: int) -> Any:
        own["train"] += [pair for batch in group.batches.values() for pair in pairs_of(batch)]
        return begin_step(trainer, group, total_steps=total_steps)

    def loss(model: Any, batch: Batch, **how: Any) -> Any:
        own["val"] += pairs_of(batch)
        return batch_loss(model, batch, **how)

    trainer = tiny_trainer(
        train_dataloader=tiny_loader(train, seed=train),
        val_dataloader=tiny_loader(val, seed=2),
        settings={"gradient_accumulation_steps": SLOTS, "num_epochs": 1},
        peers=peers,
    )
    with (
        patch.object(OptimizedTrainer, "begin_step", begun),
        patch("pytorch_dl.training.validation.batch_loss", loss),
        patch.object(trainer.reporter, "epoch") as told_epoch,
        patch.object(trainer.reporter, "validation") as told_validation,
    ):
        trainer.train()
    return {**own, "all": known(trainer, told_epoch, told_validation)}


def known(trainer: OptimizedTrainer, epoch: Mock, validation: Mock) -> dict[str, Any]:
    """What must be the same in any number of processes."""
    (_, sums), (_, values, _) = epoch.call_args.args, validation.call_args.args
    weights = hashlib.sha256()
    for weight in trainer.model.parameters():
        weights.update(weight.detach().numpy().tobytes())
    return {
        **{name: getattr(sums, name) for name in ("steps", "src_tokens", "tgt_tokens", "loss")},
        "val_loss": values["val_loss"],
        "weights": weights.hexdigest(),
    }


def pairs_of(batch: Batch) -> list[int]:
    return [pair for pair in batch.pair_ids.flatten().tolist() if pair >= 0]


def main(folder: Path, sizes: list[str]) -> None:
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as peers:
        for size in sizes:
            train, val = map(int, size.split(","))
            (folder / f"{train}-{val}-{peers.rank}.json").write_text(json.dumps(epoch(train, val, peers)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
