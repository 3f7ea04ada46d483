"""What of a run may be changed while it goes on, and what is said of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import call

from pytorch_dl.changes import changed_settings, look_at_changes, warn_of_other_bits
from pytorch_dl.config import Config
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder


@pytest.mark.parametrize("spikes", [None, 3.0])
def test_when_to_save_counts_where_spikes_return_to_what_was_saved(spikes: float | None, tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path), list[str]()
    before, after = (
        Config(training={"undo_loss_spikes": spikes, "save_every": every})  # type: ignore[arg-type]
        for every in (20, 30)
    )
    folder.note_begun(before)
    (folder.checkpoints / ckpt.name_of(1)).mkdir(parents=True)
    changes = changed_settings(folder, after)
    if spikes:
        with pytest.raises(CheckpointError, match=r"training began: training\.save_every from 20 to 30"):
            look_at_changes(folder, after, changes, accepted=False, say=said.append)
        assert not said
    look_at_changes(folder, after, changes, accepted=bool(spikes), say=said.append)
    assert said == ["changed in config.yaml since training began: training.save_every from 20 to 30"]


def begun_with(run: Path, **changes: object) -> None:
    """Have the run remember another machine."""
    before = json.loads((run / "environment.json").read_text())
    assert changes.keys() <= before.keys()
    (run / "environment.json").write_text(json.dumps({**before, **changes}))


@pytest.mark.parametrize("is_finished", [False, True])
def test_resume_warns_of_another_torch_and_machine(
    is_finished: bool, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, where there is something left to do; what numbers do not come from is not told."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    begun_with(run, torch="1.0", cpu="an abacus", cpu_capability="beads", platform="CP/M", cpus=1000, cpu_threads=64)
    if not is_finished:
        shutil.rmtree(run / "model")
    result = call(capsys, "resume", run)
    assert result.code == 0, result.err
    told = [line for line in result.err.splitlines() if "not as when the run began" in line]
    assert len(told) == (not is_finished)
    for line in told:
        assert line.startswith("warning: ")
        assert f"torch is {torch.__version__}, it was 1.0; cpu is " in line
        assert "it was an abacus; " in line and "it was beads. It may end with other bits" in line
        assert not any(word in line for word in ("cpus", "CP/M", "64")), "system.num_threads is set: it is the same"


def test_another_number_of_threads_is_told_where_the_configuration_sets_none(tiny_run: Path, tmp_path: Path) -> None:
    run, said = RunFolder(Path(shutil.copytree(tiny_run, tmp_path / "run"))), list[str]()
    config = run.read_config()
    warn_of_other_bits(run, config, say=said.append)
    config.system.num_threads = None
    warn_of_other_bits(run, config, say=said.append)
    assert not said, "all is as it was"
    begun_with(run.path, cpu_threads=64)
    warn_of_other_bits(run, config, say=said.append)
    (line,) = said
    assert f": cpu_threads is {torch.get_num_threads()}, it was 64. It may" in line
    shutil.rmtree(run.checkpoints)
    warn_of_other_bits(run, config, say=said.append)
    assert len(said) == 1, "before the first checkpoint it begins here"
