"""`replay` makes the bits that a run has kept, or says which are others."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_verifying import contents, with_sums
from tiny_runs import TINY, call, write_tsv

from pytorch_dl.training.run_folder import RunFolder


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, which keeps the checkpoints of the steps 10 and 20."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "steps 11 to 20 recomputed: {all} lines of the record and 2 files of the checkpoint have the same bits\n"),
        (["--step", "12"], "steps 11 to 12 recomputed: 3 lines of the record and 0 files of the checkpoint have the"),
    ],
)
def test_the_same_bits(words, told, run, capsys):
    before = contents(run)
    result = call(capsys, "replay", str(run), *words)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert result.out.startswith(told.format(all=sum(line["step"] > 10 for line in lines)))
    assert contents(run) == before


@pytest.mark.parametrize("is_there", [True, False], ids=["damaged", "missing"])
def test_token_stores_are_not_mended_in_the_run(is_there, run, capsys):
    first, second = sorted(path for path in (run / "cache").iterdir() if path.is_dir())
    (first / "src_ids").write_bytes(b"torn")
    if not is_there:
        shutil.rmtree(second)
    before = contents(run)
    result = call(capsys, "replay", str(run))
    assert result.code == 0, result.err
    assert "have the same bits" in result.out
    assert contents(run) == before


def test_what_tells_the_text_is_not_made_anew(run, capsys):
    (run / "data.json").unlink()
    before = contents(run)
    result = call(capsys, "replay", str(run))
    assert result.code == 4
    assert f"{run}/data.json: is missing, by which the run tells its text. Fix: restore it" in result.error_lines[0]
    assert contents(run) == before


def test_another_record_is_refused(run, capsys):
    (run / "metrics.jsonl").write_text("{}\n")
    result = call(capsys, "replay", str(run))
    assert result.code == 4
    assert "metrics.jsonl: is not as it was at the checkpoint of step 10. Fix: " in result.error_lines[0]


def test_other_bits_are_named(run, capsys):
    """In the record, and in the weights that the recomputed steps begin with."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    changed = [line.replace('"nll": ', '"nll": 1') if '"step": 13,' in line else line for line in lines]
    (run / "metrics.jsonl").write_text("\n".join(changed) + "\n")
    result = call(capsys, "replay", str(run), "--step", "14")
    assert result.code == 4
    assert result.out == "differs: metrics.jsonl: train of step 13\n"
    assert "lines of the record and 0 files of the checkpoint, 1 differ. Fix: look at what has" in result.err

    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    older = run / "checkpoints" / "step-00000010"
    tensors = load_file(older / "model.safetensors")
    tensors[min(tensors)] = tensors[min(tensors)] * 1.0001
    save_file(tensors, older / "model.safetensors")
    with_sums(older)
    result = call(capsys, "replay", str(run))
    assert result.code == 4
    assert "differs: step-00000020/model.safetensors" in result.out.splitlines()


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("10", "no whole checkpoint lies before step 10; there are 10, 20. Fix: give a later step"),
        ("21", "training ends at step 20, before step 21"),
    ],
)
def test_a_step_that_cannot_be_recomputed(step, problem, run, capsys):
    result = call(capsys, "replay", str(run), "--step", step)
    assert result.code == 2
    assert problem in result.err


def test_a_run_with_one_checkpoint(run, capsys):
    shutil.rmtree(RunFolder(run).checkpoints / "step-00000010")
    result = call(capsys, "replay", str(run))
    assert result.code == 2
    assert "the run keeps 1 whole checkpoints, and two are needed: to begin at and to compare with" in result.err


DIVERGING = ["optimizer.name=sgd", "training.learning_rate=1e18", "scheduler.name=constant", "training.save_every=1"]


def test_the_step_that_ended_a_run(tmp_path, capsys):
    """Its tensor and its pairs are named, by training and again by replay."""
    text, out = write_tsv(tmp_path / "text.tsv"), tmp_path / "run"
    result = call(capsys, "run", "--src", str(text), "--split", "10", "--out", str(out), *TINY, *DIVERGING)
    assert result.code == 5
    (said,) = result.error_lines
    found = re.search(
        r"at step 2; the weights were not updated: first in (the (?:input|output) of \S+), on pairs", said
    )
    assert found, said
    assert f"its weights and batch are in {out}/checkpoints/failed-step-00000002." in said

    before = contents(out)
    again = call(capsys, "replay", str(out), "--failure")
    assert again.code == 0, again.err
    first, second, *pairs = again.out.splitlines()
    assert first.startswith(f"step 2, when it ended the run: not finite first in {found[1]}, on pairs ")
    assert second.startswith(f"step 2, computed again: not finite first in {found[1]}, on pairs ")
    sides = dict(line.split("\t") for line in text.read_text().splitlines())
    assert pairs
    for line in pairs:
        src, _, tgt = line.partition(": ")[2].partition(" -> ")
        assert sides[src] == tgt
    assert contents(out) == before


def test_a_run_that_no_step_has_ended(run, capsys):
    result = call(capsys, "replay", str(run), "--failure")
    assert result.code == 2
    assert "checkpoints: no step of the run left numbers that are not finite" in result.err
    result = call(capsys, "replay", str(run), "--failure", "--step", "3")
    assert result.code == 2
    assert "--step and --failure exclude each other. Fix: give one of them." in result.err
