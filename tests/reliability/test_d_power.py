"""Loss of power: of the disks that it may leave, each holds the old checkpoint or the new one, whole."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from power_loss import Event, Image, Recorder, Synced, Written, images
from resuming import make
from small_trainings import outcome
from tiny import silent
from tiny_runs import TINY, write_tsv

from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.errors import UserError
from pytorch_dl.files import sha256
from pytorch_dl.run import begin, finish
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trainer import OptimizedTrainer

SETTINGS = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9}


class Training:
    """One that was recorded: its events, and what each of its checkpoints and its record held."""

    def __init__(self, folder: Path) -> None:
        self.held: dict[int, list[dict[str, str]]] = {}  # step 6 is saved twice
        self.record, self.resumed_from = b"", set[int]()
        folder.mkdir()
        recorder = Recorder(folder)
        trainer = make(folder / "run", **SETTINGS)
        save = trainer.checkpoints.save

        def noted(state: Any) -> None:
            recorder.mark(f"begun {state.step}")
            save(state)
            recorder.mark(f"ended {state.step}")
            assert trainer.checkpoint_dir is not None
            self.held.setdefault(state.step, []).append(sums(trainer.checkpoint_dir / ckpt.name_of(state.step)))

        trainer.checkpoints.save = noted  # type: ignore[method-assign]
        with recorder.recording():
            trainer.train()
        self.events, self.record = recorder.events, (folder / "run" / METRICS).read_bytes()

    def problem(self, image: Image, folder: Path, probe: OptimizedTrainer) -> str | None:
        """What is wrong with a disk; the `probe` resumes from folder/run."""
        shutil.rmtree(folder, ignore_errors=True)
        image.write(folder)
        steps = [(name.split()[0], int(name.split()[1])) for name in image.passed]
        begun, ended = (max((step for kind, step in steps if kind == what), default=0) for what in ("begun", "ended"))
        try:
            resumed = probe.resume()
        except UserError as error:
            return f"refused: {error}"
        step = probe.state.step if resumed else 0
        if step not in (begun, ended):
            return f"it resumes from step {step}, not {ended} or {begun}"
        self.resumed_from.add(step)
        if not step:
            return None
        if sums(folder / "run" / "checkpoints" / ckpt.name_of(step)) not in self.held[step]:
            return f"the files of step {step} are others"
        kept = probe.state.metrics_position
        if (folder / "run" / METRICS).read_bytes()[:kept] != self.record[:kept]:
            return "the record is another"
        return None


def sums(checkpoint: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in checkpoint.iterdir()}


@pytest.fixture
def training(memory: Path) -> Training:
    return Training(memory / "recorded")


def test_d2_power_loss(case, training, memory):
    """Writes that were not synced are dropped or torn, entries of folders lost, all in any order."""
    times, rng = case.size(250, 5000), random.Random(2)
    probe, disks = make(memory / "disk" / "run", **SETTINGS), images(training.events, rng)
    for number in range(times):
        problem = training.problem(next(disks), memory / "disk", probe)
        assert problem is None, f"disk {number}: {problem}"
    assert training.resumed_from == {0, 2, 4, 6}
    case.survived(times, injected="loss of power: writes dropped, torn, reordered", lost="nothing that had been saved")


@pytest.mark.parametrize("what", ["files", "folders"])
def test_d2_without_syncs_it_is_lost(what, training, memory):
    """So the disks are hard enough."""
    files = {event.node for event in training.events if isinstance(event, Written)}

    def dropped(event: Event) -> bool:
        return isinstance(event, Synced) and (event.node in files) == (what == "files")

    events = [event for event in training.events if not dropped(event)]
    probe, disks = make(memory / "disk" / "run", **SETTINGS), images(events, random.Random(2))
    assert any(training.problem(next(disks), memory / "disk", probe) for _ in range(250))


def test_d2_of_a_whole_run(case, memory):
    """From its first file on: begun again, or resumed, it ends with the same bits."""
    text = write_tsv(memory / "text.tsv")
    config = with_overrides(
        Config(),
        [*TINY, f"data.train_data_path={text}", "data.val_split=12", "training.max_steps=8", "training.eval_every=4"],
    )
    place = memory / "disk"
    place.mkdir()
    recorder = Recorder(place)
    with recorder.recording():
        run_to_its_end(config, place / "run")
    expected, disks = outcome(place / "run"), images(recorder.events, random.Random(2))
    for number in range(case.size(4, 300)):
        shutil.rmtree(place)
        next(disks).write(place)
        run_to_its_end(config, place / "run")
        assert outcome(place / "run") == expected, f"disk {number}"


def run_to_its_end(config: Config, out: Path) -> None:
    """As `train`, or as `resume` where it has begun."""
    folder = RunFolder(out)
    if not folder.config.exists():
        begin(config, out, progress=silent(), beam_size=None)
    finish(folder, progress=silent())
