"""A run that finds its batches is the run that is given them: config.yaml, the record and the weights, bit by bit."""

from functools import partialmethod
from pathlib import Path

import pytest
from small_trainings import outcome
from tiny_runs import TINY, call, write_tsv

from pytorch_dl import run as run_module
from pytorch_dl.config import load_config
from pytorch_dl.training import largest_batch
from pytorch_dl.training.trainer import OptimizedTrainer

AUTO = ["data.max_tokens_per_batch=auto", "training.tokens_per_step=300"]
GIVEN = ["data.max_tokens_per_batch=100", "training.gradient_accumulation_steps=3"]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_found_is_as_given_and_found_once(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{train_data_path: {write_tsv(tmp_path / 'text.tsv')}, val_split: 9, layout: {layout}}}\n"
    )
    train = ["train", config, *TINY, "training.save_every=1", "model.dropout=0.1"]
    assert call(capsys, *train, *GIVEN, "--out", tmp_path / "given").code == 0

    found: list[str] = []
    resolve = largest_batch.resolve
    monkeypatch.setattr(run_module, "resolve", lambda *a, **k: found.append("") or resolve(*a, **k))
    monkeypatch.setattr(largest_batch, "ENOUGH_ON_A_CPU", 100)
    with monkeypatch.context() as patched:
        patched.setattr(OptimizedTrainer, "train", partialmethod(OptimizedTrainer.train, stop_after=7))
        stopped = call(capsys, *train, *AUTO, "--out", tmp_path / "found")
    assert stopped.code == 75
    assert "data.max_tokens_per_batch is 100 from now on, 3 batches a step" in stopped.err
    assert (tmp_path / "found/config.yaml").read_bytes() == (tmp_path / "given/config.yaml").read_bytes()
    assert load_config(tmp_path / "found/config.yaml").data.max_tokens_per_batch == 100
    resumed = call(capsys, "resume", tmp_path / "found")
    assert (resumed.code, len(found)) == (0, 1)
    assert outcome(tmp_path / "found") == outcome(tmp_path / "given")
