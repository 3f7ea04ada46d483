"""What training says: records that follow from the state alone, and lines for people."""

import hashlib
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from tiny import QUIET, silent

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.training.metrics import METRICS, SAMPLES, TIMING
from pytorch_dl.training.progress import Progress, Sample, duration
from pytorch_dl.training.reporter import Reporter
from pytorch_dl.training.train_state import Sums, TrainState

SUMS = Sums(steps=2, loss=30.0, nll=20.0, grad_norm=3.0, src_tokens=12, tgt_tokens=10, positions=44)


def said(progress: Progress) -> str:
    text: str = progress.console.file.getvalue()  # type: ignore[attr-defined]
    return text


def records(folder: Path, name: str = METRICS) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_step(tmp_path: Path) -> None:
    state = TrainState(step=7, epoch=1, since_log=SUMS, seconds=9.0)
    with Reporter(tmp_path, QUIET, silent(), settings={}).open(state) as reporter:
        reporter.step(state, SUMS, learning_rate=0.25, total_steps=100, ending="soon")
    assert records(tmp_path) == [
        {
            "step": 7,
            "kind": "train",
            "epoch": 2,
            "loss": 3.0,
            "nll": 2.0,
            "ppl": math.exp(2.0),
            "learning_rate": 0.25,
            "grad_norm": 1.5,
            "tgt_tokens": 10,
        }
    ]
    assert state.since_log == Sums(), "the next line begins anew"
    (timing,) = records(tmp_path, TIMING)
    assert timing["step"] == 7
    assert timing["seconds"] == 9.0
    assert timing["tokens_per_second"] > 0
    assert timing["efficiency"] == 0.5


def test_the_time_left_fits_into_a_terminal_of_80_columns() -> None:
    told = io.StringIO()
    progress = Progress(Console(file=told, force_terminal=True, width=80, soft_wrap=True))
    state = TrainState(step=199_999, epoch=29)
    with Reporter(None, LoggingConfig(log_every=10), progress, settings={}).open(state) as reporter:
        reporter.step(state, SUMS, learning_rate=0.1, total_steps=200_000, ending="120:02:05 left")
    assert "step 199,999/200,000 | epoch 30 | training loss 2.000 | 120:02:05 left |" in told.getvalue()


@pytest.mark.parametrize(("step", "count"), [(9, 0), (10, 1), (11, 0), (20, 1)])
def test_lines_are_due_at_multiples(step: int, count: int, tmp_path: Path) -> None:
    state = TrainState(step=step, since_log=Sums(**vars(SUMS)))
    with Reporter(tmp_path, LoggingConfig(log_every=10, tensorboard=False), silent(), settings={}).open(
        state
    ) as reporter:
        reporter.step(state, SUMS, learning_rate=0.1, total_steps=100, ending="")
    assert len(records(tmp_path)) == count
    assert (state.since_log == Sums()) == bool(count)


def test_short_epochs_are_recorded_but_seldom_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, state, clock = silent(), TrainState(step=9, seconds=0.0), [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Reporter(tmp_path, QUIET, progress, settings={}).open(state) as reporter:
        for state.epoch in range(1, 41):
            reporter.epoch(state, SUMS, total_steps=2000, ending="1:00 left")
            clock[0] += 1.0
    assert [record["epoch"] for record in records(tmp_path)] == list(range(1, 41))
    assert [line.split()[3] for line in said(progress).splitlines()] == ["1", "16", "31"]


def test_an_epoch_and_a_validation(tmp_path: Path) -> None:
    progress, state = silent(), TrainState(step=1234, epoch=3, seconds=3725.0)
    samples = [Sample(f"src {i} [b]", f"ref {i}", f"out {i}") for i in range(5)]
    with Reporter(tmp_path, QUIET, progress, settings={}).open(state) as reporter:
        reporter.epoch(state, SUMS, total_steps=2000, ending="1:00 left")
        reporter.validation(state, {"val_loss": 1.5, "exact_match": 20.0}, samples, best=True)
        reporter.validation(state, {"val_loss": 1.5}, [], best=False)
    epoch, first, second = records(tmp_path)
    (kept,) = (json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines())
    assert kept == {"step": 1234, "samples": [sample.texts() for sample in samples]}
    assert (epoch["kind"], epoch["epoch"], epoch["steps"], epoch["efficiency"]) == ("epoch", 3, 2, 0.5)
    assert first == {"step": 1234, "kind": "validation", "val_loss": 1.5, "exact_match": 20.0, "best": True}
    assert second["best"] is False
    assert said(progress).splitlines() == [
        "step 1,234/2,000: epoch 3 ends, training loss 2.000, batches 50.0% full, 1:02:05 gone, 1:00 left",
        "step 1,234: val_loss 1.500, exact_match 20.0 %, the best so far",
        *(
            line
            for i in range(3)
            for line in (f"  source       src {i} [b]", f"  reference    ref {i}", f"  translation  out {i}")
        ),
        "step 1,234: val_loss 1.500",
    ]


def test_a_huge_perplexity_can_be_read() -> None:
    progress = silent()
    with Reporter(None, QUIET, progress, settings={}).open(TrainState()) as reporter:
        reporter.validation(TrainState(), {"val_loss": 780.125, "val_ppl": 1.0142e304}, [], best=False)
    assert said(progress) == "step 0: val_loss 780.125, val_ppl 1.0e+304\n"


def test_without_a_folder_nothing_is_written() -> None:
    state = TrainState(step=1, since_log=SUMS, metrics_position=17)
    with Reporter(None, QUIET, silent(), settings={}).open(state) as reporter:
        reporter.step(state, SUMS, learning_rate=0.1, total_steps=2, ending="")
        reporter.epoch(state, SUMS, total_steps=2000, ending="1:00 left")
        reporter.note_position(state)
    assert (state.metrics_position, state.metrics_sha256) == (17, "")


def test_the_position_is_that_of_the_file(tmp_path: Path) -> None:
    state = TrainState(step=1)
    reporter = Reporter(tmp_path, QUIET, silent(), settings={})
    with reporter.open(state):
        reporter.note_position(state)
        assert state.metrics_position == 0
        reporter.epoch(state, SUMS, total_steps=2000, ending="1:00 left")
        reporter.note_position(state)
    content = (tmp_path / METRICS).read_bytes()
    assert (state.metrics_position, state.metrics_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert content


def test_a_huge_loss_has_a_finite_perplexity(tmp_path: Path) -> None:
    with Reporter(tmp_path, QUIET, silent(), settings={}).open(TrainState()) as reporter:
        reporter.epoch(TrainState(), Sums(nll=1e9, tgt_tokens=1), total_steps=2, ending="")
    assert math.isfinite(records(tmp_path)[0]["ppl"])


def test_quiet_progress_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = silent()
    with progress:
        for now in (0.0, 30.0, 59.0, 60.0, 61.0, 121.0):
            progress.step(f"at {now:.0f}")
    assert said(progress) == "at 60\nat 121\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05"), (90000, "25:00:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
