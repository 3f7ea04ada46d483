"""A step whose numbers are not finite is computed again, and what it comes from is named and kept."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_loader, tiny_model, tiny_trainer
from torch import Tensor, nn

from pytorch_dl.errors import CheckpointError, NonFiniteError
from pytorch_dl.files import MANIFEST, read_json, sha256, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import diagnosis
from pytorch_dl.training.diagnosis import BATCH, FAILURE, Failure, explained, keep, kept
from pytorch_dl.training.peers import Peers

NAN = float("nan")


class Spoiling(nn.Module):
    """A layer in front of another that makes a row of the batch infinite."""

    def __init__(self, inner: nn.Module, row: int) -> None:
        super().__init__()
        self.inner, self.row = inner, row

    def forward(self, x: Tensor, **keys: Any) -> Tensor:
        made: Tensor = self.inner(x, **keys)
        return made.index_fill(0, torch.tensor([self.row]), torch.inf)


def spoil_row(model: OptimizedTransformer, row: int) -> None:
    layer: Any = model.decoder_layers[0]
    layer.feed_forward = Spoiling(layer.feed_forward, row)


class TestWhatIsNamed:
    def test_a_weight(self) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.decoder_norm.weight[3] = NAN
        trainer = tiny_trainer(model=model)
        with pytest.raises(NonFiniteError, match=r"at step 1; .*: first in the weights decoder_norm\.weight\. Fix"):
            trainer.train()

    def test_the_module_and_the_pairs_of_its_rows(self) -> None:
        trainer = tiny_trainer(train_dataloader=tiny_loader(12, batch_size=12))
        batch = next(iter(trainer.train_dataloader))
        row = int((batch.tgt_segments.sum(1) > 1).nonzero()[0])
        spoil_row(trainer.model, row)
        pair = int(batch.pair_ids[row, 0])
        with pytest.raises(
            NonFiniteError, match=rf"first in the output of decoder_layers\.0\.feed_forward, on pairs {pair}\."
        ):
            trainer.train_step([batch], total_steps=10)

    def test_the_batch_of_several(self) -> None:
        trainer = tiny_trainer(train_dataloader=tiny_loader(12, batch_size=4))
        batches = list(trainer.train_dataloader)
        seen: list[int] = []

        def spoil(module: nn.Module, given: Any, made: Tensor) -> Tensor:
            seen.append(1)
            return made * NAN if len(seen) in (2, 5) else made  # the second batch, then in both tries

        trainer.model.encoder_norm.register_forward_hook(spoil)
        pairs = ", ".join(str(pair) for pair in sorted(batches[1].pair_ids.flatten().tolist()))
        with pytest.raises(NonFiniteError, match=rf"first in the output of encoder_norm, on pairs {pairs}\."):
            trainer.train_step(batches, total_steps=10)

    def test_a_gradient(self) -> None:
        trainer = tiny_trainer()
        trainer.model.encoder_norm.weight.register_hook(lambda gradient: gradient * NAN)
        with pytest.raises(NonFiniteError, match=r"first in the gradient of encoder_norm\.weight, on pairs \d"):
            trainer.train()

    def test_what_does_not_come_again(self) -> None:
        trainer = tiny_trainer(train_dataloader=tiny_loader(12, batch_size=12))

        def once(gradient: Tensor) -> Tensor:
            hook.remove()
            return gradient * NAN

        hook = trainer.model.encoder_norm.weight.register_hook(once)
        said = (
            r"on pairs 0, 1, 2, 3, 4, 5, 6, 7 and 4 more\. Fix: computed again, the same batches give finite numbers: "
        )
        with pytest.raises(NonFiniteError, match=said):
            trainer.train_step(list(trainer.train_dataloader), total_steps=10)

    def test_gradients_are_as_before(self) -> None:
        trainer = tiny_trainer()
        batch = next(iter(trainer.train_dataloader))
        assert trainer.diagnose({0: batch}, step=1) is None
        assert all(parameter.grad is None for parameter in trainer.model.parameters())


class TestWhatIsKept:
    def failed(self, folder: Path) -> Any:
        trainer = tiny_trainer(folder, settings={"save_every": 2, "num_epochs": 4})

        def spoil(module: nn.Module, given: Any, made: Tensor) -> Tensor:
            return made * NAN if trainer.state.step == 5 else made

        hook = trainer.model.encoder_norm.register_forward_hook(spoil)
        with pytest.raises(NonFiniteError, match="at step 5") as caught:
            trainer.train()
        hook.remove()
        assert str(folder / "checkpoints" / "failed-step-00000005") in str(caught.value)
        return trainer

    def test_weights_and_batch(self, tmp_path: Path) -> None:
        trainer = self.failed(tmp_path)
        again = tiny_model(seed=7)
        found = kept(tmp_path / "checkpoints", again)
        assert found
        failure, batch = found
        assert failure.tensor == "the output of encoder_norm"
        assert failure.pairs == sorted(batch.pair_ids.flatten().tolist())
        assert all(
            torch.equal(mine, theirs)
            for mine, theirs in zip(again.parameters(), trainer.model.parameters(), strict=True)
        )

    def test_training_goes_on_from_the_checkpoint_before(self, tmp_path: Path) -> None:
        self.failed(tmp_path)
        again = tiny_trainer(tmp_path, settings={"save_every": 2, "num_epochs": 4})
        assert again.resume()
        assert again.state.step == 4
        again.train()

    def test_none(self, tmp_path: Path) -> None:
        assert kept(tmp_path, tiny_model()) is None

    def test_a_full_disk_hides_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*given: Any, **options: Any) -> None:
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(diagnosis, "save_file", full)
        trainer = tiny_trainer(tmp_path)
        trainer.model.encoder_norm.weight.register_hook(lambda gradient: gradient * NAN)
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        assert "first in the gradient of encoder_norm.weight, on pairs" in str(caught.value)
        assert "its weights and batch could not be kept (no space left on the disk)." in str(caught.value)
        assert not list((tmp_path / "checkpoints").iterdir())

    @pytest.mark.parametrize("rank", [1, 2])
    def test_only_the_first_that_found_something_keeps_it(self, rank: int, tmp_path: Path) -> None:
        class Three(Peers):
            """Ranks 1 and 2 have found something."""

            def add_up(self, numbers: Tensor) -> Tensor:
                assert numbers[self.rank]
                return torch.tensor([0.0, 1.0, 1.0])

        trainer = tiny_trainer()
        trainer.model.encoder_norm.weight.register_hook(lambda gradient: gradient * NAN)
        batch = next(iter(trainer.train_dataloader))
        error = explained(
            NonFiniteError("spoiled"), trainer._passes, {rank: batch}, step=1, peers=Three(rank, 3), folder=tmp_path
        )
        assert "first in the gradient of encoder_norm.weight, on pairs" in str(error)
        assert ("its weights and batch are in" in str(error)) == (rank == 1)
        assert [path.name for path in tmp_path.iterdir()] == ["failed-step-00000001"] * (rank == 1)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda t: t.update(tgt_segments=torch.ones(7, dtype=torch.long)), r"tgt_segments has the shape \(7,\)"),
            (lambda t: t.update(src=t["src"].float()), r"src is of torch\.float32, expected int64"),
            (lambda t: t.update(pair_ids=t["pair_ids"].float()), r"pair_ids is of torch\.float32"),
            (lambda t: t.update(src=t["src"][:0]), "src has the shape"),
            (lambda t: t.update({name: tensor[:0] for name, tensor in t.items()}), "and not empty"),
            (lambda t: t.update(src=t["src"][0, 0]), r"src has the shape \(\)"),
            (lambda t: t.update(src_positions=t["src_positions"] - 1000), "src_positions go from -1000"),
            (lambda t: t.update(tgt_segments=t["tgt_segments"] + 9), "tgt_segments go from 9"),
            (lambda t: t.update(labels=torch.full_like(t["labels"], 10**9)), "labels tell of tokens|token id"),
            (lambda t: t.update(src=t["src"] + 10**9), "the source has a token id"),
            (lambda t: t.update(tgt_positions=t["tgt_positions"] + 10**9), "is longer than model.max_seq_len"),
            (lambda t: t.pop("labels"), "labels"),
        ],
    )
    def test_a_batch_that_is_none_is_refused(
        self, change: Callable[[dict[str, Tensor]], Any], problem: str, tmp_path: Path
    ) -> None:
        folder = self.signed(tmp_path, tensors=change)
        with pytest.raises(CheckpointError, match=f"{folder.name}: is no failure that training wrote .*{problem}"):
            kept(tmp_path, tiny_model())

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"step": 6}, "it is of step 6"),
            ({"slot": -1}, "batch -1"),
            ({"pairs": [10**30]}, f"pair {10**30} is not in its batch"),
            ({"counts": {"num_src_tokens": 4, "num_tgt_tokens": "4"}}, "num_tgt_tokens is '4'"),
            ({"counts": {"num_src_tokens": 4, "num_tgt_tokens": 10**9}}, f"num_tgt_tokens is {10**9}"),
            ({"counts": {"num_src_tokens": 4, "num_tgt_tokens": 4, "src": 3}}, "'int' object"),
            ({"tensor": "x" * (1 << 24)}, r"expected at most 16,777,216"),
        ],
    )
    def test_a_description_of_another_is_refused(self, values: Any, problem: str, tmp_path: Path) -> None:
        self.signed(tmp_path, values=values)
        with pytest.raises(CheckpointError, match=problem):
            kept(tmp_path, tiny_model())

    def signed(self, folder: Path, *, tensors: Any = lambda found: None, values: Any = None) -> Path:
        """A failure that was kept, changed by somebody who made the manifest right."""
        batch = next(iter(tiny_loader()))
        pair = int(batch.pair_ids.max())
        path = keep(Failure(5, 0, "the loss", [pair]), folder, tiny_model(), batch)
        assert kept(folder, tiny_model())
        found = load_file(path / BATCH)
        tensors(found)
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path / BATCH)
        write_json(path / FAILURE, {**read_json(path / FAILURE), **(values or {})})
        write_json(path / MANIFEST, {file.name: sha256(file) for file in path.iterdir() if file.name != MANIFEST})
        return path

    def test_no_terminal_is_told_what_to_do(self) -> None:
        assert "\x1b" not in str(Failure(1, 0, "the \x1b[2Jloss", []))

    @pytest.mark.parametrize("values", [[], {"step": "5"}, {"step": 5, "slot": 0, "tensor": "x", "pairs": [0]}])
    def test_another_s_file_is_refused(self, tmp_path: Path, values: Any) -> None:
        self.failed(tmp_path)
        folder = tmp_path / "checkpoints" / "failed-step-00000005"
        (folder / "failure.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=r"failed-step-00000005: .*failure\.json"):
            kept(folder.parent, tiny_model())


def test_in_words() -> None:
    failure = Failure(3, 0, "the loss", list(range(10)))
    assert str(failure) == "first in the loss, on pairs 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
