"""The trainings of a comparison, one after another or some side by side, each a run folder and a process of its own.

Processes, as a training that is killed or lacks memory must not take the others along, and as one process cannot give
each its threads; each costs some seconds to start. What is begun goes on by the run's own resume, to the same bits.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    NonFiniteError,
    ResourceError,
    UserError,
)
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.progress import Progress, duration
from pytorch_dl.training.run_folder import RunFolder

SAID = "pytorch-dl: "
LOOK_EVERY = 0.1  # seconds
KINDS = {kind.exit_code: kind for kind in (ConfigError, DataError, CheckpointError, NonFiniteError, ResourceError)}
PLACES = (  # of data
    *("train_data_path", "train_tgt_path", "val_data_path", "val_tgt_path", "test_data_path", "test_tgt_path"),
    *("corpora", "cache_dir"),
)
Command = Callable[[Path], Sequence[str]]


@dataclass(frozen=True, eq=False)
class Trial:
    """One arm trained with one seed."""

    arm: str
    seed: int
    folder: RunFolder
    config: Config

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether it is trained and scored."""
        return self.folder.is_finished and self.folder.report.exists()

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.folder.path.with_name(f"{self.folder.path.name}.log")

    def begin(self, tokenizers: TokenizerPair, *, beam_size: int) -> None:
        """Make its run folder, with the shared tokenizers; one that has more to do is told where texts lie now."""
        if not self.folder.config.exists():
            tokenizers.save(self.folder.tokenizer)
            self.folder.create(self.config, beam_size=beam_size)
        elif not self.is_done:
            self.folder.settle(self._at_its_place(self.folder.read_config()))
            if begun := self.folder.read_begun():
                self.folder.note_begun(self._at_its_place(begun))

    def _at_its_place(self, config: Config) -> Config:
        """The configuration of its run, after the comparison was moved or from another working directory."""
        places = {name: getattr(self.config.data, name) for name in PLACES}
        return config.model_copy(update={"data": config.data.model_copy(update=places)})


def run_trials(trials: Sequence[Trial], command: Command, *, at_once: int, progress: Progress) -> dict[Trial, str]:
    """Run what is not done yet, so many at once; returns those whose numbers were not finite, and what they said.

    Whatever else ends one ends all, once the others have saved. Ctrl-C: Interrupted, likewise.
    """
    waiting, failed = [trial for trial in trials if not trial.is_done], dict[Trial, str]()
    running: dict[Trial, tuple[subprocess.Popen[bytes], float]] = {}
    if done := len(trials) - len(waiting):
        progress.say(f"{done} of {len(trials)} trainings are done already")
    try:
        with progress:
            while waiting or running:
                while waiting and len(running) < at_once:
                    trial = waiting.pop(0)
                    running[trial] = _start(trial, command), time.monotonic()
                for trial, (process, began) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[trial]
                    if fault := _fault(trial, process.returncode):
                        failed[trial] = fault
                    left = len(waiting) + len(running)
                    told = f"{trial.name}: {'ended, ' + fault if fault else 'done'}"
                    progress.say(f"{told} ({duration(time.monotonic() - began)}; {left} trainings left)")
                progress.step(" | ".join([f"{len(waiting) + len(running)} trainings left", *map(_place, running)]))
                time.sleep(LOOK_EVERY if running else 0)
    except KeyboardInterrupt:
        _stop([process for process, _ in running.values()])
        raise Interrupted("interrupted, and saved", fix="give the same command again to go on") from None
    finally:
        _stop([process for process, _ in running.values()])
    return failed


def _start(trial: Trial, command: Command) -> "subprocess.Popen[bytes]":
    """Begin its process, in a group of its own: Ctrl-C at a terminal comes to us alone."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    if threads := trial.config.system.num_threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with open(trial.log, "ab") as log:
        return subprocess.Popen(
            command(trial.folder.path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,
        )


def _stop(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Let processes save and end; a second signal ends them at once."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()
        raise SystemExit(128 + signal.SIGINT) from None


def _fault(trial: Trial, code: int) -> str | None:
    """Why a training has no result, where that is a finding; raises for all else that ended it."""
    said = _last_words(trial.log)
    if code == 0 and trial.is_done:
        return None
    if code == NonFiniteError.exit_code:
        return said
    if code == Interrupted.exit_code:
        fix = "give the same command again to go on"
        raise Interrupted(f"{trial.name} was stopped, and is saved", where=str(trial.folder.path), fix=fix)
    what = f"{trial.name}: {said or 'it was not scored'}" if code in (0, *KINDS) else f"{trial.name} ended with {code}"
    kind: type[UserError] = KINDS.get(code, DataError if code == 0 else ResourceError)
    raise kind(what, where=None if said else str(trial.log), fix=f"see {trial.log}; the same command goes on")


def _last_words(log: Path) -> str:
    """The last line in which a process told why it ended."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    told = [line.removeprefix(SAID).removeprefix("error: ") for line in lines if line.startswith(SAID)]
    return told[-1].partition(" Fix: ")[0] if told else ""


def _place(trial: Trial) -> str:
    """Where a training is."""
    step, most, record = 0, trial.config.training.max_steps, trial.folder.path / METRICS
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError), open(record, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        step = int(json.loads(file.read().split(b"\n")[-2])["step"])
    return f"{trial.name}: step {step:,}{f'/{most:,}' if most else ''}"
