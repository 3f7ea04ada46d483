"""Runs whose records go into one `logging.log_dir`: one after another each keeps its own, at once they cannot."""

from functools import partialmethod
from pathlib import Path

import pytest
from tiny_runs import TINY, call, write_tsv

from pytorch_dl.files import RunLock
from pytorch_dl.training.trainer import OptimizedTrainer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a training whose records go into `logs` beside it."""
    path = tmp_path / "config.yaml"
    data = f"data: {{train_data_path: {write_tsv(tmp_path / 'text.tsv')}, val_split: 12}}\n"
    path.write_text(f"{data}logging: {{log_dir: {tmp_path / 'logs'}}}\n")
    return path


def test_a_run_that_goes_on_leaves_the_record_of_another_alone(config, tmp_path, capsys, monkeypatch):
    logs, first, second = (tmp_path / name for name in ("logs", "first", "second"))
    with monkeypatch.context() as patch:
        patch.setattr(OptimizedTrainer, "train", partialmethod(OptimizedTrainer.train, stop_after=8))
        assert call(capsys, "train", config, "--out", first, *TINY).code == 75
    of_the_first = (logs / "metrics.jsonl").read_bytes()
    assert call(capsys, "train", config, "--out", second, *TINY, "system.seed=7").code == 0
    of_the_second = (logs / "metrics.jsonl").read_bytes()
    assert (logs / "metrics.1.jsonl").read_bytes() == of_the_first
    result = call(capsys, "resume", first)
    assert result.code == 0, result.err
    assert (logs / "metrics.2.jsonl").read_bytes() == of_the_second
    warnings = [line for line in result.err.splitlines() if "is not as it was at the checkpoint of step 8" in line]
    assert len(warnings) == 1 and warnings[0].endswith(f"it is kept as {logs}/metrics.2.jsonl, and another one begins")
    assert call(capsys, "train", config, "--out", tmp_path / "straight", *TINY, "logging.log_dir=null").code == 0
    straight = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    assert straight == of_the_first + (logs / "metrics.jsonl").read_bytes()


def test_a_second_run_at_the_same_time_is_refused(config, tmp_path, capsys):
    with RunLock(tmp_path / "logs"):
        (tmp_path / "logs" / ".lock").write_text("4711")
        result = call(capsys, "train", config, "--out", tmp_path / "run", *TINY)
    assert result.code == 6
    assert result.error_lines == [
        f"pytorch-dl: error: {tmp_path}/logs: another process (pid 4711) is using this logging.log_dir. "
        "Fix: wait for it to end, or choose another logging.log_dir."
    ]


def test_the_run_folder_by_another_name_is_locked_once(config, tmp_path, capsys):
    result = call(capsys, "train", config, "--out", tmp_path / "run", *TINY, f"logging.log_dir={tmp_path}/./run/")
    assert result.code == 0, result.err


def test_a_link_in_place_of_the_record_is_refused(config, tmp_path, capsys):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.jsonl").symlink_to(tmp_path / "victim")
    result = call(capsys, "train", config, "--out", tmp_path / "run", *TINY)
    assert result.code == 4
    assert f"{tmp_path}/logs/metrics.jsonl: is not a plain file" in result.error_lines[0]
    assert (tmp_path / "victim").read_text() == "precious"
