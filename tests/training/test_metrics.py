"""Records: what is written, and where it is cut."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pytorch_dl.training.metrics import METRICS, SAMPLES, TIMING, MetricsLog, holds, memory_mb


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TestRecord:
    def test_each_record_is_there_at_once_and_exact(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "new", position=0)
        log.write(3, "train", {"loss": 0.1 + 0.2, "name": "größe"})
        assert (tmp_path / "new" / METRICS).read_text("utf-8") == (
            '{"step": 3, "kind": "train", "loss": 0.30000000000000004, "name": "größe"}\n'
        )
        log.write_timing(3, {"seconds": 1.5})
        assert lines(tmp_path / "new" / TIMING) == [{"step": 3, "seconds": 1.5}]
        assert log.position == (tmp_path / "new" / METRICS).stat().st_size

    def test_samples_lie_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, position=0)
        log.write_samples(3, [{"src": "größe", "reference": "size", "translation": ""}])
        assert (tmp_path / SAMPLES).read_text("utf-8") == (
            '{"step": 3, "samples": [{"src": "größe", "reference": "size", "translation": ""}]}\n'
        )
        assert log.position == 0

    def test_is_cut_back_to_the_checkpoint(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, position=0)
        log.write(1, "train", {"loss": 1.0})
        position = log.position
        log.write(2, "train", {"loss": 2.0})
        log = MetricsLog(tmp_path, position=position)
        log.write(2, "train", {"loss": 3.0})
        assert [line["loss"] for line in lines(tmp_path / METRICS)] == [1.0, 3.0]

    def test_its_sum_is_that_of_the_file(self, tmp_path: Path) -> None:
        """Of what was there before as well."""
        (tmp_path / METRICS).write_text("{}\n{}\n")
        log = MetricsLog(tmp_path, position=3)
        log.write(1, "train", {"name": "größe"})
        content = (tmp_path / METRICS).read_bytes()
        assert log.sha256 == hashlib.sha256(content).hexdigest()
        assert holds(tmp_path / METRICS, log.position, log.sha256)
        assert not holds(tmp_path / METRICS, log.position - 1, log.sha256)
        assert holds(tmp_path / METRICS, 3, hashlib.sha256(content[:3]).hexdigest())
        assert not holds(tmp_path / METRICS, log.position + 1, log.sha256)
        assert not holds(tmp_path / "none", 1, log.sha256)
        assert holds(tmp_path / "none", 0, "")

    def test_sync_reaches_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = []
        monkeypatch.setattr("os.fsync", lambda d: synced.append(Path(f"/proc/self/fd/{d}").resolve().name))
        MetricsLog(tmp_path, position=0).sync()
        assert synced == [tmp_path.name, METRICS]


def test_memory() -> None:
    assert 10 < memory_mb()["peak_rss_mb"] < 1e6
    assert ("gpu_memory_mb" in memory_mb()) == torch.cuda.is_available()
