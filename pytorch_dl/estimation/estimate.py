"""What a training will take, before it begins: counted from text and model, measured where something may be run."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.building import choose_device, weightless_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.efficient_dataloader import require_training_text
from pytorch_dl.errors import ResourceError, is_out_of_memory
from pytorch_dl.estimation.measuring import Measured, measured
from pytorch_dl.estimation.model_figures import Flops, flops, memory_by_formula, parameters_by_part
from pytorch_dl.estimation.text import Prepared, Say, TextFigures, prepared, text_figures
from pytorch_dl.training.precision import DTYPES, choose_precision
from pytorch_dl.training.step_memory import Memory

MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Times:
    """Seconds on this machine."""

    preparation: float
    """Tokenizer and token store, as it took now; of a long text in proportion."""
    start: float
    """Beyond the steps themselves: compilation above all."""
    step: float
    """A step in the mean."""
    timed_steps: int
    """By which it was measured."""
    tokens_per_second: float
    """Real tokens of both sides, in steps."""
    steps: float
    """All steps together."""
    validation: float
    """One validation, with its translations."""
    validations: int
    """How many there are."""
    training: float
    """Steps and validations, or the time limit where that is shorter."""
    total: float
    """Preparation, start and training."""
    last_step: int
    """Where training ends: with a time limit perhaps before its last step."""


@dataclass(frozen=True)
class Estimate:
    """All that is known of a training before it begins."""

    device: str
    precision: str
    compiled: bool | None
    """None where that was not tried."""
    parameters: Mapping[str, int]
    """By part."""
    flops: Flops
    text: TextFigures
    memory: Memory
    times: Times | None
    by_formula: str | None
    """Why nothing was run; None where memory and time were measured."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        found = asdict(self)
        found["parameters"] = {"total": sum(self.parameters.values()), "parts": dict(self.parameters)}
        return found


def estimated(config: Config, *, seconds: float, run: bool, say: Say) -> Estimate:
    """Prepare the text and, unless the model does not fit or `run` is off, train for some seconds; leaves no file."""
    require_training_text(config.data)
    device = choose_device(config.system.device)
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    with tempfile.TemporaryDirectory(prefix="pytorch-dl-estimate-") as folder:
        text = prepared(config, Path(folder), say)
        figures = text_figures(config, text)
        model = weightless_model(config, text.data.tokenizers)
        precision = choose_precision(config.training.mixed_precision, device)
        memory = memory_by_formula(model, config, text.loader, number_bytes=DTYPES[precision].itemsize)
        found: Measured | None = None
        why = _reason(memory, device) if run else "--no-run"
        if not why:
            try:
                found = measured(config, text, figures, seconds=seconds, say=say)
            except (ResourceError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                why = f"there was too little memory to try it: {error}"
        return Estimate(
            device=device.type,
            precision=found.precision if found else precision,
            compiled=found.compiled if found else None,
            parameters=parameters_by_part(model, tied=config.model.tie_embeddings),
            flops=flops(model, text.loader, tokens=figures.tokens),
            text=figures,
            memory=found.memory if found else memory,
            times=_times(config, text, figures, found) if found else None,
            by_formula=why,
        )


def _reason(memory: Memory, device: torch.device) -> str | None:
    """Why a training is not tried."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_bytes()
    if free is None or memory.peak <= free:
        return None
    return f"by formula it needs {memory.peak / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free"


def _free_bytes() -> int | None:
    """Of the machine's memory, where the system tells."""
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _times(config: Config, text: Prepared, figures: TextFigures, found: Measured) -> Times:
    steps = found.step * figures.steps
    validation = found.validation_loss + found.validation_decoding
    validations = validation_count(config, figures) if text.data.val_store else 0
    training = steps + validations * validation
    limit = config.training.time_limit or math.inf
    preparation = text.seconds * figures.one_of
    return Times(
        preparation=preparation,
        start=found.start,
        step=found.step,
        timed_steps=found.timed_steps,
        tokens_per_second=found.tokens_per_second,
        steps=steps,
        validation=validation,
        validations=validations,
        training=min(training, limit),
        total=preparation + found.start + min(training, limit),
        last_step=figures.steps if training <= limit else int(figures.steps * limit / training),
    )


def validation_count(config: Config, figures: TextFigures) -> int:
    """Validations of a training that nothing ends early: the last step has one, and so has an average at the end."""
    every = config.training.eval_every or figures.steps_per_epoch
    return -(-figures.steps // every) + (config.training.average_checkpoints >= 2)
