"""What training must remember besides tensors: where it is, what was best, and the sums since the last line of metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pytorch_dl.errors import CheckpointError
from pytorch_dl.training.precision import Precision


@dataclass
class Sums:
    """Running sums over optimizer steps, in Python floats so that a checkpoint holds them exactly."""

    steps: int = 0
    loss: float = 0.0  # smoothed, summed over tokens
    nll: float = 0.0
    grad_norm: float = 0.0
    src_tokens: int = 0
    tgt_tokens: int = 0
    positions: int = 0

    def add(self, other: Self) -> None:
        """Add another's sums."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def efficiency(self) -> float:
        """Real tokens / all positions, both sides."""
        return (self.src_tokens + self.tgt_tokens) / max(1, self.positions)


@dataclass
class TrainState:
    """Where training is; a checkpoint's state.json."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    validated_step: int = 0
    best_step: int = 0
    best_value: float | None = None
    stale_validations: int = 0  # since the best one
    seconds: float = 0.0  # of training, over all its lives
    metrics_position: int = 0  # bytes of metrics.jsonl
    precision: Precision = "fp32"
    since_log: Sums = field(default_factory=Sums)
    this_epoch: Sums = field(default_factory=Sums)
    scaler: dict[str, float | int] = field(default_factory=dict)  # of fp16 losses

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Read what `to_json` wrote."""
        known = asdict(cls())
        if values.keys() != known.keys():
            names = ", ".join(sorted(values.keys() ^ known.keys()))
            raise CheckpointError(f"state has other fields than expected: {names}", where=where)
        for name, default in known.items():
            if default is not None and not isinstance(values[name], type(default)):
                raise CheckpointError(f"{name} must be {type(default).__name__}, got {values[name]!r}", where=where)
        try:
            sums = {name: Sums(**values[name]) for name in ("since_log", "this_epoch")}
        except TypeError as error:
            raise CheckpointError(f"state cannot be read: {error}", where=where) from None
        return cls(**{**values, **sums})

    def note_validation(self, value: float, *, higher_is_better: bool, min_delta: float) -> bool:
        """Record a validation of this step; True when it is the best so far."""
        self.validated_step = self.step
        gain = 0.0 if self.best_value is None else value - self.best_value
        gain = gain if higher_is_better else -gain
        better = self.best_value is None or (gain > 0 and gain >= min_delta)
        if better:
            self.best_step, self.best_value, self.stale_validations = self.step, value, 0
        else:
            self.stale_validations += 1
        return better
