"""What training must remember besides tensors: where it is, what was best, the sums since the last line of metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training.precision import Precision

RESTORE = "restore it from a backup; or delete it, where it is a checkpoint: training goes on from the one before"
# Beyond what any training comes to, and far from where sums and products of them are no numbers any more.
Whole = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Real = Annotated[float, Field(strict=True, ge=-1e300, le=1e300)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=1e12)]


@dataclass
class Sums:
    """Running sums over optimizer steps, in Python floats so that a checkpoint holds them exactly."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: Whole = 0
    loss: Real = 0.0  # smoothed, summed over tokens
    nll: Real = 0.0
    grad_norm: Real = 0.0
    src_tokens: Whole = 0
    tgt_tokens: Whole = 0
    positions: Whole = 0

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

    step: Whole = 0
    epoch: Whole = 0
    batch: Whole = 0  # batches of this epoch that are done
    validated_step: Whole = 0
    best_step: Whole = 0
    best_value: Real | None = None
    stale_validations: Whole = 0  # since the best one
    seconds: Seconds = 0.0  # of training, over all its lives
    metrics_position: Whole = 0  # bytes of metrics.jsonl
    metrics_sha256: Annotated[str, Field(strict=True, pattern="^([0-9a-f]{64})?$")] = ""  # of those bytes
    usual_loss: Real | None = None  # per token, of late, where training watches for spikes
    returns: Whole = 0  # after spikes, to the last checkpoint that was due
    precision: Precision = "fp32"
    compiled: Annotated[bool, Field(strict=True)] = False  # the layers: other kernels give other bits
    since_log: Sums = field(default_factory=Sums)
    this_epoch: Sums = field(default_factory=Sums)
    scaler: dict[str, Whole | Real] = field(default_factory=dict)  # of fp16 losses

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Read what `to_json` wrote."""
        if values.keys() != vars(cls()).keys():
            names = ", ".join(sorted(values.keys() ^ vars(cls()).keys()))
            fix = "go on with the version of pytorch-dl that wrote it, or restore it from a backup"
            raise CheckpointError(f"state has other fields than expected: {names}", where=where, fix=fix)
        try:
            state = TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            what = f"state {name}: {first['msg']}, got {first['input']!r}"
            raise CheckpointError(what, where=where, fix=RESTORE) from None
        for name in ("validated_step", "best_step"):
            if (step := getattr(state, name)) > state.step:
                what = f"state {name}: {step} lies after its step {state.step}"
                raise CheckpointError(what, where=where, fix=RESTORE)
        return state

    def is_better(self, value: float, settings: TrainingConfig) -> bool:
        """Whether a value of the metric is better than the best so far, by what counts as progress."""
        if self.best_value is None:
            return True
        gain = value - self.best_value
        if settings.early_stopping_metric == "val_loss":
            gain = -gain
        return gain > 0 and gain >= settings.early_stopping_min_delta

    def note_validation(self, value: float, settings: TrainingConfig) -> bool:
        """Record a validation of this step; True when it is the best so far."""
        self.validated_step = self.step
        better = self.is_better(value, settings)
        if better:
            self.best_step, self.best_value, self.stale_validations = self.step, value, 0
        else:
            self.stale_validations += 1
        return better
