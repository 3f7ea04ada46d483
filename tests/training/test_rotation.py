"""Which checkpoints stay."""

from pathlib import Path

import pytest
from tiny import tiny_model

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.files import new_folder, write_json
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.rotation import rotate, set_newer_aside, validated


def save(folder: Path, step: int) -> Path:
    model = tiny_model()
    optimizer = make_optimizer(model, OptimizerConfig(), learning_rate=0.1)
    return ckpt.save_checkpoint(folder, step, ckpt.contents(model, optimizer, None), state={"step": step})


class TestRotation:
    @pytest.mark.parametrize(
        ("keep", "protected", "left"), [(2, 4, [4, 3]), (2, 1, [4, 3, 1]), (3, 0, [4, 3, 2]), (9, 1, [4, 3, 2, 1])]
    )
    def test_newest_and_best_stay(self, keep: int, protected: int, left: list[int], tmp_path: Path) -> None:
        for step in (1, 2, 3, 4):
            (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / "notes").mkdir()
        rotate(tmp_path, keep=keep, keep_validated=0, protected={protected})
        assert [int(path.name[-8:]) for path in ckpt.checkpoints(tmp_path)] == left
        assert (tmp_path / "notes").exists()

    def test_those_to_average_were_written_at_validations(self, tmp_path: Path) -> None:
        for step, at in ((1, 1), (2, 1), (3, 3), (4, 3)):
            with new_folder(tmp_path / f"step-{step:08d}") as folder:
                write_json(folder / ckpt.STATE, {"step": step, "validated_step": at})
        assert [path.name for path in validated(tmp_path, 2)] == ["step-00000003", "step-00000001"]
        rotate(tmp_path, keep=1, keep_validated=1, protected={0})
        assert [path.name for path in ckpt.checkpoints(tmp_path)] == ["step-00000004", "step-00000003"]

    def test_damaged_newer_ones_step_aside(self, tmp_path: Path) -> None:
        paths = [save(tmp_path, step) for step in (1, 2, 3)]
        (paths[2] / ckpt.MODEL).write_bytes(b"torn")
        for _ in range(2):  # the second time, one lies there already
            set_newer_aside(paths[1])
            assert ckpt.checkpoints(tmp_path) == [paths[1], paths[0]]
            assert (tmp_path / "damaged-step-00000003" / ckpt.MODEL).read_bytes() == b"torn"
            paths[2].mkdir()
            (paths[2] / ckpt.MODEL).write_bytes(b"torn")
