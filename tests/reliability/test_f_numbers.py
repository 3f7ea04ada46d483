"""Numbers: what is not finite never reaches the weights, and how a step is divided changes no sum."""

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ROOT, together
from small_trainings import last_step, settings_file, train
from tiny import VOCAB, tiny_loader, tiny_model, tiny_trainer
from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.doctor.kills import newest_checkpoint
from pytorch_dl.errors import NonFiniteError
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.diagnosis import FAILURE, kept
from pytorch_dl.training.objective import batch_loss
from pytorch_dl.training.step import Passes
from pytorch_dl.training.trainer import OptimizedTrainer
from pytorch_dl.training.update import MIN_LOSS_SCALE

EXACT = 1e-12
Inject = Callable[[OptimizedTrainer, random.Random], None]


def in_a_weight(trainer: OptimizedTrainer, rng: random.Random) -> None:
    with torch.no_grad():
        weight = rng.choice(list(trainer.model.parameters()))
        weight.view(-1)[rng.randrange(weight.numel())] = math.nan


def in_an_embedding(trainer: OptimizedTrainer, rng: random.Random) -> None:
    with torch.no_grad():
        trainer.model.src_embedding.weight.fill_(math.inf)


def in_a_gradient(trainer: OptimizedTrainer, rng: random.Random) -> None:
    rng.choice(list(trainer.model.parameters())).register_hook(lambda gradient: gradient * math.nan)


def in_an_activation(trainer: OptimizedTrainer, rng: random.Random) -> None:
    layers = [module for name, module in trainer.model.named_modules() if name.endswith("feed_forward")]
    rng.choice(layers).register_forward_hook(lambda module, given, made: made * math.inf)


def in_the_loss(trainer: OptimizedTrainer, rng: random.Random) -> None:
    given = Passes.__call__

    def spoiled(passes: Passes, batch: Batch, **how: Any) -> Tensor:
        return given(passes, batch, **how) * math.nan

    trainer._passes.__class__ = type("Spoiled", (Passes,), {"__call__": spoiled})


def in_the_optimizer(trainer: OptimizedTrainer, rng: random.Random) -> None:
    rng.choice(list(trainer.update.optimizer.state.values()))["exp_avg"].fill_(math.nan)


SITES: dict[Inject, tuple[str, int]] = {  # what is then named, and in which step after it
    in_a_weight: ("the weights ", 1),
    in_an_embedding: ("the weights src_embedding.weight", 1),
    in_a_gradient: ("the gradient of ", 1),
    in_an_activation: ("feed_forward", 1),
    in_the_loss: ("the loss", 1),
    in_the_optimizer: ("the weights ", 2),
}


def test_f1_numbers_that_are_not_finite(case, tmp_path: Path) -> None:
    """The step, the tensor and the pairs are named, the code is 5, and the last checkpoint is sound."""
    rounds, rng = case.size(1, 20), random.Random(1)
    for (inject, (named, after)), number in itertools.product(SITES.items(), range(rounds)):
        folder = tmp_path / f"{inject.__name__}{number}"
        packed = bool(number % 2)
        loader = tiny_loader(30, packed=packed, max_tokens=40, seed=number + 1)
        settings = {"save_every": 1, "num_epochs": 30, "gradient_accumulation_steps": 1 + number % 3}
        trainer = tiny_trainer(folder, settings=settings, train_dataloader=loader)
        injected, begin_step = rng.randrange(2, 12), trainer.begin_step

        def begin(*given: Any, **how: Any) -> Any:
            if trainer.state.step == injected:  # noqa: B023
                inject(trainer, rng)  # noqa: B023
            return begin_step(*given, **how)  # noqa: B023

        trainer.begin_step = begin  # type: ignore[method-assign]
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        assert caught.value.exit_code == 5
        told = str(caught.value)
        if f"the update of step {injected + 1} left numbers" not in told:
            assert f"at step {injected + after};" in told
            assert named in told
            assert named.startswith("the weights") or "on pairs " in told
        again = tiny_trainer(folder, settings=settings, train_dataloader=loader)
        assert again.resume()
        assert again.state.step == injected
        if not named.startswith("the weights"):
            found = kept(folder / "checkpoints", tiny_model())
            assert found and found[0].step == injected + 1
            assert again.diagnose({found[0].slot: found[1]}, step=found[0].step) is None
    case.survived(
        rounds * len(SITES),
        injected="NaN or infinity in weights, an activation, the loss, a gradient, the optimizer's state",
        lost="nothing: exit code 5 before the weights took it; step, tensor and pairs named",
    )


