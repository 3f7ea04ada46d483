"""One update: accumulation, clipping, the schedule, and what happens when numbers are not finite."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import update as module
from pytorch_dl.training.objective import batch_loss, dropout_keys
from pytorch_dl.training.train_state import Sums
from pytorch_dl.training.trainer import OptimizedTrainer

PAIRS = 8
EXACT = 1e-12


def exact_trainer(
    *, batch_size: int | None = None, packed: bool = False, fused: bool = False, **settings: Any
) -> OptimizedTrainer:
    """In float64 with plain gradient descent: after a step, the weights have moved by the gradient."""
    model = tiny_model(dtype=torch.float64)
    return tiny_trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0, fused=fused),
        train_dataloader=tiny_loader(PAIRS, batch_size=batch_size, packed=packed, max_tokens=30),
        settings={"max_grad_norm": None, "label_smoothing": 0.1, **settings},
    )


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def one_step(trainer: OptimizedTrainer) -> tuple[Sums, torch.Tensor]:
    """The sums and the gradient of one step on all pairs."""
    before = weights(trainer.model)
    sums = trainer.train_step(list(trainer.train_dataloader), total_steps=10)
    return sums, before - weights(trainer.model)


class TestAccumulation:
    @pytest.mark.parametrize("batch_size", [4, 3, 1], ids=["2 x 4", "ragged", "8 x 1"])
    def test_equals_one_big_batch(self, batch_size: int) -> None:
        whole, parts = exact_trainer(batch_size=PAIRS), exact_trainer(batch_size=batch_size)
        assert (len(whole.train_dataloader), len(parts.train_dataloader)) == (1, -(-PAIRS // batch_size))
        (sums, gradient), (other_sums, other_gradient) = one_step(whole), one_step(parts)
        assert gradient.norm() > 0.1
        assert (gradient - other_gradient).norm() <= EXACT * gradient.norm()
        assert other_sums.loss == pytest.approx(sums.loss, rel=EXACT)
        assert other_sums.nll == pytest.approx(sums.nll, rel=EXACT)
        assert other_sums.grad_norm == pytest.approx(sums.grad_norm, rel=EXACT)
        assert other_sums.tgt_tokens == sums.tgt_tokens

    def test_equals_packed_batches(self) -> None:
        whole, packed = exact_trainer(batch_size=PAIRS), exact_trainer(packed=True)
        assert len(packed.train_dataloader) == 2
        (sums, gradient), (other_sums, other_gradient) = one_step(whole), one_step(packed)
        assert (gradient - other_gradient).norm() <= EXACT * gradient.norm()
        assert other_sums.loss == pytest.approx(sums.loss, rel=EXACT)

    def test_a_mean_of_means_would_differ(self) -> None:
        """Guards the tests above: their batches have different numbers of tokens."""
        trainer = exact_trainer(batch_size=3)
        _, gradient = one_step(exact_trainer(batch_size=3))
        batches = list(trainer.train_dataloader)
        assert len({batch.num_tgt_tokens for batch in batches}) > 1
        before = weights(trainer.model)
        for batch in batches:
            trainer.update.backward(trainer_loss(trainer, batch) / batch.num_tgt_tokens / len(batches))
        trainer.update.apply(torch.zeros(2, dtype=torch.float64), step=1, total_steps=10)
        wrong = before - weights(trainer.model)
        assert (gradient - wrong).norm() > 0.01 * gradient.norm()

    def test_the_gradient_is_that_of_the_mean_over_tokens(self) -> None:
        trainer = exact_trainer(batch_size=PAIRS)
        batch = next(iter(trainer.train_dataloader))
        loss = trainer_loss(trainer, batch) / batch.num_tgt_tokens
        expected = torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(trainer.model.parameters())))
        sums, gradient = one_step(trainer)
        assert (gradient - expected).norm() <= EXACT * expected.norm()
        assert sums.grad_norm == pytest.approx(expected.norm().item(), rel=EXACT)
        assert sums.loss / sums.tgt_tokens == pytest.approx(loss.item(), rel=EXACT)


def trainer_loss(trainer: OptimizedTrainer, batch: Batch) -> torch.Tensor:
    from pytorch_dl.training.objective import dropout_keys

    keys = dropout_keys(batch, seed=trainer.seed, step=1)
    return batch_loss(trainer.model, batch, label_smoothing=0.1, keys=keys).smoothed


def test_packed_training_is_padded_training() -> None:
    """Three steps with AdamW, clipping and dropout, on the same pairs in other rows: the same weights."""
    trained = []
    for layout in ({"batch_size": PAIRS}, {"packed": True}, {"batch_size": 3}):
        trainer = tiny_trainer(
            model=tiny_model(dtype=torch.float64),
            train_dataloader=tiny_loader(PAIRS, max_tokens=30, **layout),
            val_dataloader=None,
            settings={"num_epochs": 3, "gradient_accumulation_steps": 99, "label_smoothing": 0.1},
        )
        trainer.train()
        assert trainer.state.step == 3
        trained.append(weights(trainer.model))
    start = weights(tiny_model(dtype=torch.float64))
    for other in trained[1:]:
        assert (trained[0] - other).norm() <= 1e-9 * (trained[0] - start).norm()


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    trainer = exact_trainer(batch_size=PAIRS)
    batch = next(iter(trainer.train_dataloader))
    with torch.no_grad():
        dropped = trainer_loss(trainer, batch)
        trainer.seed = 2
        assert trainer_loss(trainer, batch) != dropped
        trainer.model.eval()
        assert trainer_loss(trainer, batch) != dropped


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_validation_loss_does_not_depend_on_the_batches(batch_size: int) -> None:
    losses = []
    for loader in (tiny_loader(PAIRS, batch_size=PAIRS), tiny_loader(PAIRS, batch_size=batch_size)):
        trainer = tiny_trainer(model=tiny_model(dtype=torch.float64), val_dataloader=loader)
        losses.append(trainer.validate()[0])
    assert losses[0]["val_loss"] == pytest.approx(losses[1]["val_loss"], rel=EXACT)
    assert losses[0]["val_ppl"] == pytest.approx(torch.tensor(losses[0]["val_loss"]).exp().item(), rel=1e-6)


class TestClipping:
    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("max_norm", [0.01, 1e6])
    def test_is_that_of_torch(self, max_norm: float, fused: bool) -> None:
        _, gradient = one_step(exact_trainer(batch_size=PAIRS))
        sums, clipped = one_step(exact_trainer(batch_size=PAIRS, fused=fused, max_grad_norm=max_norm))
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameter, max_norm)
        torch.testing.assert_close(clipped, parameter.grad, rtol=1e-6 if fused else 1e-9, atol=1e-12)
        assert sums.grad_norm == pytest.approx(gradient.norm().item()), "told as it was before"


def test_without_a_schedule_the_learning_rate_is_the_users() -> None:
    trainer = tiny_trainer(schedule=None)
    batches = list(trainer.train_dataloader)
    trainer.update.optimizer.param_groups[0]["lr"] = 1e-9
    trainer.train_step(batches[:1], total_steps=10)
    assert trainer.update.learning_rate == 1e-9


def test_each_group_follows_the_schedule() -> None:
    model = tiny_model()
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.25)
    asked: list[tuple[int, int]] = []
    trainer = tiny_trainer(
        model=model, optimizer=optimizer, schedule=lambda step, total: asked.append((step, total)) or step / 10
    )
    assert trainer.update.learning_rate == 0.5
    for step in (1, 2):
        one_step(trainer)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * step / 10, 0.25 * step / 10]
        assert trainer.update.learning_rate == 0.5 * step / 10
    assert asked == [(1, 10), (2, 10)]


def poison_weight(model: OptimizedTransformer, value: float) -> None:
    with torch.no_grad():
        model.encoder_norm.weight[0] = value


def poison_gradient(model: OptimizedTransformer, value: float) -> None:
    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[0] = value
        return gradient

    model.encoder_norm.weight.register_hook(spoil)


class TestNonFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("poison", [poison_weight, poison_gradient])
    def test_nothing_is_updated(self, poison: Callable[[OptimizedTransformer, float], None], value: float) -> None:
        trainer = tiny_trainer(settings={"ema_decay": 0.9}, train_dataloader=tiny_loader(12, batch_size=12))
        one_step(trainer)
        poison(trainer.model, value)
        before = weights(trainer.model)
        average = copy.deepcopy(trainer.update.average)
        states = copy.deepcopy(list(trainer.update.optimizer.state.values()))
        with pytest.raises(NonFiniteError) as caught:
            one_step(trainer)
        assert re.fullmatch(
            r"loss \S+ and gradient norm (nan|inf) at step 2; the weights were not updated: first in (the weights \S+|"
            r"the gradient of \S+, on pairs 0, 1, 2, 3, 4, 5, 6, 7 and 4 more)\. "
            r"Fix: lower training\.learning_rate and begin another run\.",
            str(caught.value),
        )
        assert caught.value.exit_code == 5
        assert torch.equal(weights(trainer.model).nan_to_num(), before.nan_to_num())
        assert average is not None
        assert trainer.update.average is not None
        assert all(torch.equal(average.weights[name], w) for name, w in trainer.update.average.weights.items())
        for old, new in zip(states, trainer.update.optimizer.state.values(), strict=True):
            assert all(torch.equal(old[key], new[key]) for key in old)

    def test_pairs_are_named(self) -> None:
        trainer = tiny_trainer(train_dataloader=tiny_loader(12, batch_size=3))
        poison_gradient(trainer.model, float("nan"))
        batches = list(trainer.train_dataloader)[:2]
        pairs = ", ".join(map(str, sorted(batches[0].pair_ids.flatten().tolist())))
        with pytest.raises(NonFiniteError, match=rf"at step 1; .*: first in the gradient of \S+, on pairs {pairs}\."):
            trainer.train_step(batches, total_steps=10)

    def test_nothing_of_it_is_saved(self, tmp_path: Any) -> None:
        trainer = tiny_trainer(tmp_path, settings={"save_every": 1})
        step = trainer.begin_step

        def spoiled(batches: list[Batch], *, total_steps: int) -> Sums:
            if trainer.state.step == 3:
                poison_weight(trainer.model, float("nan"))
            return step(batches, total_steps=total_steps)

        trainer.begin_step = spoiled  # type: ignore[method-assign]
        with pytest.raises(NonFiniteError, match="at step 4"):
            trainer.train()
        again = tiny_trainer(tmp_path)
        assert again.resume()
        assert again.state.step == 3
        assert weights(again.model).isfinite().all()

    @pytest.mark.parametrize("due", ["save_every", "eval_every"])
    def test_weights_that_an_update_made_infinite_are_not_saved(self, due: str, tmp_path: Any) -> None:
        """They are named also where a validation comes first, whose loss is then not finite."""
        trainer = tiny_trainer(tmp_path, settings={due: 1})
        step = trainer.begin_step

        def overflowing(batches: list[Batch], *, total_steps: int) -> Sums:
            sums = step(batches, total_steps=total_steps)
            poison_weight(trainer.model, float("inf"))
            return sums

        trainer.begin_step = overflowing  # type: ignore[method-assign]
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        assert not list((tmp_path / "checkpoints").glob("*")), "infinite weights were saved"
        assert re.match(r"the update of step 1 left numbers in \S+ that are not finite", str(caught.value))

    def test_a_validation_that_is_not_finite(self) -> None:
        trainer = tiny_trainer(settings={"max_steps": 2})
        poison_weight(trainer.model, float("nan"))
        trainer.model.train()
        with pytest.raises(NonFiniteError, match="validation loss nan at step 0"):
            trainer.validate()
        assert trainer.model.training


class TestFusedOptimizer:
    """What it is told of a step, and what it keeps."""

    def test_forgets_the_scale_of_the_step(self) -> None:
        model = tiny_model()
        optimizer: Any = torch.optim.AdamW(model.parameters(), fused=True)
        one_step(tiny_trainer(model=model, optimizer=optimizer, settings={"max_grad_norm": 0.01}))
        assert optimizer.grad_scale is None and optimizer.found_inf is None

    @pytest.mark.parametrize("precision", ["fp16", False], ids=["fp16", "read late"])
    def test_a_first_step_that_is_vetoed_leaves_no_momentum(
        self, precision: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LATE_DEVICES", ("cpu",))
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=True)
        trainer = tiny_trainer(
            model=model, optimizer=optimizer, settings={"mixed_precision": precision, "max_grad_norm": None}
        )
        hook = model.encoder_norm.weight.register_hook(lambda gradient: gradient * torch.inf)
        reading = trainer.begin_step(list(trainer.train_dataloader), total_steps=10)
        hook.remove()
        if not precision:
            with pytest.raises(NonFiniteError):
                reading.read()
        assert all(not optimizer.state[p]["momentum_buffer"].any() for p in model.parameters())
        before = weights(model)
        sums = trainer.train_step(list(trainer.train_dataloader), total_steps=10)
        assert (weights(model) - before).norm().item() == pytest.approx(sums.grad_norm, rel=1e-3)


class TestReadLate:
    """What is read a step late, as on a GPU."""

    @pytest.fixture(autouse=True)
    def late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LATE_DEVICES", ("cpu",))

    def trainer(self, folder: Any = None, **settings: Any) -> OptimizedTrainer:
        model = tiny_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        logging = LoggingConfig(log_every=3, tensorboard=False)
        return tiny_trainer(folder, model=model, optimizer=optimizer, logging=logging, settings=settings)

    def test_changes_neither_weights_nor_metrics(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = {"max_steps": 8, "save_every": 5, "eval_every": 4, "ema_decay": 0.9}
        late = self.trainer(tmp_path / "late", **settings)
        assert late.update.reads_late
        late.train()
        monkeypatch.setattr(module, "LATE_DEVICES", ())
        at_once = self.trainer(tmp_path / "at_once", **settings)
        assert not at_once.update.reads_late
        at_once.train()
        assert torch.equal(weights(late.model), weights(at_once.model))
        metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("late", "at_once")]
        assert metrics[0] == metrics[1]
        assert [json.loads(line)["step"] for line in metrics[0].splitlines() if '"train"' in line] == [3, 6]

    def test_the_next_step_is_begun_before_the_last_is_read(self) -> None:
        trainer, waiting = self.trainer(max_steps=4, num_epochs=4), []
        begin = trainer.begin_step

        def begin_step(batches: list[Batch], *, total_steps: int) -> Any:
            waiting.append(len(trainer._unread))
            return begin(batches, total_steps=total_steps)

        trainer.begin_step = begin_step  # type: ignore[method-assign]
        trainer.train()
        assert max(waiting) == 1

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_not_finite_never_reaches_the_weights(self, value: float) -> None:
        trainer = self.trainer()
        batches = list(trainer.train_dataloader)
        trainer.train_step(batches, total_steps=10)
        before, states = weights(trainer.model), copy.deepcopy(list(trainer.update.optimizer.state.values()))
        hook = trainer.model.encoder_norm.weight.register_hook(lambda gradient: gradient * value)
        spoiled = trainer.begin_step(batches, total_steps=10)
        hook.remove()
        after = trainer.begin_step(batches, total_steps=10)
        with pytest.raises(NonFiniteError, match=r"gradient norm (nan|inf) at step 2; .*were not updated"):
            spoiled.read()
        assert torch.equal(weights(trainer.model), before)
        for old, new in zip(states, trainer.update.optimizer.state.values(), strict=True):
            assert all(torch.equal(old[key], new[key]) for key in old)
        with pytest.raises(NonFiniteError, match="loss nan and gradient norm nan at step 3"):
            after.read()  # it was skipped as well
        trainer.train_step(batches, total_steps=10)
        assert not torch.equal(weights(trainer.model), before), "a veto holds until it is told"

    def test_nothing_of_it_is_saved(self, tmp_path: Any) -> None:
        trainer = self.trainer(tmp_path, save_every=1, max_steps=6)
        begin = trainer.begin_step

        def spoiled(batches: list[Batch], *, total_steps: int) -> Any:
            if trainer.state.step == 3:
                poison_gradient(trainer.model, float("nan"))
            return begin(batches, total_steps=total_steps)

        trainer.begin_step = spoiled  # type: ignore[method-assign]
        with pytest.raises(NonFiniteError, match="at step 4"):
            trainer.train()
        again = self.trainer(tmp_path)
        assert again.resume()
        assert again.state.step == 3

    def test_a_failure_that_nobody_read_is_forgotten_by_a_resume(self, tmp_path: Any) -> None:
        trainer = self.trainer(tmp_path, save_every=2, max_steps=2)
        trainer.train()
        hook = trainer.model.encoder_norm.weight.register_hook(lambda gradient: gradient * torch.nan)
        trainer.begin_step(list(trainer.train_dataloader), total_steps=10)
        hook.remove()
        assert trainer.resume()
        before = weights(trainer.model)
        assert trainer.train_step(list(trainer.train_dataloader), total_steps=10).steps == 1
        assert not torch.equal(weights(trainer.model), before)

    def test_what_waits_is_read_before_it_is_saved(self, tmp_path: Any) -> None:
        """So that speed and time of a training that saves often count all steps."""
        trainer, told = self.trainer(tmp_path, save_every=1, max_steps=5), []
        tell = trainer.reporter.step
        trainer.reporter.step = lambda state, sums, **rest: (told.append(sums.steps), tell(state, sums, **rest))
        trainer.train()
        assert sum(told) == 5

    def test_not_where_an_optimizer_cannot_skip_a_step_itself(self) -> None:
        model = tiny_model()
        optimizer = torch.optim.AdamW(model.parameters(), fused=False)
        assert not tiny_trainer(model=model, optimizer=optimizer).update.reads_late
        assert tiny_trainer().update.reads_late, "our own can"


class TestHalfPrecision:
    """fp16 with a scaled loss, which torch can do on a CPU too."""

    def trainer(self, **changes: Any) -> OptimizedTrainer:
        return tiny_trainer(settings={"mixed_precision": "fp16", "ema_decay": 0.5}, **changes)

    def test_trains_as_full_precision_does(self) -> None:
        half, full = self.trainer(), tiny_trainer(settings={"ema_decay": 0.5})
        start = weights(half.model)
        for trainer in (half, full):
            for _ in range(3):
                one_step(trainer)
        assert half.update.scaler.is_enabled()
        assert not full.update.scaler.is_enabled()
        moved = weights(half.model) - start, weights(full.model) - start
        assert torch.cosine_similarity(*moved, dim=0) > 0.95
        assert not torch.equal(*moved)

    def test_the_gradient_norm_is_told_without_the_scale(self) -> None:
        half, _ = one_step(self.trainer())
        full, _ = one_step(tiny_trainer())
        assert half.grad_norm == pytest.approx(full.grad_norm, rel=0.05)

    def test_an_overflow_halves_the_scale_and_updates_nothing(self) -> None:
        trainer = self.trainer()
        one_step(trainer)
        before, average = weights(trainer.model), copy.deepcopy(trainer.update.average)
        scale = trainer.update.scaler.get_scale()
        trainer.update.scaler.update(1e9)  # so high that the gradients overflow
        sums, _ = one_step(trainer)
        assert sums.grad_norm == 0.0
        assert trainer.update.scaler.get_scale() == 5e8
        assert torch.equal(weights(trainer.model), before)
        assert average is not None
        assert trainer.update.average is not None
        assert all(torch.equal(average.weights[name], w) for name, w in trainer.update.average.weights.items())
        assert {state["step"].item() for state in trainer.update.optimizer.state.values()} == {1.0}
        trainer.update.scaler.update(scale)
        one_step(trainer)
        assert not torch.equal(weights(trainer.model), before), "it goes on"

    def test_the_floor(self) -> None:
        trainer = self.trainer()
        poison_gradient(trainer.model, float("inf"))
        pairs = ", ".join(map(str, sorted(next(iter(trainer.train_dataloader)).pair_ids.flatten().tolist())))
        overflows = 0
        with pytest.raises(NonFiniteError) as caught:
            while True:
                one_step(trainer)
                overflows += 1
        assert 2.0**16 / 2**overflows == module.MIN_LOSS_SCALE
        assert str(caught.value) == (
            f"fp16 gradients overflow at step {overflows + 1} even at loss scale 0.000976562: first in the gradient of "
            f"encoder_norm.weight, on pairs {pairs}. Fix: set training.mixed_precision to bf16 or false."
        )

    def test_a_loss_that_is_not_finite_ends_at_once(self) -> None:
        trainer = self.trainer()
        poison_weight(trainer.model, float("nan"))
        with pytest.raises(NonFiniteError, match="loss nan and gradient norm nan at step 1"):
            one_step(trainer)

    def test_the_scale_is_restored(self, tmp_path: Any) -> None:
        settings = {"mixed_precision": "fp16", "save_every": 2, "max_steps": 2}
        trainer = tiny_trainer(tmp_path, settings=settings)
        trainer.update.scaler.load_state_dict({**trainer.update.scaler.state_dict(), "scale": 128.0})
        trainer.train()
        again = tiny_trainer(tmp_path, settings=settings)
        assert again.resume()
        assert again.update.scaler.get_scale() == 128.0
        assert again.update.scaler.state_dict() == trainer.update.scaler.state_dict()


def test_bfloat16_trains() -> None:
    trainer = tiny_trainer(settings={"mixed_precision": "bf16"})
    full = tiny_trainer()
    start = weights(full.model)
    for one in (trainer, full):
        one_step(one)
    moved = weights(trainer.model) - start, weights(full.model) - start
    assert torch.cosine_similarity(*moved, dim=0) > 0.9
    assert not torch.equal(*moved)


def test_dropout_is_another_at_each_step_and_for_each_seed() -> None:
    batch = next(iter(tiny_loader(6, batch_size=6)))
    src, tgt = dropout_keys(batch, seed=1, step=1)
    again, _ = dropout_keys(batch, seed=1, step=1)
    assert torch.equal(src, again)
    for other in (dropout_keys(batch, seed=1, step=2), dropout_keys(batch, seed=2, step=1)):
        assert (src != other[0]).all() and (tgt != other[1]).all()
