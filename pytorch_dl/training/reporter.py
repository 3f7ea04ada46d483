"""Everything that training says: lines for people, records for files and trackers, made from the state and its sums."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytorch_dl.config.load import flat
from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.config.units import written
from pytorch_dl.training.metrics import METRICS, MetricsLog, holds, memory_mb, set_record_aside
from pytorch_dl.training.progress import Draw, Progress, Sample, duration
from pytorch_dl.training.trackers import make_trackers
from pytorch_dl.training.tracking import Tracker, Trackers
from pytorch_dl.training.train_state import Sums, TrainState

SAMPLES_SHOWN = 3
SECONDS_BETWEEN_EPOCHS = 15.0  # of a small text there may be several epochs a second


class Reporter:
    """While entered, records go to `folder`; with no folder they are only shown, and told to the trackers given."""

    def __init__(
        self,
        folder: Path | None,
        config: LoggingConfig,
        progress: Progress,
        *,
        settings: Mapping[str, Any],
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.folder, self.config, self.progress, self.settings = folder, config, progress, settings
        self.trackers = trackers  # beside those of the configuration
        self._log: MetricsLog | None = None
        self._tracked: Trackers | None = None
        self._since = time.monotonic()
        self._tokens = 0
        self._epoch_told = -SECONDS_BETWEEN_EPOCHS

    def open(self, state: TrainState) -> Self:
        """Open the files, cut back to where they were at the state's checkpoint."""
        trackers = list(self.trackers)
        if self.folder:
            self._open_record(self.folder, state)
            trackers = [*make_trackers(self.config, self.folder), *trackers]
        self._tracked = Trackers(trackers, flat(self.settings), first_step=state.step + 1)
        return self

    def _open_record(self, folder: Path, state: TrainState) -> None:
        """Go on with the record of the state's checkpoint; any other one is set aside as it is."""
        record, position = folder / METRICS, state.metrics_position
        size = record.stat().st_size if record.exists() else 0
        known = holds(record, position, state.metrics_sha256)
        aside = None if known and position else set_record_aside(folder)
        if not known:
            self.say(
                f"warning: {record}, of {size:,} bytes, is not as it was at the checkpoint of step {state.step:,}, "
                f"which had {position:,}: {f'it is kept as {aside}, and ' if aside else ''}another one begins"
            )
        elif aside:
            self.say(f"the record of an earlier training is kept as {aside}")
        self._log = MetricsLog(folder, position=position if known else 0)

    def go_back(self, state: TrainState) -> None:
        """Cut the files back to where they were at the state's checkpoint, while training goes on."""
        if self.folder:
            self._open_record(self.folder, state)
        if self._tracked:
            self._tracked.go_back(first_step=state.step + 1)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)
        self._close()

    def note_position(self, state: TrainState) -> None:
        """Tell the state where metrics.jsonl is, and what it holds, which is on the disk when this returns."""
        if self._log:
            self._log.sync()
            state.metrics_position, state.metrics_sha256 = self._log.position, self._log.sha256

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.progress.say(text)

    def is_due(self, state: TrainState) -> bool:
        """Whether this step ends with a line of metrics."""
        return state.step % self.config.log_every == 0

    def step(self, state: TrainState, sums: Sums, *, learning_rate: float, total_steps: int, ending: str) -> None:
        """Show the optimizer steps that were read; record all sums when a line is due, and begin new ones."""
        self._tokens += sums.src_tokens + sums.tgt_tokens
        speed = self._tokens / max(1e-9, time.monotonic() - self._since)
        loss = sums.nll / sums.tgt_tokens
        self.progress.step(
            f"step {state.step:,}/{total_steps:,} | epoch {state.epoch + 1} | training loss {loss:.3f} | "
            f"{ending} | {speed:,.0f} tokens/s | {sums.efficiency:.0%} full"
        )
        if not self.is_due(state):
            return
        window, state.since_log = state.since_log, Sums()
        values = {
            "epoch": state.epoch + 1,
            **_losses(window),
            "learning_rate": learning_rate,
            "grad_norm": window.grad_norm / window.steps,
            "tgt_tokens": window.tgt_tokens,
        }
        self._write(state.step, "train", values)
        timing = {"seconds": state.seconds, "tokens_per_second": speed, **memory_mb(), "efficiency": window.efficiency}
        if self._log:
            self._log.write_timing(state.step, timing)
        self._track(state.step, "system", timing)
        self._since, self._tokens = time.monotonic(), 0

    def epoch(self, state: TrainState, sums: Sums, *, total_steps: int, ending: str) -> None:
        """Report a finished epoch."""
        values = {"epoch": state.epoch, "steps": sums.steps, **_losses(sums), "efficiency": sums.efficiency}
        self._write(state.step, "epoch", values)
        if time.monotonic() - self._epoch_told < SECONDS_BETWEEN_EPOCHS:
            return
        self._epoch_told = time.monotonic()
        self.say(
            f"step {state.step:,}/{total_steps:,}: epoch {state.epoch} ends, training loss {values['nll']:.3f}, "
            f"batches {sums.efficiency:.1%} full, {duration(state.seconds)} gone, {ending}"
        )

    def validation(
        self, state: TrainState, values: Mapping[str, float], samples: Sequence[Sample], *, best: bool
    ) -> None:
        """Report a validation."""
        self._write(state.step, "validation", {**values, "best": best})
        scores = ", ".join(
            f"{name} {value:.1f} %" if name == "exact_match" else f"{name} {written(value, 3)}"
            for name, value in values.items()
        )
        self.say(f"step {state.step:,}: {scores}{', the best so far' if best else ''}")
        self.progress.samples(samples[:SAMPLES_SHOWN])
        if self._log and samples:
            self._log.write_samples(state.step, [sample.texts() for sample in samples])
        if self._tracked and samples:
            self._tracked.log(state.step, _shown(samples[:SAMPLES_SHOWN]))
        self._since, self._tokens = time.monotonic(), 0

    def _write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        if self._log:
            self._log.write(step, kind, values)
        self._track(step, kind, values)

    def _track(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        if self._tracked:
            self._tracked.log(step, {f"{kind}/{n}": float(v) for n, v in values.items() if isinstance(v, int | float)})

    def _close(self) -> None:
        if self._tracked:
            self._tracked.close()
        self._log = self._tracked = None


def _shown(samples: Sequence[Sample]) -> dict[str, str | Draw]:
    """What trackers get of samples: a text, and pictures, which they draw."""
    text = "\n\n".join(f"{s.src}  \n{s.reference}  \n{s.translation}" for s in samples)
    drawn = {f"attention/{number}": s.draw for number, s in enumerate(samples, 1) if s.draw}
    return {"samples": text, **drawn}


def _losses(sums: Sums) -> dict[str, float]:
    nll = sums.nll / sums.tgt_tokens
    return {"loss": sums.loss / sums.tgt_tokens, "nll": nll, "ppl": math.exp(min(nll, 700.0))}
