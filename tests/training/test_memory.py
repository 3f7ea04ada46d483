"""Memory that lacks is told with the batch that asked for it, and lacks in the first steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ResourceError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.loss import Loss
from pytorch_dl.training.objective import batch_loss
from pytorch_dl.training.trainer import OptimizedTrainer


def short_of_memory(folder: Path, patched: pytest.MonkeyPatch, *, room: float) -> OptimizedTrainer:
    """A trainer on a machine that has room for so many positions."""
    trainer = tiny_trainer(folder, settings={"save_every": 1}, train_dataloader=tiny_loader(60, max_tokens=40))

    def loss(model: OptimizedTransformer, batch: Batch, **how: Any) -> Loss:
        if batch.num_positions > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return batch_loss(model, batch, **how)

    patched.setattr("pytorch_dl.training.step.batch_loss", loss)
    return trainer


class TestOutOfMemory:
    def test_the_largest_batch_is_tried_after_the_first_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loader = tiny_loader(60, max_tokens=40)
        batches = list(loader.batches(0))
        most = max(batches, key=lambda batch: batch.num_positions)
        assert most.num_positions > batches[0].num_positions
        trainer = short_of_memory(tmp_path, monkeypatch, room=most.num_positions - 1)
        with pytest.raises(ResourceError) as caught:
            trainer.train()
        rows, src = most.src.shape
        assert (
            f"out of memory at step 1 on its batch 1: {rows} rows of {src} source and {most.tgt_in.size(1)} target "
            f"positions, {most.num_src_tokens + most.num_tgt_tokens} tokens in all; "
        ) in str(caught.value)
        assert "MB were in use at most. Fix: lower data.max_tokens_per_batch" in str(caught.value)
        assert caught.value.exit_code == 6

    def test_a_step_that_lacks_memory_leaves_the_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = short_of_memory(tmp_path, monkeypatch, room=10**9)
        trainer.train(num_epochs=1)
        last = ckpt.checkpoints(tmp_path / "checkpoints")[0]
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        short_of_memory(tmp_path, monkeypatch, room=0)
        batch = next(trainer.train_dataloader.batches(0))  # type: ignore[attr-defined]
        with pytest.raises(ResourceError, match="out of memory at step"):
            trainer.train_step([batch], total_steps=100)
        assert all(torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
        assert ckpt.checkpoints(tmp_path / "checkpoints")[0] == last

    def test_another_error_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = tiny_trainer()

        def loss(*_: Any, **__: Any) -> Loss:
            raise RuntimeError("shapes differ")

        monkeypatch.setattr("pytorch_dl.training.step.batch_loss", loss)
        with pytest.raises(RuntimeError, match="shapes differ"):
            trainer.train()


def test_what_is_tried_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, plain = tiny_trainer(train_dataloader=tiny_loader(60)), tiny_trainer(train_dataloader=tiny_loader(60))
    tried.train()
    monkeypatch.setattr("pytorch_dl.training.trainer.try_largest", lambda *_: None)
    plain.train()
    pairs = zip(tried.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class TestLargest:
    @pytest.mark.parametrize("start", [0, 3])
    def test_has_most_positions_or_most_pairs_of_them(self, start: int) -> None:
        loader = tiny_loader(60, max_tokens=40)
        batches = list(loader.batches(2, start))
        largest = loader.largest(2, start)
        assert max(batch.num_positions for batch in batches) in [batch.num_positions for batch in largest]

        def pairs(batch: Batch) -> int:
            rows, src, tgt = batch.src.size(0), batch.src.size(1), batch.tgt_in.size(1)
            return rows * (src * src + src * tgt + tgt * tgt)

        assert max(map(pairs, batches)) in list(map(pairs, largest))
        assert len(largest) <= 2

    def test_none_is_left(self) -> None:
        loader = tiny_loader(12)
        assert loader.largest(0, len(loader)) == []