@pytest.mark.parametrize("ranks", ["0", "1", "01"])
def test_f1_in_a_batch_of_one_process(ranks: str, tmp_path: Path) -> None:
    """Both end with 5 before the update; who had the batch tells step, tensor and pairs, the other one who that is."""
    run, words = tmp_path / "run", ["data.layout=padded", "system.compile=false", "training.max_steps=100000"]
    command = train(settings_file(tmp_path), run, *words)[2:]
    ended = together(2, [str(ROOT / "tests/spoilt_peers.py"), "5", ranks, str(tmp_path), *command])
    assert [one.code for one in ended] == [5, 5], ended
    for rank, one in enumerate(ended):
        (line,) = (line for line in one.err.splitlines() if line.startswith("pytorch-dl: error: "))
        assert " at step 5;" in line
        if str(rank) in ranks:
            (pair,) = json.loads((tmp_path / f"{rank}.json").read_text())
            assert f": first in the output of encoder_norm, on pairs {pair}. Fix: " in line
        else:
            assert f": in a batch of rank {ranks}, which tells more. Fix: " in line
        assert ("its weights and batch are in" in line) == (str(rank) == ranks[0]), "the first one keeps it"
    assert last_step(run) == 4
    assert newest_checkpoint(run) == 4
    failed = run / "checkpoints" / "failed-step-00000005"
    assert damage(failed) is None
    found = json.loads((failed / FAILURE).read_text())
    assert found["slot"] == int(ranks[0])
    assert found["pairs"] == json.loads((tmp_path / f"{ranks[0]}.json").read_text())


def fuzzed(rng: random.Random) -> Batch:
    """Padded rows, some without a target, some of one token, some of nothing but the end mark."""
    rows, src, tgt = rng.randrange(1, 6), rng.randrange(1, 9), rng.randrange(1, 9)
    sources, targets = torch.zeros(rows, src, dtype=torch.long), torch.zeros(rows, tgt + 1, dtype=torch.long)
    for row in range(rows):
        length = rng.choice((1, 1, src, rng.randrange(1, src + 1)))
        sources[row, :length] = torch.tensor([*(rng.randrange(3, VOCAB) for _ in range(length - 1)), 2])
        length = rng.choice((0, 1, tgt, rng.randrange(0, tgt + 1)))
        if length:
            written = [1, *(rng.randrange(3, VOCAB) for _ in range(length - 1)), 2]
            targets[row, : length + 1] = torch.tensor(written)
        elif rng.random() < 0.5:
            sources[row] = 0  # a row of padding only
    return Batch.from_padded(sources, targets, pad_id=0)


def test_f2_rows_of_next_to_nothing(case) -> None:
    """Padding adds exactly nothing to loss and gradient, and nothing is ever NaN."""
    times, rng = case.size(60, 10_000), random.Random(2)
    models = [tiny_model(attention=attention) for attention in ("plain", "sdpa")]
    for number in range(times):
        batch, model = fuzzed(rng), models[number % len(models)]
        loss = batch_loss(model, batch, label_smoothing=0.1)
        assert loss.smoothed.isfinite() and loss.nll.isfinite(), number
        model.zero_grad()
        loss.smoothed.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients), number
        if not batch.num_tgt_tokens:
            assert loss.smoothed == 0 and not any(gradient.any() for gradient in gradients), number
    case.survived(times, injected="batches with rows of padding, of one token, without a target", lost="nothing")


