"""One update of the weights from gradients that are there: check, clip, learning rate, optimizer, moving average."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.errors import CheckpointError, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.optimizer import WeightAverage, gradient_norm
from pytorch_dl.training.optimizer_groups import OptimizerGroups
from pytorch_dl.training.precision import Precision
from pytorch_dl.training.sharding import SharedScaler, held_parameters, is_divided, is_finite, whole_norm
from pytorch_dl.training.train_state import RESTORE, TrainState

MIN_LOSS_SCALE = 2.0**-10
LATE_DEVICES = ("cuda",)  # whose numbers are read a step late: to wait for them would leave the device idle
Schedule = Callable[[int, int], float]  # (step, total steps) -> factor of the learning rate


class StepNumbers(NamedTuple):
    """What a step tells of itself."""

    loss: float  # smoothed, summed over tokens
    nll: float
    grad_norm: float


class WeightUpdate:
    """The optimizer and what surrounds it. `schedule` None leaves the optimizer's learning rate as it is.

    Numbers that are not finite never reach the weights. Either the host looks at loss and gradients before the update,
    or, on a device that is read late, a fused optimizer does, and skips this and all following updates.
    """

    def __init__(
        self,
        model: OptimizedTransformer,
        optimizer: torch.optim.Optimizer,
        *,
        settings: TrainingConfig,
        schedule: Schedule | None,
        precision: Precision,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.max_grad_norm = settings.max_grad_norm
        self.highest_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.groups = OptimizerGroups(optimizer, scheduled=schedule is not None)
        self.average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        self.device = next(model.parameters()).device
        self.begin_scaling(precision)
        self.fused = bool(getattr(optimizer, "_step_supports_amp_scaling", False))  # takes a scale and a veto
        self._failed = torch.zeros((), device=self.device)  # 1 from the first veto on
        if self.fused:
            _begin_momentum(optimizer)

    @property
    def reads_late(self) -> bool:
        """Whether a step may be read after the next one has begun."""
        return self._failed.device.type in LATE_DEVICES and self.fused and not self.scaler.is_enabled()

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def restore(self, checkpoint: Path, state: TrainState, report: Callable[[str], None]) -> None:
        """Go on from the optimizer, moving average and loss scale of a checkpoint, whose weights the model has.

        Where it holds no average, as none was asked for then, the average begins with those weights.
        """
        where = str(checkpoint)
        self.forget_failure()
        ckpt.load_optimizer(self.model, self.optimizer, checkpoint / ckpt.OPTIMIZER, self.groups)
        if self.average and not (checkpoint / ckpt.AVERAGE).exists():
            self.average = WeightAverage(self.model, self.average.decay)
            report(f"the checkpoint holds no moving average of the weights: it begins at step {state.step:,}")
        elif self.average:
            ckpt.load_tensors(self.average.weights, ckpt.read_tensors(checkpoint / ckpt.AVERAGE), where=where)
        self.begin_scaling(state.precision)
        _require_scale(state, like=self.scaler.state_dict(), where=where)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)

    def begin_scaling(self, precision: Precision) -> None:
        """Scale losses from now on as fp16 needs it, and not at all in another precision."""
        kind = SharedScaler if is_divided(self.model) else torch.amp.GradScaler
        self.scaler = kind(self.device.type, enabled=precision == "fp16")
        self.scaler.scale(torch.zeros((), device=self.device))  # makes its scale, needed without a batch as well

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled up where fp16 needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def apply(self, totals: Tensor, *, step: int, total_steps: int) -> Tensor:
        """Update the weights, unless loss or gradients are not finite.

        `totals` are the step's loss and nll; returns them and the gradient norm, (3,), where they are: for `check`.
        """
        self.scaler.unscale_(self.optimizer)
        norm = whole_norm(self.model, gradient_norm(held_parameters(self.model)))
        numbers = torch.cat((totals, norm.to(totals.dtype).unsqueeze(0)))
        overflow = False
        if self.reads_late:
            before, self._failed = self._failed, torch.maximum(self._failed, (~numbers.isfinite()).any().float())
            numbers = numbers.where(before == 0, torch.nan)  # a step that is skipped has no numbers
        else:
            numbers = numbers.cpu()
            self.check(StepNumbers(*numbers.tolist()), step)
            overflow = not math.isfinite(numbers[2])
        if self.schedule:
            factor = self.schedule(step, total_steps)
            for group, rate in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
                group["lr"] = rate * factor
        self._step(norm)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if overflow:
            numbers[2] = 0.0  # of fp16, which the scaler has just answered by a lower scale
        elif self.average:
            self.average.update(self.model, step)
        return numbers

    def check(self, numbers: StepNumbers, step: int) -> None:
        """Raise when loss or gradients were not finite, but for gradients in fp16, which a lower scale cures."""
        if math.isfinite(numbers.loss) and math.isfinite(numbers.grad_norm):
            return
        if self.scaler.is_enabled() and math.isfinite(numbers.loss):
            if self.scaler.get_scale() > MIN_LOSS_SCALE:
                return
            raise NonFiniteError(
                f"fp16 gradients overflow at step {step} even at loss scale {self.scaler.get_scale():g}",
                fix="set training.mixed_precision to bf16 or false",
            )
        self.forget_failure()
        raise NonFiniteError(
            f"loss {numbers.loss} and gradient norm {numbers.grad_norm} at step {step}; the weights were not updated",
            fix="lower training.learning_rate and begin another run",
        )

    def check_weights(self, step: int) -> None:
        """Raise when an update has made a weight infinite: such weights are not worth saving."""
        for name, parameter in self.model.named_parameters():
            if not is_finite(parameter):
                raise NonFiniteError(
                    f"the update of step {step} left numbers in {name} that are not finite",
                    fix="lower training.learning_rate and begin another run",
                )

    def forget_failure(self) -> None:
        """Let updates reach the weights again."""
        self._failed = torch.zeros_like(self._failed)

    def _step(self, norm: Tensor) -> None:
        """Let the optimizer step on gradients shortened to `max_grad_norm`; a fused one does it while it reads them."""
        if self.scaler.is_enabled() or not self.fused:
            if self.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(held_parameters(self.model), self.max_grad_norm, norm)
            self.scaler.step(self.optimizer)
            return
        optimizer: Any = self.optimizer
        if self.max_grad_norm:
            optimizer.grad_scale = (norm / self.max_grad_norm).clamp(min=1.0).float()
        if self.reads_late:
            optimizer.found_inf = self._failed
        try:
            optimizer.step()
        finally:
            optimizer.grad_scale = optimizer.found_inf = None  # they were of this step


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD the momentum that it begins with: it makes none for a first step that is vetoed, but reads it later."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def _require_scale(state: TrainState, *, like: Mapping[str, float], where: str) -> None:
    """Raise unless the state of a checkpoint's scaler is one that ours, `like`, may come to."""
    found = state.scaler
    if found.keys() != like.keys():
        what = f"scaler of {state.precision} training has the fields {sorted(found)}"
        raise CheckpointError(what, where=where, fix=RESTORE)
    for name, value in found.items():
        if name == "scale":
            fits = MIN_LOSS_SCALE <= value <= torch.finfo(torch.float32).max
        elif name == "_growth_tracker":
            fits = isinstance(value, int) and value < like["growth_interval"]
        else:
            fits = value == like[name]
        if not fits:
            what = f"scaler of {state.precision} training: {name} is {value!r}"
            raise CheckpointError(what, where=where, fix=RESTORE)
