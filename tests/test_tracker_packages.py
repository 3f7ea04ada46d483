"""A tracker whose package is not installed is told at once, not when training begins after hours of preparation."""

import shutil
import sys
from pathlib import Path

import pytest
from tiny_runs import TINY, call, copied_run, snapshot


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run on text.tsv, without trackers."""
    monkeypatch.chdir(tmp_path)
    return copied_run(tiny_run, tmp_path).relative_to(tmp_path)


def ask_for(package: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its configuration now asks for a tracker that is not installed."""
    monkeypatch.setitem(sys.modules, package, None)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(f"{package}: false", f"{package}: true"))
    return config


@pytest.mark.parametrize(
    ("package", "fix"),
    [
        ("wandb", "pip install 'pytorch-dl[wandb]'"),
        ("tensorboard", "pip install tensorboard, or set logging.tensorboard to false"),
    ],
)
def test_before_the_text_is_read_and_a_folder_is_made(package, fix, run, capsys, monkeypatch):
    """One that is made would refuse the same command once more."""
    config = ask_for(package, run, monkeypatch)
    shutil.rmtree(run / "model")  # as if it were not finished
    options = ["--out", "new", *TINY, f"logging.{package}=true"]
    before = snapshot(Path())
    for command in (
        ["run", "--src", "text.tsv", *options],
        ["train", config, *options],
        ["compare", config, "--vary", "model.dropout=0.0,0.1", *options],
        ["resume", run],
    ):
        result = call(capsys, *command)
        assert result.code == 2, result.err
        assert result.err == f"pytorch-dl: error: logging.{package} needs the package {package}. Fix: {fix}.\n"
    assert snapshot(Path()) == before


def test_it_keeps_nobody_from_using_the_model(run, capsys, monkeypatch):
    ask_for("wandb", run, monkeypatch)
    assert call(capsys, "translate", run, "--text", "ab").code == 0
    assert call(capsys, "resume", run).code == 0  # there is nothing left to do
