"""`verify` names every part of a run folder that is not whole or does not fit the others, and changes nothing."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import call

from pytorch_dl.config import load_config, to_yaml
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import MANIFEST, sha256, write_json
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.verifying import verify


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def problems(run: Path) -> dict[str, str]:
    return {part: problem for part, problem, _ in verify(run) if problem}


def with_sums(folder: Path) -> None:
    """Write a right manifest for what lies in a folder by now."""
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    write_json(folder / MANIFEST, {path.name: sha256(path) for path in files})


def test_a_whole_run(run, capsys):
    before = contents(run)
    result = call(capsys, "verify", str(run))
    assert (result.code, result.err) == (0, "")
    parts = [line.split(maxsplit=1) for line in result.out.splitlines()]
    assert {state for state, _ in parts} == {"whole"}
    names = [part for _, part in parts]
    assert names[:5] == ["config.yaml", "tokenizer", "begun.yaml", "data.json", "evaluation.json"]
    assert names[5:-4] == ["checkpoints/step-00000020", "checkpoints/step-00000010"]
    assert names[-4] == "model"
    assert all(name.startswith("cache/") for name in names[-3:-1])
    assert names[-1] == "metrics.jsonl"
    assert contents(run) == before


def test_flipped_bits_and_torn_files(run, capsys):
    newest, weights = run / "checkpoints" / "step-00000020", run / "model" / "model.safetensors"
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    weights.write_bytes(weights.read_bytes()[:-1])
    (store,) = [
        path for path in (run / "cache").iterdir() if path.is_dir() and (path / "src_ids").stat().st_size > 500
    ][:1]
    (store / "src_ids").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3}\n')
    last = len((run / "metrics.jsonl").read_text().splitlines())
    assert problems(run) == {
        "checkpoints/step-00000020": "optimizer.safetensors does not match its checksum",
        "model": "model.safetensors does not match its checksum",
        f"cache/{store.name}": "src_ids is missing",
        "metrics.jsonl": f"line {last} is of step 3, after one of step 20",
    }
    result = call(capsys, "verify", str(run))
    assert result.code == 4
    assert "damaged  model: model.safetensors does not match its checksum" in result.out
    assert result.error_lines == [
        f"pytorch-dl: error: {run}: damaged: checkpoints/step-00000020, model, cache/{store.name}, metrics.jsonl. "
        f"Fix: `pytorch-dl resume {run}` goes on from the newest whole checkpoint and makes token stores anew."
    ]


def test_parts_that_do_not_fit_each_other(run):
    """All sums are right: only a look at the contents tells."""
    older, newer = (run / "checkpoints" / f"step-000000{step}" for step in (10, 20))
    shutil.copy(older / "state.json", newer / "state.json")
    tensors = load_file(older / "model.safetensors")
    name = max(tensors)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, older / "model.safetensors")
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, run / "model" / "model.safetensors")
    for folder in (older, newer, run / "model"):
        with_sums(folder)
    assert problems(run) == {
        "checkpoints/step-00000020": "its state is of step 10",
        "checkpoints/step-00000010": f"tensor {name!r} is missing from the file",
        "model": f"tensor {name!r} holds numbers that are not finite",
    }


def test_a_record_line_that_is_none(run):
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": "\xff')
    last = len((run / "metrics.jsonl").read_bytes().split(b"\n"))
    assert problems(run) == {"metrics.jsonl": f"line {last} is no record"}


@pytest.mark.parametrize("part", ["config.yaml", "tokenizer/tokenizer.json"])
def test_what_all_is_measured_by(run, part):
    (run / part).unlink()
    with pytest.raises(CheckpointError):
        list(verify(run))


def test_a_best_checkpoint_that_is_gone(run):
    """Of the last 20 steps the first ten did better: it is what training would end with."""
    newest = run / "checkpoints" / "step-00000020"
    write_json(newest / "state.json", {**ckpt.read_state(newest), "best_step": 10})
    with_sums(newest)
    assert problems(run) == {}
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    assert problems(run) == {
        "checkpoints/step-00000020": "the best one so far, step-00000010, is missing: training ends with it"
    }


def test_a_moving_average_that_was_switched_on_later(run):
    """Older checkpoints hold none."""
    config = load_config(run / "config.yaml")
    config.training.ema_decay = 0.9
    (run / "config.yaml").write_text(to_yaml(config))
    assert problems(run) == {}


def test_a_record_of_another_run(run):
    """As long as the run's own."""
    record = run / "metrics.jsonl"
    record.write_text(record.read_text().replace('"nll": 5', '"nll": 6'))
    assert problems(run) == {record.name: "is not as it was at the checkpoint of step 20"}


@pytest.mark.parametrize("lines", [None, 2])
def test_a_record_that_lost_its_end(lines, run):
    record = run / "metrics.jsonl"
    needed = ckpt.read_state(run / "checkpoints" / "step-00000020")["metrics_position"]
    left = record.read_text().splitlines(keepends=True)[:lines]
    record.unlink()
    if lines is None:
        assert problems(run) == {record.name: "is missing"}
        return
    record.write_text("".join(left))
    size = record.stat().st_size
    assert problems(run) == {record.name: f"has {size:,} bytes, and had {needed:,} at the checkpoint of step 20"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("begun.yaml", "model: 3\n", "model"),
        ("data.json", '{"train": 3}', "cannot be read"),
        ("evaluation.json", '{"beam_size": 0}', "expected a beam_size of at least 1"),
    ],
)
def test_notes_of_the_run(name, content, problem, run):
    (run / name).write_text(content)
    (found,) = problems(run).items()
    assert found[0] == name
    assert problem in found[1]


def test_what_lies_elsewhere_is_named(run, tmp_path, capsys):
    config = load_config(run / "config.yaml")
    config.data.cache_dir, config.logging.log_dir = str(tmp_path / "stores"), str(tmp_path / "logs")
    (run / "config.yaml").write_text(to_yaml(config))
    (run / "metrics.jsonl").unlink()
    result = call(capsys, "verify", str(run))
    assert result.code == 0, result.err
    assert result.out.splitlines()[-2:] == [
        f"outside  data.cache_dir: {tmp_path}/stores was not looked at",
        f"outside  logging.log_dir: {tmp_path}/logs was not looked at",
    ]