def gradient_of(batches: list[Batch], *, wrong: bool = False) -> tuple[float, Tensor]:
    """Loss and gradient of one step in float64; `wrong` takes the mean of the batches' means."""
    model = tiny_model(dtype=torch.float64, dropout=0.0)
    trainer = tiny_trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        settings={"max_grad_norm": None, "label_smoothing": 0.1},
    )
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    if wrong:
        for batch in batches:
            loss = batch_loss(model, batch, label_smoothing=0.1).smoothed
            trainer.update.backward(loss / batch.num_tgt_tokens / len(batches))
        trainer.update.apply(torch.zeros(2, dtype=torch.float64), step=1, total_steps=10)
        loss_sum = 0.0
    else:
        loss_sum = trainer.train_step(batches, total_steps=10).loss
    return loss_sum, before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def test_f3_the_same_pairs_divided_otherwise(case) -> None:
    """8 pairs as 1 x 8, 2 x 4, 4 x 2, 8 x 1 and unevenly: one loss, one gradient; a mean of means would not pass."""
    rounds, caught = case.size(2, 50), 0
    for seed in range(rounds):
        sizes = (8, 4, 2, 1, 3, 5)
        found = {size: list(tiny_loader(8, batch_size=size, seed=seed)) for size in sizes}
        loss, gradient = gradient_of(found[8])
        for size in sizes[1:]:
            other_loss, other = gradient_of(found[size])
            assert other_loss == pytest.approx(loss, rel=EXACT), (seed, size)
            assert (gradient - other).norm() <= EXACT * gradient.norm(), (seed, size)
        _, wrong = gradient_of(found[3], wrong=True)
        caught += int((gradient - wrong).norm() > 1e-6 * gradient.norm())
    assert caught == rounds
    case.survived(
        rounds * 5,
        injected="8 pairs as 4, 2, 1, 3 or 5 to a batch",
        lost="nothing: equal to 1e-12; a mean of means is not",
    )


def test_f4_validation_divided_otherwise(case) -> None:
    """Batches of 1 to 64 pairs, the last one shorter: the same loss."""
    sizes = case.size(6, 64)
    whole = tiny_trainer(model=tiny_model(dtype=torch.float64), val_dataloader=tiny_loader(70, batch_size=70))
    expected = whole.validate()[0]["val_loss"]
    for size in range(1, sizes + 1):
        trainer = tiny_trainer(model=tiny_model(dtype=torch.float64), val_dataloader=tiny_loader(70, batch_size=size))
        assert trainer.validate()[0]["val_loss"] == pytest.approx(expected, rel=EXACT), size
    case.survived(sizes, injected="validation in batches of 1 to 64 pairs", lost="nothing: equal to 1e-12")


def test_f5_a_learning_rate_out_of_all_proportion(case, tmp_path: Path) -> None:
    """It ends with code 5 in the step after the one that broke the weights; so does fp16 at its lowest scale."""
    times = case.size(2, 20)
    for seed in range(times):
        folder = tmp_path / str(seed)
        model = tiny_model(seed=seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
        trainer = tiny_trainer(folder, model=model, optimizer=optimizer, settings={"save_every": 1})
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        assert caught.value.exit_code == 5
        assert trainer.state.step <= 2
        for path in ckpt.checkpoints(folder / "checkpoints"):
            assert all(tensor.isfinite().all() for tensor in ckpt.read_tensors(path / ckpt.MODEL).values())

        half = tiny_trainer(model=tiny_model(seed=seed), settings={"mixed_precision": "fp16", "num_epochs": 100})
        half.model.encoder_norm.weight.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(NonFiniteError, match=f"even at loss scale {MIN_LOSS_SCALE:g}"):
            half.train()
        assert half.state.step == round(math.log2(2.0**16 / MIN_LOSS_SCALE)) + 1
    case.survived(2 * times, injected="a learning rate of 1e30; fp16 gradients that always overflow", lost="nothing")
