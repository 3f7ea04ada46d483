"""All that is told of one run: what its folder holds, and in a line each what it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from pytorch_dl.config import Config
from pytorch_dl.dataset.token_store import stored_lengths
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import UserError
from pytorch_dl.files import MANIFEST, damage, read_json
from pytorch_dl.prepare import Record, recorded_texts
from pytorch_dl.reporting.answers import Answers, read_answers
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS, SAMPLES, TIMING
from pytorch_dl.training.progress import SAMPLE_TEXTS, Sample
from pytorch_dl.training.record_lines import RecordLines, Row, is_number, read_lines
from pytorch_dl.training.run_folder import RunFolder

TEXTS = ("test", "validation")  # what a run may be evaluated on


@dataclass(frozen=True)
class RunRecord:
    """A run as a page shows it."""

    name: str
    folder: RunFolder
    config: Config
    finished: bool
    metrics: RecordLines
    timing: RecordLines
    samples: Sequence[tuple[int, Sequence[Sample]]]
    """Of each validation: its step and some translations."""
    evaluation: Mapping[str, Any]
    """report.json; empty where there is none."""
    answers: Answers | None
    lengths: tuple[np.ndarray, np.ndarray] | None
    """Source and target tokens of each training pair."""
    texts: Record
    environment: Mapping[str, Any]
    origin: Mapping[str, Any]
    """From which step the weights for use are."""
    began_with: Mapping[str, Any]
    """From which model its first weights are, and what of them; empty where they were random."""
    parameters: int | None
    weights: str | None
    """SHA-256 of the weights for use."""
    missing: list[str] = field(default_factory=list)
    """What the page cannot show, and why."""

    @property
    def last_step(self) -> int:
        """The last one that is recorded."""
        return int(self.metrics.rows[-1]["step"]) if self.metrics.rows else 0

    @property
    def seconds(self) -> float | None:
        """Of training."""
        found = [row["seconds"] for row in self.timing.rows if is_number(row.get("seconds"))]
        return float(found[-1]) if found else None

    @property
    def best(self) -> Row | None:
        """The validation of the best weights so far."""
        return next((row for row in reversed(self.metrics.of("validation")) if row.get("best") is True), None)


def read_run(path: Path, *, name: str) -> RunRecord:
    """Read a run folder; a CheckpointError where there is none."""
    folder = RunFolder(path)
    config = folder.read_config()
    logs = Path(config.logging.log_dir or path)
    metrics, timing = read_lines(logs / METRICS), read_lines(logs / TIMING, once=True)
    missing = [*metrics.problems, *timing.problems]
    samples, evaluation = _samples(logs / SAMPLES), _object(folder.report)
    if not folder.is_finished:
        missing.append(f"Training has not ended: its record goes to step {_last(metrics):,}.")
    if not evaluation:
        missing.append("There is no evaluation: `run` makes one at the end, and `evaluate` any other.")
    texts = _texts(folder)
    return RunRecord(
        name=name,
        folder=folder,
        config=config,
        finished=folder.is_finished,
        metrics=metrics,
        timing=timing,
        samples=samples,
        evaluation=evaluation,
        answers=_answers(path, evaluation),
        lengths=_lengths(folder, config, texts),
        texts=texts,
        environment=_object(folder.environment),
        origin=_object(folder.model / "origin.json"),
        began_with=_object(folder.weights_taken),
        parameters=_parameters(folder.model / ckpt.MODEL) if folder.is_finished else None,
        weights=_object(folder.model / MANIFEST).get(ckpt.MODEL) if folder.is_finished else None,
        missing=missing,
    )


def _last(lines: RecordLines) -> int:
    return int(lines.rows[-1]["step"]) if lines.rows else 0


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _samples(path: Path) -> list[tuple[int, list[Sample]]]:
    found = []
    for row in read_lines(path, once=True).rows:
        given = row.get("samples")
        samples = [_sample(one) for one in given] if isinstance(given, list) else []
        found.append((int(row["step"]), [sample for sample in samples if sample]))
    return [(step, samples) for step, samples in found if samples]


def _sample(given: object) -> Sample | None:
    if not isinstance(given, dict) or not all(isinstance(given.get(name), str) for name in SAMPLE_TEXTS):
        return None
    return Sample(*(given[name] for name in SAMPLE_TEXTS))


def _answers(path: Path, evaluation: Mapping[str, Any]) -> Answers | None:
    text = evaluation.get("text")
    return read_answers(path / f"{text}.compared.tsv") if text in TEXTS else None


def _texts(folder: RunFolder) -> Record:
    try:
        return recorded_texts(folder) or {}
    except UserError:
        return {}


def _lengths(folder: RunFolder, config: Config, texts: Record) -> tuple[np.ndarray, np.ndarray] | None:
    if not texts.get("train") or damage(folder.tokenizer):
        return None
    try:
        tokenizers = TokenizerPair.load(folder.tokenizer)
    except UserError:
        return None
    cache = Path(config.data.cache_dir) if config.data.cache_dir else folder.cache
    return stored_lengths(texts["train"], tokenizers, cache_dir=cache)


def _parameters(path: Path) -> int | None:
    try:
        return ckpt.count_numbers(path)
    except (OSError, SafetensorError):
        return None
