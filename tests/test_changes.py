"""Which settings of a run may be changed while it goes on."""

from pathlib import Path

import pytest

from pytorch_dl.changes import changed_settings, look_at_changes
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
