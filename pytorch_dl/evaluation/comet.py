"""COMET (Rei et al. 2020), a neural metric, by the Python of an environment in which the user has installed it.

It wants other versions of much than we do and models of gigabytes; so it runs in a process of its own, which is given
the lines in a file and leaves their scores in another.
"""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytorch_dl.errors import ConfigError
from pytorch_dl.evaluation.metrics import percentage
from pytorch_dl.scoring.names import COMET
from pytorch_dl.scoring.score import Score

NOT_INSTALLED = 3
INSTALL = "give the python of an environment in which `pip install unbabel-comet` was done"


def comet(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], *, python: str, model: str
) -> Score:
    """The mean COMET score of the lines, times 100; a ConfigError says why there is none."""
    data = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
    answer = _ask(python, {"model": model, "data": data})
    scores, version = answer.get("scores"), answer.get("version", "unknown")
    if not (isinstance(scores, list) and all(isinstance(s, int | float) and math.isfinite(s) for s in scores)):
        raise _failed(python, "it left no list of scores")
    if len(scores) != len(data):
        raise _failed(python, f"it left {len(scores)} scores for {len(data)} lines")
    rows = np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)
    return Score(COMET, f"nrefs:1|model:{model}|version:{version}", rows, percentage)


def require_comet(python: str) -> None:
    """Raise where `python` cannot be run or has no COMET."""
    find = f"import importlib.util, sys; sys.exit({NOT_INSTALLED} if importlib.util.find_spec('comet') is None else 0)"
    _run(python, find)


def _ask(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """What the process in `python` answers to a job."""
    with tempfile.TemporaryDirectory(prefix="comet-") as name:
        source, target = Path(name, "lines.json"), Path(name, "scores.json")
        source.write_text(json.dumps(job), encoding="utf-8")
        # As a text, not a file: Python puts a file's folder first among those it imports from.
        script = Path(__file__).with_name("comet_process.py").read_text(encoding="utf-8")
        _run(python, script, str(source), str(target))
        try:
            answer = json.loads(target.read_bytes())
        except (OSError, ValueError):
            raise _failed(python, "it left no scores") from None
    if not isinstance(answer, dict):
        raise _failed(python, "it left no scores")
    return answer


def _run(python: str, script: str, *arguments: str) -> None:
    """Run a text as a program of `python`."""
    command = [python, "-c", script, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_environment())
    except OSError as error:
        raise ConfigError(f"cannot run it: {error.strerror}", where=f"--comet {python}", fix=INSTALL) from None
    last = "".join(f": {line}" for line in done.stderr.strip().splitlines()[-1:])
    if done.returncode == NOT_INSTALLED:
        raise ConfigError(f"COMET is not installed there{last}", where=f"--comet {python}", fix=INSTALL)
    if done.returncode:
        raise _failed(python, f"exit code {done.returncode}{last}")


def _environment() -> dict[str, str]:
    """Ours, without what would lead another Python to our packages."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _failed(python: str, why: str) -> ConfigError:
    fix = "try `from comet import download_model` there; leave --comet out to go without"
    return ConfigError(f"COMET failed: {why}", where=f"--comet {python}", fix=fix)
